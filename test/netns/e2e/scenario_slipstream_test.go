//go:build netns

package e2e

import (
	"bufio"
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"example.com/culvert/test/netns"
)

// everyHelper gives each protocol of these attacks its helper.
var everyHelper = setup{
	config: `
[[filter]]
proto = "tcp"
dport = 21
action = "helper"
helper = "ftp"

[[filter]]
proto = "tcp"
dport = 6667
action = "helper"
helper = "irc"

[[filter]]
proto = "udp"
dport = 69
action = "helper"
helper = "tftp"
`,
	objects: `
	ct helper ftp {
		type "ftp" protocol tcp
	}
	ct helper irc {
		type "irc" protocol tcp
		l3proto ip
	}
	ct helper tftp {
		type "tftp" protocol udp
	}`,
	prerouting: `
		tcp dport 21 ct helper set "ftp"
		tcp dport 6667 ct helper set "irc"
		udp dport 69 ct helper set "tftp"`,
}

// answer is what Culvert makes of an attack. None opens anything.
type answer struct {
	kind   answerKind
	reason string // of a refusal, in the log
}

type answerKind uint8

const (
	leaves  answerKind = iota // what is said is not the protocol: the helper leaves the flow
	ignores                   // the protocol, but no command
	refuses                   // a command for what may not be announced: logged with its bytes
)

// shape is a way to have a helper open a port of the victim: somebody makes a browser
// inside talk to a server of his own (NAT slipstreaming), or is inside himself.
type shape struct {
	claim  string
	on     *family  // nil: ipv4
	server uint16   // port of the attacker's server
	greets string   // what the server says first
	says   []string // what the victim says, each in a segment, or a super-packet if it is longer
	last   string   // what the server says then
	port   uint16   // what would be opened
	opens  opening  // what netfilter makes of it
	answer answer
}

type opening uint8

const (
	nothing opening = iota
	thePort
)

const segment = 1448 // bytes of a full one: 1500 less headers and the option timestamps

// post is a request of a browser, with a body that fills so many segments to the last
// byte, which ends a line.
func post(segments int) (pieces []string) {
	text := fmt.Sprintf("POST /upload HTTP/1.1\r\nHost: evil.example.org\r\nContent-Length: %d\r\n\r\n", 10*segment)
	text += strings.Repeat("x", segments*segment-len(text)-2) + "\r\n"
	for ; text != ""; text = text[segment:] {
		pieces = append(pieces, text[:segment])
	}
	return pieces
}

const (
	notOwn  = "the address is not the sender's own"
	notFree = "the port is privileged, or none"
)

// slipstreams are the attacks over TCP. The victim is 10.1.0.11, 167837707 in decimal, or
// fd00:1::11.
var slipstreams = []shape{
	{claim: "PORT begins the second segment of a POST", server: 21,
		says: append(post(1), "PORT 10,1,0,11,8,1\r\n"), port: 2049, opens: thePort},
	{claim: "PORT begins the fourth segment of a POST to a server that greets", server: 21, greets: "220 ready\r\n",
		says: append(post(3), "PORT 10,1,0,11,8,2\r\n"), port: 2050, opens: thePort},
	{claim: "EPRT begins a segment of a POST", server: 21, greets: "220 ready\r\n",
		says: append(post(1), "EPRT |1|10.1.0.11|2051|\r\n"), port: 2051, opens: thePort},
	{claim: "PORT in the middle of a segment of a POST", server: 21, greets: "220 ready\r\n",
		says: []string{post(1)[0][:500] + "\r\nPORT 10,1,0,11,8,4\r\n"}, port: 2052, opens: nothing},
	{claim: "PORT begins a segment in the middle of a line", server: 21, greets: "220 ready\r\n",
		says: []string{"USER x\r\n", "STOR x", "PORT 10,1,0,11,8,5\r\n"}, port: 2053, opens: nothing, answer: answer{kind: ignores}},
	{claim: "the server answers what nobody asked", server: 21, greets: "220 ready\r\n",
		says: []string{"USER x\r\n"}, last: "227 Entering Passive Mode (198,51,100,9,8,6).\r\n", port: 2054, opens: thePort, answer: answer{kind: ignores}},
	{claim: "PORT with the address of a neighbour", server: 21, greets: "220 ready\r\n",
		says: []string{"USER x\r\n", "PORT 10,1,0,12,8,7\r\n"}, port: 2055, opens: nothing, answer: answer{refuses, notOwn}},
	{claim: "PORT with the address of the server (bounce)", server: 21, greets: "220 ready\r\n",
		says: []string{"USER x\r\n", "PORT 198,51,100,9,8,8\r\n"}, port: 2056, opens: nothing, answer: answer{refuses, notOwn}},
	{claim: "PORT with a privileged port", server: 21, greets: "220 ready\r\n",
		says: []string{"USER x\r\n", "PORT 10,1,0,11,0,22\r\n"}, port: 22, opens: thePort, answer: answer{refuses, notFree}},
	{claim: "PORT begins the third segment of a super-packet with a POST", server: 21, greets: "220 ready\r\n",
		says: []string{strings.Join(post(2), "") + "PORT 10,1,0,11,8,9\r\n"}, port: 2057, opens: nothing},

	{claim: "EPRT begins a segment of a POST over IPv6", on: &ipv6, server: 21, greets: "220 ready\r\n",
		says: append(post(1), "EPRT |2|fd00:1::11|2061|\r\n"), port: 2061, opens: thePort},
	{claim: "EPRT begins the third segment of a super-packet over IPv6", on: &ipv6, server: 21, greets: "220 ready\r\n",
		says: []string{strings.Join(post(2), "") + "EPRT |2|fd00:1::11|2062|\r\n"}, port: 2062, opens: nothing},
	{claim: "the server answers what nobody asked over IPv6", on: &ipv6, server: 21, greets: "220 ready\r\n",
		says: []string{"USER x\r\n"}, last: "229 Entering Extended Passive Mode (|||2063|)\r\n", port: 2063, opens: thePort, answer: answer{kind: ignores}},
	{claim: "EPRT with the address of a neighbour over IPv6", on: &ipv6, server: 21, greets: "220 ready\r\n",
		says: []string{"USER x\r\n", "EPRT |2|fd00:1::12|2064|\r\n"}, port: 2064, opens: nothing, answer: answer{refuses, notOwn}},
	{claim: "EPRT with a privileged port over IPv6", on: &ipv6, server: 21, greets: "220 ready\r\n",
		says: []string{"USER x\r\n", "EPRT |2|fd00:1::11|22|\r\n"}, port: 22, opens: thePort, answer: answer{refuses, notFree}},

	{claim: "PRIVMSG begins the second segment of a POST", server: 6667,
		says: append(post(1), "PRIVMSG x :\x01DCC CHAT chat 167837707 2101\x01\r\n"), port: 2101, opens: thePort},
	{claim: "PRIVMSG in the middle of a segment of a POST", server: 6667,
		says: []string{post(1)[0][:500] + "\r\nPRIVMSG x :\x01DCC CHAT chat 167837707 2102\x01\r\n"}, port: 2102, opens: nothing},
	{claim: "PRIVMSG begins a segment in the middle of a line", server: 6667,
		says: []string{"NICK x\r\n", "TOPIC #x :", "PRIVMSG x :\x01DCC CHAT chat 167837707 2103\x01\r\n"}, port: 2103, opens: thePort, answer: answer{kind: ignores}}, {claim: "PRIVMSG begins the third segment of a super-packet with a POST", server: 6667,
		says: []string{strings.Join(post(2), "") + "PRIVMSG x :\x01DCC CHAT chat 167837707 2105\x01\r\n"}, port: 2105, opens: nothing},
	{claim: "an offer from the address of a neighbour", server: 6667,
		says: []string{"NICK x\r\n", "PRIVMSG x :\x01DCC CHAT chat 167837708 2104\x01\r\n"}, port: 2104, opens: nothing, answer: answer{refuses, notOwn}},
	{claim: "an offer of a privileged port", server: 6667,
		says: []string{"NICK x\r\n", "PRIVMSG x :\x01DCC SEND f 167837707 23 9\x01\r\n"}, port: 23, opens: thePort, answer: answer{refuses, notFree}},
}

// TestSlipstreaming makes each attack on the kernel's helpers first, and shows which
// ports that opens to the outside. Culvert opens none, and says why.
func TestSlipstreaming(t *testing.T) {
	eachGateway(t, everyHelper, func(t *testing.T, h *house) {
		for _, s := range slipstreams {
			t.Run(s.claim, func(t *testing.T) { s.try(t, h) })
		}
		for _, d := range []struct {
			claim, says string
			from        uint16
			answer      answer
		}{
			{"a question of STUN, whose first bytes are those of a request", "\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl", 2201, answer{kind: ignores}},
			{"a request from a privileged port", "\x00\x01file\x00octet\x00", 1000, answer{refuses, notFree}},
		} {
			t.Run(d.claim, func(t *testing.T) { slipDatagram(t, h, d.from, d.says, d.answer) })
		}
		if h.gw.Kind() == netns.Kernel {
			return
		}
		for _, helper := range []string{"ftp", "irc", "tftp"} {
			if n := h.metric(t, strings.Replace(granted, "ftp", helper, 1)); n != 0 {
				t.Errorf("%d announcements of %s were granted", n, helper)
			}
		}
		t.Run("what a session announces is logged with its bytes", func(t *testing.T) {
			site := ftpSite{client: h.first, server: h.server, on: ipv4.server, to: ipv4.server}
			newScript(t, site, at(ipv4.first, 0)).command(t, "PORT 10,1,0,11,156,65", "PORT 203,0,113,1,156,65")
			h.wantLogged(t, "a flow is expected", "told=203.0.113.1:40001", "PORT 10,1,0,11,156,65\r\n")
			if n := h.metric(t, granted); n != 1 {
				t.Errorf("%d announcements were granted, want 1", n)
			}
		})
	})
}

func (s *shape) family() *family { return cmp.Or(s.on, &ipv4) }

func (s *shape) try(t *testing.T, h *house) {
	f := s.family()
	left := h.metric(t, helpersLeft)
	service := at(f.server, s.server)
	victim, evil := pair(t, h.first, h.server, at(f.first, 0), service, service)
	deliver(t, evil, victim, s.greets)
	last := len(s.says) - 1
	for _, text := range s.says[:last] {
		deliver(t, victim, evil, text) // one after the other, so that none shares a segment
	}
	if s.opens == thePort && h.gw.Kind() == netns.Kernel {
		h.wantOpened(t, s, victim, evil)
		return
	}
	deliver(t, victim, evil, s.says[last])
	deliver(t, evil, victim, s.last)
	h.wantNoExpectation(t, fmt.Sprintf("dport=%d ", s.port))
	if h.gw.Kind() == netns.Culvert {
		h.wantAnswer(t, s.answer, s.says[last], left)
	}
}

// deliver sends bytes that have to arrive as they are.
func deliver(t *testing.T, from io.Writer, to io.Reader, text string) {
	t.Helper()
	_, err := io.WriteString(from, text)
	must(t, err)
	got := make([]byte, len(text))
	_, err = io.ReadFull(to, got)
	must(t, err)
	if string(got) != text {
		t.Errorf("%.60q arrived, want %.60q", got, text)
	}
}

// wantOpened says what comes last in a shape, and proves that the outside reaches a
// service of the victim then. What the server announces is a port of its own.
func (h *house) wantOpened(t *testing.T, s *shape, victim, evil io.Writer) {
	t.Helper()
	f := s.family()
	_, err := io.WriteString(victim, s.says[len(s.says)-1]) // which the helper rewrites
	must(t, err)
	_, err = io.WriteString(evil, s.last)
	must(t, err)
	until(t, fmt.Sprintf("port %d is announced", s.port), func() bool { return strings.Contains(h.expected(t), fmt.Sprintf("dport=%d ", s.port)) })
	if s.last == "" {
		serveTCP(t, h.first, at(f.first, s.port), greet)
		talk(t, h.server, at(f.server, 0), at(f.outside, s.port))
	}
}

// wantAnswer proves that Culvert says what it has made of an attack.
func (h *house) wantAnswer(t *testing.T, a answer, text string, left int) {
	t.Helper()
	switch now := h.metric(t, helpersLeft); {
	case a.kind == leaves && now != left+1:
		t.Errorf("helpers have left %d flows, want one more than %d", now, left)
	case a.kind != leaves && now != left:
		t.Errorf("the helper has left the flow")
	}
	if a.kind == refuses {
		h.wantLogged(t, "a payload announced what it may not", a.reason, text)
	}
}

// wantLogged waits for a line of Culvert's log about what a payload announced.
func (h *house) wantLogged(t *testing.T, message, detail, payload string) {
	t.Helper()
	until(t, "a line of the log about "+strconv.Quote(payload), func() bool {
		for line := range strings.Lines(h.gw.Process().Output()) {
			if strings.Contains(line, message) && strings.Contains(line, detail) && strings.Contains(line, "payload="+strconv.Quote(payload)) {
				return true
			}
		}
		return false
	})
}

// slipDatagram is a shape over UDP: the victim's browser, or the victim, sends what TFTP
// would take for a request.
func slipDatagram(t *testing.T, h *house, from uint16, says string, a answer) {
	f := &ipv4
	left := h.metric(t, helpersLeft)
	evil, victim := bindUDP(t, h.server, at(f.server, 69)), bindUDP(t, h.first, at(f.first, from))
	_, err := victim.WriteToUDPAddrPort([]byte(says), at(f.server, 69))
	must(t, err)
	if got := evil.receive(t); got != says {
		t.Errorf("%q arrived, want %q", got, says)
	}
	if h.gw.Kind() == netns.Culvert {
		h.wantNoExpectation(t, fmt.Sprintf("dport=%d ", from))
		h.wantAnswer(t, a, says, left)
		return
	}
	other := bindUDP(t, h.server, at(f.server, 0))
	_, err = other.WriteToUDPAddrPort([]byte("from another port"), at(f.outside, from))
	must(t, err)
	if got := victim.receive(t); got != "from another port" {
		t.Errorf("the victim got %q", got)
	}
}

// Lines of Culvert's metrics.
const (
	helpersLeft = `culvert_helper_events_total{event="left"}`
	granted     = `culvert_helper_announcements_total{event="granted",helper="ftp"}`
)

// metric reads a number of Culvert's metrics. The kernel has none.
func (h *house) metric(t *testing.T, name string) int {
	t.Helper()
	if h.gw.Kind() == netns.Kernel {
		return 0
	}
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", h.gw.Socket())
		},
	}}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://culvert/metrics", nil)
	must(t, err)
	response, err := client.Do(request)
	must(t, err)
	defer response.Body.Close()
	for in := bufio.NewScanner(response.Body); in.Scan(); {
		if value, ok := strings.CutPrefix(in.Text(), name+" "); ok {
			n, err := strconv.Atoi(value)
			must(t, err)
			return n
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// TestExpectationsAreShared floods from many flows of one client. Netfilter has no bound
// for a client; Culvert leaves room for another one.
func TestExpectationsAreShared(t *testing.T) {
	const (
		flows = 40
		share = 16 // of a table for 4096 flows, which has 64
	)
	small := everyHelper
	small.config += "\n[conntrack]\nmax = 4096\n"
	eachGateway(t, small, func(t *testing.T, h *house) {
		f := &ipv4
		server := bindUDP(t, h.server, at(f.server, 69))
		request := func(host *netns.Host, from netip.AddrPort) {
			_, err := bindUDP(t, host, from).WriteToUDPAddrPort([]byte("\x00\x01file\x00octet\x00"), at(f.server, 69))
			must(t, err)
			server.receive(t)
		}
		for i := range uint16(flows) {
			request(h.first, at(f.first, 30000+i))
		}
		request(h.second, at(f.second, 30500))
		of := func(a netip.Addr) int { return strings.Count(h.expected(t), fmt.Sprintf("master-src=%v ", a)) }
		want := flows
		if h.gw.Kind() == netns.Culvert {
			want = share
			must(t, h.gw.Process().WaitOutput(t.Context(), "too many announcements"))
		}
		if first, second := of(f.first), of(f.second); first != want || second != 1 {
			t.Errorf("%d flows of the one and %d of the other are expected, want %d and 1", first, second, want)
		}
	})
}
