package dataplane

import (
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/rules"
)

// EtherTypes with a meaning to the gateway.
const (
	etherARP = 0x0806

	arpReply = 2 // RFC 826: ares_op$REPLY

	ndNeighborSolicitation = 135 // RFC 4861 section 4.3
)

// isLinkControl reports whether p is neighbour discovery: ICMPv6 types 133 to
// 137 that cannot have crossed a router (RFC 4861 section 6.1, hop limit 255).
func isLinkControl(p *packet.Packet) bool {
	if p.Tuple.Proto != tuple.ICMPv6 || p.TTL != 255 || p.Flags.Fragment() || p.L4 >= p.End {
		return false
	}
	t := p.Mem[p.L4]
	return t >= 133 && t <= 137
}

// linkControl takes frames that are about the link itself: ARP, neighbour
// discovery, and what is not IP. The gateway's own stack answers for its
// addresses; the kernel of the namespace, if it has a path ([host]), hears the
// answers to what it asked, and router advertisements.
func (w *Worker) linkControl(p *packet.Packet, in *portEntry, r role) {
	nd := p.EtherType != etherARP && isLinkControl(p)
	switch {
	case r == roleBox:
		w.rawOut(p, in)
	case r == roleHost, p.EtherType != etherARP && !nd:
		w.drop(NotIP)
	default:
		if in.box != nil && forBox(p, nd) {
			_ = w.rawToBox(p, in) // a copy: the frame itself goes on to the own stack
		}
		if w.e.host == nil || !w.e.host.DeliverLink(in.id, p.Frame()) {
			w.drop(HostQueueFull)
			return
		}
		w.tally.delivered++
		if w.trace != nil {
			w.trace.delivered()
		}
	}
}

// forBox reports whether the kernel should hear a link-control frame: all but
// questions, which the gateway's own stack answers.
func forBox(p *packet.Packet, nd bool) bool {
	if nd {
		return p.Mem[p.L4] != ndNeighborSolicitation
	}
	l3 := p.Off + port.EthernetHeader
	return p.End-l3 >= 8 && p.Mem[l3+7] == arpReply
}

// multicast takes packets to a group or to everybody. The gateway does not route
// them. The box's kernel sends them on its own link, and gets what the rules let
// pass to the host; DHCP for its clients from everywhere.
func (w *Worker) multicast(p *packet.Packet, in *portEntry, r role) {
	switch {
	case r == roleBox:
		w.rawOut(p, in)
	case r == roleWire && in.box != nil && (isDHCPAnswer(&p.Tuple) || w.boxMayHear(p, r)):
		if why := w.rawToBox(p, in); why != None {
			w.drop(why)
			return
		}
		w.tally.delivered++
	default:
		w.drop(Multicast)
	}
}

// asksSubnet reports whether p is what the box's kernel asks all hosts of a link, while
// there is a helper that knows what they answer: then it has a flow as other packets do.
func (v *view) asksSubnet(p *packet.Packet, r role) bool {
	if r != roleBox || !v.asks || p.Tuple.Proto != tuple.UDP {
		return false
	}
	_, directed := v.subnets[p.Tuple.Dst]
	return directed
}

// boxMayHear asks the filter about a packet to a group: it is for the host, and new.
func (w *Worker) boxMayHear(p *packet.Packet, r role) bool {
	k := w.v.key(p, r, rules.New)
	k.Out, k.OutArea, k.Local = HostPort, rules.AreaHost, rules.ToLocal
	return w.v.prog.Filter(&k, w.consider()) == rules.Accept
}

// isDHCPAnswer reports whether t is addressed to a DHCP client (RFC 2131 section
// 4.1, RFC 8415 section 7.2).
func isDHCPAnswer(t *tuple.Tuple) bool {
	return t.Proto == tuple.UDP && (t.DstPort == 68 && t.Family == tuple.IPv4 || t.DstPort == 546 && t.Family == tuple.IPv6)
}

// dhcpToBox gives the box's DHCP client an answer that no flow announced, and
// reports whether p was one: offers come to an address that the box does not have
// yet (RFC 2131 section 4.1), other answers after a request to everybody. As with a
// kernel of its own, only a client that waits for one takes it.
func (w *Worker) dhcpToBox(p *packet.Packet, r role) bool {
	if r != roleWire || !isDHCPAnswer(&p.Tuple) {
		return false
	}
	in := w.v.portOf(p.In)
	if in == nil || in.box == nil {
		return false
	}
	if hop, ok := w.v.routeTo(&p.Tuple.Dst); ok && hop.Port != p.In {
		return false // for somebody behind another port: a kernel that forwards would send it on as the box's own
	}
	if why := w.rawToBox(p, in); why != None {
		w.drop(why)
		return true
	}
	w.tally.delivered++
	return true
}

// rawOut sends a frame of the box's kernel as it is.
func (w *Worker) rawOut(p *packet.Packet, eg *portEntry) {
	if why := w.put(w.v.sinks[w.index].wire[eg.id], p, eg); why != None {
		w.drop(why)
		return
	}
	w.tally.forwarded++
}

// rawToBox gives the kernel a frame as it was received. The frame may go to the
// host's ring next: that copies, so the order of the two does not matter.
func (w *Worker) rawToBox(p *packet.Packet, in *portEntry) Reason {
	p.HasVLAN = false
	return ofStatus[w.send(w.v.sinks[w.index].box[in.id], p)]
}

// toHost delivers a packet for the gateway itself: to an in-process service, or
// to the kernel when it has a path and no service takes the packet. ref is the
// packet's flow, if it has one.
func (w *Worker) toHost(p *packet.Packet, ref conntrack.Ref, r role) Reason {
	in := w.v.portOf(p.In)
	if in != nil && in.box != nil && r == roleWire && w.kernelTakes(p, ref) {
		if p.Link == packet.LinkEthernet {
			copy(p.Mem[p.Off:], in.mac[:])
		}
		p.HasVLAN = false
		s := w.v.sinks[w.index].box[in.id]
		switch {
		case p.FragMax != 0 && s != nil:
			return w.putFragments(s, p, in)
		case p.Flags&packet.TunnelGSO != 0 && s != nil:
			return w.putSegments(s, p, in)
		}
		return ofStatus[w.send(s, p)]
	}
	packet.SetLink(p, packet.LinkIP, [6]byte{}, [6]byte{})
	s := w.v.sinks[w.index].wire[HostPort]
	if s == nil {
		return LocalDenied
	}
	if p.Flags&packet.TunnelGSO != 0 {
		return w.putSegments(s, p, w.v.portOf(HostPort))
	}
	if st := w.send(s, p); st != port.Sent {
		if st == port.Full {
			return HostQueueFull
		}
		return ofStatus[st]
	}
	return None
}

// kernelTakes reports whether a packet for the gateway itself is for the kernel.
// A connection stays where it began, and so does what the kernel began; all else goes by
// who has the port now, as datagrams to a service that went away are for the next one.
func (w *Worker) kernelTakes(p *packet.Packet, ref conntrack.Ref) bool {
	if !ref.Found() && p.Flags&packet.ICMPError != 0 {
		ref = w.ct.Find(&p.Embedded) // translated already: it is what the gateway sent
	}
	if !ref.Found() {
		return !w.hostOwns(p)
	}
	e := w.e.table.Entry(ref.Slot)
	status, connected := e.Status(), e.Proto() == tuple.TCP || e.Proto() == tuple.SCTP
	switch {
	case status&atKernel != 0:
		return true
	case connected && status&conntrack.Confirmed != 0:
		return false
	case w.hostOwns(p):
		return false
	}
	if connected {
		e.SetStatus(atKernel)
	}
	return true
}

// hostOwns reports whether an in-process socket takes p, or what p is an error
// about. Echo requests are the own stack's too, so that ping is answered alike
// with and without a kernel path; replies are for whoever asked.
func (w *Worker) hostOwns(p *packet.Packet) bool {
	t, local, portNumber := &p.Tuple, p.Tuple.Dst, p.Tuple.DstPort
	if p.Flags&packet.ICMPError != 0 {
		// After translation the embedded packet is one that the gateway sent.
		t, local, portNumber = &p.Embedded, p.Embedded.Src, p.Embedded.SrcPort
	}
	switch {
	case linkLocal(&local):
		return false // host0 does not have it
	case tuple.IsICMP(t.Proto):
		return t.DstPort>>8 == 8 || t.DstPort>>8 == 128 || w.e.host != nil && w.e.host.Owns(t.Proto, local, t.SrcPort)
	case tuple.HasPorts(t.Proto) && w.e.host != nil:
		return w.e.host.Owns(t.Proto, local, portNumber)
	}
	return false
}
