package host

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"example.com/culvert/dataplane/port"
)

// question returns who a probe asks for, for whom, and whether it goes to everybody.
func question(t *testing.T, p gopacket.Packet) (target, sender netip.Addr, everybody bool) {
	t.Helper()
	dst := p.LinkLayer().LinkFlow().Dst().Raw()
	everybody = dst[0]&1 != 0
	if a, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok && a.Operation == layers.ARPRequest && bytes.Equal(a.SourceHwAddress, ourMAC[:]) {
		target, _ = netip.AddrFromSlice(a.DstProtAddress)
		sender, _ = netip.AddrFromSlice(a.SourceProtAddress)
		return target, sender, everybody
	}
	if ns, ok := p.Layer(layers.LayerTypeICMPv6NeighborSolicitation).(*layers.ICMPv6NeighborSolicitation); ok {
		target, _ = netip.AddrFromSlice(ns.TargetAddress)
		sender, _ = netip.AddrFromSlice(p.NetworkLayer().NetworkFlow().Src().Raw())
		return target, sender, everybody
	}
	t.Fatalf("no question: %v", p)
	return
}

func wantNews(t *testing.T, when string, got []Neighbour, want ...Neighbour) {
	t.Helper()
	for i := range want {
		want[i].Port = lan
	}
	if !slices.Equal(got, want) {
		t.Errorf("%s: told %v, want %v", when, got, want)
	}
}

func arpAnswer(t testing.TB, mac [6]byte) []byte {
	return arpFrame(t, layers.ARPReply, ourMAC, mac, client4, gateway4.Addr())
}

func TestResolveAsksAndTells(t *testing.T) {
	for _, tt := range []struct {
		name         string
		addr, source netip.Addr
		answer       []byte
	}{
		{"arp", client4, gateway4.Addr(), arpAnswer(t, theirMAC)},
		{"neighbour discovery", client6, gateway6.Addr(), advertise(t, theirMAC, naSolicited|naOverride, gateway6.Addr(), client6)},
		{"off-link next hop", netip.MustParseAddr("192.0.2.9"), gateway4.Addr(),
			arpFrame(t, layers.ARPReply, ourMAC, theirMAC, netip.MustParseAddr("192.0.2.9"), gateway4.Addr())},
		{"link-local next hop", linkLocal(theirMAC), linkLocal(ourMAC), advertise(t, theirMAC, naSolicited, linkLocal(ourMAC), linkLocal(theirMAC))},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, Config{})
			frames, told := b.ask(tt.addr)
			if len(frames) != 1 {
				t.Fatalf("%d frames, want one question", len(frames))
			}
			if target, sender, everybody := question(t, frames[0]); target != tt.addr || sender != tt.source || !everybody {
				t.Errorf("asked for %v from %v (everybody: %v), want %v from %v", target, sender, everybody, tt.addr, tt.source)
			}
			wantNews(t, "before an answer", told)
			if again, _ := b.ask(tt.addr); len(again) != 0 {
				t.Errorf("asked twice: %v", again)
			}
			b.hear(tt.answer)
			wantNews(t, "after the answer", b.news.take(), Neighbour{Addr: tt.addr, MAC: theirMAC, State: Reachable})
			b.clock.Advance(time.Minute)
			wantNews(t, "later", b.news.take())
			if got := b.wire.take(); len(got) != 0 {
				t.Errorf("asked on: %v", got)
			}
		})
	}
}

func TestSilenceFailsAfterThreeProbes(t *testing.T) {
	for _, addr := range []netip.Addr{client4, client6} {
		b := newBench(t, Config{})
		frames, _ := b.ask(addr)
		b.clock.Advance(2 * time.Second)
		frames = append(frames, b.wire.take()...)
		wantNews(t, "after 2 s", b.news.take())
		b.clock.Advance(time.Second + sweepEvery)
		wantNews(t, "after 3 s", b.news.take(), Neighbour{Addr: addr, State: Failed})
		if frames = append(frames, b.wire.take()...); len(frames) != maxProbes {
			t.Errorf("%v: %d probes, want %d", addr, len(frames), maxProbes)
		}
		if frames, _ = b.ask(addr); len(frames) != 1 {
			t.Errorf("%v: asking again sent %d frames, want 1", addr, len(frames))
		}
	}
}

func TestFreshNeighbourNeedsNoQuestion(t *testing.T) {
	b := newBench(t, Config{})
	b.ask(client4)
	b.hear(arpAnswer(t, theirMAC))
	b.news.take()
	frames, told := b.ask(client4)
	wantNews(t, "asked at once", told, Neighbour{Addr: client4, MAC: theirMAC, State: Reachable})
	if len(frames) != 0 {
		t.Errorf("asked: %v", frames)
	}
}

func TestOldNeighbourIsVerified(t *testing.T) {
	b := newBench(t, Config{})
	b.ask(client4)
	b.hear(arpAnswer(t, theirMAC))
	b.news.take()
	b.clock.Advance(confirmFor)

	frames, told := b.ask(client4)
	wantNews(t, "meanwhile", told, Neighbour{Addr: client4, MAC: theirMAC, State: Stale})
	if _, _, everybody := question(t, frames[0]); everybody {
		t.Error("first probe goes to everybody, want unicast")
	}
	b.clock.Advance(2*time.Second + 2*sweepEvery)
	frames = b.wire.take()
	if len(frames) != 2 {
		t.Fatalf("%d more probes, want 2", len(frames))
	}
	if _, _, everybody := question(t, frames[1]); !everybody {
		t.Error("last probe is unicast, want it to find a changed MAC")
	}
	b.hear(arpAnswer(t, otherMAC))
	wantNews(t, "after the answer", b.news.take(), Neighbour{Addr: client4, MAC: otherMAC, State: Reachable})
}

func TestChangedMACIsTold(t *testing.T) {
	everyone := netip.IPv6LinkLocalAllNodes()
	for _, tt := range []struct {
		name   string
		addr   netip.Addr
		first  []byte
		notice []byte
		state  State // 0: must not be believed
	}{
		{"gratuitous arp request", client4, arpAnswer(t, theirMAC), arpFrame(t, layers.ARPRequest, broadcastMAC, otherMAC, client4, client4), Stale},
		{"gratuitous arp reply", client4, arpAnswer(t, theirMAC), arpFrame(t, layers.ARPReply, broadcastMAC, otherMAC, client4, client4), Stale},
		{"request for somebody else", client4, arpAnswer(t, theirMAC),
			arpFrame(t, layers.ARPRequest, broadcastMAC, otherMAC, client4, netip.MustParseAddr("10.0.0.9")), Stale},
		{"advertisement with override", client6, advertise(t, theirMAC, naSolicited, gateway6.Addr(), client6), advertise(t, otherMAC, naOverride, everyone, client6), Stale},
		{"advertisement without override is not believed", client6, advertise(t, theirMAC, naSolicited, gateway6.Addr(), client6), advertise(t, otherMAC, 0, everyone, client6), 0},
		{"multicast station address is not believed", client4, arpAnswer(t, theirMAC), arpFrame(t, layers.ARPReply, broadcastMAC, [6]byte{3}, client4, client4), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t, Config{})
			b.ask(tt.addr)
			b.hear(tt.first)
			b.news.take()
			b.hear(tt.notice)
			wantNews(t, "within the lock time", b.news.take())
			b.clock.Advance(lockTime)
			b.hear(tt.notice)
			if tt.state == 0 {
				wantNews(t, "after it", b.news.take())
				return
			}
			wantNews(t, "after it", b.news.take(), Neighbour{Addr: tt.addr, MAC: otherMAC, State: tt.state})
		})
	}
}

func TestMACThatChangesTwiceAtOnceIsAskedFor(t *testing.T) {
	b := newBench(t, Config{})
	b.ask(client4)
	b.hear(arpAnswer(t, theirMAC))
	b.news.take()
	b.hear(arpFrame(t, layers.ARPReply, broadcastMAC, otherMAC, client4, client4))
	if got := b.wire.take(); len(got) != 0 {
		t.Errorf("asked within the lock time: %v", got)
	}
	b.clock.Advance(lockTime + sweepEvery)
	frames := b.wire.take()
	if len(frames) != 1 {
		t.Fatalf("%d frames after the lock time, want one question", len(frames))
	}
	if target, _, everybody := question(t, frames[0]); target != client4 || !everybody {
		t.Errorf("asked for %v (everybody: %v), want everybody for %v", target, everybody, client4)
	}
	b.hear(arpAnswer(t, otherMAC))
	wantNews(t, "after the answer", b.news.take(), Neighbour{Addr: client4, MAC: otherMAC, State: Reachable})
}

func TestStrangersAreKeptOnlyFromTheLink(t *testing.T) {
	b := newBench(t, Config{})
	far := netip.MustParseAddr("192.0.2.77")
	b.hear(arpFrame(t, layers.ARPRequest, broadcastMAC, theirMAC, client4, gateway4.Addr()))
	b.hear(arpFrame(t, layers.ARPRequest, broadcastMAC, theirMAC, far, gateway4.Addr()))
	wantNews(t, "unasked", b.news.take(), Neighbour{Addr: client4, MAC: theirMAC, State: Stale})
	_, told := b.ask(client4)
	wantNews(t, "neighbour that asked before", told, Neighbour{Addr: client4, MAC: theirMAC, State: Stale})
	_, told = b.ask(far)
	wantNews(t, "address off the link", told)
}

// TestMACThatChangesWhileItIsVerifiedIsAskedFor: the probes under way go to a station
// that is not there any more.
func TestMACThatChangesWhileItIsVerifiedIsAskedFor(t *testing.T) {
	notice := func(mac [6]byte) []byte { return arpFrame(t, layers.ARPReply, broadcastMAC, mac, client4, client4) }
	b := newBench(t, Config{})
	b.ask(client4)
	b.hear(arpAnswer(t, theirMAC))
	b.clock.Advance(2 * lockTime)
	b.hear(notice(otherMAC))
	b.clock.Advance(lockTime / 4)
	if frames, _ := b.ask(client4); len(frames) != 1 {
		t.Fatalf("%d frames, want a probe of the MAC that was announced", len(frames))
	}
	b.clock.Advance(lockTime / 4)
	b.hear(notice(theirMAC))
	b.clock.Advance(probeEvery)
	frames := b.wire.take()
	if len(frames) != 1 {
		t.Fatalf("%d frames after the lock time, want one question", len(frames))
	}
	if _, _, everybody := question(t, frames[0]); !everybody {
		t.Error("the question goes to the MAC in doubt, want everybody asked")
	}
	b.news.take()
	b.hear(arpAnswer(t, theirMAC))
	wantNews(t, "after the answer", b.news.take(), Neighbour{Addr: client4, MAC: theirMAC, State: Reachable})
}

// TestMoveOfANeighbourThatTheLinkHasForgottenIsTold: the engine still uses its old MAC,
// and would for half a minute.
func TestMoveOfANeighbourThatTheLinkHasForgottenIsTold(t *testing.T) {
	everyone := netip.IPv6LinkLocalAllNodes()
	for _, tt := range []struct {
		name   string
		addr   netip.Addr
		notice []byte
		told   bool
	}{
		{"arp", client4, arpFrame(t, layers.ARPReply, broadcastMAC, otherMAC, client4, client4), true},
		{"neighbour discovery", client6, advertise(t, otherMAC, naOverride, everyone, client6), true},
		{"without override", client6, advertise(t, otherMAC, 0, everyone, client6), false},
		{"off the link", netip.MustParseAddr("192.0.2.77"), arpFrame(t, layers.ARPReply, broadcastMAC, otherMAC, netip.MustParseAddr("192.0.2.77"), client4), false},
	} {
		b := newBench(t, Config{})
		b.ask(client4)
		b.hear(arpAnswer(t, theirMAC))
		b.RemovePort(lan)
		if err := b.AddPort(lan, port.Info{Name: "lan0", MAC: ourMAC, MTU: 1400}, &b.wire, b.news.add); err != nil {
			t.Fatal(err)
		}
		if err := b.SetAddresses(lan, []netip.Prefix{gateway4, gateway6}, nil); err != nil {
			t.Fatal(err)
		}
		b.news.take()
		b.hear(tt.notice)
		want := []Neighbour{}
		if tt.told {
			want = append(want, Neighbour{Addr: tt.addr, MAC: otherMAC, State: Stale})
		}
		wantNews(t, tt.name, b.news.take(), want...)
	}
}

func TestUnsolicitedAnswersProveNothing(t *testing.T) {
	b := newBench(t, Config{})
	b.hear(arpFrame(t, layers.ARPRequest, broadcastMAC, theirMAC, client4, gateway4.Addr()))
	b.hear(arpAnswer(t, theirMAC))
	b.news.take()
	frames, told := b.ask(client4)
	wantNews(t, "asked", told, Neighbour{Addr: client4, MAC: theirMAC, State: Stale})
	if len(frames) != 1 {
		t.Errorf("%d probes, want 1", len(frames))
	}
}

func TestNeighboursAreBounded(t *testing.T) {
	b := newBench(t, Config{Neighbours: 4})
	at := func(i byte) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, 0, 100 + i}) }
	for i := range byte(4) {
		b.ask(at(i))
		b.clock.Advance(time.Millisecond)
	}
	_, told := b.ask(at(4))
	wantNews(t, "table full of questions", told, Neighbour{Addr: at(0), State: Failed})
	if got := b.Stats().NeighboursFull; got != 1 {
		t.Errorf("NeighboursFull = %d, want 1", got)
	}
	b.hear(arpFrame(t, layers.ARPReply, ourMAC, theirMAC, at(2), gateway4.Addr()))
	b.news.take()
	if frames, told := b.ask(at(5)); len(frames) != 1 || len(told) != 0 {
		t.Errorf("after an answer: %d questions and news %v, want an old neighbour replaced", len(frames), told)
	}
}

func TestConflictIsCounted(t *testing.T) {
	b := newBench(t, Config{})
	b.hear(arpFrame(t, layers.ARPRequest, broadcastMAC, theirMAC, gateway4.Addr(), gateway4.Addr()))
	if got := b.Stats().Conflicts; got != 1 {
		t.Errorf("Conflicts = %d, want 1", got)
	}
	wantNews(t, "conflict", b.news.take())
}

func TestMalformedFramesAreHarmless(t *testing.T) {
	b := newBench(t, Config{})
	seeds := [][]byte{
		arpFrame(t, layers.ARPRequest, broadcastMAC, theirMAC, client4, gateway4.Addr()),
		solicit(t, 255, client6, gateway6.Addr()),
		advertise(t, theirMAC, naOverride, gateway6.Addr(), client6),
	}
	b.ask(client4)
	b.ask(client6)
	for _, frame := range seeds {
		for cut := range min(len(frame), 42) { // what follows in an ARP frame is padding
			b.hear(frame[:cut])
		}
	}
	for _, n := range b.news.take() {
		t.Errorf("believed a truncated frame: %v", n)
	}
}

func FuzzReceive(f *testing.F) {
	f.Add(arpFrame(f, layers.ARPRequest, broadcastMAC, theirMAC, client4, gateway4.Addr()))
	f.Add(solicit(f, 255, client6, gateway6.Addr()))
	f.Add(advertise(f, theirMAC, naOverride, gateway6.Addr(), client6))
	b := newBench(f, Config{Neighbours: 8})
	f.Fuzz(func(t *testing.T, frame []byte) {
		c := parseClaim(frame, ourMAC)
		if c.kind != claimNone && (!c.addr.IsValid() || c.addr.IsMulticast()) {
			t.Errorf("%x claims %v", frame, c.addr)
		}
		b.DeliverLink(lan, frame)
		b.Poll()
		b.wire.take()
		if n := len((*b.byID.Load())[lan].neighbours); n > 8 {
			t.Errorf("%d neighbours, want at most 8", n)
		}
	})
}
