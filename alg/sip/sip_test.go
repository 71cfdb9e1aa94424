package sip

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/alg/algtest"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack/tuple"
)

// text makes a message of lines; "body" is replaced by what comes after an empty line,
// LEN by its length.
func text(lines ...string) string {
	head, body, _ := strings.Cut(strings.Join(lines, "\r\n")+"\r\n", "\r\n\r\n")
	return strings.Replace(head, "LEN", fmt.Sprint(len(body)), 1) + "\r\n\r\n" + body
}

// The phone is 10.0.0.5:5060, seen as 203.0.113.1:5060; its proxy is 198.51.100.7:5060.
func addr(s string) tuple.Addr { return tuple.AddrFrom(netip.MustParseAddr(s)) }

func flow(proto uint8, seenPort uint16) [tuple.NumDirections]tuple.Tuple {
	f := tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr("198.51.100.7"), SrcPort: 5060, DstPort: 5060, Proto: proto, Family: tuple.IPv4}
	back := f
	back.Src, back.Dst, back.DstPort = f.Dst, addr("203.0.113.1"), seenPort
	return [tuple.NumDirections]tuple.Tuple{f, back}
}

const signalling = "signalling udp 198.51.100.7:* > 203.0.113.1:5060 = 10.0.0.5:5060 permanent"

func media(port int) string {
	return fmt.Sprintf("audio udp 198.51.100.7:* > 203.0.113.1:%d = 10.0.0.5:%d", port, port)
}

// invite is a call of the phone, with a description.
func invite(sdp ...string) string {
	return text(append([]string{
		"INVITE sip:bob@example.org SIP/2.0",
		"Via: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bK1;rport",
		"Max-Forwards: 70",
		"From: Alice <sip:alice@example.org>;tag=1",
		"To: <sip:bob@example.org>",
		"Call-ID: 1@10.0.0.5",
		"CSeq: 1 INVITE",
		"Contact: <sip:alice@10.0.0.5:5060>",
		"Content-Type: application/sdp",
		"Content-Length: LEN",
		"",
	}, sdp...)...)
}

// seen is a message of the phone with its address as the proxy sees it.
func seen(s string) string {
	head, body, _ := strings.Cut(s, "\r\n\r\n")
	body = strings.ReplaceAll(body, "10.0.0.5", "203.0.113.1")
	lines := strings.Split(head, "\r\n")
	for i, l := range lines {
		switch {
		case strings.HasPrefix(l, "Content-Length:"):
			lines[i] = fmt.Sprintf("Content-Length: %d", len(body))
		case !strings.HasPrefix(l, "Call-ID"):
			lines[i] = strings.ReplaceAll(l, "10.0.0.5", "203.0.113.1")
		}
	}
	return strings.Join(lines, "\r\n") + "\r\n\r\n" + body
}

var sdp = []string{
	"v=0", "o=alice 1 1 IN IP4 10.0.0.5", "s=-", "c=IN IP4 10.0.0.5", "t=0 0",
	"m=audio 40000 RTP/AVP 0 8", "a=rtpmap:0 PCMU/8000", "a=sendrecv",
}

// exchange is one message and what becomes of it.
type exchange struct {
	claim     string
	cfg       algtest.Config
	dir       tuple.Direction
	in, out   string // out "": as it is
	announced []string
}

func (x *exchange) run(t *testing.T) {
	t.Helper()
	x.cfg.Helper = Helper{}
	if x.out == "" {
		x.out = x.in
	}
	for _, proto := range []uint8{tuple.UDP, tuple.TCP} {
		name, announced := tuple.ProtoName(proto), x.announced
		cfg := x.cfg
		cfg.Proto = proto
		if cfg.Tuple == ([tuple.NumDirections]tuple.Tuple{}) {
			cfg.Tuple = flow(proto, 5060)
		}
		for d := range cfg.Tuple {
			cfg.Tuple[d].Proto = proto
		}
		got, err := algtest.Run(cfg, algtest.Say{Dir: x.dir, Text: x.in}), error(nil)
		if proto == tuple.TCP {
			got, err = algtest.Everywhere(cfg, algtest.Say{Dir: x.dir, Text: x.in})
			announced = nil
			for _, a := range x.announced {
				announced = append(announced, strings.Replace(a, "signalling udp", "signalling tcp", 1))
			}
		}
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := [2]string{}
		want[x.dir] = x.out
		if err := got.Differs(want[0], want[1], announced...); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCalls(t *testing.T) {
	plain := invite(sdp...)
	low := invite(append(sdp[:5:5], "m=audio 22 RTP/AVP 0")...)
	before := func(s string) string { head, _, _ := strings.Cut(s, "\r\nContent-Length"); return head }
	after := func(s string) string { _, tail, _ := strings.Cut(s, "\r\nContent-Length"); return tail }
	edit := func(s, from, to string) string {
		if !strings.Contains(s, from) {
			t.Fatalf("%q is not there", from)
		}
		return strings.Replace(s, from, to, 1)
	}
	for _, x := range []exchange{
		{claim: "a call is announced with its media", in: plain, out: seen(plain), announced: []string{media(40000), media(40001)}},
		{claim: "taken ports: the pair moves by two", cfg: algtest.Config{Taken: []uint16{40001}}, in: plain,
			out:       edit(seen(plain), "audio 40000", "audio 40002"),
			announced: []string{"audio udp 198.51.100.7:* > 203.0.113.1:40002 = 10.0.0.5:40000", "audio udp 198.51.100.7:* > 203.0.113.1:40003 = 10.0.0.5:40001"}},
		{claim: "several media, one refused, RTCP elsewhere, T.38",
			in:        invite(append(sdp[:5:5], "m=audio 40000 RTP/AVP 0", "a=rtcp:40010 IN IP4 10.0.0.5", "m=video 0 RTP/AVP 34", "m=image 40020 udptl t38", "c=IN IP4 10.0.0.5")...),
			out:       seen(invite(append(sdp[:5:5], "m=audio 40000 RTP/AVP 0", "a=rtcp:40010 IN IP4 10.0.0.5", "m=video 0 RTP/AVP 34", "m=image 40020 udptl t38", "c=IN IP4 10.0.0.5")...)),
			announced: []string{media(40000), media(40010), strings.Replace(media(40020), "audio", "image", 1)}},
		{claim: "candidates of ICE", in: invite(append(sdp, "a=candidate:1 1 UDP 2130706431 10.0.0.5 40000 typ host", "a=candidate:2 1 UDP 1694498815 192.0.2.3 45664 typ srflx raddr 10.0.0.9 rport 40000")...),
			out:       seen(invite(append(sdp, "a=candidate:1 1 UDP 2130706431 10.0.0.5 40000 typ host", "a=candidate:2 1 UDP 1694498815 192.0.2.3 45664 typ srflx raddr 10.0.0.9 rport 40000")...)),
			announced: []string{media(40000), media(40001)}},
		{claim: "a call on hold", in: invite("v=0", "o=alice 1 2 IN IP4 10.0.0.5", "s=-", "c=IN IP4 0.0.0.0", "t=0 0", "m=audio 40000 RTP/AVP 0"),
			out: seen(invite("v=0", "o=alice 1 2 IN IP4 10.0.0.5", "s=-", "c=IN IP4 0.0.0.0", "t=0 0", "m=audio 40000 RTP/AVP 0"))},
		{claim: "media for somebody else", in: invite(append(append(sdp[:3:3], "c=IN IP4 10.0.0.9"), sdp[4:]...)...),
			out: seen(invite(append(append(sdp[:3:3], "c=IN IP4 10.0.0.9"), sdp[4:]...)...))},
		{claim: "privileged ports: the description stays", in: low, out: before(seen(low)) + "\r\nContent-Length" + after(low)},
		{claim: "any peer if the rule says so", cfg: algtest.Config{Options: alg.Options{AnyMedia: true}}, in: plain, out: seen(plain),
			announced: []string{"audio udp 0.0.0.0:* > 203.0.113.1:40000 = 10.0.0.5:40000", "audio udp 0.0.0.0:* > 203.0.113.1:40001 = 10.0.0.5:40001"}},
		{claim: "compact names and folded lines",
			in:  "INVITE sip:bob@example.org SIP/2.0\r\nv: SIP/2.0/UDP\r\n 10.0.0.5\r\n\t;branch=z9hG4bK1\r\nf: <sip:a@example.org>\r\nt : <sip:b@example.org>\r\ni: 1\r\nCSeq: 1 INVITE\r\nm: \"sip:x@10.0.0.5\"\r\n <sip:a@10.0.0.5>\r\nl: 0\r\n\r\n",
			out: "INVITE sip:bob@example.org SIP/2.0\r\nv: SIP/2.0/UDP\r\n 203.0.113.1\r\n\t;branch=z9hG4bK1\r\nf: <sip:a@example.org>\r\nt : <sip:b@example.org>\r\ni: 1\r\nCSeq: 1 INVITE\r\nm: \"sip:x@10.0.0.5\"\r\n <sip:a@203.0.113.1>\r\nl: 0\r\n\r\n"},
		{claim: "an answer to the phone", dir: tuple.Reply,
			in:        text("SIP/2.0 200 OK", "Via: SIP/2.0/UDP 203.0.113.1:5060;branch=z9hG4bK1;received=203.0.113.1;rport=5060", "Record-Route: <sip:198.51.100.7;lr>", "From: <sip:alice@example.org>;tag=1", "To: <sip:bob@example.org>;tag=2", "Call-ID: 1@10.0.0.5", "CSeq: 1 INVITE", "Contact: <sip:bob@198.51.100.7>", "Content-Type: application/sdp", "Content-Length: LEN", "", "v=0", "o=bob 1 1 IN IP4 198.51.100.7", "s=-", "c=IN IP4 198.51.100.7", "t=0 0", "m=audio 50000 RTP/AVP 0"),
			out:       text("SIP/2.0 200 OK", "Via: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bK1;received=10.0.0.5;rport=5060", "Record-Route: <sip:198.51.100.7;lr>", "From: <sip:alice@example.org>;tag=1", "To: <sip:bob@example.org>;tag=2", "Call-ID: 1@10.0.0.5", "CSeq: 1 INVITE", "Contact: <sip:bob@198.51.100.7>", "Content-Type: application/sdp", "Content-Length: LEN", "", "v=0", "o=bob 1 1 IN IP4 198.51.100.7", "s=-", "c=IN IP4 198.51.100.7", "t=0 0", "m=audio 50000 RTP/AVP 0"),
			announced: []string{"audio udp 10.0.0.5:* > 198.51.100.7:50000", "audio udp 10.0.0.5:* > 198.51.100.7:50001"}},
		{claim: "a call to the phone", dir: tuple.Reply, cfg: algtest.Config{Tuple: flow(tuple.UDP, 61000)},
			in:  text("INVITE sip:alice@203.0.113.1:61000;line=1 SIP/2.0", "Via: SIP/2.0/UDP 198.51.100.7;branch=z9hG4bK9", "Route: <sip:203.0.113.1:61000;lr>", "From: <sip:bob@example.org>", "To: <sip:alice@203.0.113.1:61000>", "Call-ID: 2", "CSeq: 1 INVITE", "Content-Length: 0", ""),
			out: text("INVITE sip:alice@10.0.0.5:5060;line=1 SIP/2.0", "Via: SIP/2.0/UDP 198.51.100.7;branch=z9hG4bK9", "Route: <sip:10.0.0.5:5060;lr>", "From: <sip:bob@example.org>", "To: <sip:alice@10.0.0.5:5060>", "Call-ID: 2", "CSeq: 1 INVITE", "Content-Length: 0", "")},
		{claim: "media of another phone behind the same gateway", dir: tuple.Reply,
			cfg: algtest.Config{SeenAs: map[netip.AddrPort]netip.AddrPort{netip.MustParseAddrPort("203.0.113.1:42000"): netip.MustParseAddrPort("10.0.0.6:40000")}},
			in:  text("SIP/2.0 183 Progress", "Via: SIP/2.0/UDP 198.51.100.7", "Call-ID: 1", "CSeq: 1 INVITE", "Content-Type: application/sdp", "Content-Length: LEN", "", "v=0", "o=b 1 1 IN IP4 203.0.113.1", "s=-", "c=IN IP4 203.0.113.1", "t=0 0", "m=audio 42000 RTP/AVP 0"),
			out: text("SIP/2.0 183 Progress", "Via: SIP/2.0/UDP 198.51.100.7", "Call-ID: 1", "CSeq: 1 INVITE", "Content-Type: application/sdp", "Content-Length: LEN", "", "v=0", "o=b 1 1 IN IP4 10.0.0.6", "s=-", "c=IN IP4 10.0.0.6", "t=0 0", "m=audio 40000 RTP/AVP 0")},
	} {
		t.Run(x.claim, x.run)
	}
}

func TestRegistrations(t *testing.T) {
	register := func(contact string, more ...string) string {
		return text(append(append([]string{"REGISTER sip:example.org SIP/2.0", "Via: SIP/2.0/UDP 10.0.0.5:5060;branch=z9hG4bK1", "From: <sip:alice@example.org>;tag=1", "To: <sip:alice@example.org>", "Call-ID: 3", "CSeq: 1 REGISTER", "Contact: " + contact}, more...), "Content-Length: 0", "")...)
	}
	for _, x := range []exchange{
		{claim: "signalling is announced for as long as the header says", in: register("<sip:alice@10.0.0.5>", "Expires: 600"),
			out: seen(register("<sip:alice@10.0.0.5>", "Expires: 600")), announced: []string{signalling + " for 10m0s helper sip"}},
		{claim: "the parameter of the contact counts more", in: register("<sip:alice@10.0.0.5:5060>;expires=60", "Expires: 600"),
			out: seen(register("<sip:alice@10.0.0.5:5060>;expires=60", "Expires: 600")), announced: []string{signalling + " for 1m0s helper sip"}},
		{claim: "an hour if nothing is said", in: register("<sip:alice@10.0.0.5>"),
			out: seen(register("<sip:alice@10.0.0.5>")), announced: []string{signalling + " for 1h0m0s helper sip"}},
		{claim: "another port of the phone", cfg: algtest.Config{Taken: []uint16{5070}}, in: register("<sip:alice@10.0.0.5:5070>"),
			out:       strings.Replace(seen(register("<sip:alice@10.0.0.5:5070>")), ":5070", ":5071", 1),
			announced: []string{"signalling udp 198.51.100.7:* > 203.0.113.1:5071 = 10.0.0.5:5070 permanent for 1h0m0s helper sip"}},
		{claim: "the end of a registration", in: register("<sip:alice@10.0.0.5>;expires=0"),
			out: seen(register("<sip:alice@10.0.0.5>;expires=0")), announced: []string{"withdraw signalling 10.0.0.5:5060"}},
		{claim: "somebody else's address", in: register("<sip:alice@10.0.0.9>"), out: strings.Replace(register("<sip:alice@10.0.0.9>"), "10.0.0.5", "203.0.113.1", 1)},
	} {
		t.Run(x.claim, x.run)
	}
	t.Run("the registrar says how long", func(t *testing.T) {
		got := algtest.Run(algtest.Config{Helper: Helper{}, Tuple: flow(tuple.UDP, 5060)},
			algtest.Say{Text: register("<sip:alice@10.0.0.5>", "Expires: 3600")},
			algtest.Say{Dir: tuple.Reply, Text: text("SIP/2.0 200 OK", "Call-ID: 3", "CSeq: 1 REGISTER", "Contact: <sip:alice@203.0.113.1>;expires=7200", "Content-Length: 0", "")})
		if got.Kept != 2*time.Hour || !strings.Contains(got.Got[tuple.Reply][0], "<sip:alice@10.0.0.5>;expires=7200") {
			t.Errorf("kept for %v, the phone got %q", got.Kept, got.Got[tuple.Reply])
		}
	})
}

func TestMediaEndWithTheirCall(t *testing.T) {
	bye := func(method string) string {
		return text(method+" sip:bob@example.org SIP/2.0", "Via: SIP/2.0/UDP 10.0.0.5:5060", "Call-ID: 1@10.0.0.5", "CSeq: "+map[string]string{"BYE": "2 BYE", "CANCEL": "1 CANCEL"}[method], "Content-Length: 0", "")
	}
	refusal := text("SIP/2.0 486 Busy", "Via: SIP/2.0/UDP 10.0.0.5:5060", "Call-ID: 1@10.0.0.5", "CSeq: 1 INVITE", "Content-Length: 0", "")
	for _, end := range []algtest.Say{{Text: bye("BYE")}, {Text: bye("CANCEL")}, {Dir: tuple.Reply, Text: refusal}, {Dir: tuple.Reply, Text: bye("BYE")}} {
		got := algtest.Run(algtest.Config{Helper: Helper{}, Tuple: flow(tuple.UDP, 5060)}, algtest.Say{Text: invite(sdp...)}, end)
		want := fmt.Sprint([]string{media(40000), media(40001), "withdraw audio 10.0.0.5:40000", "withdraw audio 10.0.0.5:40001"})
		if fmt.Sprint(got.Announced) != want {
			t.Errorf("%.20q: %v, want %v", end.Text, got.Announced, want)
		}
	}
	got := algtest.Run(algtest.Config{Helper: Helper{}, Tuple: flow(tuple.UDP, 5060)}, algtest.Say{Text: invite(sdp...)},
		algtest.Say{Dir: tuple.Reply, Text: strings.Replace(refusal, "486 Busy", "401 Unauthorized", 1)}, algtest.Say{Text: strings.Replace(bye("BYE"), "1@", "2@", 1)})
	if len(got.Announced) != 2 {
		t.Errorf("a challenge or another call's end: %v", got.Announced)
	}
}

// TestForkedCall: two phones announce media and answer, each under its tag. Their call ends
// with the last of its dialogs.
func TestForkedCall(t *testing.T) {
	says := func(status, tag string, port int) algtest.Say {
		return algtest.Say{Dir: tuple.Reply, Text: text("SIP/2.0 "+status, "Via: SIP/2.0/UDP 203.0.113.1:5060", "From: Alice <sip:alice@example.org>;tag=1", "To: <sip:bob@example.org;tag=none>;tag="+tag,
			"Call-ID: 1@10.0.0.5", "CSeq: 1 INVITE", "Content-Type: application/sdp", "Content-Length: LEN", "", "v=0", "o=b 1 1 IN IP4 198.51.100.7", "s=-", "c=IN IP4 198.51.100.7", "t=0 0", fmt.Sprintf("m=audio %d RTP/AVP 0", port))}
	}
	bye := func(tag string) string {
		return text("BYE sip:bob@example.org SIP/2.0", "Via: SIP/2.0/UDP 10.0.0.5:5060", "From: Alice <sip:alice@example.org>;tag=1", "To: <sip:bob@example.org>"+tag, "Call-ID: 1@10.0.0.5", "CSeq: 2 BYE", "Content-Length: 0", "")
	}
	theirs := func(port int) string { return fmt.Sprintf("audio udp 10.0.0.5:* > 198.51.100.7:%d", port) }
	gone := func(ports ...string) (all []string) {
		for _, p := range ports {
			all = append(all, "withdraw audio "+p)
		}
		return all
	}
	const one, two = "198.51.100.7:50000", "198.51.100.7:50010"
	mine := []string{"10.0.0.5:40000", "10.0.0.5:40001"}
	oneAndRTCP, twoAndRTCP := []string{one, "198.51.100.7:50001"}, []string{two, "198.51.100.7:50011"}
	everything := slices.Concat(mine, oneAndRTCP, twoAndRTCP)
	start := []algtest.Say{{Text: invite(sdp...)}, says("183 Progress", "one", 50000), says("183 Progress", "two", 50010)}
	begun := []string{media(40000), media(40001), theirs(50000), theirs(50001), theirs(50010), theirs(50011)}
	for _, tt := range []struct {
		claim  string
		tags   []string // of phones that answer
		ends   []string // then
		leaves []string
	}{
		{"one answers and ends", []string{"one"}, []string{bye(";tag=one")}, gone(everything...)},
		{"both answer, one ends", []string{"one", "two"}, []string{bye(";tag=one")}, gone(oneAndRTCP...)},
		{"both answer and end", []string{"one", "two"}, []string{bye(";tag=one"), bye(";tag=two")}, gone(slices.Concat(oneAndRTCP, mine, twoAndRTCP)...)},
		{"whose end is not said", []string{"one", "two"}, []string{bye("")}, gone(everything...)},
	} {
		conversation := slices.Clone(start)
		want := slices.Clone(begun)
		for _, tag := range tt.tags {
			port := map[string]int{"one": 50000, "two": 50010}[tag]
			conversation = append(conversation, says("200 OK", tag, port))
			want = append(want, theirs(port), theirs(port+1))
		}
		for _, end := range tt.ends {
			conversation = append(conversation, algtest.Say{Text: end})
		}
		t.Run(tt.claim, func(t *testing.T) {
			wantAnnounced(t, run(algtest.Config{}, conversation...), append(want, tt.leaves...)...)
		})
	}
}

// run is a conversation over UDP with the phone's proxy.
func run(cfg algtest.Config, says ...algtest.Say) algtest.Result {
	cfg.Helper = Helper{}
	if cfg.Tuple == ([tuple.NumDirections]tuple.Tuple{}) {
		cfg.Tuple = flow(tuple.UDP, 5060)
	}
	return algtest.Run(cfg, says...)
}

func wantAnnounced(t *testing.T, got algtest.Result, want ...string) {
	t.Helper()
	if !slices.Equal(got.Announced, want) {
		t.Errorf("announced\n%q, want\n%q", got.Announced, want)
	}
}

// answer is what the proxy says to request number n of the call.
func answer(status, number, method string) algtest.Say {
	return algtest.Say{Dir: tuple.Reply, Text: text("SIP/2.0 "+status, "Via: SIP/2.0/UDP 203.0.113.1:5060", "Call-ID: 1@10.0.0.5", "CSeq: "+number+" "+method, "Content-Length: 0", "")}
}

// again is the next request of a call.
func again(s, number, method string) algtest.Say {
	s = strings.Replace(s, "INVITE sip:", method+" sip:", 1)
	return algtest.Say{Text: strings.Replace(s, "CSeq: 1 INVITE", "CSeq: "+number+" "+method, 1)}
}

func TestRefusedChangeLeavesTheCallAsItWas(t *testing.T) {
	first, second := invite(sdp...), strings.ReplaceAll(invite(sdp...), "audio 40000", "audio 40008")
	for _, method := range []string{"INVITE", "UPDATE", "PRACK"} {
		got := run(algtest.Config{}, algtest.Say{Text: first}, answer("200 OK", "1", "INVITE"), again(second, "2", method), answer("488 Not Acceptable Here", "2", method))
		wantAnnounced(t, got, media(40000), media(40001), media(40008), media(40009), "withdraw audio 10.0.0.5:40008", "withdraw audio 10.0.0.5:40009")
		got = run(algtest.Config{}, algtest.Say{Text: first}, answer("200 OK", "1", "INVITE"), again(first, "2", method), answer("491 Request Pending", "2", method))
		wantAnnounced(t, got, media(40000), media(40001), media(40000), media(40001))
	}
}

func TestSocketsKeepTheirExternalPortsDuringACall(t *testing.T) {
	// Between the two offers port 40000 becomes free: the flows of the first one came.
	cfg := algtest.Config{Taken: []uint16{40000}, Freed: 1}
	hold := strings.Replace(invite(sdp...), "a=sendrecv", "a=sendonly", 1)
	got := run(cfg, algtest.Say{Text: invite(sdp...)}, again(hold, "2", "INVITE"))
	for i, offer := range got.Got[tuple.Original] {
		if !strings.Contains(offer, "m=audio 40002 ") {
			t.Errorf("offer %d: %q", i, offer)
		}
	}
}

func TestAnnouncementsOfARefusedDescriptionAreTakenBack(t *testing.T) {
	in := invite(append(sdp[:5:5], "m=audio 40000 RTP/AVP 0", "m=video 22 RTP/AVP 34")...)
	got := run(algtest.Config{}, algtest.Say{Text: in})
	wantAnnounced(t, got, media(40000), media(40001), "withdraw audio 10.0.0.5:40000", "withdraw audio 10.0.0.5:40001")
	if !strings.Contains(got.Got[tuple.Original][0], "m=video 22 ") || len(got.Refused) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestOnePortForMediaAndTheirControl(t *testing.T) {
	in := invite(append(sdp[:5:5], "m=audio 40000 RTP/SAVPF 0", "a=rtcp:40000 IN IP4 10.0.0.5", "a=rtcp-mux")...)
	got := run(algtest.Config{Taken: []uint16{40000}}, algtest.Say{Text: in})
	wantAnnounced(t, got, "audio udp 198.51.100.7:* > 203.0.113.1:40001 = 10.0.0.5:40000")
	if out := got.Got[tuple.Original][0]; !strings.Contains(out, "m=audio 40001 RTP/SAVPF 0\r\na=rtcp:40001 IN IP4 203.0.113.1\r\n") {
		t.Errorf("%q", out)
	}
}

func TestEachKindOfMediaHasItsClass(t *testing.T) {
	in := invite(append(sdp[:5:5], "m=audio 40000 RTP/AVP 0", "m=video 40002 RTP/AVP 34", "m=image 40004 udptl t38", "m=application 40006 UDP/BFCP *", "m=message 40008 TCP/MSRP *")...)
	got := run(algtest.Config{}, algtest.Say{Text: in})
	kind := func(name string, port int) string { return strings.Replace(media(port), "audio", name, 1) }
	wantAnnounced(t, got, media(40000), media(40001), kind("video", 40002), kind("video", 40003), kind("image", 40004), kind("data", 40006))
}

func TestDescriptionInAMultipartBody(t *testing.T) {
	plain := invite(append([]string{"--frontier", "Content-Type: application/isup;version=nxv3", "", "binary", "--frontier", "Content-Type: application/sdp", "Content-Disposition: session", ""}, append(sdp[:len(sdp):len(sdp)], "--frontier--")...)...)
	in := strings.Replace(plain, "Content-Type: application/sdp", `Content-Type: multipart/mixed; boundary="frontier"`, 1)
	x := exchange{in: in, out: seen(in), announced: []string{media(40000), media(40001)}}
	x.run(t)
	for claim, in := range map[string]string{
		"no boundary":   strings.Replace(in, `boundary="frontier"`, "x=y", 1),
		"no such part":  strings.Replace(in, "application/sdp\r\nContent-Disposition", "text/plain\r\nContent-Disposition", 1),
		"an open part":  strings.Replace(in, "--frontier--", "----------", 1),
		"another fence": strings.Replace(in, `"frontier"`, "border", 1),
	} {
		if got := run(algtest.Config{}, algtest.Say{Text: in}); len(got.Announced) > 0 {
			t.Errorf("%s: %v", claim, got.Announced)
		}
	}
}

func TestWhatCannotBeReadIsCounted(t *testing.T) {
	for in, want := range map[string]uint32{
		invite(sdp...):     0,
		"\r\n\r\n":         0,
		"\x00\x00\x00\x00": 0,
		"\x00\x01\x00\x00\x21\x12\xa4\x42" + strings.Repeat("x", 12): 0, // STUN
		"hello":                    1,
		"INVITE sip:x SIP/2.0\r\n": 1,
		invite("v=0", "c=IN IP4 bob.example.org", "m=audio 40000 RTP/AVP 0"): 1,
		invite("v=1"): 1,
	} {
		got := run(algtest.Config{}, algtest.Say{Text: in})
		if got.Got[tuple.Original][0] != in && want > 0 && !strings.HasPrefix(in, "INVITE sip:bob") || got.Events[stream.Unread] != want {
			t.Errorf("%q: counted %d times, want %d; got %q", in, got.Events[stream.Unread], want, got.Got[tuple.Original])
		}
	}
	got := run(algtest.Config{Proto: tuple.TCP, Tuple: flow(tuple.TCP, 5060)}, algtest.Say{Text: "GET / HTTP/1.1\r\n\r\n"}, algtest.Say{Text: "more"})
	if got.Events[stream.Unread] != 1 || got.Helped {
		t.Errorf("of a stream: %+v", got)
	}
}

func TestRegistrarDecides(t *testing.T) {
	register := func(number, contact string) algtest.Say {
		return algtest.Say{Text: text("REGISTER sip:example.org SIP/2.0", "Via: SIP/2.0/UDP 10.0.0.5:5060", "Call-ID: 1@10.0.0.5", "CSeq: "+number+" REGISTER", "Contact: "+contact, "Expires: 600", "Content-Length: 0", "")}
	}
	granted := algtest.Say{Dir: tuple.Reply, Text: text("SIP/2.0 200 OK", "Call-ID: 1@10.0.0.5", "CSeq: 1 REGISTER", "Contact: <sip:a@203.0.113.1>;expires=60, <sip:a@203.0.113.9>;expires=90", "Content-Length: 0", "")}
	asked, gone := signalling+" for 10m0s helper sip", "withdraw signalling 10.0.0.5:5060"
	for _, tt := range []struct {
		claim string
		says  []algtest.Say
		want  []string
	}{
		{"a shorter time", []algtest.Say{register("1", "<sip:a@10.0.0.5>"), granted}, []string{asked, signalling + " for 1m0s helper sip"}},
		{"nothing at all", []algtest.Say{register("1", "<sip:a@10.0.0.5>"), answer("403 Forbidden", "1", "REGISTER")}, []string{asked, gone}},
		{"who it is first", []algtest.Say{register("1", "<sip:a@10.0.0.5>"), answer("401 Unauthorized", "1", "REGISTER")}, []string{asked}},
		{"that it cannot be renewed now", []algtest.Say{register("1", "<sip:a@10.0.0.5>"), granted, register("2", "<sip:a@10.0.0.5>"), answer("503 Service Unavailable", "2", "REGISTER")},
			[]string{asked, signalling + " for 1m0s helper sip", asked}},
		{"and the phone that it ends", []algtest.Say{register("1", "<sip:a@10.0.0.5>"), granted, register("2", "*")}, []string{asked, signalling + " for 1m0s helper sip", gone}},
	} {
		t.Run(tt.claim, func(t *testing.T) { wantAnnounced(t, run(algtest.Config{}, tt.says...), tt.want...) })
	}
}

func TestTransfersNameTheReceiversWorld(t *testing.T) {
	x := exchange{
		in:  text("REFER sip:bob@198.51.100.7 SIP/2.0", "Via: SIP/2.0/UDP 10.0.0.5:5060", "Call-ID: 1", "CSeq: 3 REFER", "Refer-To: <sip:carol@example.org>", "Referred-By: <sip:alice@10.0.0.5>", "Content-Length: 0", ""),
		out: text("REFER sip:bob@198.51.100.7 SIP/2.0", "Via: SIP/2.0/UDP 203.0.113.1:5060", "Call-ID: 1", "CSeq: 3 REFER", "Refer-To: <sip:carol@example.org>", "Referred-By: <sip:alice@203.0.113.1>", "Content-Length: 0", ""),
	}
	x.run(t)
}

func TestSeveralMessagesInOneSegment(t *testing.T) {
	in := "\r\n\r\n" + invite(sdp...) + "\r\n" + invite(sdp...)
	got, err := algtest.Everywhere(algtest.Config{Helper: Helper{}, Proto: tuple.TCP, Tuple: flow(tuple.TCP, 5060)}, algtest.Say{Text: in})
	if err != nil {
		t.Fatal(err)
	}
	want := "\r\n\r\n" + seen(invite(sdp...)) + "\r\n" + seen(invite(sdp...))
	if err := got.Differs(want, "", media(40000), media(40001), media(40000), media(40001)); err != nil {
		t.Error(err)
	}
}

func TestWhatIsNotSIPPasses(t *testing.T) {
	register := text("REGISTER sip:x SIP/2.0", "Via: SIP/2.0/TCP 10.0.0.5", "Call-ID: 3", "CSeq: 1 REGISTER", "Contact: <sip:alice@10.0.0.5>", "Content-Length: 0", "")
	for claim, in := range map[string]string{
		"a web browser's request that contains one": "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n" + register,
		"no length in a stream":                     strings.Replace(register, "Content-Length: 0\r\n", "", 1) + register,
		"two lengths":                               strings.Replace(register, "Content-Length: 0\r\n", "Content-Length: 0\r\nl: 9\r\n", 1) + register,
		"a length that is no number":                strings.Replace(register, "Length: 0", "Length: 0x", 1) + register,
		"a length that is too long":                 strings.Replace(register, "Length: 0", "Length: 70000", 1) + register,
		"a header without a name":                   strings.Replace(register, "Via", "", 1) + register,
		"a header that is none":                     strings.Replace(register, "Via:", "Via", 1) + register,
		"a response with a strange code":            "SIP/2.0 900 x\r\nContent-Length: 0\r\n\r\n" + register,
		"another version":                           strings.Replace(register, "SIP/2.0\r\n", "SIP/3.0\r\n", 1) + register,
		"too many headers":                          strings.Replace(register, "Call-ID: 3\r\n", strings.Repeat("Via: x\r\n", maxHeaders+1), 1) + register,
		"binary":                                    "\x16\x03\x01\x02" + register,
	} {
		t.Run(claim, func(t *testing.T) {
			got, err := algtest.Everywhere(algtest.Config{Helper: Helper{}, Proto: tuple.TCP, Tuple: flow(tuple.TCP, 5060)}, algtest.Say{Text: in})
			if err != nil {
				t.Fatal(err)
			}
			if err := got.Differs(in, ""); err != nil {
				t.Error(err)
			}
			got = algtest.Run(algtest.Config{Helper: Helper{}, Tuple: flow(tuple.UDP, 5060)}, algtest.Say{Text: in})
			if claim != "no length in a stream" && len(got.Announced) > 0 {
				t.Errorf("as a datagram: %v", got.Announced)
			}
		})
	}
	for _, in := range []string{"", "\r\n\r\n", "\x00\x01\x00\x00\x21\x12\xa4\x42", "REGISTER sip:x SIP/2.0\r\n"} {
		got := algtest.Run(algtest.Config{Helper: Helper{}, Tuple: flow(tuple.UDP, 5060)}, algtest.Say{Text: in}, algtest.Say{Text: register})
		if got.Got[0][0] != in || len(got.Announced) != 1 {
			t.Errorf("%q: %+v", in, got)
		}
	}
}

func TestIPv6(t *testing.T) {
	f := tuple.Tuple{Src: addr("fd00::5"), Dst: addr("2001:db8::7"), SrcPort: 5060, DstPort: 5060, Proto: tuple.UDP, Family: tuple.IPv6}
	back, _ := f.Inverse()
	back.Dst = addr("2001:db8:1::1")
	in := text("INVITE sip:bob@[2001:db8::7] SIP/2.0", "Via: SIP/2.0/UDP [fd00::5]:5060;branch=z9hG4bK1;received=fd00::5", "Call-ID: 1", "CSeq: 1 INVITE", "Contact: <sip:a@[fd00::5]>", "Content-Type: application/sdp", "Content-Length: LEN", "", "v=0", "o=a 1 1 IN IP6 fd00::5", "s=-", "c=IN IP6 fd00::5", "t=0 0", "m=audio 40000 RTP/AVP 0")
	body := strings.Index(in, "\r\n\r\n")
	out := strings.ReplaceAll(in, "fd00::5", "2001:db8:1::1")
	out = strings.Replace(out, fmt.Sprintf("Length: %d", len(in)-body-4), fmt.Sprintf("Length: %d", len(out)-strings.Index(out, "\r\n\r\n")-4), 1)
	x := exchange{cfg: algtest.Config{Tuple: [2]tuple.Tuple{f, back}}, in: in, out: out,
		announced: []string{"audio udp 2001:db8::7:* > [2001:db8:1::1]:40000 = [fd00::5]:40000", "audio udp 2001:db8::7:* > [2001:db8:1::1]:40001 = [fd00::5]:40001"}}
	x.run(t)
}

func FuzzInspect(f *testing.F) {
	f.Add(invite(sdp...), 100)
	f.Add(text("SIP/2.0 200 OK", "v: SIP/2.0/TCP 10.0.0.5;rport=1;received=10.0.0.5", "i: 1", "CSeq: 1 REGISTER", "m: <sip:a@10.0.0.5;maddr=10.0.0.5>;expires=7", "l: 0", ""), 30)
	f.Fuzz(func(t *testing.T, in string, cut int) {
		if len(in) > 4096 {
			return
		}
		run := func(proto uint8, parts ...string) algtest.Result {
			var says []algtest.Say
			for _, p := range parts {
				says = append(says, algtest.Say{Text: p})
			}
			got := algtest.Run(algtest.Config{Helper: Helper{}, Proto: proto, Tuple: flow(proto, 61000)}, says...)
			if got.Events[stream.Panicked]+got.Events[stream.Broken] != 0 {
				t.Error("the helper failed")
			}
			for _, a := range got.Announced {
				if !strings.Contains(a, "= 10.0.0.5:") && !strings.HasPrefix(a, "withdraw ") {
					t.Errorf("announced %q", a)
				}
			}
			return got
		}
		run(tuple.UDP, in)
		at := int(uint(cut) % uint(len(in)+1))
		whole, parts := run(tuple.TCP, in), run(tuple.TCP, in[:at], in[at:])
		if err := parts.Differs(whole.Got[0][0], "", whole.Announced...); err != nil {
			t.Errorf("cut after %d: %v", at, err)
		}
	})
}
