package sip

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"net/netip"
	"time"

	"example.com/culvert/conntrack/tuple"
)

// seed is what nobody outside knows of the hashes of a parser.
type seed [16]byte

func newSeed() (s seed) {
	_, _ = rand.Read(s[:]) // never fails
	return s
}

// hash returns a number for a name, of a Call-ID or a tag: the same one in another process.
func (p *parser) hash(name []byte) uint64 {
	p.hashed = append(append(p.hashed[:0], p.seed[:]...), name...)
	sum := sha256.Sum256(p.hashed)
	return binary.LittleEndian.Uint64(sum[:])
}

// known is what a parser knows, as another process reads it.
type known struct {
	Seed        []byte
	Calls       []knownMedium // all places, those not used included
	Next        uint8
	Open        [tuple.NumDirections][3]int
	Contacts    []knownBinding
	NextContact uint8
}

type knownMedium struct {
	Call     uint64
	Number   int
	Asker    tuple.Direction
	Dir      tuple.Direction
	Class    uint8
	To       netip.AddrPort
	Seen     uint16
	Tag      uint64
	Answered bool
}

type knownBinding struct {
	Number   int
	Asker    tuple.Direction
	Dir      tuple.Direction
	To, Seen netip.AddrPort
	Life     time.Duration
	Granted  bool
}

// MarshalJSON implements json.Marshaler.
func (p *parser) MarshalJSON() ([]byte, error) {
	k := known{Seed: p.seed[:], Next: p.next, NextContact: p.nextContact}
	for i := range p.calls {
		m := &p.calls[i]
		k.Calls = append(k.Calls, knownMedium{m.call, m.by.number, m.by.asker, m.dir, m.class, m.to, m.seen, m.tag, m.answered})
	}
	for d, o := range p.open {
		k.Open[d] = [...]int{o.need, o.read, o.scanned}
	}
	for i := range p.contacts {
		b := &p.contacts[i]
		k.Contacts = append(k.Contacts, knownBinding{b.by.number, b.by.asker, b.dir, b.to, b.seen, b.life, b.granted})
	}
	return json.Marshal(k)
}

// UnmarshalJSON implements json.Unmarshaler, for a parser that is new.
func (p *parser) UnmarshalJSON(text []byte) error {
	var k known
	if err := json.Unmarshal(text, &k); err != nil {
		return err
	}
	copy(p.seed[:], k.Seed)
	p.next, p.nextContact = k.Next%maxSockets, k.NextContact%maxContacts
	for i, m := range k.Calls[:min(len(k.Calls), maxSockets)] {
		p.calls[i] = medium{m.Call, transaction{m.Number, m.Asker}, mediumSocket{m.Dir, m.Class, m.To}, m.Seen, m.Tag, m.Answered}
	}
	for d, o := range k.Open {
		p.open[d] = openMessage{need: o[0], read: max(o[1], 0), scanned: max(o[2], 0)}
	}
	for i, b := range k.Contacts[:min(len(k.Contacts), maxContacts)] {
		p.contacts[i] = binding{transaction{b.Number, b.Asker}, b.Dir, b.To, b.Seen, b.Life, b.Granted}
	}
	return nil
}
