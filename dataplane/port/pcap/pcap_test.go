package pcap

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

var epoch = time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)

// capture writes a pcap file of frames, one a second, and returns its path.
func capture(t testing.TB, link layers.LinkType, frames ...[]byte) string {
	t.Helper()
	var b bytes.Buffer
	w := pcapgo.NewWriterNanos(&b)
	if err := w.WriteFileHeader(65536, link); err != nil {
		t.Fatal(err)
	}
	for i, f := range frames {
		ci := gopacket.CaptureInfo{Timestamp: epoch.Add(time.Duration(i) * time.Second), CaptureLength: len(f), Length: len(f)}
		if len(f) == cutShort {
			ci.Length++
		}
		if err := w.WritePacket(ci, f); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "in.pcap")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// cutShort is the length of frames that capture declares to have been longer.
const cutShort = 33

func open(t testing.TB, cfg Config) *Port {
	t.Helper()
	p, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// frame returns an Ethernet frame of n bytes to mac.
func frame(n int, mac ...byte) []byte {
	f := append(append([]byte(nil), mac...), 2, 0, 0, 0, 0, 9, 0x08, 0x00)
	for len(f) < n {
		f = append(f, byte(len(f)))
	}
	return f
}

func tagged(n int, mac ...byte) []byte {
	f := frame(n-4, mac...)
	return append(append(append([]byte(nil), f[:12]...), 0x81, 0, 0x60, 0x2a), f[12:]...)
}

func TestReplayGivesEveryWholeFrameInOrder(t *testing.T) {
	own := []byte{2, 0, 0, 0, 0, 1}
	in := [][]byte{frame(60, own...), frame(cutShort, own...), tagged(70, own...), frame(9000, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), frame(61, 0x33, 0x33, 0, 0, 0, 1), frame(62, 2, 0, 0, 0, 0, 7)}
	p := open(t, Config{Name: "x", In: capture(t, layers.LinkTypeEthernet, in...), MAC: [6]byte(own)})
	pkts := make([]packet.Packet, 64)
	q := p.Queue(0)
	n := q.Recv(pkts)
	if n != 5 {
		t.Fatalf("%d frames, want 5", n)
	}
	for i, want := range []struct {
		len  int
		kind uint8
		vlan bool
	}{
		{60, unix.PACKET_HOST, false}, {66, unix.PACKET_HOST, true}, {9000, unix.PACKET_BROADCAST, false},
		{61, unix.PACKET_MULTICAST, false}, {62, unix.PACKET_OTHERHOST, false},
	} {
		k := &pkts[i]
		if len(k.Frame()) != want.len || k.LinkKind != want.kind || k.HasVLAN != want.vlan || k.Off < packet.Headroom {
			t.Errorf("frame %d: %d bytes, kind %d, tagged %v; want %+v", i, len(k.Frame()), k.LinkKind, k.HasVLAN, want)
		}
	}
	if pkts[1].VLAN != 0x602a || !bytes.Equal(pkts[1].Frame(), frame(66, own...)) {
		t.Errorf("tag %#x of frame %x", pkts[1].VLAN, pkts[1].Frame())
	}
	if st := q.Stats(); st.RxTruncated != 1 || st.RxFrames != 5 {
		t.Errorf("%+v, want one frame truncated", st)
	}
	if _, err := p.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("Next at the end: %v, want EOF", err)
	}
}

func TestAdmitHoldsFramesUntilTheirTime(t *testing.T) {
	mac := []byte{2, 0, 0, 0, 0, 1}
	p := open(t, Config{In: capture(t, layers.LinkTypeEthernet, frame(60, mac...), frame(61, mac...), frame(62, mac...))})
	pkts := make([]packet.Packet, 64)
	q := p.Queue(0)
	for _, step := range []struct {
		until time.Duration
		want  int
	}{{-1, 0}, {0, 1}, {time.Second - 1, 0}, {3 * time.Second, 2}} {
		p.Admit(epoch.Add(step.until))
		if n := q.Recv(pkts); n != step.want {
			t.Errorf("until %v: %d frames, want %d", step.until, n, step.want)
		}
		q.Release()
	}
}

func TestSentFramesReadBackAsTheyWere(t *testing.T) {
	mac := []byte{2, 0, 0, 0, 0, 1}
	for _, tt := range []struct {
		name string
		link layers.LinkType
		in   [][]byte
	}{
		{"Ethernet", layers.LinkTypeEthernet, [][]byte{frame(60, mac...), tagged(100, mac...), frame(30000, mac...)}},
		{"raw IP", layers.LinkTypeRaw, [][]byte{append([]byte{0x45}, make([]byte, 40)...), append([]byte{0x60}, make([]byte, 60)...)}},
	} {
		out := filepath.Join(t.TempDir(), "out.pcapng")
		p := open(t, Config{Name: "x", In: capture(t, tt.link, tt.in...), Out: out})
		pkts := make([]packet.Packet, 64)
		n := p.Queue(0).Recv(pkts)
		s, err := p.NewSender()
		if err != nil {
			t.Fatal(err)
		}
		for i := range pkts[:n] {
			if st := s.Send(&pkts[i]); st != port.Sent {
				t.Errorf("%s: frame %d: %v, want sent", tt.name, i, st)
			}
		}
		s.Flush()
		again := open(t, Config{In: out})
		if at, err := again.Next(); err != nil || !at.Equal(epoch.Add(time.Duration(len(tt.in)-1)*time.Second)) {
			t.Errorf("%s: written with time %v (%v), want that of the last frame received", tt.name, at, err)
		}
		copies := make([]packet.Packet, 64)
		if m := again.Queue(0).Recv(copies); m != len(tt.in) {
			t.Fatalf("%s: %d frames read back, want %d", tt.name, m, len(tt.in))
		}
		for i := range tt.in {
			a, b := &pkts[i], &copies[i]
			if !bytes.Equal(a.Frame(), b.Frame()) || a.VLAN != b.VLAN || a.Link != b.Link {
				t.Errorf("%s: frame %d differs", tt.name, i)
			}
		}
	}
}

func TestOpenSaysWhatIsWrongWithAFile(t *testing.T) {
	text := filepath.Join(t.TempDir(), "notes.txt")
	if err := os.WriteFile(text, []byte("no capture"), 0o600); err != nil {
		t.Fatal(err)
	}
	huge := filepath.Join(t.TempDir(), "huge.pcapng")
	if err := os.WriteFile(huge, hugeFrame(t), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		cfg  Config
	}{
		{"missing file", Config{In: "/nowhere/x.pcap"}},
		{"text", Config{In: text}},
		{"pcapng that asks for gigabytes", Config{In: huge}},
		{"other link type", Config{In: capture(t, layers.LinkTypeLinuxSLL, frame(60))}},
		{"output in a missing directory", Config{Out: "/nowhere/x.pcapng"}},
	} {
		if _, err := Open(tt.cfg); err == nil {
			t.Errorf("%s: no error", tt.name)
		} else {
			t.Logf("%s: %v", tt.name, err)
		}
	}
}

// hugeFrame returns a pcapng file whose only frame claims to have 4 GB.
func hugeFrame(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriter(&b, layers.LinkTypeEthernet)
	if err != nil {
		t.Fatal(err)
	}
	at := func() int { w.Flush(); return b.Len() }()
	if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: epoch, CaptureLength: 60, Length: 60}, frame(60)); err != nil {
		t.Fatal(err)
	}
	w.Flush()
	for i := range 8 { // captured and original length of the enhanced packet block
		b.Bytes()[at+20+i] = 0xff
	}
	return b.Bytes()
}

func FuzzOpen(f *testing.F) {
	seed, err := os.ReadFile(capture(f, layers.LinkTypeEthernet, frame(60, 2, 0, 0, 0, 0, 1)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte{0x0a, 0x0d, 0x0d, 0x0a})
	f.Add(hugeFrame(f)) // the reader allocated what the length field said
	path := filepath.Join(f.TempDir(), "fuzz.pcap")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := Open(Config{In: path})
		if err != nil {
			return
		}
		defer p.Close()
		pkts := make([]packet.Packet, 8)
		for q := p.Queue(0); q.Recv(pkts) > 0; q.Release() {
		}
	})
}
