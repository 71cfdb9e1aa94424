package dataplane

import "testing"

func TestEgressThatTakesNothing(t *testing.T) {
	l := newLab(t, labConfig{})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.take("wan")
	l.ports["wan"].SetDown()
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.send("lan", udp("10.0.0.5:2", "198.51.100.7:53"))
	l.wantDrops(EgressDown, EgressDown)
	l.wantFlows("udp 10.0.0.5:1 > 198.51.100.7:53 / udp 198.51.100.7:53 > 203.0.113.1:1")
	l.ports["wan"].SetUp()
	l.send("lan", udp("10.0.0.5:2", "198.51.100.7:53"))
	l.take("wan")
	l.wantDrops()
}

func TestNeighbourTableFull(t *testing.T) {
	l := newLab(t, labConfig{cold: true, engine: func(c *Config) { c.Neighbours = 1 }})
	l.send("lan", udp("10.0.0.5:1", "203.0.113.7:53"))
	l.send("lan", udp("10.0.0.5:1", "203.0.113.8:53"))
	l.wantDrops(NeighboursFull)
	l.wantWaiting(1)
	if n := l.table.Len(); n != 1 {
		t.Errorf("%d entries, want that of the packet that waits", n)
	}
	l.advance(6e9)
	l.ports["lan"].Take()
	l.wantDrops(NeighbourFailed)
	l.send("lan", udp("10.0.0.5:1", "203.0.113.8:53")) // its turn
	l.wantWaiting(1)
	l.wantDrops()
}

func TestOwnStackHearsOfThePathMTU(t *testing.T) {
	l := newLab(t, labConfig{ports: small(true)})
	l.injectHost(udp("203.0.113.1:1", "198.51.100.7:9", length(1373), dontFragment()))
	l.want("host", "icmp 198.51.100.7 > 203.0.113.1 3/4 mtu 1400 [udp 203.0.113.1:1 > 198.51.100.7:9 ttl 64 len 520 BAD-LENGTH 1401 of 548]")
	l.wantDrops(TooBigForEgress)
	l.wantFlows()
}

func TestPortStats(t *testing.T) {
	l := newLab(t, labConfig{ports: vlans})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	sent := len(l.take("wan").Data)
	got := map[string]PortStats{}
	for _, s := range l.e.PortStats() {
		got[s.Name] = s
	}
	if s := got["lan"]; s.ID != lanID || s.RxFrames != 1 || s.RxBytes != uint64(sent) || s.TxFrames != 0 {
		t.Errorf("lan: %+v, want the one frame received", s)
	}
	if s := got["wan"]; s.ID != wanID || s.TxFrames != 1 || s.TxBytes != uint64(sent) || s.RxFrames != 0 {
		t.Errorf("wan: %+v, want the one frame sent", s)
	}
	if _, own := got["lan.7"]; own || len(got) != 4 {
		t.Errorf("%d ports, want host, lan, wan and guest: a VLAN has no queues", len(got))
	}
}

// What leaves by a sub-interface must keep its order with what leaves by its parent.
func TestSubInterfaceSharesItsParentsQueue(t *testing.T) {
	l := newLab(t, labConfig{ports: vlans})
	v := l.e.view.Load()
	if v.sinks[0].wire[extraID] != v.sinks[0].wire[lanID] {
		t.Error("the sub-interface has a queue of its own")
	}
	if v.portOf(extraID).mac != v.portOf(lanID).mac {
		t.Error("the sub-interface has another link-layer address than its parent")
	}
}
