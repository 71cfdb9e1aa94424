package nat

import "example.com/culvert/conntrack/tuple"

// Inheritance is how a flow that was announced by another one, its master, is
// translated because of that one. What it does not say, the rules do.
type Inheritance struct {
	Says    Ends
	Dst     tuple.Addr // if Says has DstEnd
	DstPort uint16     // if Says has DstEnd
	Src     tuple.Addr // if Says has SrcEnd; the port is kept when it is free
	SrcPort uint16     // if not 0, the port in its place: this one or none
}

// Ends is a set of the ends of a flow.
type Ends uint8

const (
	DstEnd Ends = 1 << iota
	SrcEnd
)

// Inherit returns how the flow whose first packet has tuple t follows its
// master: when it goes where packets of the master in one direction go, then it
// gets as far as those do; and when it also comes from where those come, then it
// appears as they do. A flow to somewhere else inherits nothing. original and
// reply are the master's tuples.
func Inherit(t, original, reply *tuple.Tuple) Inheritance {
	for _, way := range [...]struct{ there, back *tuple.Tuple }{{original, reply}, {reply, original}} {
		if t.Dst == way.there.Dst && t.Src == way.there.Src {
			return Inheritance{Says: DstEnd | SrcEnd, Dst: way.back.Src, DstPort: t.DstPort, Src: way.back.Dst}
		}
	}
	for _, way := range [...]struct{ there, back *tuple.Tuple }{{original, reply}, {reply, original}} {
		if t.Dst == way.there.Dst {
			return Inheritance{Says: DstEnd, Dst: way.back.Src, DstPort: t.DstPort}
		}
	}
	return Inheritance{}
}

// Apply returns t with the destination that i says.
func (i *Inheritance) Apply(t tuple.Tuple) tuple.Tuple {
	if i.Says&DstEnd != 0 {
		t.Dst, t.DstPort = i.Dst, i.DstPort
	}
	return t
}

// Search starts the walk over the sources that the flow may leave with; see
// Source.Search. i must say the source.
func (i *Inheritance) Search(t tuple.Tuple, rnd uint64) Search {
	if i.SrcPort != 0 {
		t.Src, t.SrcPort = i.Src, i.SrcPort
		return Search{t: t, rnd: rnd, left: 1, keep: keepOnly}
	}
	var masquerade Source
	return masquerade.Search(t, i.Src, rnd)
}
