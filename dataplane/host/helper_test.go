package host

import (
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"gvisor.dev/gvisor/pkg/tcpip/faketime"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/internal/await"
)

var (
	ourMAC   = [6]byte{2, 0, 0, 0, 0, 1}
	theirMAC = [6]byte{2, 0, 0, 0, 0, 5}
	otherMAC = [6]byte{2, 0, 0, 0, 0, 6}

	gateway4 = netip.MustParsePrefix("10.0.0.1/24")
	gateway6 = netip.MustParsePrefix("2001:db8::1/64")
	client4  = netip.MustParseAddr("10.0.0.5")
	client6  = netip.MustParseAddr("2001:db8::5")
)

// wire keeps what is sent out of a port.
type wire struct {
	mu     sync.Mutex
	frames [][]byte
	status port.Status // of every Send
}

func (w *wire) Send(p *packet.Packet) port.Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status == port.Sent {
		w.frames = append(w.frames, append([]byte(nil), p.Frame()...))
	}
	return w.status
}

func (w *wire) Flush() (refused [port.NumStatuses]uint32) { return refused }

// take returns what was sent since the last call.
func (w *wire) take() []gopacket.Packet {
	w.mu.Lock()
	defer w.mu.Unlock()
	var ps []gopacket.Packet
	for _, f := range w.frames {
		ps = append(ps, gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default))
	}
	w.frames = nil
	return ps
}

// news keeps what onNeighbour said.
type news struct {
	mu  sync.Mutex
	all []Neighbour
}

func (n *news) add(e Neighbour) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, e)
}

func (n *news) take() []Neighbour {
	n.mu.Lock()
	defer n.mu.Unlock()
	a := n.all
	n.all = nil
	return a
}

// bench is a host with one link, in virtual time and polled by hand.
type bench struct {
	*Host
	t     testing.TB
	clock *faketime.ManualClock
	wire  wire
	news  news
}

const lan = 3 // port index

func newBench(t testing.TB, cfg Config) *bench {
	t.Helper()
	b := &bench{t: t, clock: faketime.NewManualClock()}
	cfg.Clock, cfg.Pump = b.clock, PumpManual
	cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	var err error
	if b.Host, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	if err := b.AddPort(lan, port.Info{Name: "lan0", MAC: ourMAC, MTU: 1500}, &b.wire, b.news.add); err != nil {
		t.Fatal(err)
	}
	if err := b.SetAddresses(lan, []netip.Prefix{gateway4, gateway6}, nil); err != nil {
		t.Fatal(err)
	}
	b.clock.Advance(announceAgain)
	b.wire.take()
	return b
}

// hear delivers a frame and returns what the host answers.
func (b *bench) hear(frame []byte) []gopacket.Packet {
	b.t.Helper()
	if !b.DeliverLink(lan, frame) {
		b.t.Fatal("link ring is full")
	}
	b.Poll()
	b.clock.RunImmediatelyScheduledJobs()
	return b.wire.take()
}

// ask resolves addr and returns the frames and the news that came of it at once.
func (b *bench) ask(addr netip.Addr) ([]gopacket.Packet, []Neighbour) {
	b.Resolve(lan, addr)
	b.Poll()
	return b.wire.take(), b.news.take()
}

func serialize(t testing.TB, ls ...gopacket.SerializableLayer) []byte {
	t.Helper()
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	return append([]byte(nil), buf.Bytes()...)
}

// arpFrame builds an ARP frame; dst is the Ethernet destination.
func arpFrame(t testing.TB, op uint16, dst, srcMAC [6]byte, src netip.Addr, target netip.Addr) []byte {
	t.Helper()
	return serialize(t,
		&layers.Ethernet{SrcMAC: srcMAC[:], DstMAC: dst[:], EthernetType: layers.EthernetTypeARP},
		&layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: op, SourceHwAddress: srcMAC[:], SourceProtAddress: src.AsSlice(),
			DstHwAddress: make([]byte, 6), DstProtAddress: target.AsSlice()})
}

// ndp builds a frame of neighbour discovery with a hop limit.
func ndp(t testing.TB, hops uint8, dstMAC, srcMAC [6]byte, src, dst netip.Addr, typ uint8, body gopacket.SerializableLayer) []byte {
	t.Helper()
	ip := &layers.IPv6{Version: 6, HopLimit: hops, NextHeader: layers.IPProtocolICMPv6, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(typ, 0)}
	if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	return serialize(t, &layers.Ethernet{SrcMAC: srcMAC[:], DstMAC: dstMAC[:], EthernetType: layers.EthernetTypeIPv6}, ip, icmp, body)
}

func solicit(t testing.TB, hops uint8, src, target netip.Addr) []byte {
	group := solicitedNode(target)
	return ndp(t, hops, multicastMAC(group), theirMAC, src, group, layers.ICMPv6TypeNeighborSolicitation,
		&layers.ICMPv6NeighborSolicitation{TargetAddress: target.AsSlice(),
			Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: theirMAC[:]}}})
}

// Flags of a neighbour advertisement.
const (
	naRouter    = 0x80
	naSolicited = 0x40
	naOverride  = 0x20
)

func advertise(t testing.TB, mac [6]byte, flags uint8, dst, target netip.Addr) []byte {
	return ndp(t, 255, ourMAC, mac, target, dst, layers.ICMPv6TypeNeighborAdvertisement,
		&layers.ICMPv6NeighborAdvertisement{Flags: flags, TargetAddress: target.AsSlice(),
			Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: mac[:]}}})
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	await.Until(t, what, cond)
}
