package vnet

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"example.com/culvert/dataplane"
)

// packetOf builds a packet from its description.
func packetOf(t *testing.T, format string, args ...any) []byte {
	t.Helper()
	d, _, err := parseDesc(strings.Fields(fmt.Sprintf(format, args...)))
	if err != nil {
		t.Fatal(err)
	}
	ip, err := d.build()
	if err != nil {
		t.Fatal(err)
	}
	return ip
}

// TestScanOfAPrefixDelaysNobody: one client scans a prefix of the outside link as fast
// as the gateway takes it, another pings hosts there that are not yet known. All
// answers come at once, with the own stack's questions and limits in between.
func TestScanOfAPrefixDelaysNobody(t *testing.T) {
	n := home(t)
	for i := range 5 {
		n.Host("wan", fmt.Sprintf("203.0.113.%d/24", 100+i), fmt.Sprintf("2001:db8:2::%x/64", 100+i))
	}
	lan := n.Link("lan")
	scanned := 0
	for i := range 5 {
		for range 10 {
			for range 200 {
				scanned++
				lan.Send(packetOf(t, "udp [2001:db8:1::66]:9 > [2001:db8:2:0:1::%x]:9", scanned))
			}
			n.Advance(100 * time.Millisecond)
		}
		lan.Take()
		lan.Send(packetOf(t, "icmp 10.0.0.5 > 203.0.113.%d echo id 7 seq 1", 100+i))
		lan.Send(packetOf(t, "icmp 2001:db8:1::5 > 2001:db8:2::%x echo id 7 seq 1", 100+i))
		if got := len(lan.Take()); got != 2 {
			t.Errorf("%d answers to the pings of neighbours %d, want 2", got, i)
		}
	}
	s := n.Engine.Stats()
	if s.Dropped[dataplane.NeighboursFull] == 0 || s.Dropped[dataplane.NeighbourFailed] == 0 {
		t.Errorf("dropped %d as %v, %d as %v; want both to tell of the scan", s.Dropped[dataplane.NeighboursFull],
			dataplane.NeighboursFull, s.Dropped[dataplane.NeighbourFailed], dataplane.NeighbourFailed)
	}
	if h := n.Stack.Stats(); h.NeighboursFull+h.AskFull+h.LinkFull != 0 {
		t.Errorf("the own stack was overrun: %+v", h)
	}
}
