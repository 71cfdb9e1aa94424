package conntrack

import (
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// Stage is how far a flow of a protocol without states has come.
type Stage uint8

// Stages.
const (
	Unreplied Stage = iota // no packet came back
	Replied
	Settled // Assured
	numStages
)

var stageNames = [...]string{Unreplied: "UNREPLIED", Replied: "REPLIED", Settled: "ASSURED"}

var _ [numStages]string = stageNames

// String returns the name of a stage, as flows are listed: UNREPLIED, ASSURED.
func (s Stage) String() string { return stageNames[s] }

// censusProtos are the protocols that a Census tells apart; the others are OtherProto.
var censusProtos = [...]uint8{tuple.TCP, tuple.UDP, tuple.ICMP, tuple.ICMPv6, tuple.SCTP, tuple.DCCP, tuple.GRE, tuple.UDPLite}

// OtherProto is what a Census calls protocols without a name of their own.
const OtherProto = "other"

// Census is how many flows there are of each protocol in each state.
type Census struct {
	states [len(censusProtos) + 1][numStates]int // of protocols without states by Stage
}

// censusRow finds the row of a protocol.
var censusRow = func() (row [256]uint8) {
	for i := range row {
		row[i] = uint8(len(censusProtos))
	}
	for i, proto := range censusProtos {
		row[proto] = uint8(i)
	}
	return row
}()

// Census counts the confirmed flows. It looks at each of them, at a few nanoseconds
// apiece (BenchmarkCensus), without a lock and without keeping slots from being used
// again; workers go on. Any goroutine may call it.
func (t *Table) Census() (c Census) {
	t.eachConfirmed(func(_ uint32, e *Entry, s Status) {
		proto := e.Proto()
		col := int(Unreplied)
		switch {
		case HasStates(proto):
			col = int(stateOf(proto, word.Load32(&e.word)&^wordLock))
		case s&Assured != 0:
			col = int(Settled)
		case s&SeenReply != 0:
			col = int(Replied)
		}
		c.states[censusRow[proto]][col]++
	})
	return c
}

// eachConfirmed calls f with each confirmed entry, in an epoch that it renews.
func (t *Table) eachConfirmed(f func(slot uint32, e *Entry, s Status)) {
	seat := t.reader()
	defer t.leave(seat)
	for slot := uint32(1); slot <= t.slots.high.Load(); slot++ {
		if slot%chunkSlots == 0 {
			t.epochs.enter(seat)
		}
		if word.Load32(&t.due[slot]) == 0 {
			continue
		}
		e := &t.entries[slot]
		if s := e.Status(); s&(Confirmed|Dying) == Confirmed {
			f(slot, e, s)
		}
	}
}

// Each calls f for every state a flow can be in, in a fixed order, with the number of
// flows that are in it, also when there is none.
func (c *Census) Each(f func(proto, state string, flows int)) {
	for row := range c.states {
		name, proto := OtherProto, uint8(0)
		if row < len(censusProtos) {
			proto = censusProtos[row]
			name = tuple.ProtoName(proto)
		}
		if !HasStates(proto) {
			for s := range numStages {
				f(name, s.String(), c.states[row][s])
			}
			continue
		}
		for s := range numStates {
			if s.fits(proto) {
				f(name, s.String(), c.states[row][s])
			}
		}
	}
}
