package host

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"example.com/culvert/dataplane/packet"
)

// TestLocalFloodLosesNothingOfTheLink: however many packets come for the gateway
// itself, no question of a worker, no answer of a neighbour and no question of a host
// is lost or waits for long.
func TestLocalFloodLosesNothingOfTheLink(t *testing.T) {
	b := newBench(t, Config{QueueLen: 64})
	ping := echo(t, gateway4.Addr())
	for range 100 {
		for b.DeliverLocal(ping, packet.Offload{}) {
		}
		b.Resolve(lan, client4)
		if !b.DeliverLink(lan, solicit(t, hopLimit, client6, gateway6.Addr())) {
			t.Fatal("a neighbour solicitation was refused")
		}
		b.poll() // one turn, and the flood goes on
		asked := false
		frames := b.wire.take()
		for _, f := range frames {
			asked = asked || f.Layer(layers.LayerTypeARP) != nil
		}
		if !asked || len(frames) != 2 {
			t.Fatalf("%d frames left within one turn, want the question and the advertisement", len(frames))
		}
		b.news.take() // of the stranger
		if !b.DeliverLink(lan, arpAnswer(t, theirMAC)) {
			t.Fatal("an answer was refused")
		}
		b.poll()
		wantNews(t, "within one turn", b.news.take(), Neighbour{Addr: client4, MAC: theirMAC, State: Reachable})
		b.clock.Advance(time.Minute)
		b.forget(client4)
	}
	if s := b.Stats(); s.LinkFull != 0 || s.AskFull != 0 || s.LocalFull == 0 {
		t.Errorf("%d link frames and %d questions were refused, want none; %d local packets, want some", s.LinkFull, s.AskFull, s.LocalFull)
	}
}

// forget makes the host ask for a anew.
func (b *bench) forget(a netip.Addr) {
	l := (*b.byID.Load())[lan]
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forgetLocked(a)
}

// TestBroadcastFloodLeavesRoomForAnswers: what is sent to everybody cannot fill the ring.
func TestBroadcastFloodLeavesRoomForAnswers(t *testing.T) {
	b := newBench(t, Config{QueueLen: 64})
	b.ask(client4)
	noise := arpFrame(t, layers.ARPRequest, broadcastMAC, otherMAC, client4.Next(), client4.Next().Next())
	for b.DeliverLink(lan, noise) {
	}
	b.hear(arpAnswer(t, theirMAC))
	wantNews(t, "after the answer", b.news.take(), Neighbour{Addr: client4.Next(), MAC: otherMAC, State: Stale}, Neighbour{Addr: client4, MAC: theirMAC, State: Reachable})
}

// TestNeighbourIsNotGivenUpForAnswersLostHere: verification goes on while the link
// ring loses frames, for a time.
func TestNeighbourIsNotGivenUpForAnswersLostHere(t *testing.T) {
	for _, tt := range []struct {
		claim string
		lose  func(b *bench)
		fails time.Duration // after the question
	}{
		{"nothing was lost", func(*bench) {}, 3 * time.Second},
		{"the ring is full all the time", func(b *bench) {
			for b.DeliverLink(lan, arpAnswer(b.t, theirMAC)[:20]) {
			}
			b.Poll()
		}, patience},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			b := newBench(t, Config{QueueLen: 64})
			b.ask(client4)
			b.hear(arpAnswer(t, theirMAC))
			b.clock.Advance(confirmFor)
			b.news.take()
			_, told := b.ask(client4)
			wantNews(t, "asked", told, Neighbour{Addr: client4, MAC: theirMAC, State: Stale})
			failed := time.Duration(0)
			for at := time.Duration(0); at < 2*patience && failed == 0; at += 100 * time.Millisecond {
				tt.lose(b)
				b.clock.Advance(100 * time.Millisecond)
				if len(b.news.take()) > 0 {
					failed = at + 100*time.Millisecond
				}
			}
			if failed < tt.fails || failed > tt.fails+2*time.Second {
				t.Errorf("given up after %v, want %v", failed, tt.fails)
			}
		})
	}
	t.Run("an answer that comes late counts", func(t *testing.T) {
		b := newBench(t, Config{})
		b.ask(client4)
		b.hear(arpAnswer(t, theirMAC))
		b.clock.Advance(confirmFor)
		b.ask(client4)
		b.clock.Advance(2 * time.Second)
		b.DeliverLink(lan, arpAnswer(t, theirMAC)) // nobody looks at it yet
		b.clock.Advance(2 * time.Second)
		wantNews(t, "while the answer waits", b.news.take())
		b.Poll()
		wantNews(t, "after it was read", b.news.take(), Neighbour{Addr: client4, MAC: theirMAC, State: Reachable})
	})
}
