package dataplane

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// filterOf is masquerade and a filter list.
func filterOf(list ...rules.RuleSpec) func(*rules.Spec) {
	return func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Filter] = list
	}
}

// Without any rule for it, what the default policy lets pass is the same for both
// families; the rest is dropped with a Reason.
func TestDefaultPolicyForBothFamilies(t *testing.T) {
	for _, tt := range []struct {
		claim  string
		in     string
		packet []byte
		out    string // "": dropped
		why    Reason
	}{
		{"lan goes out", "lan", udp("10.0.0.5:1000", "198.51.100.7:53"), "wan", None},
		{"lan goes out", "lan", udp("[2001:db8:1::5]:1000", "[2001:db8:77::7]:53"), "wan", None},
		{"guest goes out", "guest", tcp("10.9.0.5:1000", "198.51.100.7:80"), "wan", None},
		{"guest goes out", "guest", tcp("[2001:db8:9::5]:1000", "[2001:db8:77::7]:80"), "wan", None},
		{"lan does not reach guest", "lan", tcp("10.0.0.5:1000", "10.9.0.5:80"), "", PolicyDenied},
		{"lan does not reach guest", "lan", tcp("[2001:db8:1::5]:1000", "[2001:db8:9::5]:80"), "", PolicyDenied},
		{"guest does not reach lan", "guest", udp("10.9.0.5:1000", "10.0.0.5:53"), "", PolicyDenied},
		{"guest does not reach lan", "guest", udp("[2001:db8:9::5]:1000", "[2001:db8:1::5]:53"), "", PolicyDenied},
		{"outside does not come in", "wan", tcp("[2001:db8:77::7]:1000", "[2001:db8:1::5]:22"), "", PolicyDenied},
		{"outside does not come in, even routed", "wan", tcp("198.51.100.7:1000", "10.0.0.5:22"), "", PolicyDenied},
		{"outside does not reach the gateway", "wan", tcp("198.51.100.7:1000", "203.0.113.1:22"), "", LocalDenied},
		{"outside does not reach the gateway", "wan", tcp("[2001:db8:77::7]:1000", "[2001:db8:2::1]:22"), "", LocalDenied},
		{"guest does not reach the gateway", "guest", tcp("10.9.0.5:1000", "10.9.0.1:22"), "", LocalDenied},
		{"outside pings nobody", "wan", ping("2001:db8:77::7", "2001:db8:1::5", 1), "", PolicyDenied},
		{"an inside source outside is spoofed", "wan", udp("10.0.0.6:1000", "203.0.113.1:53"), "", SpoofedSource},
		{"an inside source outside is spoofed", "wan", udp("[2001:db8:1::6]:1000", "[2001:db8:1::5]:53"), "", SpoofedSource},
		{"land packets go nowhere", "lan", udp("10.0.0.5:1", "10.0.0.5:1"), "", LandPacket},
		{"land packets go nowhere", "lan", udp("[2001:db8:1::5]:1", "[2001:db8:1::5]:1"), "", LandPacket},
		{"martians go nowhere", "lan", udp("127.0.0.1:1", "198.51.100.7:1"), "", Martian},
		{"martians go nowhere", "lan", udp("[::1]:1", "[2001:db8:77::7]:1"), "", Martian},
	} {
		t.Run(tt.claim+fmt.Sprint(" ", tt.packet[0]>>4), func(t *testing.T) {
			l := newLab(t, labConfig{})
			l.send(tt.in, tt.packet)
			if tt.out != "" {
				l.take(tt.out)
				l.wantDrops()
				return
			}
			l.wantDrops(tt.why)
			l.wantProhibited(tt.in, tt.why)
			l.wantFlows()
			for _, name := range [...]string{"lan", "wan", "guest"} {
				if name != tt.in { // whoever sent it may be told
					l.want(name)
				}
			}
		})
	}
}

func TestRejectKinds(t *testing.T) {
	for _, tt := range []struct {
		kind   rules.Rejection
		packet []byte
		want   string
	}{
		{rules.RejectAuto, tcp("10.0.0.5:40000", "198.51.100.7:80"), "tcp 198.51.100.7:80 > 10.0.0.5:40000 RA seq 0 ack 1 ttl 64 len 0"},
		{rules.RejectAuto, udp("10.0.0.5:40000", "198.51.100.7:80"), "icmp 10.0.0.1 > 10.0.0.5 3/13 "},
		{rules.WithNoRoute, tcp("10.0.0.5:40000", "198.51.100.7:80"), "icmp 10.0.0.1 > 10.0.0.5 3/0 "},
		{rules.WithHostUnreachable, udp("10.0.0.5:40000", "198.51.100.7:80"), "icmp 10.0.0.1 > 10.0.0.5 3/1 "},
		{rules.WithPortUnreachable, udp("10.0.0.5:40000", "198.51.100.7:80"), "icmp 10.0.0.1 > 10.0.0.5 3/3 "},
		{rules.WithAdminProhibited, tcp("10.0.0.5:40000", "198.51.100.7:80"), "icmp 10.0.0.1 > 10.0.0.5 3/13 "},
		{rules.RejectAuto, udp("[2001:db8:1::5]:1", "[2001:db8:77::7]:2"), "icmpv6 2001:db8:1::1 > 2001:db8:1::5 1/1 "},
		{rules.WithNoRoute, udp("[2001:db8:1::5]:1", "[2001:db8:77::7]:2"), "icmpv6 2001:db8:1::1 > 2001:db8:1::5 1/0 "},
		{rules.WithHostUnreachable, udp("[2001:db8:1::5]:1", "[2001:db8:77::7]:2"), "icmpv6 2001:db8:1::1 > 2001:db8:1::5 1/3 "},
		{rules.WithPortUnreachable, udp("[2001:db8:1::5]:1", "[2001:db8:77::7]:2"), "icmpv6 2001:db8:1::1 > 2001:db8:1::5 1/4 "},
		{rules.WithReset, tcp("[2001:db8:1::5]:1", "[2001:db8:77::7]:2"), "tcp [2001:db8:77::7]:2 > [2001:db8:1::5]:1 RA seq 0 ack 1 ttl 64 len 0"},
	} {
		l := newLab(t, labConfig{rules: filterOf(rules.RuleSpec{Then: rules.ActReject, Reject: tt.kind})})
		l.send("lan", tt.packet)
		l.wantDrops(RuleRejected)
		f := l.take("lan")
		if got := describe(f, packet.LinkEthernet); len(got) < len(tt.want) || got[:len(tt.want)] != tt.want {
			t.Errorf("%q: sent %q, want %q", tt.kind, got, tt.want)
		}
	}
}

// talk sends n packets there and back over one flow of lan.
func (l *lab) talk(n int) {
	l.Helper()
	for range n {
		l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53", body("ask")))
		l.ports["wan"].TakeFrames()
		l.send("wan", udp("198.51.100.7:53", "203.0.113.1:40000", body("answer")))
		l.ports["lan"].TakeFrames()
	}
}

func TestCountingRulesSeeEveryPacketWithItsBytes(t *testing.T) {
	l := newLab(t, labConfig{rules: filterOf(
		rules.RuleSpec{Then: rules.ActCount, Count: "all"},
		rules.RuleSpec{If: rules.Conditions{Direction: oneOf(tuple.Reply)}, Then: rules.ActCount, Count: "answers"},
		rules.RuleSpec{If: rules.Conditions{State: oneOf(rules.New)}, Then: rules.ActCount, Count: "first"},
	)})
	l.talk(4)
	want := []RuleCounter{
		{"all", rules.Traffic{Packets: 8, Bytes: 4*31 + 4*34}},
		{"answers", rules.Traffic{Packets: 4, Bytes: 4 * 34}},
		{"first", rules.Traffic{Packets: 1, Bytes: 31}},
	}
	if got := l.e.RuleCounters(); !slices.Equal(got, want) {
		t.Errorf("counters %v, want %v", got, want)
	}
}

func TestCountersGoOnOverReloads(t *testing.T) {
	count := rules.RuleSpec{Then: rules.ActCount, Count: "all"}
	l := newLab(t, labConfig{rules: filterOf(count)})
	l.talk(2)
	l.reload(filterOf(rules.RuleSpec{If: rules.Conditions{DstPort: oneOf(nat.PortRange{First: 9, Last: 9})}, Then: rules.ActDrop}, count))
	l.talk(1)
	if got := l.e.RuleCounters(); got[0].Packets != 6 {
		t.Errorf("%d packets, want 6", got[0].Packets)
	}
}

func TestDirectionEndsOneSideOfAFlow(t *testing.T) {
	l := newLab(t, labConfig{rules: filterOf(rules.RuleSpec{If: rules.Conditions{Direction: oneOf(tuple.Reply)}, Then: rules.ActDrop})})
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
	l.take("wan")
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:40000"))
	l.wantDrops(RuleDenied)
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
	l.take("wan")
	l.wantDrops()
}

func TestHoursEndFlowsWithThem(t *testing.T) {
	wall := time.Date(2026, 3, 4, 17, 59, 50, 0, time.UTC)
	l := newLab(t, labConfig{
		engine: func(c *Config) {
			start := c.Clock()
			c.Wall = func() time.Time { return wall.Add(time.Duration(c.Clock() - start)) }
		},
		rules: filterOf(
			rules.RuleSpec{If: rules.Conditions{Window: rules.Window{Hours: oneOf(rules.HourRange{First: 8 * 3600, Last: 18 * 3600}), Zone: time.UTC}}, Then: rules.ActAccept},
			rules.RuleSpec{If: rules.Conditions{State: oneOf(rules.New, rules.Established)}, Then: rules.ActDrop},
		),
	})
	l.talk(2)
	l.wantDrops()
	l.advance(11 * time.Second)
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
	l.wantDrops(RuleDenied)
	l.send("lan", udp("10.0.0.5:40001", "198.51.100.7:53"))
	l.wantDrops(RuleDenied)
}

func TestLimitIsOnPacketsOrOnNewFlows(t *testing.T) {
	limit := &rules.Limit{Sense: rules.IsNot, Rate: rules.Rate{Count: 1, Per: time.Hour, Burst: 3}, Share: rules.PerSource}
	l := newLab(t, labConfig{rules: filterOf(rules.RuleSpec{If: rules.Conditions{Limit: limit, InArea: oneOf("lan")}, Then: rules.ActDrop})})
	l.talk(5) // three of them go out
	l.wantDrops(RuleDenied, RuleDenied)
	l = newLab(t, labConfig{rules: filterOf(rules.RuleSpec{If: rules.Conditions{Limit: limit, State: oneOf(rules.New)}, Then: rules.ActDrop})})
	l.talk(5)
	l.wantDrops()
	for i := range 4 {
		l.send("lan", udp(fmt.Sprintf("10.0.0.5:%d", 41000+i), "198.51.100.7:53"))
		l.send("lan", udp(fmt.Sprintf("10.0.0.6:%d", 41000+i), "198.51.100.7:53"))
	}
	l.ports["wan"].TakeFrames()
	l.wantDrops(RuleDenied, RuleDenied, RuleDenied) // the first flow of .5 was talk's
}

func TestFlowsPerSource(t *testing.T) {
	tooMany := rules.RuleSpec{If: rules.Conditions{Flows: &rules.FlowLimit{Sense: rules.IsNot, Most: 2}}, Then: rules.ActReject}
	ttlRule := rules.RuleSpec{If: rules.Conditions{TTL: oneOf(rules.ByteRange{First: 1, Last: 1})}, Then: rules.ActDrop} // every packet meets the filter
	l := newLab(t, labConfig{rules: filterOf(tooMany, ttlRule)})
	open := func(from string) {
		l.send("lan", udp(from, "198.51.100.7:53"))
		l.ports["wan"].TakeFrames()
		l.ports["lan"].TakeFrames()
	}
	for range 3 {
		open("10.0.0.5:1000") // one flow that is not answered
	}
	open("10.0.0.5:1001")
	l.wantDrops()
	open("10.0.0.5:1002")
	l.wantDrops(RuleRejected)
	open("10.0.0.6:1000")
	l.wantDrops()
	l.reload(filterOf(tooMany))
	open("10.0.0.5:1003")
	l.wantDrops(RuleRejected)
	l.advance(31 * time.Second) // flows without an answer live 30 s
	open("10.0.0.5:1004")
	l.wantDrops()
}

func TestMarksOfPacketAndFlow(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Pre] = []rules.RuleSpec{
			{If: rules.Conditions{TTL: oneOf(rules.ByteRange{First: 7, Last: 7})}, Then: rules.ActMark, PacketMark: rules.MarkMatch{Value: 0x100, Mask: 0x100}},
		}
		s.Lists[rules.Filter] = []rules.RuleSpec{
			{If: rules.Conditions{Mark: oneOf(rules.MarkMatch{Value: 0x100, Mask: 0x100})}, Then: rules.ActDrop},
			{If: rules.Conditions{State: oneOf(rules.New)}, Then: rules.ActMark, Mark: 1, MarkMask: 0xf},
			{If: rules.Conditions{TTL: oneOf(rules.ByteRange{First: 9, Last: 9})}, Then: rules.ActMark, Mark: 2, MarkMask: 0xf},
		}
	}})
	events := l.table.Subscribe(16, conntrack.AllEvents)
	defer events.Close()
	mark := func() uint32 {
		f, err := l.table.Get(tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr("198.51.100.7"), SrcPort: 40000, DstPort: 53, Proto: tuple.UDP, Family: tuple.IPv4})
		if err != nil {
			t.Fatal(err)
		}
		return f.Mark
	}
	l.talk(2)
	if got := mark(); got != 1 {
		t.Errorf("mark %#x, want 1 from the first packet", got)
	}
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53", ttl(9)))
	l.take("wan")
	if got := mark(); got != 2 {
		t.Errorf("mark %#x, want 2 from a later packet", got)
	}
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53", ttl(7)))
	l.wantDrops(RuleDenied)
	if got := mark(); got != 2 {
		t.Errorf("mark %#x: the flow has the mark of a packet alone", got)
	}
	l.table.Flush()
	changed := 0
	for e := range events.Events() {
		if e.Change&conntrack.ChangedMark != 0 {
			changed++
		}
		if e.Type == conntrack.EventDestroy {
			break
		}
	}
	if changed != 1 {
		t.Errorf("%d events about the mark, want 1", changed)
	}
}

// A zone for one direction: the flow's packets out of lan are in zone 7, its
// answers in zone 0, so that two clients with one address may have one flow each.
func TestZoneOfOneDirection(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Pre] = []rules.RuleSpec{{If: rules.Conditions{In: oneOf("lan")}, Then: rules.ActZone, Zone: 7, ZoneSide: rules.ZoneOriginal}}
		s.Lists[rules.Filter] = []rules.RuleSpec{{If: rules.Conditions{Zone: oneOf(rules.ShortRange{First: 7, Last: 7})}, Then: rules.ActCount, Count: "seven"}}
	}})
	for range 2 {
		l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
		l.want("wan", "udp 203.0.113.1:40000 > 198.51.100.7:53 ttl 63 len 0")
		l.send("wan", udp("198.51.100.7:53", "203.0.113.1:40000"))
		l.want("lan", "udp 198.51.100.7:53 > 10.0.0.5:40000 ttl 63 len 0")
	}
	l.wantFlows("udp 10.0.0.5:40000 > 198.51.100.7:53 zone 7 / udp 198.51.100.7:53 > 203.0.113.1:40000")
	l.send("wan", icmpErrorAbout("192.0.2.33", "203.0.113.1", 3, 1, 0, udp("203.0.113.1:40000", "198.51.100.7:53")))
	l.want("lan", "icmp 192.0.2.33 > 10.0.0.5 3/1 [udp 10.0.0.5:40000 > 198.51.100.7:53 ttl 64 len 0]")
	if got := l.e.RuleCounters()[0].Packets; got != 2 {
		t.Errorf("%d packets in zone 7, want the 2 of the client", got)
	}
	l.wantDrops()
}

// A zone for the answers: what comes in at wan is looked up in zone 9.
func TestZoneOfTheReplyDirection(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Pre] = []rules.RuleSpec{{Then: rules.ActZone, Zone: 9, ZoneSide: rules.ZoneReply}}
	}})
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:40000 > 198.51.100.7:53 ttl 63 len 0")
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:40000"))
	l.want("lan", "udp 198.51.100.7:53 > 10.0.0.5:40000 ttl 63 len 0")
	l.wantFlows("udp 10.0.0.5:40000 > 198.51.100.7:53 / udp 198.51.100.7:53 > 203.0.113.1:40000 zone 9")
	l.wantDrops()
}

func TestRulesOfSetsAndLengths(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Sets = []*rules.Set{{Name: "bad", Addrs: rules.NewAddrSet(append(single("198.51.100.9"), single("2001:db8:77::9")...))}}
		s.Lists[rules.Filter] = []rules.RuleSpec{
			{If: rules.Conditions{Dst: rules.Match[nat.AddrRange]{Sets: []string{"bad"}}}, Then: rules.ActDrop},
			{If: rules.Conditions{Length: oneOf(rules.ShortRange{First: 100, Last: 65535})}, Then: rules.ActDrop},
		}
	}})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.9:1"))
	l.send("lan", udp("[2001:db8:1::5]:1", "[2001:db8:77::9]:1"))
	l.wantDrops(RuleDenied, RuleDenied)
	l.talk(2)
	l.wantDrops()
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53", length(72)))
	l.wantDrops(RuleDenied)
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53", length(71)))
	l.take("wan")
}

// A rule gives a flow its helper, and another one knows the flows that it announced.
func TestRulesOfHelpers(t *testing.T) {
	l := parrotLab(t, labConfig{rules: filterOf(
		rules.RuleSpec{If: rules.Conditions{DstPort: oneOf(nat.PortRange{First: 5001, Last: 5001})}, Then: rules.ActHelper, Helper: "parrot"},
		rules.RuleSpec{If: rules.Conditions{Helper: oneOf("parrot")}, Then: rules.ActCount, Count: "children"},
		rules.RuleSpec{If: rules.Conditions{Helper: rules.Match[string]{Sense: rules.IsNot, Values: []string{"parrot"}}}, Then: rules.ActCount, Count: "others"},
	)}, alg.Options{})
	l.send("lan", udp("[2001:db8:1::5]:40000", "[2001:db8:77::7]:5001", body("a#b\n")))
	if got := l.payloadOf("wan"); got != "ab\n" {
		t.Errorf("%q arrived, want what the helper makes of it", got)
	}
	master := tuple.Tuple{Src: addr("2001:db8:1::5"), Dst: addr("2001:db8:77::7"), SrcPort: 40000, DstPort: 5001, Proto: tuple.UDP, Family: tuple.IPv6}
	f, err := l.table.Get(master)
	if err != nil || f.Helper != "parrot" {
		t.Fatalf("helper %q, %v; want parrot", f.Helper, err)
	}
	child, _ := master.Inverse()
	child.SrcPort, child.DstPort = 0, 7000
	number, err := l.e.cfg.Helpers.Number("parrot", alg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	x := conntrack.Expectation{Tuple: child, Mask: conntrack.WholeMask(0), Helper: number}
	if err := l.table.CreateExpect(master, x, conntrack.Ticks(time.Minute)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		l.send("wan", udp("[2001:db8:77::7]:9", "[2001:db8:1::5]:7000"))
		l.take("lan")
		l.send("lan", udp("[2001:db8:1::5]:7000", "[2001:db8:77::7]:9"))
		l.take("wan")
	}
	l.wantDrops()
	want := []RuleCounter{{"children", rules.Traffic{Packets: 4, Bytes: 4 * 48}}, {"others", rules.Traffic{Packets: 1, Bytes: 52}}}
	if got := l.e.RuleCounters(); !slices.Equal(got, want) {
		t.Errorf("counters %v, want %v", got, want)
	}
	st := l.stateNow()
	st.Program = l.program(&st, filterOf(rules.RuleSpec{Then: rules.ActHelper, Helper: "parakeet"}))
	if err := l.e.Apply(st); err == nil {
		t.Error("a helper that does not exist is accepted")
	}
}

// What rules log comes out while the engine runs, and when it stops.
func TestRuleLogTellsInterfacesAndTime(t *testing.T) {
	told := make(chan RuleLine, 16)
	l := newLab(t, labConfig{
		engine: func(c *Config) {
			c.Wall = func() time.Time { return time.Unix(5000, 0) }
			c.RuleLog = func(line RuleLine) {
				own := *line.Line
				line.Line = &own
				told <- line
			}
		},
		rules: filterOf(rules.RuleSpec{Name: "seen", Then: rules.ActLog, Log: &rules.Log{Prefix: "seen", Rate: rules.Rate{Count: 1, Per: time.Hour, Burst: 2}}}),
	})
	l.talk(2)
	if n := l.e.RuleLinesLost(); n != 2 {
		t.Errorf("%d lines lost, want the 2 beyond the rate", n)
	}
	if err := l.e.Start(); err != nil {
		t.Fatal(err)
	}
	first, second := <-told, <-told
	l.e.Stop()
	if first.In != "lan" || first.Out != "wan" || first.Key.Tuple.DstPort != 53 || !first.At.Equal(time.Unix(5000, 0)) || first.Rule.Name != "seen" {
		t.Errorf("%+v %+v, want the first packet from lan to wan", first, first.Line)
	}
	if second.In != "wan" || second.Out != "lan" || second.Key.State != rules.Established || second.Key.Dir != tuple.Reply {
		t.Errorf("%+v %+v, want the answer", second, second.Line)
	}
}

// perPacketRules are rule lists whose flows meet the filter with every packet.
var perPacketRules = []struct {
	name string
	list []rules.RuleSpec
}{
	{"none", nil},
	{"drop-ttl", []rules.RuleSpec{{If: rules.Conditions{TTL: oneOf(rules.ByteRange{First: 0, Last: 3})}, Then: rules.ActDrop}}},
	{"count", []rules.RuleSpec{{Then: rules.ActCount, Count: "all"}}},
	{"log", []rules.RuleSpec{{Then: rules.ActLog, Log: &rules.Log{Prefix: "x", Rate: rules.Rate{Count: 1, Per: time.Hour, Burst: 1}}}}},
	{"limit", []rules.RuleSpec{{If: rules.Conditions{Limit: &rules.Limit{Sense: rules.IsNot, Rate: rules.Rate{Count: 1 << 30, Per: time.Second, Burst: 1 << 20}}}, Then: rules.ActDrop}}},
	{"limit-per-source", []rules.RuleSpec{{If: rules.Conditions{Limit: &rules.Limit{Sense: rules.IsNot, Rate: rules.Rate{Count: 1 << 30, Per: time.Second, Burst: 1 << 20}, Share: rules.PerSource}}, Then: rules.ActDrop}}},
	{"hours", []rules.RuleSpec{{If: rules.Conditions{Window: rules.Window{Hours: rules.Match[rules.HourRange]{Sense: rules.IsNot, Values: []rules.HourRange{{First: 0, Last: 86400}}}}}, Then: rules.ActDrop}}},
}

// perPacketLab is an engine with established flows under these rules, and a batch
// of their packets.
func perPacketLab(t testing.TB, list []rules.RuleSpec) (e *Engine, lan *bulk, step func()) {
	e, lan, wan := bulkLab(t, 1<<12)
	v := e.view.Load()
	st := State{Routes: v.routes, Ports: []PortConfig{
		{ID: lanID, Name: "lan", Port: lan, Addresses: prefixes("10.0.0.1/8")},
		{ID: wanID, Name: "wan", Port: wan, Addresses: prefixes("203.0.113.1/24")},
	}}
	spec := &rules.Spec{Areas: rules.DefaultAreas()}
	filterOf(list...)(spec)
	var err error
	st.Program, err = rules.Compile(spec, &rules.Binding{Ports: []rules.BoundPort{{Index: lanID, Name: "lan", Area: "lan"}, {Index: wanID, Name: "wan", Area: "wan"}}}, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Apply(st); err != nil {
		t.Fatal(err)
	}
	var frames [][]byte
	for i := range Batch {
		frames = append(frames, ethernet(lan.info.MAC, macOf(addr("10.0.0.5")), udp(fmt.Sprintf("10.0.0.5:%d", 40000+i), "198.51.100.7:53")))
	}
	lan.load(frames, nil)
	now, w := e.cfg.Clock(), e.Worker(0)
	step = func() {
		now += 1000
		w.Step(now)
	}
	step()
	step()
	return e, lan, step
}

func TestPerPacketRulesDoNotAllocate(t *testing.T) {
	for _, tt := range perPacketRules {
		_, _, step := perPacketLab(t, tt.list)
		if n := testing.AllocsPerRun(50, step); n != 0 {
			t.Errorf("%s: %v allocations a batch, want 0", tt.name, n)
		}
	}
}

// The usual list of a firewall leaves established flows alone.
func TestStatefulListDoesNotMeetEveryPacket(t *testing.T) {
	l := newLab(t, labConfig{rules: filterOf(
		rules.RuleSpec{If: rules.Conditions{State: oneOf(rules.Established, rules.Related)}, Then: rules.ActAccept},
		rules.RuleSpec{If: rules.Conditions{State: oneOf(rules.Invalid)}, Then: rules.ActDrop},
		rules.RuleSpec{If: rules.Conditions{State: oneOf(rules.New), InArea: oneOf("lan")}, Then: rules.ActAccept},
		rules.RuleSpec{Then: rules.ActDrop},
	)})
	l.talk(5)
	l.wantDrops()
	l.wantHits(1, 0, 1, 0) // the first answer, and the first packet
}

// What rules cost that see every packet of established flows.
func BenchmarkPerPacketRules(b *testing.B) {
	for _, tt := range perPacketRules {
		b.Run(tt.name, func(b *testing.B) {
			_, _, step := perPacketLab(b, tt.list)
			b.ReportAllocs()
			b.ResetTimer()
			for range b.N {
				step()
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*Batch), "ns/packet")
		})
	}
}
