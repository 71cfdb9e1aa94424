package demo

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"example.com/culvert/test/netns"
)

// icmpKind is what differs between ICMP and ICMPv6.
type icmpKind struct {
	network   string // for ListenPacket
	proto     int    // of icmp.ParseMessage
	name      string // in flow lines
	echo      icmp.Type
	echoReply icmp.Type
	exceeded  icmp.Type
	unreached icmp.Type
}

func (f family) icmp() icmpKind {
	if f.server.Addr().Is4() {
		return icmpKind{"ip4:icmp", 1, "icmp", ipv4.ICMPTypeEcho, ipv4.ICMPTypeEchoReply, ipv4.ICMPTypeTimeExceeded, ipv4.ICMPTypeDestinationUnreachable}
	}
	return icmpKind{"ip6:ipv6-icmp", 58, "icmpv6", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, ipv6.ICMPTypeTimeExceeded, ipv6.ICMPTypeDestinationUnreachable}
}

const pings = 10

// ping sends echo requests from the client to the server, one after the other.
func (d *demo) ping(ctx context.Context, f family) (result, error) {
	kind := f.icmp()
	c, err := d.lab.Host(client).ListenPacket(kind.network, f.client.Addr().String())
	if err != nil {
		return result{}, err
	}
	defer c.Close()
	defer bound(ctx, c)()
	id := os.Getpid() & 0xffff
	var times []time.Duration
	for seq := 1; seq <= pings; seq++ {
		took, err := pingOnce(c, kind, f.server.Addr(), id, seq)
		if err != nil {
			return result{}, fmt.Errorf("request %d of %d: %w", seq, pings, err)
		}
		times = append(times, took)
	}
	slices.Sort(times)
	flow, err := d.lab.Gateway().WaitFlow(ctx, func(fl netns.Flow) bool {
		return fl.Proto == kind.name && int(fl.Orig.ID) == id
	})
	median := times[len(times)/2].Round(time.Microsecond)
	return result{
		text:  fmt.Sprintf("%d of %d answers from %s, median %v", len(times), pings, f.server.Addr(), median),
		lines: []string{flow.Line},
	}, err
}

func pingOnce(c net.PacketConn, kind icmpKind, to netip.Addr, id, seq int) (time.Duration, error) {
	request := icmp.Message{Type: kind.echo, Body: &icmp.Echo{ID: id, Seq: seq, Data: []byte("culvert demo")}}
	wire, err := request.Marshal(nil) // the kernel fills in the checksum of ICMPv6
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if _, err := c.WriteTo(wire, &net.IPAddr{IP: to.AsSlice()}); err != nil {
		return 0, err
	}
	buf := make([]byte, 1500)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return 0, fmt.Errorf("no answer: %w", err)
		}
		m, err := icmp.ParseMessage(kind.proto, buf[:n])
		if err != nil || m.Type != kind.echoReply {
			continue
		}
		if echo, ok := m.Body.(*icmp.Echo); ok && echo.ID == id && echo.Seq == seq && from.String() == to.String() {
			return time.Since(start), nil
		}
	}
}
