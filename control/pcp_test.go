package control

import (
	"encoding/binary"
	"encoding/hex"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

const requesting = masquerading + "[pcp]\nenabled = true\n"

// datagram puts a UDP packet into a port.
func (b *bench) datagram(t *testing.T, name, from, to string, payload []byte) {
	t.Helper()
	src, dst := netip.MustParseAddrPort(from), netip.MustParseAddrPort(to)
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
	udp := &layers.UDP{SrcPort: layers.UDPPort(src.Port()), DstPort: layers.UDPPort(dst.Port())}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opts, ip, udp, gopacket.Payload(payload)); err != nil {
		t.Fatal(err)
	}
	if st := b.ports[name].Inject(buf.Bytes(), packet.Offload{}); st != port.Sent {
		t.Fatalf("%s did not take the packet: %v", name, st)
	}
}

// datagramFrom waits for a UDP packet on a port.
func (b *bench) datagramFrom(t *testing.T, name string) (from, to string, payload []byte) {
	t.Helper()
	var frames [][]byte
	eventually(t, "packet on "+name, func() bool {
		frames = b.ports[name].Take()
		return len(frames) > 0
	})
	p := gopacket.NewPacket(frames[0], layers.LayerTypeIPv4, gopacket.Default)
	ip, ok := p.NetworkLayer().(*layers.IPv4)
	udp, isUDP := p.TransportLayer().(*layers.UDP)
	if !ok || !isUDP {
		t.Fatalf("%s sent no UDP over IPv4: %x", name, frames[0])
	}
	join := func(a net.IP, p layers.UDPPort) string {
		addr, _ := netip.AddrFromSlice(a)
		return netip.AddrPortFrom(addr, uint16(p)).String()
	}
	return join(ip.SrcIP, udp.SrcPort), join(ip.DstIP, udp.DstPort), udp.Payload
}

func TestHostsAskForPorts(t *testing.T) {
	text := strings.Replace(requesting, `addresses = ["203.0.113.1/24"]`, "addresses = [\"203.0.113.1/24\"]\nnext_hop = \"203.0.113.254\"", 1)
	b := newBench(t, text, Options{}, "lan0", "wan0")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	// MAP UDP 4000, nonce 1, an hour, suggested port 7000 of any IPv4 address.
	ask, _ := hex.DecodeString("02010000" + "00000e10" + "00000000000000000000ffff0a000005" +
		"000000000000000000000001" + "11000000" + "0fa01b58" + "00000000000000000000ffff00000000")
	b.datagram(t, "lan0", "10.0.0.5:50000", "10.0.0.1:5351", ask)
	from, to, got := b.datagramFrom(t, "lan0")
	if from != "10.0.0.1:5351" || to != "10.0.0.5:50000" || len(got) != 60 || got[3] != 0 {
		t.Fatalf("answer from %s to %s: %x", from, to, got)
	}
	if lifetime, external := binary.BigEndian.Uint32(got[4:]), binary.BigEndian.Uint16(got[42:]); lifetime != 3600 || external != 7000 ||
		netip.AddrFrom16([16]byte(got[44:60])).Unmap() != netip.MustParseAddr("203.0.113.1") {
		t.Errorf("granted port %d of %x for %d s", external, got[44:60], lifetime)
	}
	if n := b.Status().Requested; n != 1 {
		t.Errorf("status tells of %d requested ports, want 1", n)
	}
	if all := b.PortMappings(); len(all) != 1 || all[0].Inside != "10.0.0.5:4000" || all[0].External != "203.0.113.1:7000" || all[0].Protocol != "udp" {
		t.Errorf("mappings %+v", all)
	}

	b.datagram(t, "wan0", "198.51.100.7:53", "203.0.113.1:7000", []byte("hello"))
	if _, to, payload := b.datagramFrom(t, "lan0"); to != "10.0.0.5:4000" || string(payload) != "hello" {
		t.Errorf("a stranger's packet arrives at %s: %q", to, payload)
	}
	before := b.Status().Dropped
	b.datagram(t, "wan0", "198.51.100.7:50000", "203.0.113.1:5351", ask)
	eventually(t, "request from outside dropped", func() bool { return b.Status().Dropped > before })

	ask[7], ask[6] = 0, 0 // lifetime 0
	b.datagram(t, "lan0", "10.0.0.5:50000", "10.0.0.1:5351", ask)
	if _, _, got := b.datagramFrom(t, "lan0"); got[3] != 0 || len(b.PortMappings()) != 0 {
		t.Errorf("deletion: %x, mappings %+v", got, b.PortMappings())
	}
	before = b.Status().Dropped
	b.datagram(t, "wan0", "198.51.100.8:53", "203.0.113.1:7000", []byte("hello"))
	eventually(t, "stranger dropped", func() bool { return b.Status().Dropped > before })
	if r := b.PortRequests(); r.Results["success"] != 2 {
		t.Errorf("requests %+v", r)
	}

	ask[6] = 0x0e
	b.datagram(t, "lan0", "10.0.0.5:50000", "10.0.0.1:5351", ask)
	b.datagramFrom(t, "lan0")
	if err := b.Reload(parse(t, strings.Replace(text, "enabled = true", "enabled = false", 1))); err != nil {
		t.Fatal(err)
	}
	if all := b.PortMappings(); len(all) != 0 {
		t.Errorf("mappings without the service: %+v", all)
	}
}
