package alg

import (
	"errors"
	"net/netip"
	"time"

	"example.com/culvert/conntrack/tuple"
)

// Flow is the flow a parser was made for.
type Flow struct {
	Tuple   [tuple.NumDirections]tuple.Tuple // of packets in each direction, as they come in
	Options Options
}

// Stream reports whether the flow is a stream of bytes, not of datagrams.
func (f *Flow) Stream() bool { return f.Tuple[tuple.Original].Proto == tuple.TCP }

// Source returns where packets in direction d come from.
func (f *Flow) Source(d tuple.Direction) netip.AddrPort {
	t := &f.Tuple[d]
	return netip.AddrPortFrom(t.Src.Netip(), t.SrcPort)
}

// Destination returns where packets in direction d go to.
func (f *Flow) Destination(d tuple.Direction) netip.AddrPort {
	t := &f.Tuple[d]
	return netip.AddrPortFrom(t.Dst.Netip(), t.DstPort)
}

// Why an announcement is refused.
var (
	ErrForeign = errors.New("the address is not the sender's own")
	ErrPort    = errors.New("the port is privileged, or none")
	ErrLimit   = errors.New("too many announcements")
	ErrQuota   = errors.New("the client has as many ports as it may")
	ErrNoPort  = errors.New("no free port to announce")
	ErrEnded   = errors.New("the flow has ended")
)

// Context is what a parser knows beside the payload. It is valid during the call.
type Context struct {
	*Flow
	Dir     tuple.Direction // of the payload
	Gap     bool            // bytes of this direction were not shown: the parser has lost its place
	Payload []byte          // what the parser was shown; for the log
	Gateway Gateway
}

// Gateway is what the engine does for a parser. Parsers use the methods of Context.
type Gateway interface {
	Announce(c *Context, group []Expectation) (netip.AddrPort, error)
	Withdraw(c *Context, class uint8, to netip.AddrPort) int
	SeenAs(c *Context, proto uint8, ep netip.AddrPort) (netip.AddrPort, bool)
	Keep(c *Context, d time.Duration)
	Subnet(c *Context) netip.Prefix
}

// Self is the sender of the payload as it knows itself.
func (c *Context) Self() netip.AddrPort { return c.Source(c.Dir) }

// SelfSeen is the sender as the receiver sees it.
func (c *Context) SelfSeen() netip.AddrPort { return c.Destination(c.Dir.Other()) }

// Peer is the receiver of the payload as the sender sees it.
func (c *Context) Peer() netip.AddrPort { return c.Destination(c.Dir) }

// PeerSelf is the receiver as it knows itself.
func (c *Context) PeerSelf() netip.AddrPort { return c.Source(c.Dir.Other()) }

// Announce says that the flows of group are about to come, all or none, and returns
// what the receiver has to be told instead of the To of the first one: the others are
// at the same distance from it as their own To ports are. Errors are ErrForeign,
// ErrPort, ErrLimit, ErrQuota, ErrNoPort and ErrEnded.
func (c *Context) Announce(group ...Expectation) (netip.AddrPort, error) {
	return c.Gateway.Announce(c, group)
}

// Withdraw ends the expectations of the flow with a class and To, and returns how
// many there were. An invalid To means all of the class.
func (c *Context) Withdraw(class uint8, to netip.AddrPort) int {
	return c.Gateway.Withdraw(c, class, to)
}

// SeenAs returns what the receiver has to be told instead of socket ep: of the sender's
// side, if it is this flow's own end, was announced, or has a mapping; or an external
// one, if the receiver is inside as the host behind it is.
func (c *Context) SeenAs(proto uint8, ep netip.AddrPort) (netip.AddrPort, bool) {
	if ep == c.Self() {
		return c.SelfSeen(), true
	}
	return c.Gateway.SeenAs(c, proto, ep)
}

// Subnet returns the network whose broadcast address the payload goes to: each of its
// hosts may answer. It is invalid if the payload is for one host.
func (c *Context) Subnet() netip.Prefix { return c.Gateway.Subnet(c) }

// Keep lets the flow live for at least d from now, whatever its protocol's timeout.
func (c *Context) Keep(d time.Duration) { c.Gateway.Keep(c, d) }

// Anybody is the From of a flow that may come from any host of a's family.
func Anybody(a netip.Addr) netip.AddrPort {
	if a.Is4() {
		return netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), 0)
}
