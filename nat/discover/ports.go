package discover

import "net/netip"

// tally counts how often something held.
type tally struct{ held, tries int }

func (t *tally) note(held bool) {
	t.tries++
	if held {
		t.held++
	}
}

func (t *tally) quantity() Quantity {
	switch {
	case t.tries == 0:
		return Untested
	case t.held == t.tries:
		return Always
	case t.held == 0:
		return Never
	}
	return Sometimes
}

// lowPort is where the low inside ports of tests begin.
const lowPort = 700

// ports finds out how external ports are chosen: one inside host takes some, then
// another wants the same ones, first towards another server.
func (p *prober) ports(proto protocol, r *Transport) {
	const high, low = 15, 3 // odd: who goes on to the next free port does not keep parity by accident
	servers := p.servers()
	var holders []*flow
	for i := range high + low {
		a := p.inside(0)
		if i >= high {
			a = netip.AddrPortFrom(a.Addr(), lowPort+uint16(i))
		}
		if f, ok := p.open(proto, a, servers[0], answered); ok {
			holders = append(holders, f)
		}
	}
	var kept, class, parity, next tally
	var before *flow // the last one that had to change
	for _, holder := range holders {
		want := holder.in.Port()
		kept.note(holder.ext.Port() == want)
		apart, ok1 := p.open(proto, p.twin(holder.in), servers[2], answered)
		collides, ok2 := p.open(proto, p.twin(holder.in), servers[0], answered)
		if !ok1 || !ok2 {
			continue
		}
		r.Overload = r.Overload || apart.ext == holder.ext
		if collides.ext.Port() == want {
			continue // the hosts have different external addresses
		}
		class.note(collides.ext.Port() < 1024 == (want < 1024))
		parity.note(collides.ext.Port()%2 == want%2)
		if before != nil && before.in.Port()+1 == want {
			next.note(collides.ext.Port() == before.ext.Port()+1)
		}
		before = collides
	}
	p.leaveRoom(high)
	r.Preservation, r.Class, r.Parity, r.Contiguity = kept.quantity(), class.quantity(), parity.quantity(), next.quantity()
}

// leaveRoom keeps the next tests away from the external ports that flows may have
// taken whose own were taken.
func (p *prober) leaveRoom(flows uint16) { p.port += 4 * flows }
