package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"example.com/culvert/conntrack/tuple"
)

// listenBacklog connections wait for Accept at most.
const listenBacklog = 1024

// endpoint is an address as Listen and Dial take it.
type endpoint struct {
	proto  uint8 // tuple.TCP or tuple.UDP
	addr   netip.Addr
	port   uint16
	family tcpip.NetworkProtocolNumber
	both   bool // unspecified address of either family
}

// parseEndpoint reads network (tcp, tcp4, tcp6, udp, udp4, udp6) and addr, a numeric
// "address:port" whose address may be missing.
func parseEndpoint(network, addr string) (e endpoint, err error) {
	kind, family := network, ""
	if n := len(network); n == 4 {
		kind, family = network[:3], network[3:]
	}
	switch kind {
	case "tcp":
		e.proto = tuple.TCP
	case "udp":
		e.proto = tuple.UDP
	default:
		return e, net.UnknownNetworkError(network)
	}
	if addr != "" && addr[0] == ':' {
		addr = "[::]" + addr
		if family == "4" {
			addr = "0.0.0.0" + addr[len("[::]"):]
		}
		e.both = family == ""
	}
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return e, &net.AddrError{Err: "want a numeric address and port", Addr: addr}
	}
	e.addr, e.port = ap.Addr().Unmap(), ap.Port()
	if family == "4" && !e.addr.Is4() || family == "6" && !e.addr.Is6() {
		return e, &net.AddrError{Err: "address is not of family " + network, Addr: addr}
	}
	e.family = protocolOf(e.addr)
	return e, nil
}

// full returns e in netstack's form, where no address means any. It names host0:
// link NICs have the same addresses.
func (e endpoint) full() tcpip.FullAddress {
	f := tcpip.FullAddress{NIC: localNIC, Port: e.port}
	if !e.addr.IsUnspecified() {
		f.Addr = toNetstack(e.addr)
	}
	return f
}

func (e endpoint) transport() tcpip.TransportProtocolNumber {
	if e.proto == tuple.UDP {
		return udp.ProtocolNumber
	}
	return tcp.ProtocolNumber
}

// owners returns what Owns is asked for when packets for a socket bound to e, at
// the given port, arrive.
func (e endpoint) owners(port uint16) []owner {
	o := owner{addr: tuple.AddrFrom(e.addr), port: port, proto: e.proto}
	if !e.both {
		return []owner{o}
	}
	o4, o6 := o, o
	o4.addr, o6.addr = any4, any6
	return []owner{o4, o6}
}

// bound is a netstack socket bound to a local port.
type bound struct {
	ep    tcpip.Endpoint
	wq    *waiter.Queue
	local tcpip.FullAddress
}

func (h *Host) bind(e endpoint) (b bound, err error) { return h.bindTo(e.transport(), e) }

// bindTo is bind for a transport protocol that is not the endpoint's.
func (h *Host) bindTo(transport tcpip.TransportProtocolNumber, e endpoint) (b bound, err error) {
	if h.closed.Load() {
		return b, ErrClosed
	}
	if !e.addr.IsUnspecified() && !h.isOwn(e.addr) {
		return b, fmt.Errorf("%v: %w", e.addr, ErrAddress)
	}
	b.wq = new(waiter.Queue)
	ep, terr := h.stack.NewEndpoint(transport, e.family, b.wq)
	if terr != nil {
		return b, errors.New(terr.String())
	}
	b.ep = ep
	if e.family == header.IPv6ProtocolNumber {
		ep.SocketOptions().SetV6Only(!e.both)
	}
	if terr := ep.Bind(e.full()); terr != nil {
		ep.Close()
		return b, errors.New(terr.String())
	}
	if b.local, terr = ep.GetLocalAddress(); terr != nil {
		ep.Close()
		return b, errors.New(terr.String())
	}
	return b, nil
}

// Listen opens an in-process TCP service on the gateway's own addresses. network is
// tcp, tcp4 or tcp6; addr is numeric, ":80" for all addresses, port 0 for any free one.
func (h *Host) Listen(network, addr string) (net.Listener, error) {
	e, err := parseEndpoint(network, addr)
	if err == nil && e.proto != tuple.TCP {
		err = net.UnknownNetworkError(network)
	}
	if err != nil {
		return nil, &net.OpError{Op: "listen", Net: network, Err: err}
	}
	b, err := h.bind(e)
	if err == nil {
		l := &listener{h: h, bound: b, closed: make(chan struct{}), use: h.services.open(e.owners(b.local.Port))}
		terr := b.ep.Listen(listenBacklog)
		if terr == nil {
			h.services.track(l)
			return l, nil
		}
		err = errors.New(terr.String())
		b.ep.Close()
		l.use.drop()
	}
	return nil, &net.OpError{Op: "listen", Net: network, Addr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(e.addr, e.port)), Err: err}
}

// ListenPacket opens an in-process UDP service; network is udp, udp4 or udp6, addr as for Listen.
func (h *Host) ListenPacket(network, addr string) (net.PacketConn, error) {
	e, err := parseEndpoint(network, addr)
	if err == nil && e.proto != tuple.UDP {
		err = net.UnknownNetworkError(network)
	}
	if err == nil {
		var b bound
		if b, err = h.bind(e); err == nil {
			return &packetConn{UDPConn: gonet.NewUDPConn(b.wq, b.ep), use: h.services.open(e.owners(b.local.Port))}, nil
		}
	}
	return nil, &net.OpError{Op: "listen", Net: network, Err: err}
}

// Dial connects from the gateway to a numeric address; network is tcp, udp, or one of these
// with a 4 or 6. Its packets pass the engine as area host. The source address is
// that of Config.Source, the port one of 61000 to 65535. At most so many
// connections are possible at a time, those in TIME-WAIT (60 s) included.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := h.dial(ctx, network, addr)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("%s: %w", addr, err)}
	}
	return c, nil
}

func (h *Host) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	to, err := parseEndpoint(network, addr)
	if err != nil {
		return nil, err
	}
	if to.addr.IsUnspecified() {
		return nil, errors.New("destination has no address")
	}
	from := endpoint{proto: to.proto, family: to.family, addr: h.source(to.addr)}
	if !from.addr.IsValid() {
		from.addr = netip.IPv4Unspecified()
		if to.addr.Is6() {
			from.addr = netip.IPv6Unspecified()
		}
	}
	b, err := h.bind(from)
	if err != nil {
		return nil, err
	}
	// The port is ours before the first packet can be answered.
	use := h.services.open([]owner{{port: b.local.Port, proto: to.proto}})
	if to.proto == tuple.UDP {
		if terr := b.ep.Connect(to.full()); terr != nil {
			b.ep.Close()
			use.drop()
			return nil, errors.New(terr.String())
		}
		return &packetConn{UDPConn: gonet.NewUDPConn(b.wq, b.ep), use: use}, nil
	}
	if err := connect(ctx, b, to.full()); err != nil {
		b.ep.Close()
		h.services.linger(b.ep, use)
		return nil, err
	}
	return &conn{TCPConn: gonet.NewTCPConn(b.wq, b.ep), h: h, ep: b.ep, use: use}, nil
}

func connect(ctx context.Context, b bound, to tcpip.FullAddress) error {
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents)
	b.wq.EventRegister(&entry)
	defer b.wq.EventUnregister(&entry)
	terr := b.ep.Connect(to)
	if _, started := terr.(*tcpip.ErrConnectStarted); started {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ready:
		}
		terr = b.ep.LastError()
	}
	if terr != nil {
		return errors.New(terr.String())
	}
	return nil
}

// listener is a net.Listener on host0.
type listener struct {
	h *Host
	bound
	use    *use
	once   sync.Once
	closed chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	l.wq.EventRegister(&entry)
	defer l.wq.EventUnregister(&entry)
	for {
		ep, wq, terr := l.ep.Accept(nil)
		if terr == nil {
			return gonet.NewTCPConn(wq, ep), nil
		}
		if _, wait := terr.(*tcpip.ErrWouldBlock); wait {
			select {
			case <-ready:
				continue
			case <-l.closed:
			}
		}
		select {
		case <-l.closed:
			return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: net.ErrClosed}
		default:
			return nil, &net.OpError{Op: "accept", Net: "tcp", Addr: l.Addr(), Err: errors.New(terr.String())}
		}
	}
}

func (l *listener) Addr() net.Addr {
	a, _ := netip.AddrFromSlice(l.local.Addr.AsSlice())
	if !a.IsValid() {
		a = netip.IPv6Unspecified()
	}
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, l.local.Port))
}

func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		l.ep.Close()
		l.h.services.untrack(l)
		l.use.drop()
	})
	return nil
}

// conn is a TCP connection that Dial has made. Its port stays owned after Close
// until netstack has finished with it: what the peer still sends must not meet the kernel.
type conn struct {
	*gonet.TCPConn
	h    *Host
	ep   tcpip.Endpoint
	use  *use
	once sync.Once
}

func (c *conn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.TCPConn.Close()
		c.h.services.linger(c.ep, c.use)
	})
	return err
}

// packetConn is a UDP socket on host0.
type packetConn struct {
	*gonet.UDPConn
	use  *use
	once sync.Once
}

func (c *packetConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = c.UDPConn.Close()
		c.use.drop()
	})
	return err
}
