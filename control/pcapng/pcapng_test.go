package pcapng

import (
	"bytes"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// sample writes two interfaces and n packets of size bytes, alternately.
func sample(t *testing.T, n, size int) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := NewWriter(&b, "culvert test")
	if err != nil {
		t.Fatal(err)
	}
	for i, name := range []string{"lan0 before", "wan0 after"} {
		if got, err := w.Interface(name, []LinkType{Ethernet, RawIP}[i], 0); err != nil || got != i {
			t.Fatalf("interface %q: %d, %v", name, got, err)
		}
	}
	for i := range n {
		p := Packet{Interface: i % 2, Time: time.Unix(1700000000, int64(i)), Data: bytes.Repeat([]byte{byte(i)}, size), Length: size + i,
			Direction: Inbound, Comment: "forwarded\nby wan0"[:9+i%8]}
		if err := w.Packet(&p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Stats(0, time.Unix(1700000001, 0), 7, "lost"); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAnotherReaderFindsPacketsInterfacesAndTimes(t *testing.T) {
	for _, size := range []int{0, 1, 2, 3, 60, 1500} {
		r, err := pcapgo.NewNgReader(bytes.NewReader(sample(t, 5, size)), pcapgo.NgReaderOptions{WantMixedLinkType: true})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 5 {
			data, ci, err := r.ReadPacketData()
			if err != nil {
				t.Fatalf("packet %d: %v", i, err)
			}
			if !bytes.Equal(data, bytes.Repeat([]byte{byte(i)}, size)) || ci.Length != size+i || ci.InterfaceIndex != i%2 ||
				!ci.Timestamp.Equal(time.Unix(1700000000, int64(i))) {
				t.Errorf("packet %d: %x, %+v", i, data, ci)
			}
		}
		if _, _, err := r.ReadPacketData(); err != io.EOF {
			t.Errorf("after the last packet: %v", err)
		}
		for i, want := range []pcapgo.NgInterface{{Name: "lan0 before", LinkType: layers.LinkTypeEthernet}, {Name: "wan0 after", LinkType: layers.LinkTypeRaw}} {
			got, err := r.Interface(i)
			if err != nil || got.Name != want.Name || got.LinkType != want.LinkType {
				t.Errorf("interface %d: %+v, %v", i, got, err)
			}
		}
	}
}

func TestPacketOfNoInterfaceIsRefused(t *testing.T) {
	w, err := NewWriter(io.Discard, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Packet(&Packet{}); err == nil {
		t.Error("written")
	}
}

// splitInto returns the files that a capture is cut into.
func splitInto(t *testing.T, capture []byte, most int64) (files []*bytes.Buffer) {
	t.Helper()
	err := Split(bytes.NewReader(capture), func(n int64) bool { return most > 0 && n >= most }, func() (io.Writer, error) {
		files = append(files, new(bytes.Buffer))
		return files[len(files)-1], nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestCaptureThatFitsStaysAsItIs(t *testing.T) {
	capture := sample(t, 5, 100)
	if files := splitInto(t, capture, 0); len(files) != 1 || !bytes.Equal(files[0].Bytes(), capture) {
		t.Errorf("%d files, want the one", len(files))
	}
	if files := splitInto(t, sample(t, 0, 0), 0); len(files) != 1 {
		t.Errorf("%d files of a capture without packets, want 1", len(files))
	}
}

func TestEveryFileIsACaptureOfItsOwn(t *testing.T) {
	files := splitInto(t, sample(t, 20, 400), 1000)
	var seen []byte
	for i, f := range files {
		r, err := pcapgo.NewNgReader(f, pcapgo.NgReaderOptions{WantMixedLinkType: true})
		if err != nil {
			t.Fatalf("file %d: %v", i, err)
		}
		for {
			data, _, err := r.ReadPacketData()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("file %d: %v", i, err)
			}
			seen = append(seen, data[0])
		}
	}
	want := make([]byte, 20)
	for i := range want {
		want[i] = byte(i)
	}
	if len(files) < 5 || !slices.Equal(seen, want) {
		t.Errorf("packets %v in %d files, want all 20 in order in five or more", seen, len(files))
	}
}

func FuzzSplitNeverPanics(f *testing.F) {
	f.Add([]byte{0x0a, 0x0d, 0x0d, 0x0a, 12, 0, 0, 0, 12, 0, 0, 0})
	f.Add([]byte{6, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(_ *testing.T, b []byte) {
		_ = Split(bytes.NewReader(b), func(int64) bool { return true }, func() (io.Writer, error) { return io.Discard, nil })
	})
}
