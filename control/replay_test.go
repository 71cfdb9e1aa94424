package control

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/pcap"
)

// queries is how many datagrams the replayed file has: more than some batches.
const queries = 200

// writeCapture writes a capture of datagrams from as many clients, raw IP.
func writeCapture(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := pcapgo.NewWriter(f)
	if err := w.WriteFileHeader(65535, layers.LinkTypeRaw); err != nil {
		t.Fatal(err)
	}
	for i := range queries {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP,
			SrcIP: net.IP{10, 0, 0, byte(5 + i)}, DstIP: net.IP{203, 0, 113, 9}}
		udp := &layers.UDP{SrcPort: 40000, DstPort: 53}
		if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
			t.Fatal(err)
		}
		buf := gopacket.NewSerializeBuffer()
		opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
		if err := gopacket.SerializeLayers(buf, opts, ip, udp, gopacket.Payload("hello")); err != nil {
			t.Fatal(err)
		}
		at := gopacket.CaptureInfo{Timestamp: time.Unix(int64(i), 0), CaptureLength: len(buf.Bytes()), Length: len(buf.Bytes())}
		if err := w.WritePacket(at, buf.Bytes()); err != nil {
			t.Fatal(err)
		}
	}
}

// sources reads who sent the packets of a capture, and from which ports.
func sources(t *testing.T, path string) map[netip.AddrPort]int {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcapgo.NewNgReader(f, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	all := map[netip.AddrPort]int{}
	for data, _, err := r.ReadPacketData(); err == nil; data, _, err = r.ReadPacketData() {
		p := gopacket.NewPacket(data, layers.LayerTypeIPv4, gopacket.Default)
		ip, _ := p.NetworkLayer().(*layers.IPv4)
		udp, _ := p.TransportLayer().(*layers.UDP)
		if ip == nil || udp == nil {
			t.Errorf("not a UDP packet: %v", p)
			continue
		}
		a, _ := netip.AddrFromSlice(ip.SrcIP)
		all[netip.AddrPortFrom(a, uint16(udp.SrcPort))]++
	}
	return all
}

// TestCaptureIsReplayedThroughTheGateway has a capture file as the inside and
// another as the outside.
func TestCaptureIsReplayedThroughTheGateway(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.pcap"), filepath.Join(dir, "out.pcapng")
	writeCapture(t, in)
	ports := map[string]port.Port{}
	for name, cfg := range map[string]pcap.Config{
		"lan0": {In: in},
		"wan0": {Out: out, Link: packet.LinkIP},
	} {
		cfg.Name, cfg.MTU = name, 1500
		p, err := pcap.Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		ports[name] = p
	}
	g, err := New(parse(t, masquerading), Options{
		Ports: ports, Socket: NoSocket, Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "every packet of the file has left", func() bool { return g.Status().Forwarded >= queries })
	if err := g.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	got := sources(t, out)
	if len(got) != queries {
		t.Errorf("the packets of %d clients left from %d ports", queries, len(got))
	}
	for from, n := range got {
		if from.Addr() != netip.MustParseAddr("203.0.113.1") || n != 1 {
			t.Errorf("%d packets left from %v, want one from the gateway's address", n, from)
		}
	}
}
