package dataplane

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/rules"
)

// coldLab knows no neighbours.
func coldLab(t *testing.T) *lab { return newLab(t, labConfig{cold: true}) }

func (l *lab) wantWaiting(want uint64) {
	l.Helper()
	if got := l.e.Stats().Waiting; got != want {
		l.Errorf("%d packets wait, want %d", got, want)
	}
	l.balance()
}

func TestPacketsWaitForTheirNeighbour(t *testing.T) {
	l := coldLab(t)
	for i := range 3 {
		l.send("lan", udp(fmt.Sprintf("10.0.0.5:%d", 40000+i), "198.51.100.7:53"))
	}
	l.want("wan")
	l.wantWaiting(3)
	if !slices.Equal(l.host.asked, []string{"203.0.113.254"}) {
		t.Errorf("asked for %v, want the default router, once", l.host.asked)
	}
	if got := l.flows(); len(got) != 0 {
		t.Errorf("%v confirmed before anything left", got)
	}
	l.resolve(wanID, "203.0.113.254")
	l.step()
	l.want("wan",
		"udp 203.0.113.1:40000 > 198.51.100.7:53 ttl 63 len 0",
		"udp 203.0.113.1:40001 > 198.51.100.7:53 ttl 63 len 0",
		"udp 203.0.113.1:40002 > 198.51.100.7:53 ttl 63 len 0")
	l.wantWaiting(0)
	if got := l.flows(); len(got) != 3 {
		t.Errorf("flows %v, want 3", got)
	}
	l.wantDrops()
}

func TestNeighbourThatAnswersAtOnce(t *testing.T) {
	l := coldLab(t)
	l.host.answers["203.0.113.254"] = macOf(addr("203.0.113.254"))
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:40000 > 198.51.100.7:53 ttl 63 len 0")
	l.wantWaiting(0)
}

func TestNobodyAnswers(t *testing.T) {
	hostUnreachable := "icmp 10.0.0.1 > 10.0.0.5 3/1 [udp 10.0.0.5:40000 > 203.0.113.99:53 ttl 64 len 2]"
	l := coldLab(t)
	l.send("lan", udp("10.0.0.5:40000", "203.0.113.99:53", body("hi")))
	l.e.NeighbourFailed(wanID, addr("203.0.113.99"))
	l.step()
	l.want("lan", hostUnreachable)
	l.wantDrops(NeighbourFailed)
	l.wantFlows()
	// The next packet asks again.
	l.send("lan", udp("10.0.0.5:40000", "203.0.113.99:53", body("hi")))
	l.wantWaiting(1)
	if len(l.host.asked) != 2 {
		t.Errorf("asked %d times, want 2", len(l.host.asked))
	}
	// Without any news it waits five seconds.
	l.advance(4 * time.Second)
	l.wantWaiting(1)
	l.advance(time.Second)
	l.want("lan", hostUnreachable)
	l.wantDrops(NeighbourFailed)
	l.wantFlows()
	l.wantWaiting(0)
}

func TestSteadyArrivalsDoNotKeepOldPackets(t *testing.T) {
	l := coldLab(t)
	for i := range 20 {
		l.send("lan", udp("10.0.0.5:40000", fmt.Sprintf("203.0.113.%d:53", 100+i)))
		l.advance(time.Second)
	}
	if n := l.e.Stats().Waiting; n > 7 {
		t.Errorf("%d packets wait after 20 s, one a second: none can be older than some 6 s", n)
	}
	l.ports["lan"].Take()
}

func TestWaitingPacketsAreBounded(t *testing.T) {
	l := newLab(t, labConfig{cold: true, engine: func(c *Config) { c.Pending = 40 }})
	for i := range pendingPerNeighbour + 2 {
		l.send("lan", udp(fmt.Sprintf("10.0.0.5:%d", 40000+i), "203.0.113.99:53"))
	}
	l.wantDrops(NeighbourQueue, NeighbourQueue)
	for i := range 3 * pendingPerNeighbour {
		l.send("lan", udp("10.0.0.5:40000", fmt.Sprintf("203.0.113.%d:53", 100+i)))
	}
	l.wantWaiting(40)
	if got := l.e.Stats().Dropped[NeighbourQueue]; got != 2+3*pendingPerNeighbour-(40-pendingPerNeighbour) {
		t.Errorf("%d refused for want of room", got)
	}
	if n := l.table.Len(); n != 40 {
		t.Errorf("%d entries, want 40: those of refused packets are gone", n)
	}
	l.advance(6 * time.Second)
	l.wantWaiting(0)
	l.wantFlows()
	l.ports["lan"].Take()
}

func TestMemoryOfWaitingPacketsIsUsedAgain(t *testing.T) {
	l := newLab(t, labConfig{cold: true, engine: func(c *Config) { c.Pending = 2 }, ports: small(false)})
	big := udp("10.0.0.5:1", "203.0.113.99:53", length(3000))
	for round := range 20 {
		l.now += int64(10 * time.Second)
		l.send("lan", udp("10.0.0.5:1", "203.0.113.99:53"))
		l.send("lan", udp("10.0.0.5:2", "203.0.113.99:53"))
		l.send("lan", big) // takes a big slot
		l.wantWaiting(3)
		l.send("lan", udp("10.0.0.5:3", "203.0.113.99:53"))
		l.wantDrops(NeighbourQueue)
		l.resolve(wanID, "203.0.113.99")
		l.step()
		if n := len(l.ports["wan"].Take()); n != 5 { // two, and three fragments
			t.Fatalf("round %d: %d frames left, want 5", round, n)
		}
		l.e.neigh.Forget(wanID)
	}
}

func TestOrderIsKeptForEachNeighbour(t *testing.T) {
	l := coldLab(t)
	for i := range 4 {
		l.send("lan", udp(fmt.Sprintf("10.0.0.5:%d", 1+i), fmt.Sprintf("203.0.113.%d:53", 98+i%2)))
	}
	l.resolve(wanID, "203.0.113.99")
	l.step()
	l.want("wan", "udp 203.0.113.1:2 > 203.0.113.99:53 ttl 63 len 0", "udp 203.0.113.1:4 > 203.0.113.99:53 ttl 63 len 0")
	l.wantWaiting(2)
	l.resolve(wanID, "203.0.113.98")
	l.step()
	l.want("wan", "udp 203.0.113.1:1 > 203.0.113.98:53 ttl 63 len 0", "udp 203.0.113.1:3 > 203.0.113.98:53 ttl 63 len 0")
}

// The neighbour answers between two packets of a flow, before the worker looks.
func TestPacketThatWaitedIsNotOvertaken(t *testing.T) {
	l := coldLab(t)
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
	l.resolve(wanID, "203.0.113.254")
	l.inject("lan", mem.Frame{Data: l.frame("lan", udp("10.0.0.5:40000", "198.51.100.7:53", length(6)))})
	l.inject("lan", mem.Frame{Data: l.frame("lan", udp("10.0.0.5:40000", "198.51.100.7:53", length(9)))})
	l.step()
	l.want("wan",
		"udp 203.0.113.1:40000 > 198.51.100.7:53 ttl 63 len 0",
		"udp 203.0.113.1:40000 > 198.51.100.7:53 ttl 63 len 6",
		"udp 203.0.113.1:40000 > 198.51.100.7:53 ttl 63 len 9")
	l.wantWaiting(0)
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:40000 > 198.51.100.7:53 ttl 63 len 0")
}

func TestFlowDeletedWhileItsPacketWaits(t *testing.T) {
	l := newLab(t, labConfig{})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.take("wan")
	l.e.NeighbourFailed(lanID, addr("10.0.0.5"))
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:1"))
	l.wantWaiting(1)
	if l.table.Flush() != 1 {
		t.Fatal("no flow to delete")
	}
	l.resolve(lanID, "10.0.0.5")
	l.step()
	l.want("lan")
	l.wantDrops(NeighbourFailed)
	l.wantFlows()
}

func TestSecondPacketOfAFlowThatNeverWas(t *testing.T) {
	l := coldLab(t)
	l.send("lan", udp("10.0.0.5:1", "203.0.113.99:53"))
	l.send("lan", udp("10.0.0.5:1", "203.0.113.99:53"))
	l.wantWaiting(2)
	l.e.NeighbourFailed(wanID, addr("203.0.113.99"))
	l.step()
	l.wantDrops(NeighbourFailed, NeighbourFailed)
	l.ports["lan"].Take()
	l.wantFlows()
	l.wantWaiting(0)
}

// TestOnlyTheClaimantGivesUpAnEntry: a later packet of a flow that does not
// leave must not take the entry from the first one, which waits.
func TestOnlyTheClaimantGivesUpAnEntry(t *testing.T) {
	l := coldLab(t)
	l.send("lan", udp("10.0.0.5:1", "203.0.113.99:53"))
	for range pendingPerNeighbour - 1 {
		l.send("lan", udp("10.0.0.5:2", "203.0.113.99:53"))
	}
	l.send("lan", udp("10.0.0.5:1", "203.0.113.99:53")) // no room
	l.wantDrops(NeighbourQueue)
	l.resolve(wanID, "203.0.113.99")
	l.step()
	if n := len(l.ports["wan"].Take()); n != pendingPerNeighbour {
		t.Errorf("%d packets left, want %d", n, pendingPerNeighbour)
	}
	l.wantFlows("udp 10.0.0.5:1 > 203.0.113.99:53 / udp 203.0.113.99:53 > 203.0.113.1:1",
		"udp 10.0.0.5:2 > 203.0.113.99:53 / udp 203.0.113.99:53 > 203.0.113.1:2")
	l.wantDrops()
}

func TestErrorsAndUntrackedPacketsWaitToo(t *testing.T) {
	l := newLab(t, labConfig{rules: zoneOfLAN})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.take("wan")
	l.e.NeighbourFailed(lanID, addr("10.0.0.5"))
	l.send("wan", icmpErrorAbout("192.0.2.33", "203.0.113.1", 3, 1, 0, udp("203.0.113.1:1", "198.51.100.7:53")))
	l.wantWaiting(1)
	l.resolve(lanID, "10.0.0.5")
	l.step()
	l.want("lan", "icmp 192.0.2.33 > 10.0.0.5 3/1 [udp 10.0.0.5:1 > 198.51.100.7:53 ttl 64 len 0]")
	l.reload(func(s *rules.Spec) {
		s.Lists[rules.Pre] = []rules.RuleSpec{{If: rules.Conditions{Proto: oneOf(tuple.UDP)}, Then: rules.ActNoTrack}}
		s.Lists[rules.Filter] = []rules.RuleSpec{{Then: rules.ActAccept}}
	})
	l.send("lan", udp("10.0.0.5:1", "203.0.113.99:53"))
	l.wantWaiting(1)
	l.resolve(wanID, "203.0.113.99")
	l.step()
	l.want("wan", "udp 10.0.0.5:1 > 203.0.113.99:53 ttl 63 len 0")
	l.wantDrops()
}

func TestPortThatGoesAwayTakesItsWaitingPackets(t *testing.T) {
	l := coldLab(t)
	l.send("guest", udp("10.9.0.5:1", "203.0.113.99:53"))
	l.wantWaiting(1)
	l.removePort(guestID)
	l.resolve(wanID, "203.0.113.99")
	l.step()
	l.want("wan")
	l.wantDrops(EgressDown)
	l.wantFlows()
	// And when it is the egress, nobody keeps waiting for the forgotten neighbour.
	l.send("lan", udp("10.0.0.5:1", "203.0.113.98:53"))
	l.wantWaiting(1)
	l.removePort(wanID)
	l.step()
	l.want("lan", "icmp 10.0.0.1 > 10.0.0.5 3/1 [udp 10.0.0.5:1 > 203.0.113.98:53 ttl 64 len 0]")
	l.wantDrops(NeighbourFailed)
	l.wantFlows()
	l.wantWaiting(0)
}

func TestKernelOnItsOwnLinkNeedsNoNeighbour(t *testing.T) {
	l := newLab(t, labConfig{cold: true, more: func(st *State, make portMaker) {
		st.Ports[0].Box = make("box", mem.Options{})
	}})
	// A DHCP offer to a client that cannot answer ARP yet.
	client := [6]byte{2, 7, 7, 7, 7, 7}
	offer := mem.Frame{Data: ethernet(client, l.ports["lan"].Info().MAC, udp("10.0.0.1:67", "10.0.0.77:68"))}
	l.injectAsKernel("box", offer)
	f := l.take("lan")
	if [6]byte(f.Data) != client {
		t.Errorf("sent to %x, want the address the kernel chose, %x", f.Data[:6], client)
	}
	if len(l.host.asked) != 0 {
		t.Errorf("asked for %v", l.host.asked)
	}
	l.wantDrops()
}

// injectAsKernel has the box's kernel send a frame on the port of a TAP. The TAP
// is promiscuous: the kernel sends to stations on the link.
func (l *lab) injectAsKernel(name string, f mem.Frame) {
	l.Helper()
	l.inject(name, f)
	l.step()
}

func TestPendingMemory(t *testing.T) {
	var q pending
	if err := q.init(2); err != nil {
		t.Fatal(err)
	}
	defer q.close()
	small, big := q.pool(pendingSlot-packet.Headroom), q.pool(pendingSlot-packet.Headroom+1)
	for range 3 { // slots are reused, and sizes do not mix
		a, b := q.take(small, 1), q.take(small, 2)
		if a == b || len(small.free) != 0 || small == big {
			t.Fatal("want exactly two small slots")
		}
		if c := q.take(big, 1); len(c.mem) < maxFrame {
			t.Fatal("a long frame needs a big slot")
		}
		for _, i := range q.queue {
			q.give(i)
		}
		q.queue = q.queue[:0]
	}
}

// TestEntryThatEndedLongBeforeItsPacketGoesOn: another packet of the flow has
// confirmed the entry, it was deleted, and its slot is free when the first packet
// is taken up.
func TestEntryThatEndedLongBeforeItsPacketGoesOn(t *testing.T) {
	l := coldLab(t)
	l.send("lan", udp("10.0.0.5:1", "203.0.113.99:53"))
	l.wantWaiting(1)
	s := &l.w.pending.slots[l.w.pending.queue[0]]
	l.w.ct.Confirm(s.ref, tickAt(l.now))
	if l.table.Flush() != 1 {
		t.Fatal("no flow to delete")
	}
	for range 5 { // the slot comes back after a batch boundary or two
		l.step()
	}
	l.e.NeighbourFailed(wanID, addr("203.0.113.99"))
	l.step()
	l.wantDrops(NeighbourFailed)
	l.wantFlows()
}
