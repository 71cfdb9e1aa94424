package demo

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/net/icmp"
	"golang.org/x/sys/unix"
)

const mostHops = 5

// traceroute sends UDP datagrams with growing hop limits from the client to a
// port where the server has nobody. The gateway must show up as the first hop,
// and each ICMP error must quote the datagram as the client sent it: a gateway that
// translates has to translate back inside of errors too (RFC 5508 REQ-4).
func (d *demo) traceroute(ctx context.Context, f family) (result, error) {
	kind := f.icmp()
	errs, err := d.lab.Host(client).ListenPacket(kind.network, f.client.Addr().String())
	if err != nil {
		return result{}, err
	}
	defer errs.Close()
	defer bound(ctx, errs)()
	probe, err := d.lab.Host(client).ListenPacket("udp", hostPort(f.client.Addr(), 0))
	if err != nil {
		return result{}, err
	}
	defer probe.Close()
	source := probe.LocalAddr().(*net.UDPAddr).AddrPort()

	var lines []string
	var hops []netip.Addr
	for ttl := 1; ttl <= mostHops; ttl++ {
		target := netip.AddrPortFrom(f.server.Addr(), uint16(tracePort+ttl))
		if err := sendWithHopLimit(probe, target, ttl); err != nil {
			return result{}, err
		}
		hop, reason, err := quoted(errs, kind, source, target)
		if err != nil {
			return result{}, fmt.Errorf("hop %d: %w", ttl, err)
		}
		hops = append(hops, hop)
		lines = append(lines, fmt.Sprintf("%d  %-20s %v", ttl, hop, reason))
		if reason == kind.unreached {
			break
		}
	}
	if want := []netip.Addr{f.inside.Addr(), f.server.Addr()}; len(hops) != 2 || hops[0] != want[0] || hops[1] != want[1] {
		return result{}, fmt.Errorf("the hops are %v, want %v", hops, want)
	}
	flow, err := d.flowOf(ctx, "udp", source)
	return result{
		text:  fmt.Sprintf("%d hops, the first is the gateway", len(hops)),
		lines: append(lines, flow),
	}, err
}

// sendWithHopLimit sends one datagram.
func sendWithHopLimit(c net.PacketConn, to netip.AddrPort, limit int) error {
	udp := c.(*net.UDPConn)
	raw, err := udp.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) { set = setHopLimit(int(fd), to.Addr(), limit) })
	if err = errors.Join(err, set); err != nil {
		return err
	}
	_, err = udp.WriteToUDPAddrPort([]byte("culvert demo"), to)
	if errors.Is(err, syscall.ECONNREFUSED) {
		err = nil // what the previous datagram met
	}
	return err
}

func setHopLimit(fd int, to netip.Addr, limit int) error {
	if to.Is4() {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, limit)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, limit)
}

// quoted waits for the ICMP error about a datagram and returns who sent it.
func quoted(c net.PacketConn, kind icmpKind, source, target netip.AddrPort) (netip.Addr, icmp.Type, error) {
	buf := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return netip.Addr{}, nil, fmt.Errorf("no ICMP error quotes %s > %s: %w", source, target, err)
		}
		m, err := icmp.ParseMessage(kind.proto, buf[:n])
		if err != nil {
			continue
		}
		var original []byte
		switch body := m.Body.(type) {
		case *icmp.TimeExceeded:
			original = body.Data
		case *icmp.DstUnreach:
			original = body.Data
		}
		src, dst, ok := udpTuple(original)
		if !ok || src != source || dst != target {
			continue
		}
		hop, err := netip.ParseAddr(from.String())
		return hop, m.Type, err
	}
}

// udpTuple reads the addresses and ports of a UDP datagram as ICMP errors quote it.
func udpTuple(b []byte) (src, dst netip.AddrPort, ok bool) {
	const ports = 4
	var s, d netip.Addr
	switch {
	case len(b) >= 20 && b[0]>>4 == 4:
		s, _ = netip.AddrFromSlice(b[12:16])
		d, _ = netip.AddrFromSlice(b[16:20])
		b = b[min(len(b), int(b[0]&15)*4):]
	case len(b) >= 40 && b[0]>>4 == 6 && b[6] == unix.IPPROTO_UDP:
		s, _ = netip.AddrFromSlice(b[8:24])
		d, _ = netip.AddrFromSlice(b[24:40])
		b = b[40:]
	}
	if !s.IsValid() || len(b) < ports {
		return src, dst, false
	}
	return netip.AddrPortFrom(s, binary.BigEndian.Uint16(b)), netip.AddrPortFrom(d, binary.BigEndian.Uint16(b[2:])), true
}
