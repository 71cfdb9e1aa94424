package dataplane

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// uplinks are the two ways out of an uplink lab: wan with 203.0.113.1, isp2 with
// 192.0.2.1.
var uplinks = []string{"wan", "isp2"}

// ways are the default routes of an uplink lab; tests change them.
type ways []route.Route

func twoWays() ways {
	all := ways{
		{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Port: wanID, Gateway: netip.MustParseAddr("203.0.113.254")},
		{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Port: extraID, Gateway: netip.MustParseAddr("192.0.2.254")},
		{Prefix: netip.MustParsePrefix("::/0"), Port: wanID, Gateway: netip.MustParseAddr("2001:db8:2::fe")},
		{Prefix: netip.MustParsePrefix("::/0"), Port: extraID, Gateway: netip.MustParseAddr("2001:db8:22::fe")},
	}
	return all.weigh(1, 1)
}

// weigh gives the IPv4 routes their weights.
func (ways ways) weigh(wan, isp2 uint32) ways {
	ways[0].Weight, ways[1].Weight = wan, isp2
	return ways
}

// without returns the routes with those of a port down.
func (ways ways) without(port uint16) ways {
	all := slices.Clone(ways)
	for i := range all {
		all[i].Down = all[i].Port == port
	}
	return all
}

// uplinkLab is a lab with a second uplink, whose rules masquerade to both and forward
// port 443 from both.
func uplinkLab(t *testing.T, w ways) *lab {
	t.Helper()
	l := newLab(t, labConfig{
		routes: w,
		ports: func(st *State, _ map[string]mem.Options) {
			st.Ports = append(st.Ports, PortConfig{ID: extraID, Name: "isp2", Addresses: prefixes("192.0.2.1/24", "2001:db8:22::1/64")})
		},
		rules: func(s *rules.Spec) {
			s.Areas = append(s.Areas, rules.Area{Name: "isp2", Side: rules.Outside})
			s.Lists[rules.Snat] = []rules.RuleSpec{{
				If:   rules.Conditions{OutArea: oneOf(uplinks...), Family: tuple.IPv4},
				Then: rules.ActMasquerade,
			}}
			s.Lists[rules.Dnat] = []rules.RuleSpec{{
				If:   rules.Conditions{InArea: oneOf(uplinks...), Proto: oneOf(tuple.TCP), DstPort: oneOf(nat.PortRange{First: 443, Last: 443})},
				Then: rules.ActDnat, Dest: nat.Destination{Addrs: single("10.0.0.6"), Ports: nat.PortRange{First: 8443, Last: 8443}},
			}}
			s.Lists[rules.Filter] = []rules.RuleSpec{{If: rules.Conditions{Family: tuple.IPv6}, Then: rules.ActAccept}}
		},
	})
	for _, h := range []string{"192.0.2.254", "2001:db8:22::fe"} {
		l.resolve(extraID, h)
	}
	return l
}

// reroute applies other default routes.
func (l *lab) reroute(w ways) {
	l.Helper()
	st := l.stateNow()
	l.cfg.routes = w
	st.Routes = l.routes(&st)
	l.apply(st)
	for id, hosts := range known {
		for _, h := range hosts {
			l.resolve(id, h)
		}
	}
}

// by returns the uplink that one packet left by, and takes it.
func (l *lab) by() string {
	l.Helper()
	found := ""
	for _, name := range uplinks {
		if f := l.ports[name].TakeFrames(); len(f) > 0 {
			if len(f) > 1 || found != "" {
				l.Fatalf("more than one packet left")
			}
			found = name
		}
	}
	return found
}

// outTo sends a datagram of flow i and returns the uplink that it leaves by.
func (l *lab) outTo(i int) string {
	l.Helper()
	l.send("lan", udp(fmt.Sprintf("10.0.0.5:%d", 1000+i), "198.51.100.7:53"))
	return l.by()
}

func TestFlowsShareUplinksByWeightAndKeepTheirs(t *testing.T) {
	l := uplinkLab(t, twoWays().weigh(3, 1))
	const flows = 800
	first := make([]string, flows)
	share := 0
	for i := range first {
		if first[i] = l.outTo(i); first[i] == "wan" {
			share++
		}
	}
	if share < flows*70/100 || share > flows*80/100 {
		t.Errorf("%d of %d flows took an uplink of three quarters", share, flows)
	}
	for _, w := range []ways{twoWays().weigh(3, 1), twoWays().weigh(1, 100)} { // hints miss; flows don't move
		l.reroute(w)
		for i := range first {
			if by := l.outTo(i); by != first[i] {
				t.Fatalf("flow %d moved from %s to %q", i, first[i], by)
			}
		}
	}
	// Answers find their flow on the uplink it took.
	for i, name := range first[:20] {
		to := map[string]string{"wan": "203.0.113.1", "isp2": "192.0.2.1"}[name]
		l.send(name, udp("198.51.100.7:53", fmt.Sprintf("%s:%d", to, 1000+i)))
		l.take("lan")
	}
}

func TestSourceAreaAndMarkTakeTheirOwnUplink(t *testing.T) {
	w := twoWays()
	w[1].Only = route.Only{From: netip.MustParsePrefix("10.0.0.6/32")}
	l := uplinkLab(t, w)
	for _, tt := range []struct{ src, want string }{{"10.0.0.5:1", "wan"}, {"10.0.0.6:1", "isp2"}} {
		l.send("lan", udp(tt.src, "198.51.100.7:53"))
		if by := l.by(); by != tt.want {
			t.Errorf("%s left by %s, want %s", tt.src, by, tt.want)
		}
	}
	l.send("lan", udp("10.0.0.6:1", "10.9.0.5:53"))
	l.wantDrops(PolicyDenied) // guest is nearer than its default route
	l.wantProhibited("lan", PolicyDenied)

	w[1].Only = route.Only{Area: route.AreaNumber(uint8(l.areaID("guest")))}
	l.reroute(w)
	l.send("guest", udp("10.9.0.5:1", "198.51.100.7:53"))
	if by := l.by(); by != "isp2" {
		t.Errorf("guest left by %s", by)
	}

	w[1].Only = route.Only{Mark: 7, MarkMask: 0xff}
	l.reroute(w)
	edit := l.cfg.rules
	l.reload(func(s *rules.Spec) {
		edit(s)
		s.Lists[rules.Pre] = []rules.RuleSpec{{If: rules.Conditions{DstPort: oneOf(nat.PortRange{First: 25, Last: 25})}, Then: rules.ActMark, Mark: 7, MarkMask: 0xff}}
	})
	l.send("lan", udp("10.0.0.5:2", "198.51.100.7:25"))
	if by := l.by(); by != "isp2" {
		t.Errorf("a marked flow left by %s", by)
	}
}

// areaID returns the number of an area in the rules of the lab.
func (l *lab) areaID(name string) rules.AreaID {
	l.Helper()
	spec := &rules.Spec{Areas: rules.DefaultAreas()}
	l.cfg.rules(spec)
	id, ok := spec.AreaID(name)
	if !ok {
		l.Fatalf("no area %s", name)
	}
	return id
}

func TestAnswersLeaveByTheUplinkOfTheQuestion(t *testing.T) {
	w := twoWays()
	w[1].Metric, w[3].Metric = 100, 100 // nothing goes out by isp2 by itself
	l := uplinkLab(t, w)
	l.send("wan", tcp("198.51.100.7:40000", "203.0.113.1:443"))
	l.send("isp2", tcp("198.51.100.7:40001", "192.0.2.1:443"))
	l.want("lan", "tcp 198.51.100.7:40000 > 10.0.0.6:8443 S seq 0 ack 0 ttl 63 len 0",
		"tcp 198.51.100.7:40001 > 10.0.0.6:8443 S seq 0 ack 0 ttl 63 len 0")
	for range 2 { // once more with hints that miss
		l.send("lan", tcp("10.0.0.6:8443", "198.51.100.7:40000", flags(packet.SYN|packet.ACK), seq(5, 1)))
		l.want("wan", "tcp 203.0.113.1:443 > 198.51.100.7:40000 SA seq 5 ack 1 ttl 63 len 0")
		l.send("lan", tcp("10.0.0.6:8443", "198.51.100.7:40001", flags(packet.SYN|packet.ACK), seq(5, 1)))
		l.want("isp2", "tcp 192.0.2.1:443 > 198.51.100.7:40001 SA seq 5 ack 1 ttl 63 len 0")
		l.reroute(w)
	}
	// Without translation, too.
	l.send("isp2", udp("[2001:db8:99::1]:1", "[2001:db8:1::5]:2"))
	l.take("lan")
	l.send("lan", udp("[2001:db8:1::5]:2", "[2001:db8:99::1]:1"))
	l.want("isp2", "udp [2001:db8:1::5]:2 > [2001:db8:99::1]:1 ttl 63 len 0")
}

func TestFlowsOfADeadUplinkEndAndOthersStay(t *testing.T) {
	l := uplinkLab(t, twoWays())
	const flows = 100
	first := make([]string, flows)
	dead := 0
	for i := range first {
		if first[i] = l.outTo(i); first[i] == "isp2" {
			dead++
		}
	}
	l.send("lan", udp("10.0.0.5:9", "192.0.2.254:53")) // the router itself answers, or not
	l.take("isp2")
	l.reroute(twoWays().without(extraID))
	if n := l.e.EndStranded(); n != dead {
		t.Errorf("%d flows end, want %d", n, dead)
	}
	l.step()
	if n := len(l.ports["lan"].TakeFrames()); n != dead || l.e.Stats().Ended[conntrack.UplinkDown] != uint64(dead) {
		t.Errorf("%d hosts were told, %d flows ended, want %d", n, l.e.Stats().Ended[conntrack.UplinkDown], dead)
	}
	for i := range first { // those of wan go on, those of isp2 begin anew
		if by := l.outTo(i); by != "wan" {
			t.Fatalf("flow %d left by %q", i, by)
		}
	}
	l.reroute(twoWays()) // and when it is back, nothing moves
	if n := l.e.EndStranded(); n != 0 {
		t.Errorf("%d flows end when an uplink comes back", n)
	}
	for i := range first {
		if by := l.outTo(i); by != "wan" {
			t.Fatalf("flow %d left by %q", i, by)
		}
	}
	back := 0
	for i := range first {
		if l.outTo(5000+i) == "isp2" {
			back++
		}
	}
	if back < flows/4 {
		t.Errorf("%d of %d new flows take the uplink that came back", back, flows)
	}
}

// TestNothingLeavesByAnotherUplink sends on flows of a dead uplink before
// EndStranded has seen them.
func TestNothingLeavesByAnotherUplink(t *testing.T) {
	for _, tt := range []struct {
		claim string
		after ways
	}{
		{"its router does not answer", twoWays().without(extraID)},
		{"its route is gone", twoWays()[:1]},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			l := uplinkLab(t, twoWays().without(wanID))
			if by := l.outTo(1); by != "isp2" {
				t.Fatalf("left by %s", by)
			}
			l.send("isp2", tcp("198.51.100.7:40001", "192.0.2.1:443"))
			l.take("lan")
			l.reroute(tt.after)
			l.outTo(1)
			l.want("lan", "icmp 10.0.0.1 > 10.0.0.5 3/3 [udp 10.0.0.5:1001 > 198.51.100.7:53 ttl 64 len 0]")
			l.send("lan", tcp("10.0.0.6:8443", "198.51.100.7:40001", flags(packet.SYN|packet.ACK), seq(5, 1)))
			l.want("lan", "tcp 198.51.100.7:40001 > 10.0.0.6:8443 RA seq 1 ack 6 ttl 64 len 0")
			l.wantDrops(FlowEnded, FlowEnded)
			l.wantFlows()
			if by := l.outTo(1); by != "wan" {
				t.Errorf("the flow begins anew by %q", by)
			}
		})
	}
}

func TestFlowsWaitForAWayThatHasNoOther(t *testing.T) {
	l := uplinkLab(t, twoWays()[:1])
	l.outTo(1)
	l.reroute(ways{})
	if n := l.e.EndStranded(); n != 0 {
		t.Errorf("%d flows end, and no way is better", n)
	}
	l.outTo(1)
	l.wantDrops(NoRoute)
	l.want("lan", "icmp 10.0.0.1 > 10.0.0.5 3/0 [udp 10.0.0.5:1001 > 198.51.100.7:53 ttl 64 len 0]")
	l.reroute(twoWays()[:1])
	l.outTo(1)
	l.wantFlows("udp 10.0.0.5:1001 > 198.51.100.7:53 / udp 198.51.100.7:53 > 203.0.113.1:1001")
}

// TestSourceOfAnotherPortStays translates to an address that belongs to no uplink, as
// one that every provider routes here does.
func TestSourceOfAnotherPortStays(t *testing.T) {
	l := uplinkLab(t, twoWays().without(extraID))
	edit := l.cfg.rules
	l.reload(func(s *rules.Spec) {
		edit(s)
		s.Lists[rules.Snat][0].Then, s.Lists[rules.Snat][0].Src = rules.ActSnat, nat.Source{Addrs: single("10.9.0.1")}
	})
	for _, w := range []ways{twoWays().without(extraID), twoWays().without(wanID), twoWays()[1:2], twoWays()} {
		l.reroute(w)
		if n := l.e.EndStranded(); n != 0 {
			t.Errorf("%d flows end that may take any uplink", n)
		}
		if by := l.outTo(1); by == "" {
			t.Errorf("with %v the flow does not go on", w)
		}
	}
	l.wantFlows("udp 10.0.0.5:1001 > 198.51.100.7:53 / udp 198.51.100.7:53 > 10.9.0.1:1001")
}

func TestFlowsWithoutTranslationMoveToAnotherUplink(t *testing.T) {
	l := uplinkLab(t, twoWays().without(extraID))
	l.send("lan", udp("[2001:db8:1::5]:1", "[2001:db8:77::7]:53"))
	l.take("wan")
	l.reroute(twoWays().without(wanID))
	if n := l.e.EndStranded(); n != 0 {
		t.Errorf("%d flows end that can go on", n)
	}
	l.send("lan", udp("[2001:db8:1::5]:1", "[2001:db8:77::7]:53"))
	l.take("isp2")
	l.send("isp2", udp("[2001:db8:77::7]:53", "[2001:db8:1::5]:1"))
	l.take("lan")
	l.wantDrops()
}

func TestGatewayItselfSendsByTheUplinkOfItsAddress(t *testing.T) {
	l := uplinkLab(t, twoWays().without(extraID)) // down, but this may be the probe
	for src, want := range map[string]string{"203.0.113.1:1000": "wan", "192.0.2.1:1000": "isp2"} {
		l.injectHost(udp(src, "198.51.100.7:53"))
		if by := l.by(); by != want {
			t.Errorf("%s left by %q, want %s", src, by, want)
		}
	}
	l.send("isp2", udp("198.51.100.7:53", "192.0.2.1:1000"))
	l.want("host", "udp 198.51.100.7:53 > 192.0.2.1:1000 ttl 64 len 0")
}

func TestReversePathTakesEveryUplink(t *testing.T) {
	w := twoWays()
	w[3].Metric = 100
	l := uplinkLab(t, w)
	l.send("lan", udp("[2001:db8:1::5]:1", "[2001:db8:77::7]:53"))
	l.take("wan")
	l.send("isp2", udp("[2001:db8:77::7]:53", "[2001:db8:1::5]:1")) // the answer comes another way
	l.take("lan")
	l.send("isp2", udp("10.0.0.5:1", "192.0.2.1:53"))
	l.send("isp2", udp("10.9.0.5:1", "192.0.2.1:53"))
	l.wantDrops(SpoofedSource, SpoofedSource)
}

func TestChoosingAWayDoesNotAllocate(t *testing.T) {
	l := uplinkLab(t, twoWays().weigh(3, 1))
	v := l.e.view.Load()
	to := tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr("198.51.100.7"), SrcPort: 1, DstPort: 2, Proto: tuple.UDP, Family: tuple.IPv4}
	if n := testing.AllocsPerRun(100, func() { v.choose(&to, 1, 0, unknown); v.home(&to.Src) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
