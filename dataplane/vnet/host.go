package vnet

import (
	"context"
	"errors"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// Host is a machine on a link.
type Host struct {
	stack *stack.Stack
	addrs []netip.Addr
}

const hostNIC tcpip.NICID = 1

// Host puts a machine with the given addresses ("10.0.0.5/24") on a link, named as for Link. Its
// default routers are the gateway's addresses there. Call it before Start.
func (n *Net) Host(link string, addrs ...string) *Host {
	n.t.Helper()
	l := n.Link(link)
	h := &Host{}
	h.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		Clock:              n.clock,
		HandleLocal:        true,
	})
	noRACK := tcpip.TCPRecovery(0) // as the gateway's own stack: see package host
	if err := h.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &noRACK); err != nil {
		n.t.Fatalf("vnet: host %v: %s", addrs, err)
	}
	prefixes := make([]netip.Prefix, len(addrs))
	for i, a := range addrs {
		prefixes[i] = netip.MustParsePrefix(a)
		h.addrs = append(h.addrs, prefixes[i].Addr())
	}
	st := &station{link: l, mac: macOf(h.addrs[0])}
	l.stations = append(l.stations, st)
	n.hosts = append(n.hosts, h)
	if err := h.stack.CreateNIC(hostNIC, st); err != nil {
		n.t.Fatalf("vnet: host %v: %s", addrs, err)
	}
	for _, p := range prefixes {
		pa := tcpip.ProtocolAddress{Protocol: protocolOf(p.Addr()), AddressWithPrefix: tcpip.AddressWithPrefix{Address: toNetstack(p.Addr()), PrefixLen: p.Bits()}}
		if err := h.stack.AddProtocolAddress(hostNIC, pa, stack.AddressProperties{}); err != nil {
			n.t.Fatalf("vnet: host address %v: %s", p, err)
		}
		h.stack.AddRoute(tcpip.Route{Destination: pa.AddressWithPrefix.Subnet(), NIC: hostNIC})
	}
	for _, p := range l.conf.Addresses {
		any := header.IPv4EmptySubnet
		if p.Addr().Is6() {
			any = header.IPv6EmptySubnet
		}
		h.stack.AddRoute(tcpip.Route{Destination: any, Gateway: toNetstack(p.Addr()), NIC: hostNIC})
	}
	return h
}

// Addr returns the host's first address.
func (h *Host) Addr() netip.Addr { return h.addrs[0] }

// Listen opens a TCP service; network is ignored but for its place in the usual signature.
func (h *Host) Listen(_, addr string) (net.Listener, error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	return gonet.ListenTCP(h.stack, full(a), protocolOf(a.Addr()))
}

// ListenPacket opens a UDP service; network is ignored but for its place in the usual signature.
func (h *Host) ListenPacket(_, addr string) (net.PacketConn, error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	local := full(a)
	return gonet.DialUDP(h.stack, &local, nil, protocolOf(a.Addr()))
}

// Dial connects to a numeric address by tcp or udp.
func (h *Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	switch network {
	case "tcp":
		return gonet.DialContextTCP(ctx, h.stack, full(a), protocolOf(a.Addr()))
	case "udp":
		remote := full(a)
		return gonet.DialUDP(h.stack, nil, &remote, protocolOf(a.Addr()))
	}
	return nil, errors.New("network must be tcp or udp")
}

func full(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: hostNIC, Addr: toNetstack(a.Addr()), Port: a.Port()}
}

func toNetstack(a netip.Addr) tcpip.Address {
	if a.Is4() {
		return tcpip.AddrFrom4(a.As4())
	}
	return tcpip.AddrFrom16(a.As16())
}

func protocolOf(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return header.IPv4ProtocolNumber
	}
	return header.IPv6ProtocolNumber
}
