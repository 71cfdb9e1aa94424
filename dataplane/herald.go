package dataplane

import (
	"errors"
	"net/netip"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// herald is what parsers ask during a call: it makes expectations of announcements.
type herald struct {
	w   *Worker
	f   *helped
	ref conntrack.Ref
}

const (
	portTries       = 128 // external ports looked at for one announcement
	announcesPerSec = 64  // of one flow
	clientPerSec    = 256 // of one client
	clientsCounted  = 512 // in a second, of a shard: more get none
	firstHighPort   = 1024
)

// Words of conntrack.Expectation.Data of a flow that comes to an external address:
// where it goes from there.
const (
	dataAddr = 0 // and 1: the address
	dataPort = 2 // with dataTold
	dataOwn  = 3 // the external port
	dataTold = 1 << 16
)

// dataSource is where dataPort has the source port that the flow leaves with, if it
// must be a certain one.
const dataSource = 32

func setSource(x *conntrack.Expectation, port uint16) {
	x.Data[dataPort] |= uint64(port) << dataSource
}

// destinationOf returns the destination that a helper's announcement gave x.
func destinationOf(x *conntrack.Expectation) (addr tuple.Addr, port uint16, told bool) {
	for i := range addr {
		addr[i] = byte(x.Data[dataAddr+i/8] >> (8 * (7 - i%8)))
	}
	return addr, uint16(x.Data[dataPort]), x.Data[dataPort]&dataTold != 0
}

func setDestination(x *conntrack.Expectation, addr tuple.Addr, port uint16) {
	for i, b := range addr {
		x.Data[dataAddr+i/8] |= uint64(b) << (8 * (7 - i%8))
	}
	x.Data[dataPort] = dataTold | uint64(port)
	x.Data[dataOwn] = uint64(x.Tuple.DstPort)
}

// Announce implements alg.Gateway.
func (h *herald) Announce(c *alg.Context, group []alg.Expectation) (netip.AddrPort, error) {
	ep, err := h.announce(c, group)
	if err != nil {
		h.w.e.helpers.untold.Add(1)
	} else {
		h.w.e.helpers.told.Add(1)
	}
	h.w.e.helpers.note(c, h.f, group, ep, err)
	return ep, err
}

func (h *herald) announce(c *alg.Context, group []alg.Expectation) (netip.AddrPort, error) {
	if sec := h.w.now / int64(time.Second); sec != h.f.charged {
		h.f.charged, h.f.credit = sec, announcesPerSec
	}
	if h.f.credit -= len(group); h.f.credit < 0 || !h.w.e.helpers.spend(c, len(group), h.f.charged) {
		return netip.AddrPort{}, alg.ErrLimit
	}
	at := h.w.e.helpers.set.Get(h.f.number)
	if err := c.Permit(&at.Spec, group); err != nil {
		return netip.AddrPort{}, err
	}
	first := &group[0]
	if first.Way == alg.Outbound || c.Self().Addr() == c.SelfSeen().Addr() {
		return first.To, h.expectAll(c, group, at, first.To.Port())
	}
	seen := c.SelfSeen().Addr()
	if own, ok := h.known(first.Proto, c.Real(first.To)); ok {
		if err := h.expectAll(c, group, at, own); err == nil {
			return netip.AddrPortFrom(seen, own), nil
		}
	}
	if first.Seen != 0 && h.expectAll(c, group, at, first.Seen) == nil {
		return netip.AddrPortFrom(seen, first.Seen), nil
	}
	step := uint16(1)
	if len(group) > 1 {
		step = 2 // the first one's parity stays (RFC 4787 REQ-4)
	}
	own := first.To.Port()
	if first.Prefer != 0 {
		own = first.Prefer
	}
	for range portTries {
		err := h.expectAll(c, group, at, own)
		if err == nil {
			return netip.AddrPortFrom(seen, own), nil
		}
		if !errors.Is(err, alg.ErrNoPort) {
			return netip.AddrPort{}, err
		}
		if own += step; own < firstHighPort {
			own += firstHighPort
		}
	}
	return netip.AddrPort{}, alg.ErrNoPort
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
func (h *herald) expectAll(c *alg.Context, group []alg.Expectation, at *alg.Attachment, own uint16) error {
	for i := range group {
		x := &group[i]
		port := int(own) + int(x.To.Port()) - int(group[0].To.Port())
		err := alg.ErrNoPort
		if port > 0 && port <= 0xffff {
			err = h.expect(c, x, at, uint16(port))
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

// expect makes one expectation.
func (h *herald) expect(c *alg.Context, x *alg.Expectation, at *alg.Attachment, port uint16) error {
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
		setDestination(&out, tuple.AddrFrom(to.Addr()), to.Port())
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
	policy := conntrack.ExpectPolicy{Max: class.Max, Client: h.w.e.table.ExpectShare(), Timeout: conntrack.Ticks(timeout)}
	if x.Proto == tuple.GRE {
		return h.expectCall(&out, c.Self().Addr() != c.SelfSeen().Addr(), policy)
	}
	return expectError(h.w.ct.Expect(h.ref, &out, policy))
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

// SeenAs implements alg.Gateway: by what the flow has announced, or another one for who
// sends the payload now. The latter is the external name of somebody behind this
// gateway, as is the receiver, who needs his inside one.
func (h *herald) SeenAs(c *alg.Context, proto uint8, ep netip.AddrPort) (netip.AddrPort, bool) {
	if port, ok := h.known(proto, ep); ok {
		return netip.AddrPortFrom(c.SelfSeen().Addr(), port), true
	}
	if c.Peer() == c.PeerSelf() || ep.Addr().Is4() != c.Self().Addr().Is4() {
		return netip.AddrPort{}, false
	}
	k := c.Tuple[c.Dir]
	k.Proto, k.Dst, k.DstPort = proto, tuple.AddrFrom(ep.Addr()), ep.Port()
	var x conntrack.Expectation
	if !h.w.ct.Awaited(&k, &x) {
		return netip.AddrPort{}, false
	}
	addr, port, told := destinationOf(&x)
	return netip.AddrPortFrom(addr.Netip(), port), told
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

// promised reports whether a helper has told somebody that what would be answers to
// the flow of prop are for another socket than the flow's own.
func (w *Worker) promised(prop *conntrack.Proposal) bool {
	var x conntrack.Expectation
	if !w.ct.Awaited(&prop.Reply, &x) {
		return false
	}
	addr, port, told := destinationOf(&x)
	return told && (addr != prop.Original.Src || port != prop.Original.SrcPort)
}
