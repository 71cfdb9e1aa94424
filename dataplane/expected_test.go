package dataplane

import (
	"strings"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/ctfmt"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
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

// newNATMaster begins a flow of an inside client with an FTP server, through masquerade.
func newNATMaster(l *lab) tuple.Tuple {
	l.Helper()
	l.send("lan", tcp("10.0.0.5:40000", "198.51.100.7:21"))
	l.want("wan", "tcp 203.0.113.1:40000 > 198.51.100.7:21 S seq 0 ack 0 ttl 63 len 0")
	return tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr("198.51.100.7"), SrcPort: 40000, DstPort: 21, Proto: tuple.TCP, Family: tuple.IPv4}
}

// expectTCP announces a flow between two addresses, from any port to one, by command.
func expectTCP(l *lab, master tuple.Tuple, src, dst string, port uint16) {
	l.Helper()
	k := tuple.Tuple{Src: addr(src), Dst: addr(dst), DstPort: port, Proto: tuple.TCP, Family: tuple.IPv4, Zone: master.Zone}
	if err := l.table.CreateExpect(master, conntrack.Expectation{Tuple: k, Mask: conntrack.WholeMask(0)}, conntrack.Ticks(time.Minute)); err != nil {
		l.Fatal(err)
	}
}

func TestExpectedFlowMeetsTheFilterAsRelated(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Filter] = []rules.RuleSpec{
			{If: rules.Conditions{InArea: oneOf("wan"), State: oneOf(rules.Related), Mark: oneOf(rules.MarkMatch{Value: 7, Mask: 0xff})}, Then: rules.ActAccept},
			{If: rules.Conditions{InArea: oneOf("wan"), State: oneOf(rules.New, rules.Related)}, Then: rules.ActDrop},
		}
	}})
	master := newNATMaster(l)
	expectTCP(l, master, "198.51.100.7", "203.0.113.1", 2000)
	l.send("wan", tcp("198.51.100.7:20", "203.0.113.1:2000")) // the master has no mark
	l.wantDrops(RuleDenied)
	if err := l.table.SetMark(master, 7, ^uint32(0)); err != nil {
		t.Fatal(err)
	}
	l.send("wan", tcp("198.51.100.7:20", "203.0.113.1:2001")) // not expected
	l.wantDrops(RuleDenied)
	expectTCP(l, master, "198.51.100.7", "203.0.113.1", 2001)
	l.send("wan", tcp("198.51.100.7:20", "203.0.113.1:2001"))
	l.want("lan", "tcp 198.51.100.7:20 > 10.0.0.5:2001 S seq 0 ack 0 ttl 63 len 0")
	if f, ok := flowTo(l, 2001); !ok || !f.Status.Has(conntrack.Expected|conntrack.DstNAT) || f.Mark != 7 {
		t.Errorf("status %v and mark %d, want EXPECTED and DST_NAT, and 7", f.Status, f.Mark)
	}
}

// TestExpectedFlowIsTranslatedAsItsMaster has a rule in place that would send the
// same packets elsewhere: it is not asked.
func TestExpectedFlowIsTranslatedAsItsMaster(t *testing.T) {
	hijack := func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Dnat] = []rules.RuleSpec{
			{If: rules.Conditions{InArea: oneOf("wan"), Proto: oneOf(tuple.TCP), DstPort: oneOf(nat.PortRange{First: 21, Last: 21})},
				Then: rules.ActDnat, Dest: nat.Destination{Addrs: single("10.0.0.7")}},
			{If: rules.Conditions{InArea: oneOf("wan")}, Then: rules.ActDnat, Dest: nat.Destination{Addrs: single("10.0.0.6")}},
		}
	}
	inside := func(l *lab) tuple.Tuple { return newNATMaster(l) }
	outside := func(l *lab) tuple.Tuple {
		l.send("wan", tcp("198.51.100.7:40000", "203.0.113.1:21"))
		l.want("lan", "tcp 198.51.100.7:40000 > 10.0.0.7:21 S seq 0 ack 0 ttl 63 len 0")
		return tuple.Tuple{Src: addr("198.51.100.7"), Dst: addr("203.0.113.1"), SrcPort: 40000, DstPort: 21, Proto: tuple.TCP, Family: tuple.IPv4}
	}
	for _, tt := range []struct {
		claim    string
		master   func(l *lab) tuple.Tuple
		src, dst string
		in, out  string // ports
		want     string // the first packet as it leaves
		answer   string // its source and destination
		seen     string // the answer as it leaves
		status   conntrack.Status
	}{
		{"the server reaches a masqueraded client", inside, "198.51.100.7", "203.0.113.1", "wan", "lan",
			"tcp 198.51.100.7:20 > 10.0.0.5:2000", "10.0.0.5:2000", "tcp 203.0.113.1:2000 > 198.51.100.7:20", conntrack.DstNAT},
		{"a masqueraded client leaves masqueraded", inside, "10.0.0.5", "198.51.100.7", "lan", "wan",
			"tcp 203.0.113.1:20 > 198.51.100.7:2000", "203.0.113.1:20", "tcp 198.51.100.7:2000 > 10.0.0.5:20", conntrack.SrcNAT},
		{"a client of a forwarded port reaches the server behind it", outside, "198.51.100.7", "203.0.113.1", "wan", "lan",
			"tcp 198.51.100.7:20 > 10.0.0.7:2000", "10.0.0.7:2000", "tcp 203.0.113.1:2000 > 198.51.100.7:20", conntrack.DstNAT},
		{"a server behind a forwarded port leaves as the gateway", outside, "10.0.0.7", "198.51.100.7", "lan", "wan",
			"tcp 203.0.113.1:20 > 198.51.100.7:2000", "203.0.113.1:20", "tcp 198.51.100.7:2000 > 10.0.0.7:20", conntrack.SrcNAT},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			l, synAck := newLab(t, labConfig{rules: hijack}), flags(packet.SYN|packet.ACK)
			expectTCP(l, tt.master(l), tt.src, tt.dst, 2000)
			l.send(tt.in, tcp(tt.src+":20", tt.dst+":2000"))
			l.want(tt.out, tt.want+" S seq 0 ack 0 ttl 63 len 0")
			f, ok := flowTo(l, 2000)
			want := conntrack.Expected | conntrack.SrcNATDone | conntrack.DstNATDone | tt.status
			if got := f.Status & (conntrack.Expected | conntrack.SrcNATDone | conntrack.DstNATDone | conntrack.SrcNAT | conntrack.DstNAT); !ok || got != want {
				t.Errorf("status %v, want %v", got, want)
			}
			if tt.status == conntrack.DstNAT {
				l.send(tt.out, tcp(tt.answer, tt.src+":20", synAck, seq(0, 1)))
			} else {
				l.send(tt.out, tcp(tt.dst+":2000", tt.answer, synAck, seq(0, 1)))
			}
			l.want(tt.in, tt.seen+" SA seq 0 ack 1 ttl 63 len 0")
		})
	}
}

func TestExpectationsHoldInTheirZone(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Pre] = []rules.RuleSpec{
			{If: rules.Conditions{InArea: oneOf("lan", "wan")}, Then: rules.ActZone, Zone: 5},
		}
	}})
	master := newNATMaster(l)
	master.Zone = 5
	expectTCP(l, master, "198.51.100.7", "203.0.113.1", 2000)
	l.send("wan", tcp("198.51.100.7:20", "203.0.113.1:2000"))
	l.want("lan", "tcp 198.51.100.7:20 > 10.0.0.5:2000 S seq 0 ack 0 ttl 63 len 0")
	if f, ok := flowTo(l, 2000); !ok || f.Tuple[tuple.Original].Zone != 5 || f.Tuple[tuple.Reply].Zone != 5 {
		t.Errorf("the flow is in zones %d and %d, want 5", f.Tuple[tuple.Original].Zone, f.Tuple[tuple.Reply].Zone)
	}
	expectTCP(l, master, "198.51.100.7", "203.0.113.1", 2001)
	l.reload(masquerade) // no zones any more
	l.send("wan", tcp("198.51.100.7:20", "203.0.113.1:2001"))
	l.wantDrops(LocalDenied)
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
