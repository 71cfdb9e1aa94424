package dataplane

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// parrot is a helper for tests. In every payload it replaces "@address:port" by what
// the other side has to be told of that socket, "~" by fifty dots, and "#" by nothing;
// "&" is a pair of sockets, "?" one that it only asks about, "%" is what it cannot read,
// and of lines it is shown whole ones only.
type parrot struct{}

func (parrot) Spec() alg.Spec {
	return alg.Spec{
		Name: "parrot", Protos: []uint8{tuple.TCP, tuple.UDP},
		Classes: []alg.Class{{Name: "one", Max: 2, Timeout: time.Minute}, {Name: "pair", Max: 4, Timeout: time.Minute}},
	}
}

func (parrot) New(*alg.Flow) alg.Parser { return parrot{} }

func (parrot) Inspect(c *alg.Context, b []byte) (e alg.Edit) {
	if e.Done = bytes.LastIndexByte(b, '\n') + 1; e.Done < len(b) {
		e.Rest = alg.Hold
	}
	for i := 0; i < e.Done; i++ {
		switch b[i] {
		case '~':
			e.Replace = append(e.Replace, alg.Replacement{From: i, To: i + 1, Text: bytes.Repeat([]byte{'.'}, 50)})
		case '#':
			e.Replace = append(e.Replace, alg.Replacement{From: i, To: i + 1})
		case '%':
			e.Unread++
		case '?':
			end := i + 1
			for end < e.Done && b[end] > ' ' {
				end++
			}
			if seen, ok := c.SeenAs(tuple.UDP, netip.MustParseAddrPort(string(b[i+1:end]))); ok {
				e.Replace = append(e.Replace, alg.Replacement{From: i, To: end, Text: []byte(seen.String())})
			}
		case '@', '&':
			end := i + 1
			for end < e.Done && b[end] > ' ' {
				end++
			}
			to := netip.MustParseAddrPort(string(b[i+1 : end]))
			group := []alg.Expectation{{Proto: tuple.UDP, To: to}}
			if b[i] == '&' {
				next := netip.AddrPortFrom(to.Addr(), to.Port()+1)
				group = []alg.Expectation{{Class: 1, Proto: tuple.UDP, To: to}, {Class: 1, Proto: tuple.UDP, To: next, Child: "parrot"}}
			}
			text := ""
			if seen, err := c.Announce(group...); err != nil {
				text = "!" + err.Error()
			} else {
				text = seen.String()
			}
			e.Replace = append(e.Replace, alg.Replacement{From: i, To: end, Text: []byte(text)})
		}
	}
	return e
}

// helperAt returns a set of one helper, and a Config.Helper that gives it to flows to a
// port.
func helperAt(t testing.TB, port uint16, h alg.Helper, o alg.Options) (*alg.Set, func(tuple.Tuple) uint32) {
	t.Helper()
	set, err := alg.NewSet(h)
	if err != nil {
		t.Fatal(err)
	}
	number, err := set.Number(h.Spec().Name, o)
	if err != nil {
		t.Fatal(err)
	}
	return set, func(t tuple.Tuple) uint32 {
		if t.DstPort == port {
			return number
		}
		return 0
	}
}

// helperLab is a lab in which flows to a port have a helper.
func helperLab(t testing.TB, cfg labConfig, port uint16, h alg.Helper, o alg.Options) *lab {
	t.Helper()
	set, give := helperAt(t, port, h, o)
	cfg.table = func(c *conntrack.Config) { c.HelperName = set.Name }
	cfg.engine = func(c *Config) { c.Helpers, c.Helper = set, give }
	return newLab(t, cfg)
}

// parrotLab is a lab in which flows to port 5000 have the helper parrot.
func parrotLab(t testing.TB, cfg labConfig, o alg.Options) *lab {
	t.Helper()
	return helperLab(t, cfg, 5000, parrot{}, o)
}

// payloadOf returns the payload of the one UDP packet that left by a port.
func (l *lab) payloadOf(name string) string {
	l.Helper()
	f := l.take(name)
	if d := describe(f, l.ports[name].Info().Link); strings.Contains(d, "BAD") || !strings.HasPrefix(d, "udp") {
		l.Fatalf("%s sent %s", name, d)
	}
	ip := ipOf(f, l.ports[name].Info().Link)
	return string(ip[headerLen(ip)+8:])
}

// say has the client send a datagram of the usual flow, and returns what the server got.
func (l *lab) say(text string) string {
	l.Helper()
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:5000", body(text)))
	return l.payloadOf("wan")
}

// bound applies the lab's state with other bounds of helpers.
func (l *lab) bound(b HelperBounds) {
	l.Helper()
	st := l.stateNow()
	st.Helpers = b
	l.apply(st)
}

// announcedBy returns how many announcements were granted.
func announcedBy(l *lab) uint64 {
	s := l.e.HelperStats()
	return s.Announced()
}

func TestHelperReplacesPayloadOfDatagrams(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	for in, want := range map[string]string{
		"plain\n":     "plain\n",
		"a#b\n":       "ab\n",
		"###\n":       "\n",
		"<~~>\n":      "<" + strings.Repeat(".", 100) + ">\n",
		"odd # and ~": "odd # and ~",
	} {
		if got := l.say(in); got != want {
			t.Errorf("%q arrived as %q, want %q", in, got, want)
		}
	}
}

func TestHostsBehindOneGatewayLearnTheirInsideNames(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	for _, tt := range []struct{ said, told string }{
		{"@10.0.0.5:6000\n", "203.0.113.1:6000\n"},
		{"?10.0.0.5:6000\n", "203.0.113.1:6000\n"},
		{"?203.0.113.1:6000\n", "?203.0.113.1:6000\n"}, // he knows better
	} {
		if got := l.say(tt.said); got != tt.told {
			t.Errorf("%q arrived as %q, want %q", tt.said, got, tt.told)
		}
	}
	l.send("lan", udp("10.0.0.6:40001", "198.51.100.7:5000"))
	l.take("wan")
	for said, want := range map[string]string{
		"?203.0.113.1:6000\n":         "10.0.0.5:6000\n",
		"?203.0.113.1:6001\n":         "?203.0.113.1:6001\n",
		"?[2001:db8:1::1]:6000\n":     "?[2001:db8:1::1]:6000\n",
		"?198.51.100.9:6000 and so\n": "?198.51.100.9:6000 and so\n",
	} {
		l.send("wan", udp("198.51.100.7:5000", "203.0.113.1:40001", body(said)))
		if got := l.payloadOf("lan"); got != want {
			t.Errorf("the other host was told %q, want %q for %q", got, want, said)
		}
	}
}

func TestMessagesThatAHelperCannotReadAreCounted(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	for _, text := range []string{"%\n", "fine\n", "%%\n"} {
		if got := l.say(text); got != text {
			t.Errorf("%q arrived as %q", text, got)
		}
	}
	if got := l.e.HelperStats().Each; len(got) != 1 || got[0].Name != "parrot" || got[0].Unread != 3 {
		t.Errorf("counted %v, want 3 of parrot", got)
	}
}

func TestUDPWithoutChecksumStaysWithout(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	ip := udp("10.0.0.5:40000", "198.51.100.7:5000", body("<~>\n"))
	ip[26], ip[27] = 0, 0
	l.send("lan", ip)
	f := l.take("wan")
	out := ipOf(f, l.ports["wan"].Info().Link)
	if out[26]|out[27] != 0 || !strings.Contains(string(out), strings.Repeat(".", 50)) {
		t.Errorf("it left as %q", out)
	}
}

func TestAnnouncedFlowsReachWhoAnnouncedThem(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	if got, want := l.say("@10.0.0.5:6000\n"), "203.0.113.1:6000\n"; got != want {
		t.Fatalf("the server was told %q, want %q", got, want)
	}
	l.send("wan", udp("198.51.100.9:7000", "203.0.113.1:6000")) // somebody else
	l.wantDrops(LocalDenied)
	l.send("wan", udp("198.51.100.7:7000", "203.0.113.1:6000"))
	l.want("lan", "udp 198.51.100.7:7000 > 10.0.0.5:6000 ttl 63 len 0")
	l.send("lan", udp("10.0.0.5:6000", "198.51.100.7:7000"))
	l.want("wan", "udp 203.0.113.1:6000 > 198.51.100.7:7000 ttl 63 len 0")
	if f, ok := flowTo(l, 6000); !ok || f.Status&conntrack.Expected == 0 || f.Status&conntrack.DstNAT == 0 {
		t.Errorf("the flow is %v, %v", f.Tuple, f.Status)
	}
}

func TestPairsKeepTheirDistanceAndParity(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	if got, want := l.say("&10.0.0.5:6000\n"), "203.0.113.1:6000\n"; got != want {
		t.Fatalf("the first client's pair is at %q, want %q", got, want)
	}
	// The same sockets of another host go elsewhere: 6000 and 6001 are promised.
	l.send("lan", udp("10.0.0.6:40001", "198.51.100.7:5000", body("&10.0.0.6:6000\n")))
	if got, want := l.payloadOf("wan"), "203.0.113.1:6002\n"; got != want {
		t.Fatalf("the second client's pair is at %q, want %q", got, want)
	}
	// Announced again, it stays where it was.
	l.send("lan", udp("10.0.0.6:40001", "198.51.100.7:5000", body("&10.0.0.6:6000\n")))
	if got, want := l.payloadOf("wan"), "203.0.113.1:6002\n"; got != want {
		t.Errorf("the second time it is at %q, want %q", got, want)
	}
	// Another pair of the same host does not take the place of its first one.
	l.send("lan", udp("10.0.0.6:40001", "198.51.100.7:5000", body("&10.0.0.6:6002\n")))
	if got, want := l.payloadOf("wan"), "203.0.113.1:6004\n"; got != want {
		t.Errorf("the host's second pair is at %q, want %q", got, want)
	}
	for port, host := range map[int]string{6000: "10.0.0.5:6000", 6001: "10.0.0.5:6001", 6002: "10.0.0.6:6000", 6003: "10.0.0.6:6001"} {
		l.send("wan", udp("198.51.100.7:9000", fmt.Sprintf("203.0.113.1:%d", port)))
		l.want("lan", "udp 198.51.100.7:9000 > "+host+" ttl 63 len 0")
	}
	if f, _ := flowTo(l, 6003); f.Status&conntrack.Helper == 0 || f.Helper != "parrot" {
		t.Errorf("the second flow of the pair has helper %q", f.Helper)
	}
	if f, _ := flowTo(l, 6002); f.Status&conntrack.Helper != 0 {
		t.Errorf("the first flow of the pair has helper %q", f.Helper)
	}
}

// TestPromisedPortsAreKept: what a server was told is for one host does not become the
// source of another one's flow to it, but that of the host's own.
func TestPromisedPortsAreKept(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	l.say("@10.0.0.5:6000\n")
	l.send("lan", udp("10.0.0.6:6000", "198.51.100.7:7000"))
	if got := describe(l.take("wan"), l.ports["wan"].Info().Link); strings.HasPrefix(got, "udp 203.0.113.1:6000 ") {
		t.Errorf("another host's flow left as %s", got)
	}
	l.send("lan", udp("10.0.0.5:6000", "198.51.100.7:7000"))
	l.want("wan", "udp 203.0.113.1:6000 > 198.51.100.7:7000 ttl 63 len 0")
}

func TestNobodyAnnouncesForOthers(t *testing.T) {
	for _, tt := range []struct{ claim, in, want string }{
		{"another inside host", "@10.0.0.6:6000\n", alg.ErrForeign.Error()},
		{"an outside host", "@198.51.100.9:6000\n", alg.ErrForeign.Error()},
		{"another family", "@[2001:db8:1::5]:6000\n", alg.ErrForeign.Error()},
		{"a privileged port", "@10.0.0.5:22\n", alg.ErrPort.Error()},
		{"no port", "@10.0.0.5:0\n", alg.ErrPort.Error()},
		{"a pair beyond the last port", "&10.0.0.5:65535\n", alg.ErrPort.Error()},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			l := parrotLab(t, labConfig{}, alg.Options{})
			if got := l.say(tt.in); got != "!"+tt.want+"\n" {
				t.Errorf("%q arrived as %q, want %q", tt.in, got, tt.want)
			}
			if n := l.table.ExpectLen(); n != 0 {
				t.Errorf("%d flows are expected, want none", n)
			}
			if s := l.e.HelperStats(); s.Refused() != 1 || s.Announced() != 0 {
				t.Errorf("%d refused and %d announced, want 1 and 0", s.Refused(), s.Announced())
			}
		})
	}
}

func TestAnnouncementsAreLoggedWithTheirBytes(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	l.say("x @10.0.0.5:6000\n")
	l.say("@10.0.0.6:6000\n")
	granted, refused := <-l.e.Announcements(), <-l.e.Announcements()
	if granted.Err != nil || granted.Helper != "parrot" || granted.Seen.String() != "203.0.113.1:6000" ||
		granted.To[0].String() != "10.0.0.5:6000" || string(granted.Payload) != "x @10.0.0.5:6000\n" {
		t.Errorf("logged %+v", granted)
	}
	if refused.Err != alg.ErrForeign || string(refused.Payload) != "@10.0.0.6:6000\n" {
		t.Errorf("logged %+v", refused)
	}
}

func TestFloodOfAnnouncementsLeavesTheLogReadable(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	log := l.e.Announcements()
	lines := func() (n int) {
		for ; len(log) > 0; n++ {
			<-log
		}
		return n
	}
	got := 0
	const share = linesPerSec / logShare
	for range share + 10 {
		l.say("@10.0.0.6:6000\n")
		got += lines()
	}
	if s := l.e.HelperStats(); got != share || s.Unlogged != 10 {
		t.Errorf("%d lines of a second and %d without, want %d and 10", got, s.Unlogged, share)
	}
	l.send("lan", udp("10.0.0.6:40000", "198.51.100.7:5000", body("@10.0.0.6:6000\n")))
	l.take("wan")
	if got := lines(); got != 1 {
		t.Errorf("%d lines of another client, want 1", got)
	}
	l.now += int64(time.Second)
	l.say("@10.0.0.6:6000\n")
	if got := lines(); got != 1 {
		t.Errorf("%d lines a second later, want 1", got)
	}
}

func TestRuleMayAllowForeignAddresses(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{Foreign: true})
	if got, want := l.say("@10.0.0.6:6000\n"), "203.0.113.1:6000\n"; got != want {
		t.Fatalf("the server was told %q, want %q", got, want)
	}
	l.send("wan", udp("198.51.100.7:7000", "203.0.113.1:6000"))
	l.want("lan", "udp 198.51.100.7:7000 > 10.0.0.6:6000 ttl 63 len 0")
}

// TestForeignAddressesAreThoseOfHosts: a rule that lets a payload speak for others does not
// let it speak for all of them, for the gateway's own loopback, or for nobody.
func TestForeignAddressesAreThoseOfHosts(t *testing.T) {
	for _, to := range []string{"224.0.0.1", "255.255.255.255", "127.0.0.1", "0.0.0.0", "[::ffff:10.0.0.6]"} {
		l := parrotLab(t, labConfig{}, alg.Options{Foreign: true})
		if got, want := l.say("@"+to+":6000\n"), "!"+alg.ErrForeign.Error()+"\n"; got != want {
			t.Errorf("for %s the server was told %q, want %q", to, got, want)
		}
		if n := l.table.ExpectLen(); n != 0 {
			t.Errorf("%d flows to %s are expected", n, to)
		}
	}
}

func TestAnnouncementsOfAFlowAreBounded(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	for i := range announcesPerSec + 10 {
		l.say(fmt.Sprintf("@10.0.0.5:%d\n", 6000+i))
	}
	if n := l.table.ExpectLen(); n != 2 {
		t.Errorf("%d flows are expected, want the 2 that the class allows", n)
	}
	if s := l.e.HelperStats(); s.Refused() != 10 {
		t.Errorf("%d were refused, want 10 in one second", s.Refused())
	}
	l.now += int64(time.Second)
	if got := l.say("@10.0.0.5:6500\n"); got != "203.0.113.1:6500\n" {
		t.Errorf("a second later the server was told %q", got)
	}
}

// TestAnnouncementsOfAClientAreBounded floods from so many flows that none is at its own
// bound: in a second, and over time.
func TestAnnouncementsOfAClientAreBounded(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	announce := func(host string, flow, n int) {
		for i := range n {
			l.send("lan", udp(fmt.Sprintf("%s:%d", host, 30000+flow), "198.51.100.7:5000", body(fmt.Sprintf("@%s:%d\n", host, 2000+2*flow+i))))
		}
		l.ports["wan"].TakeFrames()
	}
	flood := func(host string) {
		for flow := range clientPerSec {
			announce(host, flow, 2)
		}
	}
	flood("10.0.0.5")
	if s := l.e.HelperStats(); s.Announced() > clientPerSec || s.Refused() < clientPerSec {
		t.Errorf("%d announced and %d refused, want %d of each", s.Announced(), s.Refused(), clientPerSec)
	}
	announce("10.0.0.6", 0, 1)
	if n := announcedBy(l); n > clientPerSec+1 {
		t.Errorf("%d announced", n)
	}
	before := l.table.ExpectLen()
	for range 8 {
		l.now += int64(time.Second)
		flood("10.0.0.5")
	}
	share := l.table.ExpectShare()
	if n := l.table.ExpectLen(); n > share+1 || n < min(before, share) {
		t.Errorf("%d flows are expected, want no more than %d of one client", n, share)
	}
	was := announcedBy(l)
	announce("10.0.0.6", 1, 1)
	if got := announcedBy(l); got != was+1 {
		t.Error("another client finds no place")
	}
}

func TestDatagramThatGrowsBeyondTheLinkIsToldToItsSender(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	text := strings.Repeat("x", 1400) + "~~\n"
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:5000", body(text), dontFragment()))
	if got := describe(l.take("lan"), l.ports["lan"].Info().Link); !strings.Contains(got, "3/4") || !strings.Contains(got, "mtu 1402") {
		t.Errorf("its sender was told %s", got)
	}
	l.wantDrops(TooBigForEgress)
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:5000", body(text))) // may be fragmented
	frames := l.ports["wan"].TakeFrames()
	if len(frames) != 2 {
		t.Fatalf("it left in %d frames, want 2 fragments", len(frames))
	}
}

// TestFragmentsOfANewFlowWithHelperAreJoined: the helper sees a datagram that came in
// pieces, also the first one of its flow.
func TestFragmentsOfANewFlowWithHelperAreJoined(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	whole := udp("10.0.0.5:40000", "198.51.100.7:5000", body(strings.Repeat("x", 900)+"@10.0.0.5:6000\n"))
	for _, f := range fragmentsOf(whole, 512) {
		l.inject("lan", mem.Frame{Data: l.frame("lan", f)})
	}
	l.step()
	if n := l.table.ExpectLen(); n != 1 {
		t.Errorf("%d flows are expected, want 1", n)
	}
	if n := len(l.ports["wan"].TakeFrames()); n != 2 {
		t.Errorf("%d frames left, want 2 fragments", n)
	}
}

func TestRulesAttachHelpers(t *testing.T) {
	l := parrotLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Filter] = []rules.RuleSpec{
			{If: rules.Conditions{DstPort: oneOf(nat.PortRange{First: 5060, Last: 5060})}, Then: rules.ActHelper, Helper: "parrot"},
			{Then: rules.ActAccept},
		}
	}}, alg.Options{})
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:5060", body("a#b\n")))
	if got := l.payloadOf("wan"); got != "ab\n" {
		t.Errorf("it arrived as %q", got)
	}
	if f, _ := flowTo(l, 5060); f.Helper != "parrot" {
		t.Errorf("the flow's helper is %q", f.Helper)
	}
}

func TestUnknownHelperIsRefused(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	st := l.stateNow()
	st.Program = l.program(&st, func(s *rules.Spec) {
		s.Lists[rules.Filter] = []rules.RuleSpec{{Then: rules.ActHelper, Helper: "nobody"}}
	})
	if err := l.e.Apply(st); err == nil || !strings.Contains(err.Error(), `no helper "nobody": there are parrot`) {
		t.Errorf("error is %v", err)
	}
}

func TestMemoryOfHelpersIsGivenBack(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	l.say("hello\n")
	if s := l.e.HelperStats(); s.Flows != 1 || s.Memory == 0 {
		t.Errorf("%d flows keep %d bytes", s.Flows, s.Memory)
	}
	l.advance(10 * time.Minute)
	l.e.helpers.expire(l.table)
	if s := l.e.HelperStats(); s.Flows != 0 || s.Memory != 0 {
		t.Errorf("at the end %d flows keep %d bytes", s.Flows, s.Memory)
	}
}

func TestFlowsWithoutMemoryGoOnWithoutHelper(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	l.bound(HelperBounds{Memory: memoryShare * (helpedSize + 100)})
	for _, tt := range []struct{ claim, from, want string }{
		{"the first flow of a client", "10.0.0.5:40000", "ab\n"},
		{"its second one, which is beyond its share", "10.0.0.5:40001", "a#b\n"},
		{"the next client's", "10.0.0.6:40000", "ab\n"},
		{"the next one's", "10.0.0.7:40000", "ab\n"},
		{"the next one's", "10.0.0.8:40000", "ab\n"},
		{"that of one who comes when nothing is left", "10.0.0.9:40000", "a#b\n"},
	} {
		l.resolve(lanID, strings.TrimSuffix(strings.TrimSuffix(tt.from, ":40000"), ":40001"))
		l.send("lan", udp(tt.from, "198.51.100.7:5000", body("a#b\n")))
		if got := l.payloadOf("wan"); got != tt.want {
			t.Errorf("%s: its text arrived as %q, want %q", tt.claim, got, tt.want)
		}
	}
	if s := l.e.HelperStats(); s.Starved != 2 {
		t.Errorf("%d flows counted as starved, want 2", s.Starved)
	}
	l.advance(10 * time.Minute)
	l.e.helpers.expire(l.table)
	if s := l.e.HelperStats(); s.Flows != 0 || s.Memory != 0 {
		t.Errorf("at the end %d flows keep %d bytes", s.Flows, s.Memory)
	}
	for i := range l.e.helpers.budgets {
		if n := len(l.e.helpers.budgets[i].accounts); n != 0 {
			t.Errorf("%d clients still have an account", n)
		}
	}
}

const (
	ackFlag  = packet.ACK
	parrotIn = "10.0.0.5:40000"
	parrotOn = "203.0.113.1:40000"
	parrotTo = "198.51.100.7:5000"
)

// talkTCP opens the usual flow and sends one line of five bytes that becomes fifty-four:
// the client's next number is 106, for the server 155.
func (l *lab) talkTCP() {
	l.Helper()
	l.send("lan", tcp(parrotIn, parrotTo, seq(100, 0)))
	l.send("wan", tcp(parrotTo, parrotOn, flags(packet.SYN|packet.ACK), seq(500, 101)))
	l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(101, 501)))
	l.ports["wan"].TakeFrames()
	l.ports["lan"].TakeFrames()
	l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(101, 501), body("abc~\n")))
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 101 ack 501 ttl 63 len 54")
}

func TestNumbersOfBothSidesAgreeAfterAnEdit(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	l.talkTCP()
	l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(101, 501), body("abc~\n"))) // again
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 101 ack 501 ttl 63 len 54")
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 130))) // in the middle of the edit
	l.want("lan", "tcp "+parrotTo+" > "+parrotIn+" A seq 501 ack 104 ttl 63 len 0")
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 155)))
	l.want("lan", "tcp "+parrotTo+" > "+parrotIn+" A seq 501 ack 106 ttl 63 len 0")
	l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(106, 501), body("xy\n")))
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 155 ack 501 ttl 63 len 3")
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 200))) // of what was not sent
	l.wantDrops(InvalidWindow)
}

func TestHeldBytesAreAcknowledgedAndSentLater(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	l.talkTCP()
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 155)))
	l.want("lan", "tcp "+parrotTo+" > "+parrotIn+" A seq 501 ack 106 ttl 63 len 0")
	l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(106, 501), body("half ")))
	l.want("lan", "tcp "+parrotTo+" > "+parrotIn+" A seq 501 ack 111 ttl 64 len 0") // in the server's name
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 155 ack 501 ttl 63 len 0")
	l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(111, 501), body("#line\n")))
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 155 ack 501 ttl 63 len 10")
	l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(111, 501), body("#line\n"))) // all of it was lost
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 155 ack 501 ttl 63 len 10")
}

func TestErrorsAndResetsNameTheNumbersOfTheirReader(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	l.talkTCP()
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 155)))
	l.ports["lan"].TakeFrames()
	lost := tcp(parrotOn, parrotTo, flags(ackFlag), seq(155, 501), body("lost"))
	l.send("wan", icmpErrorAbout("203.0.113.254", "203.0.113.1", 3, 1, 0, lost))
	if got := describe(l.take("lan"), l.ports["lan"].Info().Link); !strings.Contains(got, "seq 106 ") || strings.Contains(got, "BAD") {
		t.Errorf("the client was told %s, want its own number 106", got)
	}
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 155), body("~\n")))
	l.want("lan", "tcp "+parrotTo+" > "+parrotIn+" A seq 501 ack 106 ttl 63 len 51")
	l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(106, 552)))
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 155 ack 503 ttl 63 len 0")
	l.e.End(anyFlow(conntrack.UplinkDown))
	l.step()
	if got := describe(l.take("lan"), l.ports["lan"].Info().Link); !strings.Contains(got, "R") || !strings.Contains(got, "seq 552 ") {
		t.Errorf("the client's flow was ended with %s, want its next number 552", got)
	}
}

// TestFlowWithoutItsSessionGoesOn: what the entry keeps is enough for a flow whose
// edits have all arrived.
func TestFlowWithoutItsSessionGoesOn(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	l.talkTCP()
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 155)))
	l.ports["lan"].TakeFrames()
	for i := range l.e.helpers.shards {
		clear(l.e.helpers.shards[i].flows)
	}
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 155)))
	l.want("lan", "tcp "+parrotTo+" > "+parrotIn+" A seq 501 ack 106 ttl 63 len 0")
	l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(106, 501)))
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 155 ack 501 ttl 63 len 0")
	l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(106, 501), body("a#b\n"))) // a new session
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 155 ack 501 ttl 63 len 3")
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 158)))
	l.want("lan", "tcp "+parrotTo+" > "+parrotIn+" A seq 501 ack 110 ttl 63 len 0")
}

// TestSuperPacketsAreEditedWhole: a GSO frame of many segments goes through its helper at
// once, and leaves in segments that fit, also where it has grown beyond 64 KB.
func TestSuperPacketsAreEditedWhole(t *testing.T) {
	for _, line := range []int{100, 1000} {
		l := parrotLab(t, labConfig{}, alg.Options{})
		l.talkTCP()
		l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 155), body("x\n")))
		l.ports["lan"].TakeFrames()
		text := bytes.Repeat(append(bytes.Repeat([]byte{'a'}, line-2), "~\n"...), 64000/line)
		want := bytes.ReplaceAll(text, []byte{'~'}, bytes.Repeat([]byte{'.'}, 50))
		l.inject("lan", superTCP(l, "lan", parrotIn, parrotTo, 0, 1400, seq(106, 503), body(string(text))))
		l.step()
		got := make([]byte, len(want))
		for _, f := range l.ports["wan"].TakeFrames() {
			d := describe(f, l.ports["wan"].Info().Link)
			var at, n int
			if _, err := fmt.Sscanf(d[strings.Index(d, "seq "):], "seq %d ack 503 ttl 63 len %d", &at, &n); err != nil || strings.Contains(d, "BAD") || n > 1400 {
				t.Fatalf("sent %s (%v)", d, err)
			}
			ip := ipOf(f, l.ports["wan"].Info().Link)
			copy(got[at-155:], ip[len(ip)-n:])
		}
		if !bytes.Equal(got, want) {
			t.Errorf("lines of %d bytes: %d bytes arrived, and differ from the %d wanted", line, len(bytes.TrimRight(got, "\x00")), len(want))
		}
		l.wantDrops()
	}
}
