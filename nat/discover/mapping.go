package discover

import "net/netip"

// mapping finds out on what the external endpoint of an inside one depends.
func (p *prober) mapping(proto protocol) Dependence {
	in, servers := p.inside(0), p.servers()
	var ext [len(servers)]netip.AddrPort
	for i, out := range servers {
		f, ok := p.open(proto, in, out, answered)
		if !ok {
			return NoTraffic
		}
		ext[i] = f.ext
	}
	kind := dependence(&ext)
	switch {
	case ext == [len(ext)]netip.AddrPort{in, in, in, in}:
		return Untranslated
	case kind == Endpoint && p.changesUnderContention(proto):
		return Linux
	}
	return kind
}

// dependence classifies the external endpoints towards two addresses with two ports each.
func dependence(ext *[4]netip.AddrPort) Dependence {
	samePorts, sameAddrs := ext[0] == ext[1] && ext[2] == ext[3], ext[0] == ext[2] && ext[1] == ext[3]
	switch {
	case samePorts && sameAddrs:
		return Endpoint
	case samePorts:
		return Address
	case ext[0] != ext[1] && ext[2] != ext[3] && ext[0] != ext[2] && ext[1] != ext[3]:
		return AddressAndPort
	}
	return Irregular
}

// changesUnderContention reports whether the mapping of an inside endpoint is another
// when two of them want the same port (RFC 4787 REQ-11 forbids it).
func (p *prober) changesUnderContention(proto protocol) bool {
	a, servers := p.inside(0), p.servers()
	first, ok1 := p.open(proto, a, servers[0], answered)
	apart, ok2 := p.open(proto, p.twin(a), servers[2], answered)
	collides, ok3 := p.open(proto, p.twin(a), servers[0], answered)
	p.leaveRoom(1)
	return ok1 && ok2 && ok3 && (apart.ext == first.ext || apart.ext != collides.ext)
}

// filtering finds out from whom a mapping admits packets.
func (p *prober) filtering(proto protocol) Dependence {
	servers := p.servers()
	f, ok := p.open(proto, p.inside(0), servers[0], lasting)
	if !ok {
		return NoTraffic
	}
	admits := func(from netip.AddrPort) bool {
		got, ok := p.knock(proto, from, f.ext)
		return ok && got.dst == f.in && got.src == from
	}
	otherPort, otherAddress, bothOther := admits(servers[1]), admits(servers[2]), admits(servers[3])
	switch [3]bool{otherPort, otherAddress, bothOther} {
	case [3]bool{true, true, true}:
		return Endpoint
	case [3]bool{true, false, false}:
		return Address
	case [3]bool{}:
		return AddressAndPort
	}
	return Irregular
}

// hairpin finds out whether inside hosts reach each other by their external endpoints.
func (p *prober) hairpin(proto protocol) Hairpinning {
	server := p.servers()[0]
	a, ok1 := p.open(proto, p.inside(0), server, lasting)
	b, ok2 := p.open(proto, p.inside(1), server, lasting)
	if !ok1 || !ok2 {
		return NoHairpin
	}
	if kind := p.around(b, a); kind != NoHairpin {
		return kind
	}
	// Both have sent to each other now, or will have: filters that hold here, too, admit them.
	if p.around(a, b) == HairpinExternal || p.around(b, a) == HairpinExternal {
		return HairpinOpened
	}
	return NoHairpin
}

// around sends from the inside endpoint of one flow to the external one of another,
// and lets the answer go back. A zero inside endpoint of the other stands for any.
func (p *prober) around(from, to *flow) Hairpinning {
	f := &flow{p: p, proto: from.proto, in: from.in, out: to.ext}
	d := &datagram{proto: from.proto, src: from.in, dst: to.ext, flags: synFlag}
	p.mark(d)
	got, ok := p.pass(Inside, Inside, d)
	if !ok || to.in.IsValid() && got.dst != to.in {
		return NoHairpin
	}
	f.next[Inside], f.ext = d.seq+1, got.src
	back := &datagram{proto: from.proto, src: got.dst, dst: got.src, flags: synAckFlags, ack: f.next[Inside]}
	p.mark(back)
	seen, ok := p.pass(Inside, Inside, back)
	switch {
	case got.src == from.in:
		return HairpinInternal
	case !ok || seen.src != to.ext || seen.dst != from.in:
		return NoHairpin
	}
	return HairpinExternal
}

// pooling finds out how external addresses are given to inside hosts.
func (p *prober) pooling(proto protocol) Pooling {
	const flowsOfHost = 12
	all, paired := make(map[netip.Addr]struct{}), true
	for n := range p.hosts.Inside {
		own := make(map[netip.Addr]struct{})
		for i := range flowsOfHost {
			if f, ok := p.first(proto, p.inside(n), p.servers()[i%4]); ok {
				own[f.ext.Addr()], all[f.ext.Addr()] = struct{}{}, struct{}{}
			}
		}
		paired = paired && len(own) <= 1
	}
	switch {
	case len(all) <= 1:
		return OneAddress
	case paired:
		return Paired
	}
	return Arbitrary
}
