package ipfix

import (
	"encoding/binary"
	"slices"
	"time"
)

// Wire format (RFC 7011 section 3).
const (
	version           = 10
	headerLength      = 16
	setHeaderLength   = 4
	templateSet       = 2
	templateHeader    = 4
	elementLength     = 4
	allTemplates      = 2     // the id that withdraws every template (section 8.1)
	MinMessage        = 512   // bytes: the least that Session takes
	MaxMessage        = 65535 // bytes
	withdrawalLength  = headerLength + setHeaderLength + templateHeader
	sequenceAt        = 8
	messageLengthAt   = 2
	setLengthOfHeader = 2 // where the length is in the header of a set
)

// Session writes the messages of one transport session. The zero value with a Domain
// and Max is ready.
type Session struct {
	Domain   uint32 // observation domain
	Max      int    // bytes of a message, MinMessage to MaxMessage
	sequence uint32 // data records written so far, and lost
}

// Skip counts records that were lost before they could be written.
func (s *Session) Skip(n uint64) { s.sequence += uint32(n) }

// header appends the header of a message whose length is not known yet.
func (s *Session) header(b []byte, now time.Time) []byte {
	b = binary.BigEndian.AppendUint16(b, version)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(now.Unix()))
	b = binary.BigEndian.AppendUint32(b, s.sequence)
	return binary.BigEndian.AppendUint32(b, s.Domain)
}

// beginSet appends the header of a set whose length is not known yet.
func beginSet(b []byte, id int) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(id))
	return binary.BigEndian.AppendUint16(b, 0)
}

// endSet fills in the length of the set that begins at an offset.
func endSet(b []byte, at int) {
	binary.BigEndian.PutUint16(b[at+setLengthOfHeader:], uint16(len(b)-at))
}

// endMessage fills in the length of a message.
func endMessage(b []byte) []byte {
	binary.BigEndian.PutUint16(b[messageLengthAt:], uint16(len(b)))
	return b
}

// Templates returns messages with all templates.
func (s *Session) Templates(now time.Time) (messages [][]byte) {
	var b []byte
	begin := func() { b = beginSet(s.header(nil, now), templateSet) }
	end := func() {
		endSet(b, headerLength)
		messages = append(messages, endMessage(b))
	}
	begin()
	for i, t := range templates {
		if len(b)+templateHeader+elementLength*len(t) > s.Max {
			end()
			begin()
		}
		b = binary.BigEndian.AppendUint16(b, uint16(firstTemplate+i))
		b = binary.BigEndian.AppendUint16(b, uint16(len(t)))
		for j := range t {
			b = binary.BigEndian.AppendUint16(b, t[j].id)
			b = binary.BigEndian.AppendUint16(b, t[j].length)
		}
	}
	end()
	return messages
}

// Withdrawal returns a message that withdraws all templates. Not for UDP.
func (s *Session) Withdrawal(now time.Time) []byte {
	b := beginSet(s.header(make([]byte, 0, withdrawalLength), now), templateSet)
	b = binary.BigEndian.AppendUint16(b, allTemplates)
	b = binary.BigEndian.AppendUint16(b, 0)
	endSet(b, headerLength)
	return endMessage(b)
}

// Append writes a message with as many of events as fit, in their order, into b[:0], and
// returns it with how many it took: at least one. Neighbours with the same template
// share a set. Events that are none are taken and not written; the message is empty if
// there is nothing else.
func (s *Session) Append(b []byte, events []Event, now time.Time) (message []byte, taken int) {
	b = s.header(slices.Grow(b[:0], s.Max), now)
	set, in := 0, -1 // where the open set begins, and its template
	records := uint32(0)
	for ; taken < len(events); taken++ {
		e := &events[taken]
		at, ok := templateOf(e)
		if !ok {
			continue
		}
		need := recordLength(templates[at])
		if at != in {
			need += setHeaderLength
		}
		if len(b)+need > s.Max {
			break
		}
		if at != in {
			if in >= 0 {
				endSet(b, set)
			}
			set, in = len(b), at
			b = beginSet(b, firstTemplate+at)
		}
		for i := range templates[at] {
			b = templates[at][i].append(b, e)
		}
		records++
	}
	if in < 0 {
		return b[:0], taken
	}
	endSet(b, set)
	s.sequence += records
	return endMessage(b), taken
}
