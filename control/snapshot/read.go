package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/dataplane"
	"example.com/culvert/nat/ports"
)

// Why a file is refused. Errors of Parse wrap one of them.
var (
	ErrFormat  = errors.New("no snapshot of flows")
	ErrVersion = errors.New("a snapshot of another version or kind of machine")
	ErrDamaged = errors.New("the snapshot is damaged")
)

// maxHeader bounds the header: 65,536 sets of timeouts need about 60 MB.
const maxHeader = 64 << 20

// Bytes returns how many bytes a snapshot of so many flows and expectations has at most.
func Bytes(flows, expects int) int64 {
	const kept = 4 // ports a flow may have left behind, as package ports bounds them
	return 1<<20 + maxHeader + int64(flows)*int64(1+conntrack.SavedSize+kept*(1+ports.SavedSize)) + int64(expects)*int64(1+conntrack.SavedExpectSize)
}

// Snapshot is one that was read.
type Snapshot struct {
	Header
	records []byte
	count   [numKinds]uint64
}

// Parse reads a snapshot, which keeps b. It is verified whole.
func Parse(b []byte) (*Snapshot, error) {
	rest, ok := bytes.CutPrefix(b, []byte(magic))
	if !ok || len(rest) < 6 {
		return nil, ErrFormat
	}
	version, length := binary.BigEndian.Uint16(rest), binary.BigEndian.Uint32(rest[2:])
	if version != Version {
		return nil, fmt.Errorf("%w: version %d, this program reads %d", ErrVersion, version, Version)
	}
	if rest = rest[6:]; uint64(length) > uint64(min(len(rest), maxHeader)) {
		return nil, fmt.Errorf("%w: it ends in its header", ErrDamaged)
	}
	if len(rest)-int(length) < sha256.Size {
		return nil, fmt.Errorf("%w: it ends before its digest", ErrDamaged)
	}
	end := len(b) - sha256.Size
	if sum := sha256.Sum256(b[:end]); !bytes.Equal(sum[:], b[end:]) {
		return nil, fmt.Errorf("%w: its digest is not that of its content", ErrDamaged)
	}
	s := &Snapshot{records: rest[length : len(rest)-sha256.Size]}
	if err := json.Unmarshal(rest[:length], &s.Header); err != nil {
		return nil, fmt.Errorf("%w: header: %w", ErrDamaged, err)
	}
	if s.Order != byteOrder() || !slices.Equal(s.Sizes, sizes[:]) {
		return nil, fmt.Errorf("%w: %s-endian records of %d bytes, want %s-endian ones of %d", ErrVersion, s.Order, s.Sizes, byteOrder(), sizes)
	}
	return s, s.countRecords()
}

// countRecords walks over the records and compares their number with the end.
func (s *Snapshot) countRecords() error {
	at := s.records
	for len(at) > 0 && at[0] != kindEnd {
		kind := at[0]
		if kind >= numKinds || len(at) < 1+sizes[kind] {
			return fmt.Errorf("%w: a record of kind %d in %d bytes", ErrDamaged, kind, len(at))
		}
		at = at[1+sizes[kind]:]
		s.count[kind]++
	}
	if len(at) != 1+8*(numKinds-1) {
		return fmt.Errorf("%w: its end has %d bytes", ErrDamaged, len(at))
	}
	s.records, at = s.records[:len(s.records)-len(at)], at[1:]
	for kind := 1; kind < numKinds; kind++ {
		if want := binary.BigEndian.Uint64(at[8*(kind-1):]); want != s.count[kind] {
			return fmt.Errorf("%w: %d records of kind %d, want %d", ErrDamaged, s.count[kind], kind, want)
		}
	}
	return nil
}

// Count returns what the snapshot has.
func (s *Snapshot) Count() Written {
	return Written{int(s.count[kindFlow]), int(s.count[kindExpect]), int(s.count[kindPort])}
}

// Image returns the state that the snapshot has, its times moved to those of here.
func (s *Snapshot) Image(here Header) *dataplane.Image {
	return &dataplane.Image{
		Origin:  conntrack.Origin{Shift: s.shift(&here), Policies: s.Policies, Moved: true},
		Helpers: s.Helpers,
		Flows: func(yield func(*conntrack.Saved) bool) {
			var one conntrack.Saved
			for b := range s.each(kindFlow) {
				if copy(one.Bytes()[:], b); !yield(&one) {
					return
				}
			}
		},
		Expects: func(yield func(*conntrack.SavedExpect) bool) {
			var one conntrack.SavedExpect
			for b := range s.each(kindExpect) {
				if copy(one.Bytes()[:], b); !yield(&one) {
					return
				}
			}
		},
		Kept: func(yield func(*ports.Saved) bool) {
			var one ports.Saved
			for b := range s.each(kindPort) {
				if copy(one.Bytes()[:], b); !yield(&one) {
					return
				}
			}
		},
	}
}

// each yields the records of a kind.
func (s *Snapshot) each(kind byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for at := s.records; len(at) > 0; at = at[1+sizes[at[0]]:] {
			if at[0] == kind && !yield(at[1:][:sizes[kind]]) {
				return
			}
		}
	}
}

// shift returns by how much the ticks of s are to be moved. Ticks are a whole number of
// the boot clock, rounded down, in both boots.
func (s *Snapshot) shift(here *Header) conntrack.Tick {
	if s.Boot == here.Boot {
		return 0
	}
	passed := max(here.Wall.Sub(s.Wall), 0)
	then := here.Clock - passed // the moment of s by the clock of here
	return conntrack.Tick(then.Nanoseconds()/tick) - conntrack.Tick(s.Clock.Nanoseconds()/tick)
}

const tick = int64(conntrack.TickLength / time.Nanosecond)
