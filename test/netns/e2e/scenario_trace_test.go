//go:build netns

package e2e

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"example.com/culvert/test/netns"
)

// watch starts a command that watches the gateway, and returns when it sees packets.
func (h *house) watch(t *testing.T, args ...string) *netns.Process {
	t.Helper()
	p, err := h.gw.Host.Start(append(append([]string{h.gw.Binary()}, args...), "--socket", h.gw.Socket())...)
	must(t, err)
	t.Cleanup(func() { must(t, p.Stop()) })
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	must(t, p.WaitOutput(ctx, "watching"))
	return p
}

// wantOutput waits until a process has printed all of the texts.
func wantOutput(t *testing.T, p *netns.Process, texts ...string) {
	t.Helper()
	for _, text := range texts {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := p.WaitOutput(ctx, text)
		cancel()
		if err != nil {
			t.Fatalf("waited in vain for %q: %v; printed\n%s", text, err, p.Output())
		}
	}
}

// TestTraceShowsAnFTPSession: the walk of its packets, and what its helper does.
func TestTraceShowsAnFTPSession(t *testing.T) {
	onlyCulvert(t, ftpThrough, func(t *testing.T, h *house) {
		walks := h.watch(t, "trace", "tcp", "port", "21")
		diff := h.watch(t, "trace", "--helper", "ftp")
		root, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
		letIn(t, root)
		must(t, os.WriteFile(filepath.Join(root, "file"), []byte("content"), 0o644))
		daemon := startVsftpd(t, h.server, ipv4.server, root)
		defer func() { must(t, daemon.Stop()) }()
		listens(t, "vsftpd", h.server, at(ipv4.server, 21))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		_, err := h.first.Exec(ctx, "curl", "-sS", "-o", out, "--disable-eprt", "--ftp-port", "-", "ftp://"+ipv4.server.String()+"/file")
		must(t, err)
		wantOutput(t, diff, "\n-PORT 10,1,0,11,", "\n+PORT 203,0,113,1,", "\n> data tcp 198.51.100.9:* > 203.0.113.1:", " = 10.1.0.11:")
		wantOutput(t, walks, "on lan0, area lan, queue ", "begins flow ", "rule 1 filter ", "/culvert.toml:", "helper ftp",
			"source 10.1.0.11:", "becomes 203.0.113.1:", "by wan0 as tcp 203.0.113.1:", "+PORT 203,0,113,1,", "1 replaced, 1 expected")
	})
}

// TestCaptureHoldsWhatBothSidesSaw: what a capture has of packets before and after
// translation is what hosts on both sides captured, and tshark reads it without a
// complaint about checksums.
func TestCaptureHoldsWhatBothSidesSaw(t *testing.T) {
	onlyCulvert(t, setup{}, func(t *testing.T, h *house) {
		inside, err := h.first.Capture("eth0")
		must(t, err)
		outside, err := h.router.Capture("up0")
		must(t, err)
		file := filepath.Join(t.TempDir(), "x.pcapng")
		capture := h.watch(t, "capture", "-w", file)

		serveUDP(t, h.server, at(ipv4.server, 5353))
		asks := bindUDP(t, h.first, at(ipv4.first, 4000))
		for n := range 8 {
			asks.ask(t, at(ipv4.server, 5353), strings.Repeat("x", 1+n*150))
		}
		near, far := pair(t, h.first, h.server, at(ipv4.first, 0), at(ipv4.server, 8000), at(ipv4.server, 8000))
		bulk := bytes.Repeat([]byte("bulk"), 100_000)
		go func() { _, _ = near.Write(bulk) }() // what is missing is missed below
		if _, err := io.ReadFull(far, make([]byte, len(bulk))); err != nil {
			t.Fatal(err)
		}
		denied(t, h)
		until(t, "the capture has the packet that was denied", func() bool {
			b, err := os.ReadFile(file)
			return err == nil && bytes.Contains(b, []byte("local-denied"))
		})
		must(t, capture.Stop())
		if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
			t.Errorf("file %v, %v, want mode 600", info, err)
		}

		stages := capturedUDP(t, file)
		for name, other := range map[string]*netns.Capture{"lan0 before": inside, "wan0 after": outside, "wan0 before": outside, "lan0 after": inside} {
			want := make(map[string]bool)
			for _, f := range other.Frames() {
				if b := plainUDP(f.Packet); b != "" {
					want[b] = true
				}
			}
			if len(stages[name]) != 8 {
				t.Errorf("%s: %d datagrams, want 8", name, len(stages[name]))
			}
			for _, b := range stages[name] {
				if !want[b] {
					t.Errorf("%s: nobody on the link saw %x", name, b)
				}
			}
		}
		readByTshark(t, h, file)
	})
}

// denied sends a segment that the gateway does not take.
func denied(t *testing.T, h *house) {
	t.Helper()
	d := bindUDP(t, h.server, at(ipv4.server, 0))
	_, err := d.WriteTo([]byte("?"), net.UDPAddrFromAddrPort(at(ipv4.outside, 9)))
	must(t, err)
}

// capturedUDP returns the datagrams of port 5353 in a capture by the names of interfaces.
func capturedUDP(t *testing.T, file string) map[string][]string {
	t.Helper()
	f, err := os.Open(file)
	must(t, err)
	defer f.Close()
	r, err := pcapgo.NewNgReader(f, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	must(t, err)
	all := make(map[string][]string)
	for {
		data, ci, err := r.ReadPacketData()
		if err == io.EOF {
			return all
		}
		must(t, err)
		on, err := r.Interface(ci.InterfaceIndex)
		must(t, err)
		if b := plainUDP(gopacket.NewPacket(data, on.LinkType, gopacket.Default)); b != "" {
			all[on.Name] = append(all[on.Name], b)
		}
	}
}

// plainUDP returns the IP packet of a datagram of port 5353 but for the UDP checksum,
// which a host leaves to its card; "" for others.
func plainUDP(p gopacket.Packet) string {
	ip, ok := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	udp, is := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
	if !ok || !is || udp.SrcPort != 5353 && udp.DstPort != 5353 {
		return ""
	}
	b := append(bytes.Clone(ip.Contents), udp.Contents[:6]...)
	return string(append(b, udp.Payload...))
}

// readByTshark has tshark read a capture: its interfaces, comments and checksums.
func readByTshark(t *testing.T, h *house, file string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	out, err := h.first.Exec(ctx, "tshark", "-r", file, "-o", "udp.check_checksum:TRUE", "-o", "tcp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE",
		"-T", "fields", "-E", "separator=|", "-e", "frame.interface_name", "-e", "ip.checksum.status", "-e", "tcp.checksum.status",
		"-e", "udp.checksum.status", "-e", "tcp.len", "-e", "frame.comment")
	must(t, err)
	super, said := 0, make(map[string]bool)
	for line := range strings.Lines(out) {
		field := strings.SplitN(strings.TrimRight(line, "\n"), "|", 6)
		if len(field) != 6 || field[1] == "" {
			continue // ARP, or the next line of a comment
		}
		const good = "1"
		if field[1] != good || field[2]+field[3] != good {
			t.Errorf("checksums are not right: %s", line)
		}
		if strings.Contains(field[5], "super-packet of ") {
			super++
		}
		said[field[0]] = true
		if field[5] == "" {
			t.Errorf("no comment: %s", line)
		}
	}
	if len(said) < 4 || super == 0 || !strings.Contains(out, "forwarded by wan0 as udp 203.0.113.1:4000 > 198.51.100.9:5353") ||
		!strings.Contains(out, "dropped: local-denied") {
		t.Errorf("interfaces %v, %d super-packets; tshark says\n%.3000s", said, super, out)
	}
}
