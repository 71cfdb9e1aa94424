//go:build netns

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// sipThrough gives every SIP flow a helper. What is announced may come in, nothing
// else.
var sipThrough = setup{
	config: `
[[filter]]
proto = "udp"
dport = 5060
action = "mark"
set_mark = 34
helper = "sip"

[[filter]]
proto = "tcp"
dport = 5060
action = "mark"
set_mark = 34
helper = "sip"
`,
	objects: `
	ct helper sip-udp {
		type "sip" protocol udp
	}
	ct helper sip-tcp {
		type "sip" protocol tcp
	}`,
	prerouting: `
		udp dport 5060 ct helper set "sip-udp"
		tcp dport 5060 ct helper set "sip-tcp"`,
	forward: `
		meta l4proto { tcp, udp } th dport 5060 ct state new ct mark set 34`,
}

// Ports of media in these scenarios.
const (
	callerMedia = 40000
	calledMedia = 50000
)

// sipPeer is a run of sipp inside a host.
type sipPeer struct {
	host     *netns.Host
	on       netip.AddrPort
	media    uint16
	scenario string // file of testdata/sip
	user     string
	to       netip.AddrPort // invalid: it waits for a peer
}

// sipRun is a sipp that runs.
type sipRun struct {
	*netns.Process
	messages, errors string // files
}

// start starts sipp for one call over a transport.
func (p *sipPeer) start(t *testing.T, transport string) *sipRun {
	t.Helper()
	dir := t.TempDir()
	scenario, err := filepath.Abs("testdata/sip/" + p.scenario + ".xml")
	must(t, err)
	run := &sipRun{messages: filepath.Join(dir, "messages"), errors: filepath.Join(dir, "errors")}
	args := []string{
		"sipp", "-sf", scenario, "-i", p.on.Addr().String(), "-p", fmt.Sprint(p.on.Port()), "-mi", p.on.Addr().String(), "-mp", fmt.Sprint(p.media),
		"-s", p.user, "-m", "1", "-t", map[string]string{"udp": "u1", "tcp": "t1"}[transport], "-nostdin", "-timeout", fmt.Sprint(patience), "-timeout_error",
		"-trace_msg", "-message_file", run.messages, "-trace_err", "-error_file", run.errors,
	}
	if p.to.IsValid() {
		args = append(args, p.to.String())
	}
	run.Process, err = p.host.Start(args...)
	must(t, err)
	if !p.to.IsValid() {
		until(t, p.scenario+" listens", func() bool {
			out, err := p.host.Exec(t.Context(), "ss", "-Hln", "-A", transport, "sport", "=", fmt.Sprint(p.on.Port()))
			must(t, err)
			return out != ""
		})
	}
	return run
}

// heard is what the peer has received and sent.
func (r *sipRun) heard() string {
	text, _ := os.ReadFile(r.messages)
	return string(text)
}

// finish waits for the end of a call that goes well.
func (r *sipRun) finish(t *testing.T) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := r.Wait(ctx); err != nil {
		why, _ := os.ReadFile(r.errors)
		t.Fatalf("sipp: %v\n%s\n%s", err, why, r.heard())
	}
	return r.heard()
}

// wantNothingOf expects that a peer has met none of these addresses.
func wantNothingOf(t *testing.T, heard string, addrs ...netip.Addr) {
	t.Helper()
	for line := range strings.Lines(heard) {
		for _, a := range addrs {
			if strings.Contains(line, a.String()) && !strings.HasPrefix(line, "Call-ID:") {
				t.Errorf("the peer knows %q", line)
			}
		}
	}
}

// wantLines expects that a peer has met all of these lines.
func wantLines(t *testing.T, heard string, lines ...string) {
	t.Helper()
	for _, l := range lines {
		if !strings.Contains(heard, l+"\r\n") {
			t.Errorf("no line is %q in\n%s", l, heard)
		}
	}
}

// sipVersion writes the version of a's family as SDP does.
func sipVersion(a netip.Addr) string {
	if a.Is4() {
		return "IP4"
	}
	return "IP6"
}

// mediaWatch counts the datagrams of media at both of its ends.
type mediaWatch struct {
	caller, called *netns.Capture
}

func watchMedia(t *testing.T, caller, called *netns.Host) *mediaWatch {
	t.Helper()
	a, err := caller.Capture("eth0")
	must(t, err)
	b, err := called.Capture("eth0")
	must(t, err)
	return &mediaWatch{a, b}
}

// wantBothWays expects that all that was sent came, in both directions.
func (w *mediaWatch) wantBothWays(t *testing.T) {
	t.Helper()
	count := func(c *netns.Capture, to uint16, outgoing bool) int {
		return c.Count(func(f netns.Frame) bool {
			u := f.UDP()
			return u != nil && uint16(u.DstPort) == to && f.Outgoing == outgoing
		})
	}
	for _, way := range []struct {
		name     string
		from, to *netns.Capture
		port     uint16
	}{{"from the caller", w.caller, w.called, calledMedia}, {"to the caller", w.called, w.caller, callerMedia}} {
		sent := count(way.from, way.port, true)
		if sent == 0 {
			t.Errorf("no media were sent %s", way.name)
		}
		until(t, "all media come "+way.name, func() bool { return count(way.to, way.port, false) == sent })
	}
}

// TestSIPCall has a phone call somebody outside, talk, hold the call, talk again and
// end it: twice, over UDP and TCP, from the same media port, while the media flows of the
// first call live.
func TestSIPCall(t *testing.T) {
	eachGateway(t, sipThrough, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			for _, transport := range []string{"udp", "tcp"} {
				t.Run(transport, func(t *testing.T) { sipCall(t, h, f, transport) })
			}
		})
	})
}

func sipCall(t *testing.T, h *house, f *family, transport string) {
	events, err := h.gw.Events("expect")
	must(t, err)
	defer func() { must(t, events.Stop()) }()
	watch := watchMedia(t, h.first, h.server)
	called := sipPeer{host: h.server, on: at(f.server, 5060), media: calledMedia, scenario: "answer", user: "bob"}
	caller := sipPeer{host: h.first, on: at(f.first, 5060), media: callerMedia, scenario: "call", user: "bob", to: called.on}
	answers := called.start(t, transport)
	calls := caller.start(t, transport)
	calls.finish(t)
	heard := answers.finish(t)
	if t.Failed() {
		h.logGateway(t)
	}

	wantNothingOf(t, heard, f.first)
	wantLines(t, heard,
		fmt.Sprintf("Contact: <sip:alice@%s:5060;transport=%s>", inURI(f.outside), strings.ToUpper(transport)),
		fmt.Sprintf("o=- 1 1 IN %s %v", sipVersion(f.outside), f.outside),
		fmt.Sprintf("c=IN %s %v", sipVersion(f.outside), f.outside),
		fmt.Sprintf("m=audio %d RTP/AVP 0 101", callerMedia))
	if n := strings.Count(heard, fmt.Sprintf("m=audio %d ", callerMedia)); n != 3 {
		t.Errorf("the caller named its port %d times, want once in each of three offers", n)
	}
	watch.wantBothWays(t)
	h.wantMedia(t, f, at(f.first, callerMedia), at(f.server, calledMedia))

	master := fmt.Sprintf("mask-src=%v mask-dst=%v sport=0 dport=65535 master-src=%v master-dst=%v sport=5060 dport=5060 class=1 helper=sip",
		allOnes(f.first), allOnes(f.first), f.first, f.server)
	for _, port := range []int{callerMedia, callerMedia + 1} {
		wantEvent(t, events, "[NEW]", "180", fmt.Sprintf("proto=17 src=%v dst=%v sport=0 dport=%d %s", f.server, f.outside, port, master))
	}
	for _, port := range []int{calledMedia, calledMedia + 1} {
		wantEvent(t, events, "[NEW]", "180", fmt.Sprintf("proto=17 src=%v dst=%v sport=0 dport=%d %s", f.first, f.server, port, master))
	}
	until(t, "the end of the call ends what it announced", func() bool { return len(h.expectations(t, f, "class=1")) == 0 })
}

// expectations lists those of a family whose line has a word.
func (h *house) expectations(t *testing.T, f *family, word string) (lines []string) {
	t.Helper()
	out, err := h.conntrack(t, "-L", "expect", "-f", f.name)
	must(t, err)
	for line := range strings.Lines(out) {
		if slices.Contains(strings.Fields(line), word) {
			lines = append(lines, line)
		}
	}
	return lines
}

// wantMedia waits for a flow of media, whoever began it: it has the mark of its
// master and was answered.
func (h *house) wantMedia(t *testing.T, f *family, inside, outside netip.AddrPort) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience/3)
	defer cancel()
	_, err := h.gw.WaitFlow(ctx, func(fl netns.Flow) bool {
		out := fl.Orig.Src == inside && fl.Orig.Dst == outside && fl.Reply.Dst == at(f.outside, inside.Port())
		in := fl.Orig.Src == outside && fl.Orig.Dst == at(f.outside, inside.Port()) && fl.Reply.Src == inside
		return (out || in) && !fl.Unreplied && fl.Mark == 34
	})
	if err != nil {
		t.Errorf("no flow of media between %v and %v: %v", inside, outside, err)
	}
}

// TestSIPRegisteredPhoneIsCalled registers a phone and then calls it from another port
// of its registrar: the port that the registration opened is there.
func TestSIPRegisteredPhoneIsCalled(t *testing.T) {
	for _, transport := range []string{"udp", "tcp"} {
		t.Run(transport, func(t *testing.T) {
			eachGateway(t, sipThrough, func(t *testing.T, h *house) {
				eachFamily(t, func(t *testing.T, f *family) { registeredPhoneIsCalled(t, h, f, transport) })
			})
		})
	}
}

func registeredPhoneIsCalled(t *testing.T, h *house, f *family, transport string) {
	proto := map[string]int{"udp": unix.IPPROTO_UDP, "tcp": unix.IPPROTO_TCP}[transport]
	registrar := sipPeer{host: h.server, on: at(f.server, 5060), media: calledMedia, scenario: "registrar", user: "x"}
	phone := sipPeer{host: h.first, on: at(f.first, 5060), media: calledMedia, scenario: "register", user: "bob", to: registrar.on}
	grants := registrar.start(t, transport)
	registers := phone.start(t, transport)
	heardByPhone := registers.finish(t)
	heard := grants.finish(t)
	wantNothingOf(t, heard, f.first)
	wantNothingOf(t, heardByPhone, f.outside)
	wantLines(t, heard, fmt.Sprintf("Contact: <sip:bob@%s:5060;transport=%s>", inURI(f.outside), strings.ToUpper(transport)))
	want := fmt.Sprintf("proto=%d src=%v dst=%v sport=0 dport=5060 mask-src=%v mask-dst=%v sport=0 dport=65535 master-src=%v master-dst=%v sport=5060 dport=5060 PERMANENT class=0 helper=sip",
		proto, f.server, f.outside, allOnes(f.first), allOnes(f.first), f.first, f.server)
	until(t, "the registration lasts for its time", func() bool {
		return slices.ContainsFunc(h.expectations(t, f, "PERMANENT"), func(line string) bool {
			return sameExpectation(strings.Fields(line), "600", want)
		})
	})

	watch := watchMedia(t, h.server, h.first)
	phone.scenario, phone.to = "answer", netip.AddrPort{}
	answers := phone.start(t, transport)
	calls := (&sipPeer{host: h.server, on: at(f.server, 5062), media: callerMedia, scenario: "call", user: "bob", to: at(f.outside, 5060)}).start(t, transport)
	heard = calls.finish(t)
	answers.finish(t)
	wantNothingOf(t, heard, f.first)
	wantLines(t, heard,
		fmt.Sprintf("Contact: <sip:bob@%s:5060;transport=%s>", inURI(f.outside), strings.ToUpper(transport)),
		fmt.Sprintf("c=IN %s %v", sipVersion(f.outside), f.outside),
		fmt.Sprintf("m=audio %d RTP/AVP 0 101", calledMedia))
	watch.wantBothWays(t)
	h.wantMedia(t, f, at(f.first, calledMedia), at(f.server, callerMedia))
	until(t, "the end of the call ends what it announced", func() bool { return len(h.expectations(t, f, "class=1")) == 0 })
}

// TestSIPPhonesBehindOneGatewayTalkDirectly has one phone call another one of the same
// network through a proxy outside: their media stay inside. The kernel's helper does
// so only if it lets media come from anybody.
func TestSIPPhonesBehindOneGatewayTalkDirectly(t *testing.T) {
	onlyCulvert(t, sipThrough, func(t *testing.T, h *house) {
		f := &ipv4
		serveProxy(t, h.server, at(f.server, 5060))
		bob := sipPeer{host: h.second, on: at(f.second, 5060), media: calledMedia, scenario: "register", user: "bob", to: at(f.server, 5060)}
		bob.start(t, "udp").finish(t)
		watch := watchMedia(t, h.first, h.second)
		bob.scenario, bob.to = "answer", netip.AddrPort{}
		answers := bob.start(t, "udp")
		calls := (&sipPeer{host: h.first, on: at(f.first, 5060), media: callerMedia, scenario: "call", user: "bob", to: at(f.server, 5060)}).start(t, "udp")
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("the called phone:\n%s", answers.heard())
			}
		})
		heardByAlice := calls.finish(t)
		heardByBob := answers.finish(t)
		wantLines(t, heardByBob, fmt.Sprintf("c=IN IP4 %v", f.first), fmt.Sprintf("m=audio %d RTP/AVP 0 101", callerMedia))
		wantLines(t, heardByAlice, fmt.Sprintf("c=IN IP4 %v", f.second), fmt.Sprintf("m=audio %d RTP/AVP 0 101", calledMedia))
		watch.wantBothWays(t)
		for _, c := range []*netns.Capture{watch.caller, watch.called} {
			if n := c.Count(func(fr netns.Frame) bool {
				u := fr.UDP()
				return u != nil && u.DstPort >= callerMedia && strings.Contains(fr.String(), f.outside.String())
			}); n != 0 {
				t.Errorf("%d packets of media went to the external address", n)
			}
		}
		until(t, "the end of the call ends what it announced", func() bool { return len(h.expectations(t, f, "class=1")) == 0 })
	})
}

// serveProxy is a registrar and proxy (RFC 3261 section 16) for UDP: users are found
// where their REGISTER came from, answers go where their requests did.
func serveProxy(t *testing.T, host *netns.Host, on netip.AddrPort) {
	t.Helper()
	pc := bindUDP(t, host, on)
	p := sipProxy{datagrams: pc, users: map[string]netip.AddrPort{}, came: map[string]netip.AddrPort{}}
	go func() {
		buf := make([]byte, 1<<16)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			p.handle(string(buf[:n]), at(from.Addr().Unmap(), from.Port()))
		}
	}()
}

type sipProxy struct {
	datagrams
	users map[string]netip.AddrPort
	came  map[string]netip.AddrPort // where requests came from, by the branch of their Via
}

func (p *sipProxy) handle(message string, from netip.AddrPort) {
	first, rest, _ := strings.Cut(message, "\r\n")
	own := fmt.Sprintf("Via: SIP/2.0/UDP %v;branch=z9hG4bKproxy", p.LocalAddr())
	branch := func(s string) string { _, b, _ := strings.Cut(s, ";branch="); return b[:strings.IndexAny(b, ";\r")] }
	user := func(s string) string { _, u, _ := strings.Cut(s, "sip:"); u, _, _ = strings.Cut(u, "@"); return u }
	switch method, _, _ := strings.Cut(first, " "); method {
	case "SIP/2.0": // an answer
		message = strings.Replace(message, own+", ", "Via: ", 1) // as sipp joins them
		message = strings.Replace(message, own+"\r\n", "", 1)
		p.send(message, p.came[branch(message)])
	case "REGISTER":
		_, to, _ := strings.Cut(message, "To: ")
		p.users[user(to)] = from
		p.send("SIP/2.0 200 OK\r\n"+rest, from)
	default:
		p.came[branch(message)] = from
		p.send(first+"\r\n"+own+"\r\n"+rest, p.users[user(first)])
	}
}

func (p *sipProxy) send(message string, to netip.AddrPort) {
	_, _ = p.WriteToUDPAddrPort([]byte(message), to) // lost ones come again
}

// sipText writes a message; LEN becomes the length of what comes after an empty line.
func sipText(lines ...string) string {
	head, body, _ := strings.Cut(strings.Join(lines, "\r\n")+"\r\n", "\r\n\r\n")
	return strings.Replace(head, "LEN", fmt.Sprint(len(body)), 1) + "\r\n\r\n" + body
}

// register is what a phone says to be called at a contact.
func register(contact netip.AddrPort, transport string) string {
	return sipText("REGISTER sip:example.org SIP/2.0", fmt.Sprintf("Via: SIP/2.0/%s %v;branch=z9hG4bK1", transport, contact), "From: <sip:bob@example.org>;tag=1", "To: <sip:bob@example.org>",
		"Call-ID: 7", "CSeq: 1 REGISTER", fmt.Sprintf("Contact: <sip:bob@%v>", contact), "Expires: 600", "Content-Length: 0", "")
}

// offer is a call of a phone that receives media on a port.
func offer(phone netip.AddrPort, media uint16) string {
	kind := "IP4"
	if phone.Addr().Is6() {
		kind = "IP6"
	}
	return sipText("INVITE sip:carol@example.org SIP/2.0", fmt.Sprintf("Via: SIP/2.0/UDP %v;branch=z9hG4bK2", phone), "From: <sip:bob@example.org>;tag=1", "To: <sip:carol@example.org>",
		"Call-ID: 8", "CSeq: 1 INVITE", fmt.Sprintf("Contact: <sip:bob@%v>", phone), "Content-Type: application/sdp", "Content-Length: LEN", "",
		"v=0", fmt.Sprintf("o=- 1 1 IN %s %v", kind, phone.Addr()), "s=-", fmt.Sprintf("c=IN %s %v", kind, phone.Addr()), "t=0 0", fmt.Sprintf("m=audio %d RTP/AVP 0", media))
}

// wantDatagram waits for a datagram that contains text, and returns who sent it.
func (d datagrams) wantDatagram(t *testing.T, text string) netip.AddrPort {
	t.Helper()
	must(t, d.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 1<<16)
	for {
		n, from, err := d.ReadFromUDPAddrPort(buf)
		must(t, err)
		if strings.Contains(string(buf[:n]), text) {
			return at(from.Addr().Unmap(), from.Port())
		}
	}
}

// TestSIPOptionsLetStrangersIn has a third party send media and call a phone that has
// announced both to its proxy: it may only if the rule says so.
func TestSIPOptionsLetStrangersIn(t *testing.T) {
	const media, signalling, proxysOwn = "media of a stranger", "a call of a stranger", "of the proxy"
	for _, tt := range []struct{ name, options, media, signalling string }{ // what comes first to both sockets
		{"neither", "", proxysOwn, proxysOwn},
		{"any-media", `helper_options = ["any-media"]`, media, proxysOwn},
		{"any-signalling", `helper_options = ["any-signalling"]`, proxysOwn, signalling},
	} {
		s := setup{config: `
[[filter]]
proto = "udp"
dport = 5060
action = "accept"
helper = "sip"
` + tt.options}
		t.Run(tt.name, func(t *testing.T) {
			onlyCulvert(t, s, func(t *testing.T, h *house) {
				f := &ipv4
				proxy, otherPort := bindUDP(t, h.server, at(f.server, 5060)), bindUDP(t, h.server, at(f.server, 5062))
				stranger := bindUDP(t, h.router, at(f.up, 7000))
				line, contact := bindUDP(t, h.first, at(f.first, 5060)), bindUDP(t, h.first, at(f.first, 5070))
				audio := bindUDP(t, h.first, at(f.first, callerMedia))
				send := func(d datagrams, text string, to netip.AddrPort) {
					_, err := d.WriteToUDPAddrPort([]byte(text), to)
					must(t, err)
				}
				send(line, register(at(f.first, 5070), "UDP"), at(f.server, 5060))
				proxy.wantDatagram(t, fmt.Sprintf("<sip:bob@%v:5070>", f.outside))
				send(line, offer(at(f.first, 5060), callerMedia), at(f.server, 5060))
				proxy.wantDatagram(t, fmt.Sprintf("c=IN IP4 %v\r\nt=0 0\r\nm=audio %d ", f.outside, callerMedia))

				for _, x := range []struct {
					socket         datagrams
					port           uint16
					strangers, one string
				}{{audio, callerMedia, media, tt.media}, {contact, 5070, signalling, tt.signalling}} {
					send(stranger, x.strangers, at(f.outside, x.port))
					if x.one == proxysOwn {
						send(otherPort, proxysOwn, at(f.outside, x.port))
					}
					x.socket.wantNext(t, x.one)
				}
			})
		})
	}
}

// wantNext expects that the next datagram is text: nothing came before it.
func (d datagrams) wantNext(t *testing.T, text string) {
	t.Helper()
	must(t, d.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 1<<16)
	n, from, err := d.ReadFromUDPAddrPort(buf)
	must(t, err)
	if string(buf[:n]) != text {
		t.Errorf("%q came from %v before %q", buf[:n], from, text)
	}
}

// TestSIPSlipstreaming has a browser's kinds of traffic carry a REGISTER that names a
// port of its host, as the published attacks do. The kernel's helper opens the port
// for some of them; Culvert opens none.
func TestSIPSlipstreaming(t *testing.T) {
	eachGateway(t, sipThrough, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) { slipSIP(t, h, f) })
	})
}

func slipSIP(t *testing.T, h *house, f *family) {
	const target = 6060 // the port that the attacker wants
	victim, attacker := at(f.first, target), at(f.server, 5060)
	in := register(victim, "TCP")
	opens := func(t *testing.T, kernelOpens bool) {
		t.Helper()
		opened := func() bool { return len(h.expectations(t, f, fmt.Sprintf("dport=%d", target))) > 0 }
		if h.gw.Kind() == netns.Kernel && kernelOpens {
			until(t, "the kernel opens the port", opened)
		} else if opened() {
			t.Errorf("port %d is open", target)
		}
	}
	web := make(chan string, 16)
	serveTCP(t, h.server, attacker, func(c net.Conn) {
		text, _ := io.ReadAll(c)
		web <- string(text)
	})
	for _, tt := range []struct {
		name        string
		segments    []string
		kernelOpens bool
	}{
		{"a REGISTER inside of a request", []string{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n" + in}, false},
		{"a REGISTER at the start of a segment", []string{"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n\r\n", in}, true},
		{"a REGISTER behind many segments", append(slices.Repeat([]string{strings.Repeat("x", 1000)}, 5), in), true},
		{"an INVITE at the start of a segment", []string{"POST / HTTP/1.1\r\nHost: x\r\n\r\n", offer(victim, target)}, true},
		{"a method of that name", []string{"REGISTER / HTTP/1.1\r\nHost: x\r\n\r\n", in}, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, h.first, at(f.first, 0), attacker).(*net.TCPConn)
			must(t, c.SetNoDelay(true))
			for _, s := range tt.segments {
				_, err := io.WriteString(c, s)
				must(t, err)
				h.delivered(t, c)
			}
			opens(t, tt.kernelOpens)
			must(t, c.CloseWrite())
			if got, want := <-web, strings.Join(tt.segments, ""); h.gw.Kind() == netns.Culvert && got != want {
				t.Errorf("the web server got %q", got)
			}
			must(t, c.Close())
			until(t, "its expectations are gone", func() bool {
				if h.gw.Kind() == netns.Kernel {
					_, _ = h.conntrack(t, "-F", "expect")
				}
				return len(h.expectations(t, f, fmt.Sprintf("dport=%d", target))) == 0
			})
		})
	}
	t.Run("a REGISTER at the start of a fragment", func(t *testing.T) {
		got := bindUDP(t, h.server, attacker)
		size := 1480
		if !f.is4() {
			size = 1440
		}
		head := strings.Repeat("x", size-8) // TURN with a long user name
		whole := udpDatagram(t, at(f.first, 5555), attacker, []byte(head+register(victim, "UDP")))
		var packets [][]byte
		for _, g := range cut(whole, size) {
			packets = append(packets, g.packet(f.first, f.server, 77))
		}
		sendRaw(t, h.first, f.server, packets...)
		got.wantDatagram(t, head+register(victim, "UDP"))
		opens(t, false)
	})
}

// delivered waits until the other end has acknowledged all that was written, so that
// what is written next begins a segment.
func (h *house) delivered(t *testing.T, c *net.TCPConn) {
	t.Helper()
	raw, err := c.SyscallConn()
	must(t, err)
	until(t, "all is acknowledged", func() bool {
		left := 0
		must(t, raw.Control(func(fd uintptr) { left, err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }))
		must(t, err)
		return left == 0
	})
}
