package host

import (
	"bytes"
	"errors"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

func TestARPIsAnsweredForOwnAndProxiedAddresses(t *testing.T) {
	b := newBench(t, Config{})
	pool := netip.MustParseAddr("10.0.0.200")
	if err := b.SetAddresses(lan, []netip.Prefix{gateway4, gateway6}, []netip.Addr{pool}); err != nil {
		t.Fatal(err)
	}
	b.wire.take()
	for _, tt := range []struct {
		name   string
		target string
		answer bool
	}{
		{"own address", "10.0.0.1", true},
		{"proxied address", "10.0.0.200", true},
		{"another host's address", "10.0.0.7", false},
		{"broadcast address", "10.0.0.255", false},
		{"address of another network", "192.0.2.1", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			target := netip.MustParseAddr(tt.target)
			got := b.hear(arpFrame(t, layers.ARPRequest, broadcastMAC, theirMAC, client4, target))
			if !tt.answer {
				if len(got) != 0 {
					t.Fatalf("answered with %v", got)
				}
				return
			}
			if len(got) != 1 {
				t.Fatalf("got %d frames, want one answer", len(got))
			}
			a, _ := got[0].Layer(layers.LayerTypeARP).(*layers.ARP)
			eth := got[0].LinkLayer().(*layers.Ethernet)
			if a == nil || a.Operation != layers.ARPReply || !bytes.Equal(a.SourceHwAddress, ourMAC[:]) ||
				!bytes.Equal(a.SourceProtAddress, target.AsSlice()) || !bytes.Equal(a.DstProtAddress, client4.AsSlice()) ||
				!bytes.Equal(eth.DstMAC, theirMAC[:]) || !bytes.Equal(eth.SrcMAC, ourMAC[:]) {
				t.Errorf("answer is %v", got[0])
			}
		})
	}
}

func TestARPForRemovedAddressIsNotAnswered(t *testing.T) {
	b := newBench(t, Config{})
	if err := b.SetAddresses(lan, []netip.Prefix{netip.MustParsePrefix("10.0.0.2/24")}, nil); err != nil {
		t.Fatal(err)
	}
	b.wire.take()
	if got := b.hear(arpFrame(t, layers.ARPRequest, broadcastMAC, theirMAC, client4, gateway4.Addr())); len(got) != 0 {
		t.Errorf("old address is answered: %v", got)
	}
	if got := b.hear(arpFrame(t, layers.ARPRequest, broadcastMAC, theirMAC, client4, netip.MustParseAddr("10.0.0.2"))); len(got) != 1 {
		t.Errorf("new address got %d answers, want 1", len(got))
	}
}

func TestNeighbourSolicitationIsAnswered(t *testing.T) {
	b := newBench(t, Config{})
	pool := netip.MustParseAddr("2001:db8::200")
	if err := b.SetAddresses(lan, []netip.Prefix{gateway4, gateway6}, []netip.Addr{pool}); err != nil {
		t.Fatal(err)
	}
	b.wire.take()
	for _, tt := range []struct {
		name   string
		hops   uint8
		src    netip.Addr
		target netip.Addr
		answer bool
	}{
		{"own address", 255, client6, gateway6.Addr(), true},
		{"proxied address", 255, client6, pool, true},
		{"link-local address that the mac gives", 255, client6, linkLocal(ourMAC), true},
		{"asked from a link-local address", 255, linkLocal(theirMAC), gateway6.Addr(), true},
		{"another host's address", 255, client6, netip.MustParseAddr("2001:db8::7"), false},
		{"forwarded solicitation", 254, client6, gateway6.Addr(), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := b.hear(solicit(t, tt.hops, tt.src, tt.target))
			if !tt.answer {
				if len(got) != 0 {
					t.Fatalf("answered with %v", got)
				}
				return
			}
			if len(got) != 1 {
				t.Fatalf("got %d frames, want one answer", len(got))
			}
			na, _ := got[0].Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
			if na == nil || !slices.Equal(na.TargetAddress, tt.target.AsSlice()) || na.Flags != naRouter|naSolicited|naOverride {
				t.Fatalf("answer is %v, want a solicited advertisement of a router", got[0])
			}
			if len(na.Options) != 1 || !bytes.Equal(na.Options[0].Data, ourMAC[:]) {
				t.Errorf("options are %v, want our MAC", na.Options)
			}
		})
	}
}

func TestNewAddressesAreAnnouncedTwice(t *testing.T) {
	b := newBench(t, Config{})
	added4, added6 := netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8:1::1/64")
	pool := netip.MustParseAddr("10.0.0.200")
	if err := b.SetAddresses(lan, []netip.Prefix{gateway4, gateway6, added4, added6}, []netip.Addr{pool}); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		var got []netip.Addr
		for _, p := range b.wire.take() {
			got = append(got, announced(t, p))
		}
		want := []netip.Addr{added4.Addr(), added6.Addr(), pool}
		if !slices.Equal(got, want) {
			t.Errorf("%s: announced %v, want %v", when, got, want)
		}
	}
	check("at once")
	b.clock.Advance(announceAgain)
	check("again")
	b.clock.Advance(10 * announceAgain)
	if got := b.wire.take(); len(got) != 0 {
		t.Errorf("announced a third time: %v", got)
	}
}

// announced returns the address that frame p announces as ours.
func announced(t *testing.T, p gopacket.Packet) netip.Addr {
	t.Helper()
	if a, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok && bytes.Equal(a.SourceProtAddress, a.DstProtAddress) &&
		bytes.Equal(a.SourceHwAddress, ourMAC[:]) && bytes.Equal(p.LinkLayer().LinkFlow().Dst().Raw(), broadcastMAC[:]) {
		addr, _ := netip.AddrFromSlice(a.SourceProtAddress)
		return addr
	}
	if na, ok := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement); ok &&
		na.Flags == naRouter|naOverride && p.NetworkLayer().NetworkFlow().Dst().String() == "ff02::1" {
		addr, _ := netip.AddrFromSlice(na.TargetAddress)
		return addr
	}
	t.Errorf("no announcement: %v", p)
	return netip.Addr{}
}

func TestRemovedAddressIsNotAnnouncedAgain(t *testing.T) {
	b := newBench(t, Config{})
	both := []netip.Prefix{gateway4, gateway6, netip.MustParsePrefix("192.0.2.1/24")}
	if err := b.SetAddresses(lan, both, nil); err != nil {
		t.Fatal(err)
	}
	if err := b.SetAddresses(lan, both[:2], nil); err != nil {
		t.Fatal(err)
	}
	b.wire.take()
	b.clock.Advance(announceAgain)
	if got := b.wire.take(); len(got) != 0 {
		t.Errorf("announced %v after its removal", got)
	}
}

func TestLinkNICLetsNothingElseOut(t *testing.T) {
	b := newBench(t, Config{})
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolICMPv4, SrcIP: client4.AsSlice(), DstIP: gateway4.Addr().AsSlice()}
	ping := serialize(t, &layers.Ethernet{SrcMAC: theirMAC[:], DstMAC: ourMAC[:], EthernetType: layers.EthernetTypeIPv4}, ip,
		&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeEchoRequest, 0), Id: 7, Seq: 1})
	for _, p := range b.hear(ping) {
		if p.Layer(layers.LayerTypeIPv4) != nil {
			t.Errorf("bypassed the engine: %v", p)
		}
	}
}

// A TUN has no neighbours, but its addresses are the gateway's.
func TestPortWithoutFramesHasOnlyAddresses(t *testing.T) {
	b := newBench(t, Config{})
	const tun = 9
	info := port.Info{Name: "tun0", Link: packet.LinkIP}
	if err := b.AddPort(tun, info, &b.wire, b.news.add); err != nil {
		t.Fatal(err)
	}
	if err := b.AddPort(tun, info, &b.wire, b.news.add); !errors.Is(err, ErrPortUsed) {
		t.Errorf("second AddPort: %v, want %v", err, ErrPortUsed)
	}
	own := netip.MustParsePrefix("10.9.9.1/24")
	if err := b.SetAddresses(tun, []netip.Prefix{own}, nil); err != nil {
		t.Fatal(err)
	}
	if !b.isOwn(own.Addr()) {
		t.Errorf("%v is not the gateway's", own.Addr())
	}
	b.RemovePort(tun)
	if b.isOwn(own.Addr()) {
		t.Errorf("%v is still the gateway's after its port went", own.Addr())
	}
	if err := b.SetAddresses(tun, nil, nil); !errors.Is(err, ErrPort) {
		t.Errorf("SetAddresses of a removed port: %v, want %v", err, ErrPort)
	}
}

func TestPortsComeAndGo(t *testing.T) {
	b := newBench(t, Config{})
	info := port.Info{Name: "lan0", MAC: ourMAC, MTU: 1500}
	if err := b.AddPort(lan, info, &b.wire, b.news.add); !errors.Is(err, ErrPortUsed) {
		t.Errorf("second AddPort: %v, want %v", err, ErrPortUsed)
	}
	b.Resolve(lan, client4)
	b.RemovePort(lan)
	if got := b.hear(arpFrame(t, layers.ARPRequest, broadcastMAC, theirMAC, client4, gateway4.Addr())); len(got) != 0 {
		t.Errorf("removed port answers: %v", got)
	}
	if err := b.SetAddresses(lan, nil, nil); !errors.Is(err, ErrPort) {
		t.Errorf("SetAddresses of a removed port: %v, want %v", err, ErrPort)
	}
	if err := b.AddPort(lan, info, &b.wire, b.news.add); err != nil {
		t.Fatal(err)
	}
	if err := b.SetAddresses(lan, []netip.Prefix{gateway4}, nil); err != nil {
		t.Fatal(err)
	}
	b.wire.take()
	if got := b.hear(arpFrame(t, layers.ARPRequest, broadcastMAC, theirMAC, client4, gateway4.Addr())); len(got) != 1 {
		t.Errorf("port that came back gave %d answers, want 1", len(got))
	}
}

func TestFullLinkRingRefusesAndCounts(t *testing.T) {
	b := newBench(t, Config{QueueLen: 64})
	frame := arpFrame(t, layers.ARPRequest, broadcastMAC, theirMAC, client4, gateway4.Addr())
	taken := 0
	for b.DeliverLink(lan, frame) {
		taken++
	}
	if taken != 48 {
		t.Errorf("ring took %d broadcast frames, want 48 of its 64", taken)
	}
	toUs := arpFrame(t, layers.ARPRequest, ourMAC, theirMAC, client4, gateway4.Addr())
	for b.DeliverLink(lan, toUs) {
		taken++
	}
	if taken != 64 {
		t.Errorf("ring took %d frames, want 64", taken)
	}
	if got := b.Stats().LinkFull; got != 2 {
		t.Errorf("LinkFull = %d, want 2", got)
	}
	b.Poll()
	if got := len(b.wire.take()); got != taken {
		t.Errorf("%d answers, want %d", got, taken)
	}
	if !b.DeliverLink(lan, frame) {
		t.Error("ring stays full after Poll")
	}
}

func TestRefusedFramesAreCounted(t *testing.T) {
	b := newBench(t, Config{})
	b.wire.status = port.Down
	b.hear(arpFrame(t, layers.ARPRequest, broadcastMAC, theirMAC, client4, gateway4.Addr()))
	if got := b.Stats().LinkRefused; got != 1 {
		t.Errorf("LinkRefused = %d, want 1", got)
	}
}

func TestTagSetsTheVLAN(t *testing.T) {
	var w tagWire
	p := packet.Packet{}
	Tag(&w, 42).Send(&p)
	if w.vlan != 42 || !w.has {
		t.Errorf("sent with tag %d (%v), want 42", w.vlan, w.has)
	}
}

type tagWire struct {
	wire
	vlan uint16
	has  bool
}

func (w *tagWire) Send(p *packet.Packet) port.Status {
	w.vlan, w.has = p.VLAN, p.HasVLAN
	return port.Sent
}
