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

// bind is Worker.bindAny without taking or claiming anything.
func (x *explainer) bind(f *first) Reason {
	if f.use.Inbound() {
		return x.bindInbound(f)
	}
	if ext, ok := x.e.promisedAt(f); ok {
		cand, choice := f.search.At(ext.Addr, ext.Port), nat.Reused
		cand.Zone = f.ruling.ZoneOf(tuple.Reply)
		switch why := x.try(f, &cand, &choice); why {
		case None:
			x.chosen(&cand, choice, &passed{}, ", as a helper has announced")
			return None
		case PortsExhausted:
		default:
			return why
		}
	}
	if x.e.mayBeMapped(f) {
		if done, why := x.bindMapped(f); done {
			return why
		}
	}
	if f.terms.BlockSize != 0 {
		return x.bindBlocks(f)
	}
	var p passed
	if why, done := x.bindSearch(f, &f.search, &p, everyPort, ""); done {
		return why
	}
	if x.e.mayBeKept(f) {
		search := f.fits.Source.Search(f.key.Tuple, f.fits.Egress, f.rnd.Uint64())
		if why, done := x.bindSearch(f, &search, &p, keptPorts, ", kept for the client"); done {
			return why
		}
	}
	x.say("bind", "none of %d candidates is free, %s first", p.n, sourceText(&p.first))
	return PortsExhausted
}

// bindInbound is Worker.bindInbound.
func (x *explainer) bindInbound(f *first) Reason {
	for cand, choice, ok := f.search.Next(); ok; cand, choice, ok = f.search.Next() {
		cand.Zone = f.admitted.Inside.Zone
		if why := x.try(f, &cand, &choice); why == PortsExhausted {
			continue
		} else if why != None {
			return why
		}
		x.say("bind", "let in by the mapping of %v", f.admitted.Inside)
		x.out.Leaves, x.out.Choice = cand, choice
		return None
	}
	return PortsExhausted
}

// bindMapped is Worker.bindMapped.
func (x *explainer) bindMapped(f *first) (done bool, why Reason) {
	flow := f.flow()
	ext, ok := x.e.leases.Mapping(&flow, f.use, f.fits)
	if !ok {
		return false, None
	}
	cand, choice := f.search.At(ext.Addr, ext.Port), nat.Reused
	cand.Zone = f.ruling.ZoneOf(tuple.Reply)
	switch why := x.try(f, &cand, &choice); {
	case why == None:
		x.chosen(&cand, choice, &passed{}, "")
		return true, None
	case why != PortsExhausted:
		return true, why
	case f.terms.Mapping == nat.Linux:
		return false, None
	}
	return true, x.clash(f, &cand)
}

// clash says that another flow has the mapping of f's source.
func (x *explainer) clash(f *first, cand *tuple.Tuple) Reason {
	x.say("bind", "%s is the mapping of %s, but another flow has it towards this destination", sourceText(cand), sourceText(&f.prop.Original))
	return MappingClash
}

// bindBlocks is Worker.bindBlocks.
func (x *explainer) bindBlocks(f *first) Reason {
	flow := f.flow()
	var blocks [ports.MaxBlocks]ports.Block
	n := x.e.leases.Blocks(&flow, &f.terms, f.fits, &blocks)
	var p passed
	for i := range n {
		search := f.fits.Source.SearchIn(f.key.Tuple, blocks[i].Addr, blocks[i].Ports, f.rnd.Uint64())
		if why, done := x.bindSearch(f, &search, &p, everyPort, fmt.Sprintf(" in the client's block %v", blocks[i].Ports)); done {
			return why
		}
	}
	if n >= int(f.terms.MaxBlocks) {
		x.say("bind", "the client's %d blocks are full", n)
		return PortBlocks
	}
	if why, done := x.bindSearch(f, &f.search, &p, newBlocks, " in a new block"); done {
		return why
	}
	x.say("bind", "every block is somebody's")
	return PortsExhausted
}

// bindSearch is Worker.bindSearch: it finds the first candidate that is to be had, or
// what refuses the flow, and reports whether there is one of the two. where is added
// to what it says.
func (x *explainer) bindSearch(f *first, search *nat.Search, p *passed, which among, where string) (why Reason, done bool) {
	var last tuple.Addr
	for tries := 0; which != keptPorts || tries < keptTries; tries++ {
		if at := search.Addr(); at != last {
			x.e.avoid(f, search, which)
			last, tries = at, 0
		}
		cand, choice, ok := search.Next()
		if !ok {
			return PortsExhausted, false
		}
		if cand.Src != last {
			x.e.avoid(f, search, which)
			last, tries = cand.Src, 0
		}
		cand.Zone = f.ruling.ZoneOf(tuple.Reply)
		switch why := x.try(f, &cand, &choice); why {
		case None:
			x.chosen(&cand, choice, p, where)
			return None, true
		case PortsExhausted:
		default:
			return why, true
		}
		if p.n++; p.n == 1 {
			p.first = cand
		}
	}
	return PortsExhausted, false
}

// try is Worker.try: None, the flow may have a candidate, which may have become that
// of its mapping; PortsExhausted, perhaps another one; or what refuses it.
func (x *explainer) try(f *first, cand *tuple.Tuple, choice *nat.Choice) Reason {
	mapped := false
	for range remapTries {
		reply, ok := cand.Inverse()
		if !ok {
			return InvalidNew
		}
		use := f.use
		if !use.Inbound() {
			var free bool
			if use, free = x.e.useAt(f, &reply, *choice); !free {
				return PortsExhausted
			}
		}
		flow := ports.Of(&f.prop.Original, &reply, use)
		out, at := ports.Granted, ports.Endpoint{}
		if use != ports.NoUse {
			out, at = x.e.leases.Would(&flow, use, &f.terms, f.fits, ports.Tick(tickAt(x.e.Now())))
		}
		switch out {
		case ports.Granted:
			switch {
			case !x.e.table.Has(reply):
				return None
			case mapped:
				return x.clash(f, cand)
			}
			return PortsExhausted
		case ports.Elsewhere:
			mapped = true
			cand.Src, cand.SrcPort, *choice = at.Addr, at.Port, nat.Reused
		case ports.Busy:
			return PortsExhausted
		default:
			x.say("bind", "%s", outcomeTexts[out])
			return ofOutcome[out]
		}
	}
	return PortsExhausted
}

// outcomeTexts say why a client gets no port at all.
var outcomeTexts = map[ports.Outcome]string{
	ports.QuotaReached:  "the client has as many ports as the rule gives to one",
	ports.BlocksReached: "the client has as many blocks as the rule gives to one, and they are full",
	ports.Full:          "there is no room to remember more ports",
}

// chosen says with which source the packet leaves, and why.
func (x *explainer) chosen(cand *tuple.Tuple, why nat.Choice, p *passed, where string) {
	x.out.Leaves, x.out.Choice = *cand, why
	x.say("bind", "%s: %s%s%v", sourceText(cand), choiceTexts[why], where, p)
}
