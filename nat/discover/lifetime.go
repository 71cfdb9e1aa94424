package discover

import (
	"time"
)

// longest is how long a flow is waited for.
const longest = 10 * 24 * time.Hour

// rungs is how many flows a ladder has.
const rungs = 32

// lifetime measures how long a flow lasts that is idle at a stage, within a second:
// it is the least time after which one was not alive.
func (p *prober) lifetime(proto protocol, at stage) Lifetime {
	defer p.rest()
	lo, hi, all := p.ladder(proto, at, geometric())
	if all {
		return Forever
	}
	for hi-lo > time.Second {
		p.rest()
		lo, hi, _ = p.ladder(proto, at, linear(lo, hi))
	}
	return Lifetime(hi)
}

// geometric returns times from a second to longest.
func geometric() []time.Duration {
	var at []time.Duration
	for t := time.Second; t < longest; t = (t*3/2 + time.Second).Truncate(time.Second) {
		at = append(at, t)
	}
	return append(at, longest)
}

// linear returns times from lo to hi, both included.
func linear(lo, hi time.Duration) []time.Duration {
	step := max(time.Second, ((hi-lo)/rungs + time.Second - 1).Truncate(time.Second))
	var at []time.Duration
	for t := lo; t < hi; t += step {
		at = append(at, t)
	}
	return append(at, hi)
}

// ladder makes a flow for each time, all at once, and probes each at its time. It
// returns the last time before the first at which a flow was not alive, that time,
// and whether all lived. Flows that cannot be made are not alive.
func (p *prober) ladder(proto protocol, stage stage, at []time.Duration) (lo, hi time.Duration, all bool) {
	flows := p.openAll(proto, len(at), stage)
	now := time.Duration(0)
	for i, f := range flows {
		p.net.Wait(at[i] - now)
		now = at[i]
		if f == nil || !f.alive(stage) {
			p.forget()
			return lo, now, false
		}
		lo = now
	}
	p.forget()
	return lo, lo, true
}

// openAll makes n flows that all had their last packet now; nil where it was not possible.
func (p *prober) openAll(proto protocol, n int, upTo stage) []*flow {
	flows := make([]*flow, n)
	early := upTo
	if proto == udp && upTo == lasting {
		early = answered // they settle together
	}
	for i := range flows {
		if f, ok := p.open(proto, p.inside(i%len(p.hosts.Inside)), p.servers()[i%4], early); ok {
			flows[i] = f
		}
	}
	if early == upTo {
		return flows
	}
	for range 2 {
		p.net.Wait(2 * time.Second)
		for i, f := range flows {
			if f != nil && (!f.up(0) || !f.down(0)) {
				flows[i] = nil
			}
		}
	}
	return flows
}

// refresh finds out what prolongs a lasting flow.
func (p *prober) refresh(proto protocol, life Lifetime) Refresh {
	if life == Forever {
		return Refresh{}
	}
	part := time.Duration(life) * 3 / 5
	by := func(prolong func(*flow) bool) bool {
		f, ok := p.open(proto, p.inside(0), p.servers()[0], lasting)
		if !ok {
			return false
		}
		p.net.Wait(part)
		if !prolong(f) {
			return false
		}
		p.net.Wait(part)
		return f.alive(lasting)
	}
	r := Refresh{
		Outbound: by(func(f *flow) bool { return f.up(ackFlag) }),
		Inbound:  by(func(f *flow) bool { return f.down(ackFlag) }),
		Error:    by(func(f *flow) bool { return p.errorIn(f, hostUnreachable, f.out.Addr()) }),
	}
	p.forget()
	return r
}

// holdDown measures how long a port stays away from other inside hosts after its flow
// has ended by itself: the longest of some times at which it still did.
func (p *prober) holdDown(life Lifetime) Lifetime {
	if life == Forever {
		return 0
	}
	held := Lifetime(0)
	for _, after := range []time.Duration{time.Second, 30 * time.Second, 60 * time.Second, 90 * time.Second, 119 * time.Second, 180 * time.Second, 600 * time.Second} {
		a, server := p.inside(0), p.servers()[0]
		f, ok := p.open(udp, a, server, answered)
		if !ok {
			break
		}
		p.net.Wait(time.Duration(life) + after)
		if g, ok := p.open(udp, p.twin(a), server, answered); !ok || g.ext == f.ext {
			break
		}
		held = Lifetime(after)
	}
	return held
}
