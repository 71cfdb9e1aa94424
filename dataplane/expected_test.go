package dataplane

import (
	"strings"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/ctfmt"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// announce expects a flow from server to client, from any port to one port,
// that belongs to the flow that client has with server.
func announce(l *lab, master tuple.Tuple, port uint16, flags conntrack.ExpectFlags) tuple.Tuple {
	l.Helper()
	k, ok := master.Inverse()
	if !ok {
		l.Fatalf("%v has no inverse", master)
	}
	k.SrcPort, k.DstPort = 0, port
	err := l.table.CreateExpect(master, conntrack.Expectation{Tuple: k, Mask: conntrack.WholeMask(0), Flags: flags}, conntrack.Ticks(time.Minute))
	if err != nil {
		l.Fatal(err)
	}
	return k
}

const (
	client6 = "[2001:db8:1::5]"
	server6 = "[2001:db8:77::7]"
)

// newMaster begins the flow of client6 with server6 and gives it a mark.
func newMaster(l *lab) tuple.Tuple {
	l.Helper()
	l.send("lan", tcp(client6+":40000", server6+":21"))
	l.want("wan", "tcp "+client6+":40000 > "+server6+":21 S seq 0 ack 0 ttl 63 len 0")
	master := tuple.Tuple{Src: addr("2001:db8:1::5"), Dst: addr("2001:db8:77::7"), SrcPort: 40000, DstPort: 21, Proto: tuple.TCP, Family: tuple.IPv6}
	if err := l.table.SetMark(master, 77, ^uint32(0)); err != nil {
		l.Fatal(err)
	}
	return master
}

// flowTo returns the flow whose first packet went to a port.
func flowTo(l *lab, port uint16) (conntrack.Flow, bool) {
	var found conntrack.Flow
	ok := false
	l.table.Dump(func(f *conntrack.Flow) bool {
		if f.Tuple[tuple.Original].DstPort == port {
			found, ok = *f, true
		}
		return !ok
	})
	return found, ok
}

func TestExpectedFlowIsAdmittedAsRelated(t *testing.T) {
	l := newLab(t, labConfig{})
	master := newMaster(l)
	l.send("wan", tcp(server6+":20", client6+":2000"))
	l.wantDrops(PolicyDenied)
	announce(l, master, 2000, 0)
	l.send("wan", tcp(server6+":20", client6+":2001"))
	l.wantDrops(PolicyDenied)
	l.send("wan", tcp(server6+":20", client6+":2000"))
	l.want("lan", "tcp "+server6+":20 > "+client6+":2000 S seq 0 ack 0 ttl 63 len 0")
	f, ok := flowTo(l, 2000)
	if !ok || f.Status&conntrack.Expected == 0 || f.Mark != 77 {
		t.Errorf("flow %v with status %v and mark %d, want EXPECTED and the master's mark 77", f.Tuple[0], f.Status, f.Mark)
	}
	if line := string(ctfmt.AppendList(nil, &f, ctfmt.Options{})); !strings.Contains(line, "dport=2000 [UNREPLIED]") || !strings.Contains(line, "mark=77") {
		t.Errorf("it is listed as %q", line)
	}
	l.send("wan", tcp(server6+":22", client6+":2000")) // it is used up
	l.wantDrops(PolicyDenied)
}

func TestPermanentExpectationAdmitsManyFlows(t *testing.T) {
	l := newLab(t, labConfig{})
	k := announce(l, newMaster(l), 2000, conntrack.ExpectPermanent)
	for _, from := range []string{":20", ":21", ":22"} {
		l.send("wan", tcp(server6+from, client6+":2000"))
		l.want("lan", "tcp "+server6+from+" > "+client6+":2000 S seq 0 ack 0 ttl 63 len 0")
	}
	if err := l.table.DeleteExpect(k); err != nil {
		t.Error(err)
	}
	l.send("wan", tcp(server6+":23", client6+":2000"))
	l.wantDrops(PolicyDenied)
}

func TestExpectationsAreOverWithTheirTimeAndTheirMaster(t *testing.T) {
	for _, tt := range []struct {
		claim string
		end   func(l *lab, master tuple.Tuple)
	}{
		{"after its timeout nothing is expected", func(l *lab, _ tuple.Tuple) { l.advance(61 * time.Second) }},
		{"without its master nothing is expected", func(l *lab, master tuple.Tuple) {
			if err := l.table.Delete(master); err != nil {
				l.Error(err)
			}
		}},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			l := newLab(t, labConfig{})
			master := newMaster(l)
			announce(l, master, 2000, 0)
			tt.end(l, master)
			l.send("wan", tcp(server6+":20", client6+":2000"))
			l.wantDrops(PolicyDenied)
		})
	}
}

func TestExpectedFlowMeetsTheRules(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Dnat] = []rules.RuleSpec{{
			If:   rules.Conditions{InArea: oneOf("wan"), Proto: oneOf(tuple.TCP), DstPort: oneOf(nat.PortRange{First: 2000, Last: 2001})},
			Then: rules.ActDnat, Dest: nat.Destination{Addrs: single("10.0.0.6")},
		}}
		s.Lists[rules.Filter] = []rules.RuleSpec{
			{If: rules.Conditions{InArea: oneOf("wan"), State: oneOf(rules.Related), Mark: oneOf(rules.MarkMatch{Value: 7, Mask: 0xff})}, Then: rules.ActAccept},
			{If: rules.Conditions{InArea: oneOf("wan"), State: oneOf(rules.New, rules.Related)}, Then: rules.ActDrop},
		}
	}})
	l.send("lan", tcp("10.0.0.5:40000", "198.51.100.7:21"))
	l.want("wan", "tcp 203.0.113.1:40000 > 198.51.100.7:21 S seq 0 ack 0 ttl 63 len 0")
	master := tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr("198.51.100.7"), SrcPort: 40000, DstPort: 21, Proto: tuple.TCP, Family: tuple.IPv4}
	expect := func(port uint16) {
		k := tuple.Tuple{Src: addr("198.51.100.7"), Dst: addr("203.0.113.1"), DstPort: port, Proto: tuple.TCP, Family: tuple.IPv4}
		if err := l.table.CreateExpect(master, conntrack.Expectation{Tuple: k, Mask: conntrack.WholeMask(0)}, conntrack.Ticks(time.Minute)); err != nil {
			t.Fatal(err)
		}
	}
	expect(2000)
	l.send("wan", tcp("198.51.100.7:20", "203.0.113.1:2000")) // the master has no mark
	l.wantDrops(RuleDenied)
	if err := l.table.SetMark(master, 7, ^uint32(0)); err != nil {
		t.Fatal(err)
	}
	l.send("wan", tcp("198.51.100.7:20", "203.0.113.1:2001")) // not expected
	l.wantDrops(RuleDenied)
	expect(2001)
	l.send("wan", tcp("198.51.100.7:20", "203.0.113.1:2001"))
	l.want("lan", "tcp 198.51.100.7:20 > 10.0.0.6:2001 S seq 0 ack 0 ttl 63 len 0")
	if f, ok := flowTo(l, 2001); !ok || f.Status&(conntrack.Expected|conntrack.DstNAT) != conntrack.Expected|conntrack.DstNAT {
		t.Errorf("status %v, want EXPECTED and DST_NAT", f.Status)
	}
}

func TestExpectedFlowsDoNotAllocate(t *testing.T) {
	e, lan, _ := bulkLab(t, 1<<16)
	w, n, now := e.Worker(0), uint32(5), int64(1e12)
	lan.load(batchOf(udp("10.0.0.5:1", "198.51.100.7:53")), func(frames [][]byte) {
		for _, f := range frames {
			retarget(f, n)
			n += 251 // all to 198.51.100.5
		}
	})
	w.Step(now)
	k := tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr("198.51.100.5"), SrcPort: 1029, DstPort: 53, Proto: tuple.UDP, Family: tuple.IPv4}
	x := conntrack.Expectation{Tuple: k, Mask: conntrack.AnyMask(), Flags: conntrack.ExpectPermanent}
	if err := e.table.CreateExpect(k, x, conntrack.Ticks(time.Hour)); err != nil {
		t.Fatal(err)
	}
	const batches = 200
	if got := testing.AllocsPerRun(batches, func() { now += 1e6; w.Step(now) }); got != 0 {
		t.Errorf("%v allocations a batch, want 0", got)
	}
	if s := e.table.ExpectStats(); s.New < batches*Batch {
		t.Errorf("%d flows were expected, want %d: the measurement is of something else", s.New, batches*Batch)
	}
}

func TestFlowsWhoseFirstPacketWaitsAreUnconfirmed(t *testing.T) {
	l := coldLab(t)
	unconfirmed := func() (all []string) {
		l.table.DumpUnconfirmed(func(f *conntrack.Flow) bool {
			all = append(all, f.Tuple[tuple.Original].String())
			return true
		})
		return all
	}
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
	if got := unconfirmed(); len(got) != 1 || got[0] != "udp 10.0.0.5:40000 > 198.51.100.7:53" || len(l.flows()) != 0 {
		t.Errorf("unconfirmed %q, confirmed %q; want the flow to be unconfirmed while the neighbour is asked for", got, l.flows())
	}
	l.resolve(wanID, "203.0.113.254")
	l.step()
	l.want("wan", "udp 203.0.113.1:40000 > 198.51.100.7:53 ttl 63 len 0")
	if got := unconfirmed(); got != nil || len(l.flows()) != 1 {
		t.Errorf("unconfirmed %q, confirmed %q; want it confirmed", got, l.flows())
	}
}
