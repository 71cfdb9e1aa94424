package dataplane

import (
	"slices"
	"testing"
	"time"
)

func TestAnnouncedNeighbourIsUsedAndThenVerified(t *testing.T) {
	l := newLab(t, labConfig{})
	forged := [6]byte{2, 9, 9, 9, 9, 9}
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.take("wan")
	l.advance(time.Second)
	l.e.verifyNeighbours()
	if len(l.host.asked) != 0 {
		t.Errorf("asked for %v, who answered a moment ago", l.host.asked)
	}
	l.e.NeighbourAnnounced(lanID, addr("10.0.0.5"), forged)
	l.e.verifyNeighbours()
	if len(l.host.asked) != 0 {
		t.Errorf("asked for %v, to whom nothing was sent", l.host.asked)
	}
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:1"))
	if mac := [6]byte(l.take("lan").Data); mac != forged {
		t.Errorf("sent to %x, want the address that was announced last, %x", mac, forged)
	}
	l.e.verifyNeighbours()
	if want := []string{"10.0.0.5"}; !slices.Equal(l.host.asked, want) {
		t.Errorf("asked for %v, want %v", l.host.asked, want)
	}
	l.resolve(lanID, "10.0.0.5")
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:1"))
	if mac := [6]byte(l.take("lan").Data); mac != macOf(addr("10.0.0.5")) {
		t.Errorf("sent to %x, want %x, which answered", mac, macOf(addr("10.0.0.5")))
	}
	l.e.verifyNeighbours()
	if len(l.host.asked) != 1 {
		t.Errorf("asked again: %v", l.host.asked)
	}
}
