package conntrack

import (
	"net/netip"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// Meter tells how much flows have carried between two looks at the table. It keeps 24
// bytes for each slot that was ever used. One goroutine at a time may use it.
type Meter struct {
	t    *Table
	last []sample // by slot
	now  Tick     // of the Pass
}

// sample is what a Meter remembers of a slot.
type sample struct {
	bytes   [tuple.NumDirections]uint64
	packets uint32 // of both directions; wraps
	gen     uint32 // of the entry, plus one; 0: none was seen
}

// NewMeter returns a Meter that has not looked yet: in its first Pass all flows are new.
func (t *Table) NewMeter() *Meter { return &Meter{t: t} }

// Reading is what one flow has carried since the last Pass. It is valid until the
// function that got it returns.
type Reading struct {
	Began   bool // since the last Pass
	Client  uint32
	Rule    uint32 // that admitted the flow, by its id
	Packets uint64
	Bytes   [tuple.NumDirections]uint64 // of IP packets
	Total   uint64                      // bytes since it began

	meter *Meter
	slot  uint32
}

// Copy makes f a copy of the whole flow. Reading itself is ten times as fast.
func (r *Reading) Copy(f *Flow) { r.meter.t.copyFlow(r.slot, f, r.meter.now) }

// Pass calls f with a reading of each confirmed flow. It takes no lock; slots of flows
// that end meanwhile are used again. The Reading is reused for the next call.
func (m *Meter) Pass(f func(*Reading)) {
	m.now = m.t.Now()
	r := Reading{meter: m}
	m.t.eachConfirmed(func(slot uint32, e *Entry, _ Status) {
		if int(slot) >= len(m.last) {
			m.grow(int(slot))
		}
		s, gen := &m.last[slot], word.Load32(&e.gen)+1
		if r.Began = s.gen != gen; r.Began {
			*s = sample{gen: gen}
		}
		packets := uint32(0)
		r.Total = 0
		for d := range r.Bytes {
			n, bytes := e.counters(tuple.Direction(d))
			packets += uint32(n)
			r.Total += bytes
			// A count that two workers are adding to may seem to go back a little.
			r.Bytes[d] = max(bytes, s.bytes[d]) - s.bytes[d]
			s.bytes[d] += r.Bytes[d]
		}
		r.Packets = uint64(max(int32(packets-s.packets), 0))
		if r.Began {
			r.Packets = uint64(packets)
		}
		s.packets += uint32(r.Packets)
		r.slot, r.Client, r.Rule = slot, word.Load32(&m.t.owner[slot]), e.Rule()
		f(&r)
	})
}

// grow makes room for the samples of all slots in use, at least of one.
func (m *Meter) grow(slot int) {
	n := max(int(m.t.slots.high.Load()), slot) + 1
	last := make([]sample, n)
	copy(last, m.last)
	m.last = last
}

// Clients returns how many numbers of clients there are: 0 to Clients()-1.
func (t *Table) Clients() int { return len(t.clients.recs) }

// Client returns the address (for IPv6 the first of the /64) and the zone of a client
// with a number. It reports false for clients that share a record for want of room.
func (t *Table) Client(n uint32) (addr netip.Addr, zone uint16, ok bool) {
	a, z, ok := t.clients.who(n)
	return a.Netip(), uint16(z), ok
}
