//go:build netns

package e2e

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// pptpThrough gives control connections of PPTP a helper. Only its announcements let
// GRE in.
var pptpThrough = setup{
	config: `
[[filter]]
proto = "tcp"
dport = 1723
action = "mark"
set_mark = 33
helper = "pptp"
`,
	objects: `
	ct helper pptp {
		type "pptp" protocol tcp
	}`,
	prerouting: `
		tcp dport 1723 ct helper set "pptp"`,
	forward: `
		tcp dport 1723 ct state new ct mark set 33`,
}

// pptpCall is a control connection of PPTP that both of its ends are written for. There
// is no PPP here, so what runs through a call is made by hand, too.
type pptpCall struct {
	client, server net.Conn
	id             uint16 // of the client, as the server knows it
}

// pptpMessage is a control message with words behind its header.
func pptpMessage(kind uint16, length int, words ...uint16) []byte {
	b := make([]byte, length)
	for i, w := range append([]uint16{uint16(length), 1, 0x1a2b, 0x3c4d, kind, 0}, words...) {
		binary.BigEndian.PutUint16(b[2*i:], w)
	}
	return b
}

// exchange sends a message from one end to the other, and returns the two words behind its
// header as they arrive.
func exchange(t *testing.T, from, to net.Conn, b []byte) (words [2]uint16) {
	t.Helper()
	_, err := from.Write(b)
	must(t, err)
	got := make([]byte, len(b))
	_, err = io.ReadFull(to, got)
	must(t, err)
	return [2]uint16{binary.BigEndian.Uint16(got[12:]), binary.BigEndian.Uint16(got[14:])}
}

// newCall sets up a call of a client with the server: ids are what each calls itself.
func newCall(t *testing.T, h *house, client *netns.Host, from netip.AddrPort, own, its uint16) *pptpCall {
	t.Helper()
	service := at(ipv4.server, 1723)
	c := &pptpCall{}
	c.client, c.server = pair(t, client, h.server, from, service, service)
	exchange(t, c.client, c.server, pptpMessage(1, 156, 0x100))
	exchange(t, c.server, c.client, pptpMessage(2, 156, 0x100, 0x100))
	c.id = exchange(t, c.client, c.server, pptpMessage(7, 168, own))[0]
	if got := exchange(t, c.server, c.client, pptpMessage(8, 32, its, c.id, 0x100)); got != [2]uint16{its, own} {
		t.Errorf("the client is told of ids %d, want %d and %d", got, its, own)
	}
	return c
}

// carrier is a raw socket for GRE of one host.
type carrier struct {
	host *netns.Host
	fd   int
}

func openCarrier(t *testing.T, host *netns.Host) *carrier {
	t.Helper()
	g := &carrier{host: host}
	must(t, host.Do(func() (err error) {
		g.fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_GRE)
		return err
	}))
	t.Cleanup(func() { unix.Close(g.fd) })
	wait := unix.NsecToTimeval(int64(patience))
	must(t, unix.SetsockoptTimeval(g.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait))
	return g
}

// send sends a packet of PPTP for a call id, with a text where PPP would be.
func (g *carrier) send(t *testing.T, to netip.Addr, id uint16, text string) {
	t.Helper()
	b := binary.BigEndian.AppendUint32(nil, 0x3001880b)
	b = binary.BigEndian.AppendUint16(b, uint16(len(text)))
	b = binary.BigEndian.AppendUint16(b, id)
	b = append(binary.BigEndian.AppendUint32(b, 1), text...)
	must(t, unix.Sendto(g.fd, b, 0, &unix.SockaddrInet4{Addr: to.As4()}))
}

// receive expects the next packet to be one from an address, with an id and a text.
func (g *carrier) receive(t *testing.T, from netip.Addr, id uint16, text string) {
	t.Helper()
	b := make([]byte, 2048)
	n, _, err := unix.Recvfrom(g.fd, b, 0)
	must(t, err)
	b = b[:n]
	src, _ := netip.AddrFromSlice(b[12:16])
	gre := b[int(b[0]&15)*4:]
	got := fmt.Sprintf("%v %d %s", src, binary.BigEndian.Uint16(gre[6:]), gre[12:])
	if want := fmt.Sprintf("%v %d %s", from, id, text); got != want {
		t.Errorf("%q arrived, want %q", got, want)
	}
}

// TestPPTP has two clients with the same call id talk with one server at once.
func TestPPTP(t *testing.T) {
	eachGateway(t, pptpThrough, func(t *testing.T, h *house) {
		f := &ipv4
		const id = 7
		first := newCall(t, h, h.first, at(f.first, 30200), id, 21)
		expected := func(src, dst netip.Addr, from, to uint16) string {
			return fmt.Sprintf("proto=47 src=%v dst=%v srckey=%#x dstkey=%#x mask-src=255.255.255.255 mask-dst=255.255.255.255 srckey=0xffff dstkey=0xffff "+
				"master-src=%v master-dst=%v sport=30200 dport=1723 class=0 helper=pptp", src, dst, from, to, f.first, f.server)
		}
		h.wantExpectation(t, expected(f.first, f.server, id, 21))
		h.wantExpectation(t, expected(f.server, f.outside, 21, first.id))
		second := newCall(t, h, h.second, at(f.second, 30201), id, 22)
		if first.id != 30200 || second.id != 30201 {
			t.Errorf("the server knows the clients' ids as %d and %d, want the ports of their connections", first.id, second.id)
		}
		one, two, server := openCarrier(t, h.first), openCarrier(t, h.second), openCarrier(t, h.server)
		one.send(t, f.server, 21, "first speaks")
		server.receive(t, f.outside, 21, "first speaks")
		server.send(t, f.outside, second.id, "to the second")
		two.receive(t, f.server, id, "to the second")
		server.send(t, f.outside, first.id, "to the first")
		one.receive(t, f.server, id, "to the first")
		two.send(t, f.server, 22, "second speaks")
		server.receive(t, f.outside, 22, "second speaks")
		one.send(t, f.server, 21, "answered by now")
		server.receive(t, f.outside, 21, "answered by now")
		// The kernel means to keep calls for hours, as Culvert does, but forgets that
		// with their first packet.
		h.wantFlow(t, fmt.Sprintf("gre 47 * src=%v dst=%v srckey=%#x dstkey=%#x src=%v dst=%v srckey=%#x dstkey=%#x [ASSURED] mark=33 use=1",
			f.first, f.server, id, 21, f.server, f.outside, 21, first.id))

		exchange(t, first.client, first.server, pptpMessage(12, 16, id))
		exchange(t, first.server, first.client, pptpMessage(13, 148, 21))
		one.send(t, f.server, 21, "still open")
		server.receive(t, f.outside, 21, "still open")
	})
}
