package dataplane

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/nat/ports"
)

// herald is what parsers ask during a call: it makes expectations of announcements.
type herald struct {
	w   *Worker
	f   *helped
	ref conntrack.Ref
}

const (
	portTries     = 128 // external ports tried for one announcement
	firstHighPort = 1024
)

// Words of conntrack.Expectation.Data of a flow that comes to an external address:
// where it goes from there.
const (
	dataAddr = 0 // and 1: the address
	dataPort = 2 // with dataTold and dataSource
	dataOwn  = 3 // the external port, with the zone inside and what the expectation holds of leases
	dataTold = 1 << 16

	dataZone = 16 // bits below the zone
	dataUse  = 32 // and below the ports.Use
)

// dataSource is where dataPort has the source port that the flow leaves with, if it
// must be a certain one.
const dataSource = 32

func setSource(x *conntrack.Expectation, port uint16) {
	x.Data[dataPort] |= uint64(port) << dataSource
}

// destinationOf returns the destination that a helper's announcement gave x.
func destinationOf(x *conntrack.Expectation) (addr tuple.Addr, port uint16, told bool) {
	binary.BigEndian.PutUint64(addr[:8], x.Data[dataAddr])
	binary.BigEndian.PutUint64(addr[8:], x.Data[dataAddr+1])
	return addr, uint16(x.Data[dataPort]), x.Data[dataPort]&dataTold != 0
}

func setDestination(x *conntrack.Expectation, addr tuple.Addr, port, zone uint16) {
	x.Data[dataAddr] = binary.BigEndian.Uint64(addr[:8])
	x.Data[dataAddr+1] = binary.BigEndian.Uint64(addr[8:])
	x.Data[dataPort] = dataTold | uint64(port)
	x.Data[dataOwn] = uint64(x.Tuple.DstPort) | uint64(zone)<<dataZone
}

// Announce implements alg.Gateway.
func (h *herald) Announce(c *alg.Context, group []alg.Expectation) (netip.AddrPort, error) {
	ep, err := h.announce(c, group)
	t := h.w.e.helpers.tally(h.f.number)
	if err != nil {
		t.refused.Add(1)
		t.last.Store(&RefusedAnnouncement{clientOf(c.Flow), err, h.w.e.cfg.Wall()})
	} else {
		t.announced.Add(1)
	}
	h.note(c, group, ep, err)
	if h.w.trace != nil {
		h.w.trace.announced(h.f, c, group, ep, err)
	}
	return ep, err
}

func (h *herald) announce(c *alg.Context, group []alg.Expectation) (netip.AddrPort, error) {
	b := &h.w.v.bounds
	if sec := h.w.now / int64(time.Second); sec != h.f.charged {
		h.f.charged, h.f.spent = sec, 0
	}
	if h.f.spent += len(group); h.f.spent > b.FlowPerSec || !h.w.e.helpers.spend(clientOf(c.Flow), len(group), b.ClientPerSec, h.f.charged) {
		return netip.AddrPort{}, alg.ErrLimit
	}
	at := h.w.e.helpers.set.Get(h.f.number)
	if err := c.Permit(&at.Spec, group); err != nil {
		return netip.AddrPort{}, err
	}
	first := &group[0]
	if first.Way == alg.Outbound || c.Self().Addr() == c.SelfSeen().Addr() {
		return first.To, h.expectAll(c, group, at, nil, first.To.Port())
	}
	p := h.promising(c)
	own, err := h.choose(c, group, at, &p)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return netip.AddrPortFrom(p.seen, own), nil
}

// choose makes the expectations of group to the best external port that can be
// promised: the one that the flow has announced already, the one that the socket has,
// its own one, and the next.
func (h *herald) choose(c *alg.Context, group []alg.Expectation, at *alg.Attachment, p *promise) (uint16, error) {
	first := &group[0]
	real := c.Real(first.To)
	if own, ok := h.known(first.Proto, real); ok && h.expectAll(c, group, at, p, own) == nil {
		return own, nil
	}
	if has, ok := h.SeenAs(c, first.Proto, real); ok && has.Addr() == p.seen && h.expectAll(c, group, at, p, has.Port()) == nil {
		return has.Port(), nil
	}
	if first.Seen != 0 && h.expectAll(c, group, at, p, first.Seen) == nil {
		return first.Seen, nil
	}
	step := uint16(1)
	if len(group) > 1 {
		step = 2 // the first one's parity stays (RFC 4787 REQ-4)
	}
	own := first.To.Port()
	tries := 0
	for range 0x10000 / int(step) {
		if tries == portTries {
			break
		}
		if p.may(first, own) && h.worth(c, first, own) {
			tries++
			err := h.expectAll(c, group, at, p, own)
			if err == nil {
				return own, nil
			}
			if !errors.Is(err, alg.ErrNoPort) {
				return 0, err
			}
			if p.at != 0 { // it has a mapping, and can have no other port
				has := p.at
				return has, h.expectAll(c, group, at, p, has)
			}
		}
		if own += step; own < firstHighPort {
			own += firstHighPort
		}
	}
	return 0, alg.ErrNoPort
}

// worth reports whether it is worth a try to announce x at an external port.
func (h *herald) worth(c *alg.Context, x *alg.Expectation, port uint16) bool {
	if !leasable(x.Proto) {
		return true
	}
	out := h.describe(c, x, port)
	return h.free(c, &out)
}

// known returns the external port under which this flow has announced a socket.
func (h *herald) known(proto uint8, to netip.AddrPort) (port uint16, ok bool) {
	want := tuple.AddrFrom(to.Addr())
	h.w.ct.EachExpect(h.ref, func(x *conntrack.Expectation) bool {
		addr, p, told := destinationOf(x)
		if told && x.Tuple.Proto == proto && addr == want && p == to.Port() {
			port, ok = uint16(x.Data[dataOwn]), true
		}
		return !ok
	})
	return port, ok
}

// expectAll makes the expectations of group, the first one for flows to port own. All
// are made, or none: ErrNoPort says that another port may do.
func (h *herald) expectAll(c *alg.Context, group []alg.Expectation, at *alg.Attachment, p *promise, own uint16) error {
	for i := range group {
		x := &group[i]
		port := int(own) + int(x.To.Port()) - int(group[0].To.Port())
		err := alg.ErrNoPort
		if port > 0 && port <= 0xffff {
			err = h.expect(c, x, at, p, uint16(port))
		}
		if err != nil {
			for j := range group[:i] {
				h.Withdraw(c, group[j].Class, group[j].To)
			}
			return err
		}
	}
	return nil
}

// describe returns the expectation of x for flows to a port.
func (h *herald) describe(c *alg.Context, x *alg.Expectation, port uint16) conntrack.Expectation {
	d := c.Dir
	out := conntrack.Expectation{Class: x.Class, Helper: h.f.number, Mask: conntrack.WholeMask(0)}
	// The first packet looks like one of the master that goes the same way.
	out.Tuple = c.Tuple[d]
	if x.Way == alg.Inbound {
		out.Tuple = c.Tuple[d.Other()]
	} else {
		out.Tuple.Dst = tuple.AddrFrom(x.To.Addr())
	}
	out.Tuple.Proto, out.Tuple.DstPort, out.Tuple.SrcPort = x.Proto, port, x.From.Port()
	if x.Way == alg.Inbound {
		if c.Self().Addr() == c.SelfSeen().Addr() {
			out.Tuple.Dst = tuple.AddrFrom(x.To.Addr())
		}
		to := c.Real(x.To)
		setDestination(&out, tuple.AddrFrom(to.Addr()), to.Port(), c.Tuple[d].Zone)
	}
	if from := x.From.Addr(); from.IsValid() && (x.FromBits != 0 || from != c.Peer().Addr() && from != c.Self().Addr()) {
		out.Tuple.Src = tuple.AddrFrom(from)
		out.Mask = maskOf(from, x.FromBits)
	}
	if x.From.Port() != 0 {
		out.Mask.SrcPort = 0xffff
	}
	if x.Permanent {
		out.Flags |= conntrack.ExpectPermanent
	}
	return out
}

// expect makes one expectation, with a promise unless p is nil.
func (h *herald) expect(c *alg.Context, x *alg.Expectation, at *alg.Attachment, p *promise, port uint16) error {
	out := h.describe(c, x, port)
	if x.Child != "" {
		n, err := h.w.e.helpers.set.Number(x.Child, at.Options)
		if err != nil {
			return alg.ErrForeign
		}
		out.Child = n
	}
	class := &at.Spec.Classes[x.Class]
	timeout := class.Timeout
	if x.Timeout != 0 {
		timeout = x.Timeout
	}
	policy := conntrack.ExpectPolicy{Max: class.Max, Client: h.w.v.bounds.ClientExpectations, Timeout: conntrack.Ticks(timeout)}
	if x.Proto == tuple.GRE {
		return h.expectCall(&out, c.Self().Addr() != c.SelfSeen().Addr(), policy)
	}
	if p != nil {
		if err := h.take(c, p, &out); err != nil {
			return err
		}
	}
	err := h.w.ct.Expect(h.ref, &out, policy)
	if err != nil {
		h.w.e.release(&out, ports.Tick(h.w.tick))
	}
	return expectError(err)
}

// expectError says what an error of the table means to a helper.
func expectError(err error) error {
	switch {
	case errors.Is(err, conntrack.ErrExpectClash):
		return alg.ErrNoPort
	case errors.Is(err, conntrack.ErrExpectFull), errors.Is(err, conntrack.ErrExpectClient):
		return alg.ErrLimit
	case err != nil:
		return alg.ErrEnded
	}
	return nil
}

// maskOf returns the mask of the leading bits of from, of all if bits is 0, of none if
// from is the unspecified address.
func maskOf(from netip.Addr, bits int) conntrack.ExpectMask {
	if from.IsUnspecified() {
		return conntrack.AnyMask()
	}
	m := conntrack.WholeMask(0)
	if bits <= 0 || bits >= from.BitLen() {
		return m
	}
	bits += 128 - from.BitLen()
	for i := range m.Src {
		if left := bits - 8*i; left < 8 {
			m.Src[i] = ^byte(0xff >> max(left, 0))
		}
	}
	return m
}

// Withdraw implements alg.Gateway.
func (h *herald) Withdraw(c *alg.Context, class uint8, to netip.AddrPort) int {
	want := c.Real(to)
	return h.w.ct.Unexpect(h.ref, func(x *conntrack.Expectation) bool {
		if x.Class != class || !to.IsValid() {
			return x.Class == class
		}
		if addr, port, told := destinationOf(x); told {
			return addr == tuple.AddrFrom(want.Addr()) && port == want.Port()
		}
		return x.Tuple.Dst == tuple.AddrFrom(to.Addr()) && x.Tuple.DstPort == to.Port()
	})
}

// Subnet implements alg.Gateway.
func (h *herald) Subnet(c *alg.Context) netip.Prefix {
	return h.w.v.subnets[tuple.AddrFrom(c.Peer().Addr())]
}

// Keep implements alg.Gateway.
func (h *herald) Keep(_ *alg.Context, d time.Duration) { h.w.ct.Keep(h.ref, conntrack.Ticks(d)) }

// announced says what a helper knew of the flow that x expects: where it goes. From
// where it seems to come follows from its master.
func announced(heir nat.Inheritance, x *conntrack.Announced) nat.Inheritance {
	if addr, port, told := destinationOf(&x.Expectation); told {
		heir.Says |= nat.DstEnd
		heir.Dst, heir.DstPort = addr, port
		heir.SrcPort = uint16(x.Data[dataPort] >> dataSource)
	}
	return heir
}
