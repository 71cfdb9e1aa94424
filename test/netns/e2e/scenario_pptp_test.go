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

// pptpServed lets clients outside reach a server behind the gateway, too.
var pptpServed = func() setup {
	s := pptpThrough
	s.config += fmt.Sprintf(`
[[dnat]]
in_area = "wan"
proto = "tcp"
dst = "%v"
dport = 1723
action = "dnat"
to = "%v"
`, ipv4.outside, ipv4.first)
	s.prerouting += fmt.Sprintf(`
		iifname "wan0" ip daddr %v tcp dport 1723 dnat ip to %v`, ipv4.outside, ipv4.first)
	return s
}()

// pptpCall is a control connection of PPTP that both of its ends are written for. There
// is no PPP here, so what runs through a call is made by hand, too.
type pptpCall struct {
	client, server net.Conn
	id             uint16 // of the client, as the server knows it
	its            uint16 // of the server, as the client knows it
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

// Kinds of control messages (RFC 2637 section 2) and a result of theirs.
const (
	pptpStart, pptpStarted         = 1, 2
	pptpOutgoing, pptpOutgoingDone = 7, 8
	pptpIncoming, pptpIncomingDone = 9, 10
	pptpConnected                  = 11
	pptpClear, pptpDisconnect      = 12, 13
	pptpAgreed                     = 1 << 8
)

// openPPTP connects a client with the server, which listens on a socket that the client calls
// to, and has both agree to start.
func openPPTP(t *testing.T, client, server *netns.Host, from, on, to netip.AddrPort) *pptpCall {
	t.Helper()
	c := &pptpCall{}
	c.client, c.server = pair(t, client, server, from, on, to)
	exchange(t, c.client, c.server, pptpMessage(pptpStart, 156, 0x100))
	exchange(t, c.server, c.client, pptpMessage(pptpStarted, 156, 0x100, pptpAgreed))
	return c
}

// call has the client ask for a call: ids are what each side calls itself.
func (c *pptpCall) call(t *testing.T, own, its uint16) *pptpCall {
	t.Helper()
	c.id = exchange(t, c.client, c.server, pptpMessage(pptpOutgoing, 168, own))[0]
	got := exchange(t, c.server, c.client, pptpMessage(pptpOutgoingDone, 32, its, c.id, pptpAgreed))
	if c.its = got[0]; got[1] != own {
		t.Errorf("the client is told of its id %d, want %d", got[1], own)
	}
	return c
}

// callBack has the server ask for it, as for somebody who dials in.
func (c *pptpCall) callBack(t *testing.T, own, its uint16) *pptpCall {
	t.Helper()
	c.its = exchange(t, c.server, c.client, pptpMessage(pptpIncoming, 220, its))[0]
	got := exchange(t, c.client, c.server, pptpMessage(pptpIncomingDone, 24, own, c.its, pptpAgreed))
	if c.id = got[0]; got[1] != its {
		t.Errorf("the server is told of its id %d, want %d", got[1], its)
	}
	if got := exchange(t, c.server, c.client, pptpMessage(pptpConnected, 28, c.id)); got[0] != own {
		t.Errorf("the client is told that call %d is connected, want %d", got[0], own)
	}
	return c
}

// newCall sets up a call of a client with the server outside.
func newCall(t *testing.T, h *house, client *netns.Host, from netip.AddrPort, own, its uint16) *pptpCall {
	t.Helper()
	service := at(ipv4.server, 1723)
	return openPPTP(t, client, h.server, from, service, service).call(t, own, its)
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

// callEnd is one side of a call.
type callEnd struct {
	*carrier
	peer         netip.Addr // the other side, as this one knows it
	sends, hears uint16     // ids in the packets that it sends, and of those that it gets
}

// speak sends a packet to the other side, which has to get it.
func (e callEnd) speak(t *testing.T, to callEnd, text string) {
	t.Helper()
	e.send(t, e.peer, e.sends, text)
	to.receive(t, to.peer, to.hears, text)
}

// converse has two sides speak in turn until the call counts as one that is used.
func converse(t *testing.T, first, second callEnd) {
	t.Helper()
	for _, text := range []string{"one", "two", "three"} {
		first.speak(t, second, text)
		second.speak(t, first, text)
	}
}

// callFlow is the flow of a call that began with a packet between a source and a destination.
func callFlow(src, dst netip.Addr, from, to uint16, answers, seen netip.Addr, own, seenID uint16) string {
	return fmt.Sprintf("gre 47 * src=%v dst=%v srckey=%#x dstkey=%#x src=%v dst=%v srckey=%#x dstkey=%#x [ASSURED] mark=33 use=1",
		src, dst, from, to, answers, seen, own, seenID)
}

// callLine is the expectation of one direction of a call.
func callLine(src, dst netip.Addr, from, to uint16, client, server netip.AddrPort) string {
	return fmt.Sprintf("proto=47 src=%v dst=%v srckey=%#x dstkey=%#x mask-src=255.255.255.255 mask-dst=255.255.255.255 srckey=0xffff dstkey=0xffff "+
		"master-src=%v master-dst=%v sport=%d dport=%d class=0 helper=pptp", src, dst, from, to, client.Addr(), server.Addr(), client.Port(), server.Port())
}

// TestPPTP has two clients with the same call id talk with one server at once.
func TestPPTP(t *testing.T) {
	eachGateway(t, pptpThrough, func(t *testing.T, h *house) {
		f := &ipv4
		const id = 7
		first := newCall(t, h, h.first, at(f.first, 30200), id, 21)
		h.wantExpectation(t, callLine(f.first, f.server, id, 21, at(f.first, 30200), at(f.server, 1723)))
		h.wantExpectation(t, callLine(f.server, f.outside, 21, first.id, at(f.first, 30200), at(f.server, 1723)))
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
		h.wantFlow(t, callFlow(f.first, f.server, id, 21, f.server, f.outside, 21, first.id))

		exchange(t, first.client, first.server, pptpMessage(pptpClear, 16, id))
		exchange(t, first.server, first.client, pptpMessage(pptpDisconnect, 148, 21))
		one.send(t, f.server, 21, "still open")
		server.receive(t, f.outside, 21, "still open")
	})
}

// TestPPTPServerCallsBack has the server ask two clients, who choose the same id, for a call
// each. The kernel's helper tells the client that call 0 is connected, and gives packets
// that id, which is nobody's.
func TestPPTPServerCallsBack(t *testing.T) {
	onlyCulvert(t, pptpThrough, func(t *testing.T, h *house) {
		f := &ipv4
		const id = 7
		service := at(f.server, 1723)
		calls := [...]*pptpCall{
			openPPTP(t, h.first, h.server, at(f.first, 30210), service, service).callBack(t, id, 21),
			openPPTP(t, h.second, h.server, at(f.second, 30211), service, service).callBack(t, id, 22),
		}
		h.wantExpectation(t, callLine(f.first, f.server, id, 21, at(f.first, 30210), service))
		h.wantExpectation(t, callLine(f.server, f.outside, 21, calls[0].id, at(f.first, 30210), service))
		server := openCarrier(t, h.server)
		one, itsOne := callEnd{openCarrier(t, h.first), f.server, 21, id}, callEnd{server, f.outside, calls[0].id, 21}
		two, itsTwo := callEnd{openCarrier(t, h.second), f.server, 22, id}, callEnd{server, f.outside, calls[1].id, 22}
		converse(t, itsOne, one)
		converse(t, two, itsTwo)
		converse(t, one, itsOne)
		h.wantFlow(t, callFlow(f.server, f.outside, 21, calls[0].id, f.first, f.server, id, 21))
		h.wantFlow(t, callFlow(f.second, f.server, id, 22, f.server, f.outside, 22, calls[1].id))
	})
}

// TestPPTPServerBehindTheGateway has two clients outside, with the same call id, talk with a
// server inside that a rule of dnat leads to.
func TestPPTPServerBehindTheGateway(t *testing.T) {
	eachGateway(t, pptpServed, func(t *testing.T, h *house) {
		f := &ipv4
		const id = 7
		on, to := at(f.first, 1723), at(f.outside, 1723)
		far := openPPTP(t, h.server, h.first, at(f.server, 30220), on, to).call(t, id, 21)
		h.wantExpectation(t, callLine(f.server, f.outside, id, far.its, at(f.server, 30220), to))
		h.wantExpectation(t, callLine(f.first, f.server, 21, far.id, at(f.server, 30220), to))
		near := openPPTP(t, h.router, h.first, at(f.up, 30221), on, to).call(t, id, 22)
		server := openCarrier(t, h.first)
		one, itsOne := callEnd{openCarrier(t, h.server), f.outside, far.its, id}, callEnd{server, f.server, far.id, 21}
		two, itsTwo := callEnd{openCarrier(t, h.router), f.outside, near.its, id}, callEnd{server, f.up, near.id, 22}
		converse(t, one, itsOne)
		converse(t, itsTwo, two)
		converse(t, itsOne, one)
		h.wantFlow(t, callFlow(f.server, f.outside, id, far.its, f.first, f.server, 21, far.id))
		h.wantFlow(t, callFlow(f.first, f.up, 22, near.id, f.up, f.outside, id, near.its))
	})
}

// TestPPTPServerBehindTheGatewayCallsBack: here, too, the kernel makes 0 of the id.
func TestPPTPServerBehindTheGatewayCallsBack(t *testing.T) {
	onlyCulvert(t, pptpServed, func(t *testing.T, h *house) {
		f := &ipv4
		c := openPPTP(t, h.server, h.first, at(f.server, 30230), at(f.first, 1723), at(f.outside, 1723)).callBack(t, 7, 21)
		client, server := callEnd{openCarrier(t, h.server), f.outside, c.its, 7}, callEnd{openCarrier(t, h.first), f.server, c.id, 21}
		converse(t, server, client)
		h.wantFlow(t, callFlow(f.first, f.server, 21, c.id, f.server, f.outside, 7, c.its))
	})
}
