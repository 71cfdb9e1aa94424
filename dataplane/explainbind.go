package dataplane

import (
	"fmt"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/nat/ports"
)

// choiceTexts say why a port was chosen.
var choiceTexts = map[nat.Choice]string{
	nat.Preserved:   "its own port, which is free",
	nat.Class:       "a free port of its class, at random",
	nat.Parity:      "a free port of its class and parity, at random",
	nat.RandomPort:  "a free port that the rule allows, at random",
	nat.Reused:      "the mapping that the source has",
	nat.Fixed:       "the port that the rule names",
	nat.Shifted:     "shifted by the rule",
	nat.AddressOnly: "the protocol has no ports",
}

// passed are the candidates that a search passed over.
type passed struct {
	n     int
	first tuple.Tuple
}

func (p *passed) String() string {
	switch p.n {
	case 0:
		return ""
	case 1:
		return fmt.Sprintf("; %s is taken", sourceText(&p.first))
	}
	return fmt.Sprintf("; %s is taken, and %d others that were tried", sourceText(&p.first), p.n-1)
}

// bind is Worker.bindAny without taking or claiming anything. Whether the client's
// quota lets it have the port is seen only when it takes one.
func (x *explainer) bind(f *first) Reason {
	if f.use.Inbound() {
		x.say("bind", "let in by the mapping of %v", f.admitted.Inside)
		x.out.Leaves, x.out.Choice = f.key.Tuple, nat.Preserved
		return None
	}
	if f.fits.Source != nil && leasable(f.prop.Original.Proto) {
		if done, why := x.bindMapped(f); done {
			return why
		}
	}
	if f.terms.BlockSize != 0 {
		return x.bindBlocks(f)
	}
	var p passed
	if x.bindSearch(f, &f.search, &p, everyPort, "") {
		return None
	}
	x.say("bind", "none of %d candidates is free, %s first", p.n, sourceText(&p.first))
	return PortsExhausted
}

// bindMapped is Worker.bindMapped.
func (x *explainer) bindMapped(f *first) (done bool, why Reason) {
	flow := f.flow()
	ext, ok := x.e.leases.Mapping(&flow, f.use, f.fits)
	if !ok {
		return false, None
	}
	cand := f.search.At(ext.Addr, ext.Port)
	reply, _ := cand.Inverse()
	reply.Zone = f.ruling.ZoneOf(tuple.Reply)
	switch {
	case !x.e.table.Has(reply):
		x.chosen(&cand, nat.Reused, &passed{}, "")
		return true, None
	case f.terms.Mapping == nat.Linux:
		return false, None
	}
	x.say("bind", "%s is the mapping of %s, but another flow has it towards this destination", sourceText(&cand), sourceText(&f.prop.Original))
	return true, MappingClash
}

// bindBlocks is Worker.bindBlocks.
func (x *explainer) bindBlocks(f *first) Reason {
	flow := f.flow()
	var blocks [ports.MaxBlocks]ports.Block
	n := x.e.leases.Blocks(&flow, &f.terms, f.fits, &blocks)
	var p passed
	for i := range n {
		search := f.fits.Source.SearchIn(f.key.Tuple, blocks[i].Addr, blocks[i].Ports, f.rnd.Uint64())
		if x.bindSearch(f, &search, &p, everyPort, fmt.Sprintf(" in the client's block %v", blocks[i].Ports)) {
			return None
		}
	}
	if n >= int(f.terms.MaxBlocks) {
		x.say("bind", "the client's %d blocks are full", n)
		return PortBlocks
	}
	if x.bindSearch(f, &f.search, &p, newBlocks, " in a new block") {
		return None
	}
	x.say("bind", "every block is somebody's")
	return PortsExhausted
}

// bindSearch finds the first candidate that is free. where is added to what it says.
func (x *explainer) bindSearch(f *first, search *nat.Search, p *passed, which among, where string) bool {
	var last tuple.Addr
	for {
		if at := search.Addr(); at != last {
			x.e.avoid(f, search, which)
			last = at
		}
		cand, why, ok := search.Next()
		if !ok {
			return false
		}
		if cand.Src != last {
			x.e.avoid(f, search, which)
			last = cand.Src
		}
		cand.Zone = f.ruling.ZoneOf(tuple.Reply)
		if x.free(f, &cand) {
			x.chosen(&cand, why, p, where)
			return true
		}
		if p.n++; p.n == 1 {
			p.first = cand
		}
	}
}

// free reports whether a flow may have a candidate.
func (x *explainer) free(f *first, cand *tuple.Tuple) bool {
	reply, ok := cand.Inverse()
	if !ok || x.e.table.Has(reply) {
		return false
	}
	if f.use == ports.NoUse {
		return true
	}
	space := x.e.leases.Space(cand.Proto, &ports.Endpoint{Addr: cand.Src, Zone: cand.Zone})
	if f.use.Exclusive() {
		return !has(space.Taken(), cand.SrcPort)
	}
	flow := ports.Of(&f.prop.Original, &reply, f.use)
	return !has(space.Alone(), cand.SrcPort) && !has(x.e.leases.Pinned(&flow, f.use), cand.SrcPort)
}

func has(s *nat.PortSet, port uint16) bool { return s != nil && s.Has(port) }

// chosen says with which source the packet leaves, and why.
func (x *explainer) chosen(cand *tuple.Tuple, why nat.Choice, p *passed, where string) {
	x.out.Leaves, x.out.Choice = *cand, why
	x.say("bind", "%s: %s%s%v", sourceText(cand), choiceTexts[why], where, p)
}
