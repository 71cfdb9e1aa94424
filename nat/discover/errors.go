package discover

import (
	"net/netip"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Flags of TCP segments.
const (
	ackFlag     = header.TCPFlagAck
	synFlag     = header.TCPFlagSyn
	synAckFlags = header.TCPFlagSyn | header.TCPFlagAck
)

// errorKinds are the ICMP errors that are tried, with their names in reports.
var errorKinds = []struct {
	message message
	name    string
}{
	{hostUnreachable, "host unreachable"}, {portUnreachable, "port unreachable"}, {tooBig, "too big"}, {timeExceeded, "time exceeded"},
}

// unusedPort is an external port that no inside host has reason to hold.
const unusedPort = 9

// errors finds out which ICMP errors about flows pass.
func (p *prober) errors(proto protocol) Errors {
	var r Errors
	server, router := p.servers()[0], p.hosts.Outside[2]
	for _, kind := range errorKinds {
		f, ok := p.open(proto, p.inside(0), server, lasting)
		if !ok {
			return r
		}
		if p.errorIn(f, kind.message, server.Addr()) {
			r.Inbound = append(r.Inbound, kind.name)
		}
		if p.errorIn(f, kind.message, router) {
			r.FromRouter = append(r.FromRouter, kind.name)
		}
		r.Survives = f.alive(lasting) && (r.Survives || kind == errorKinds[0])
	}
	if f, ok := p.open(proto, p.inside(0), server, lasting); ok {
		r.Outbound = p.errorOut(f)
		r.Survives = r.Survives && f.alive(lasting)
		other := *f
		other.ext = netip.AddrPortFrom(f.ext.Addr(), unusedPort)
		d := other.aboutSent(hostUnreachable, server.Addr())
		_, r.Unrelated = p.pass(Outside, Inside, d)
	}
	p.forget()
	return r
}

// aboutSent returns an ICMP error of from about a packet that f's inside sent, as the outside knows it.
func (f *flow) aboutSent(m message, from netip.Addr) *datagram {
	sent := &datagram{proto: f.proto, src: f.ext, dst: f.out, flags: ackFlag, seq: f.next[Inside], ack: f.next[Outside]}
	if f.proto == icmp {
		sent.message = echoRequest
	}
	f.p.mark(sent)
	d := &datagram{proto: icmp, message: m, src: netip.AddrPortFrom(from, 0), dst: netip.AddrPortFrom(f.ext.Addr(), 0), about: sent}
	if m == tooBig {
		d.mtu = 1400
	}
	return d
}

// errorIn lets an ICMP error about f come from the outside and reports whether the
// inside got it about the packet that it had sent.
func (p *prober) errorIn(f *flow, m message, from netip.Addr) bool {
	d := f.aboutSent(m, from)
	got, ok := p.pass(Outside, Inside, d)
	return ok && got.src == d.src && got.dst.Addr() == f.in.Addr() && got.about.src == f.in && got.about.dst == f.out && got.mtu == d.mtu
}

// errorOut lets the inside refuse a packet of f.
func (p *prober) errorOut(f *flow) bool {
	sent := &datagram{proto: f.proto, src: f.out, dst: f.in, flags: ackFlag, seq: f.next[Outside], ack: f.next[Inside]}
	if f.proto == icmp {
		sent.message = echoReply
	}
	p.mark(sent)
	d := &datagram{proto: icmp, message: portUnreachable, src: netip.AddrPortFrom(f.in.Addr(), 0), dst: netip.AddrPortFrom(f.out.Addr(), 0), about: sent}
	got, ok := p.pass(Inside, Outside, d)
	return ok && got.src.Addr() == f.ext.Addr() && got.about.src == f.out && got.about.dst == f.ext
}

// connections finds out what only TCP has.
func (p *prober) connections(r *Connections) {
	r.SimultaneousOpen = p.simultaneousOpen()
	r.UnsolicitedSYN, r.SYNWait = p.unsolicited()
	r.SYNForgotten = p.forgiven()
	p.forget()
}

// simultaneousOpen lets both sides open the same connection (RFC 9293 section 3.5).
func (p *prober) simultaneousOpen() bool {
	f, ok := p.first(tcp, p.inside(0), p.servers()[0])
	if !ok {
		return false
	}
	syn := &datagram{proto: tcp, src: f.out, dst: f.ext, flags: synFlag}
	p.mark(syn)
	f.next[Outside] = syn.seq
	if !f.arrives(syn) {
		return false
	}
	f.next[Inside]-- // the SYN is sent again, with an acknowledgement
	again := &datagram{proto: tcp, src: f.in, dst: f.out, flags: synAckFlags, seq: f.next[Inside], ack: syn.seq + 1}
	got, ok := p.pass(Inside, Outside, again)
	if !ok || got.src != f.ext {
		return false
	}
	back := &datagram{proto: tcp, src: f.out, dst: f.ext, flags: synAckFlags, seq: syn.seq, ack: again.seq + 1}
	if !f.arrives(back) {
		return false
	}
	f.next[Inside], f.next[Outside] = again.seq+1, back.seq+1
	return f.up(ackFlag) && f.down(ackFlag)
}

// patience is how long an answer to an unsolicited SYN is waited for.
const patience = 30 * time.Second

// unsolicited finds out what a SYN gets that comes to a mapping from somewhere else.
func (p *prober) unsolicited() (SYN, Lifetime) {
	f, ok := p.open(tcp, p.inside(0), p.servers()[0], lasting)
	if !ok {
		return SYNSilent, 0
	}
	d := &datagram{proto: tcp, src: p.outside(3, secondPort), dst: f.ext, flags: synFlag}
	p.mark(d)
	if _, ok := p.pass(Outside, Inside, d); ok {
		return SYNAdmitted, 0
	}
	for waited := time.Duration(0); waited < patience; waited += time.Second {
		switch p.refusal(d) {
		case SYNReset:
			return SYNReset, Lifetime(waited)
		case SYNHeld:
			if waited == 0 {
				return SYNAtOnce, 0
			}
			return SYNHeld, Lifetime(waited)
		}
		p.net.Wait(time.Second)
	}
	return SYNSilent, 0
}

// refusal returns what has come back to the sender of SYN d.
func (p *prober) refusal(d *datagram) SYN {
	if _, ok := p.find(Outside, func(got *datagram) bool {
		return got.proto == tcp && got.flags&header.TCPFlagRst != 0 && got.dst == d.src && got.src == d.dst
	}); ok {
		return SYNReset
	}
	if _, ok := p.find(Outside, func(got *datagram) bool { return got.about != nil && d.is(got.about) && got.about.src == d.src }); ok {
		return SYNHeld
	}
	return SYNSilent
}

// forgiven reports whether an unsolicited SYN has no bad end when the inside opens
// the same connection within the six seconds of RFC 5382 REQ-4.
func (p *prober) forgiven() bool {
	f, ok := p.open(tcp, p.inside(0), p.servers()[0], lasting)
	if !ok {
		return false
	}
	d := &datagram{proto: tcp, src: p.outside(3, firstPort), dst: f.ext, flags: synFlag}
	p.mark(d)
	p.send(Outside, d)
	p.net.Wait(2 * time.Second)
	g, ok := p.first(tcp, f.in, d.src)
	if !ok {
		return false
	}
	if g.ext != f.ext {
		return true // another mapping: the SYN was not for this connection
	}
	p.net.Wait(patience)
	return p.refusal(d) == SYNSilent
}
