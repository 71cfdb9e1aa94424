//go:build netns

package e2e

import (
	"fmt"
	"net/netip"
	"testing"

	"example.com/culvert/test/netns"
)

// TestMasquerade has two clients use the same source port, towards one server.
func TestMasquerade(t *testing.T) {
	eachGateway(t, setup{}, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			t.Run("tcp", func(t *testing.T) { masqueradeTCP(t, h, f) })
			t.Run("udp", func(t *testing.T) { masqueradeUDP(t, h, f) })
			t.Run("echo", func(t *testing.T) { masqueradeEcho(t, h, f) })
			t.Run("questions for A and AAAA leave one socket together", func(t *testing.T) { twinQuestions(t, h, f) })
		})
	})
}

// samePort is what both clients bind.
const samePort = 40000

// seenAs expects that the server sees the gateway, with the client's own port for
// the client that came first and with another one for the other.
func seenAs(t *testing.T, f *family, first, second netip.AddrPort) {
	t.Helper()
	if want := at(f.outside, samePort); first != want {
		t.Errorf("the server sees the first client as %v, want %v", first, want)
	}
	if second.Addr() != f.outside || second.Port() == samePort || second.Port() < 1024 {
		t.Errorf("the server sees the second client as %v, want %v with an unprivileged port other than %d", second, f.outside, samePort)
	}
}

func masqueradeTCP(t *testing.T, h *house, f *family) {
	service := at(f.server, 7001)
	serveTCP(t, h.server, service, greet)
	one := talk(t, h.first, at(f.first, samePort), service)
	two := talk(t, h.second, at(f.second, samePort), service)
	seenAs(t, f, one.seen, two.seen)
	one.say(t, "still me")
	two.say(t, "me too")
	h.wantFlow(t, fmt.Sprintf("tcp 6 431999 ESTABLISHED src=%v dst=%v sport=%d dport=7001 src=%v dst=%v sport=7001 dport=%d [ASSURED] mark=0 use=1",
		f.first, f.server, samePort, f.server, f.outside, samePort))
	h.wantFlow(t, fmt.Sprintf("tcp 6 431999 ESTABLISHED src=%v dst=%v sport=%d dport=7001 src=%v dst=%v sport=7001 dport=%d [ASSURED] mark=0 use=1",
		f.second, f.server, samePort, f.server, f.outside, two.seen.Port()))
	must(t, one.Close())
	h.wantFlow(t, fmt.Sprintf("tcp 6 119 TIME_WAIT src=%v dst=%v sport=%d dport=7001 src=%v dst=%v sport=7001 dport=%d [ASSURED] mark=0 use=1",
		f.first, f.server, samePort, f.server, f.outside, samePort))
	two.say(t, "not me")
}

func masqueradeUDP(t *testing.T, h *house, f *family) {
	service := at(f.server, 7002)
	serveUDP(t, h.server, service)
	one, two := bindUDP(t, h.first, at(f.first, samePort)), bindUDP(t, h.second, at(f.second, samePort))
	seen := two.ask(t, service, "I am first this time")
	if seen != at(f.outside, samePort) {
		t.Errorf("the server sees the client that came first as %v", seen)
	}
	other := one.ask(t, service, "hello")
	seenAs(t, f, seen, other)
	line := "udp 17 29 src=%v dst=%v sport=%d dport=7002 src=%v dst=%v sport=7002 dport=%d mark=0 use=1"
	h.wantFlow(t, fmt.Sprintf(line, f.second, f.server, samePort, f.server, f.outside, samePort))
	h.wantFlow(t, fmt.Sprintf(line, f.first, f.server, samePort, f.server, f.outside, other.Port()))
}

func masqueradeEcho(t *testing.T, h *house, f *family) {
	const id = 777
	one, two := openPing(t, h.first, f, f.first), openPing(t, h.second, f, f.second)
	one.ping(t, f.server, id, 1)
	two.ping(t, f.server, id, 1)
	one.ping(t, f.server, id, 2)
	line := "icmp 1 29 src=%v dst=%v type=8 code=0 id=%d src=%v dst=%v type=0 code=0 id=%s mark=0 use=1"
	if !f.is4() {
		line = "icmpv6 58 29 src=%v dst=%v type=128 code=0 id=%d src=%v dst=%v type=129 code=0 id=%s mark=0 use=1"
	}
	h.wantFlow(t, fmt.Sprintf(line, f.first, f.server, id, f.server, f.outside, fmt.Sprint(id)))
	h.wantFlow(t, fmt.Sprintf(line, f.second, f.server, id, f.server, f.outside, "*"))
	if n := h.flowCount(t, func(g netns.Flow) bool { return g.Orig.ID == id && g.Reply.ID == id && g.Orig.Dst.Addr() == f.server }); n != 1 {
		t.Errorf("%d clients have the identifier %d outside, want one", n, id)
	}
}

// twinQuestions sends two datagrams at once from one socket, as resolvers do. Both
// make the same flow: a gateway that loses that race loses a question.
func twinQuestions(t *testing.T, h *house, f *family) {
	service := at(f.server, 53)
	serveUDP(t, h.server, service)
	const sockets = 100
	open := make([]datagrams, sockets)
	for i := range open {
		open[i] = bindUDP(t, h.first, at(f.first, 0))
	}
	for _, d := range open {
		for _, question := range []string{"A?", "AAAA?"} {
			_, err := d.WriteToUDPAddrPort([]byte(question), service)
			must(t, err)
		}
	}
	for _, d := range open {
		a := d.answer(t, service, "A?")
		if b := d.answer(t, service, "AAAA?"); a != b {
			t.Fatalf("one socket is seen as %v and as %v", a, b)
		}
	}
}
