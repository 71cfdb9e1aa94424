package snapshot

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/dataplane"
	"example.com/culvert/nat/ports"
)

// nothing is the state of a gateway without flows.
func nothing() *dataplane.Image {
	return &dataplane.Image{
		Origin:  conntrack.Origin{Policies: []conntrack.Timeouts{conntrack.LinuxTimeouts, conntrack.RFCTimeouts}},
		Helpers: []string{"", "ftp"},
		Flows:   func(func(*conntrack.Saved) bool) {},
		Expects: func(func(*conntrack.SavedExpect) bool) {},
		Kept:    func(func(*ports.Saved) bool) {},
	}
}

// write writes a snapshot that was made at a moment.
func write(t testing.TB, at Header, im *dataplane.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	if _, err := Write(&b, at, im); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func here(t testing.TB) Header {
	t.Helper()
	h, err := Here("test")
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestHeaderComesBackAsItWas(t *testing.T) {
	im, at := nothing(), here(t)
	s, err := Parse(write(t, at, im))
	if err != nil {
		t.Fatal(err)
	}
	got := s.Image(at)
	if len(got.Policies) != 2 || got.Policies[1] != conntrack.RFCTimeouts || len(got.Helpers) != 2 || got.Helpers[1] != "ftp" ||
		s.Program != "test" || s.Boot != at.Boot || !s.Wall.Equal(at.Wall) || got.Shift != 0 {
		t.Errorf("read %+v with shift %d, wrote %+v", s.Header, got.Shift, at)
	}
}

func TestTimesMoveToTheClockOfAnotherBoot(t *testing.T) {
	for _, tt := range []struct {
		claim        string
		boot         string
		clock, later time.Duration // of the other boot; by the wall clock
		want         time.Duration // by which times move
	}{
		{"the same boot, whatever the wall clock says", "a", 500 * time.Second, time.Hour, 0},
		{"a boot that is younger than the snapshot", "b", 40 * time.Second, 60 * time.Second, -120 * time.Second},
		{"a boot before which the snapshot lay for long", "b", 40 * time.Second, time.Hour, 40*time.Second - time.Hour - 100*time.Second},
		{"a wall clock that was set back", "b", 40 * time.Second, -time.Hour, -60 * time.Second},
	} {
		s := Snapshot{Header: Header{Boot: "a", Clock: 100 * time.Second, Wall: time.Unix(1e9, 0)}}
		at := Header{Boot: tt.boot, Clock: tt.clock, Wall: s.Wall.Add(tt.later)}
		if got := time.Duration(int32(s.shift(&at))) * conntrack.TickLength; got != tt.want {
			t.Errorf("%s: moved by %v, want %v", tt.claim, got, tt.want)
		}
	}
}

func TestSnapshotsOfOtherMachinesAreRefused(t *testing.T) {
	for claim, change := range map[string]func(*Header){
		"another byte order":     func(h *Header) { h.Order = "middle" },
		"other records":          func(h *Header) { h.Sizes = []int{0, 1, 2, 3} },
		"fewer kinds of records": func(h *Header) { h.Sizes = h.Sizes[:2] },
	} {
		at := here(t)
		change(&at)
		if _, err := Parse(write(t, at, nothing())); !errors.Is(err, ErrVersion) {
			t.Errorf("%s: %v, want %v", claim, err, ErrVersion)
		}
	}
}

// Whatever the file says, Parse neither panics nor takes what was not written.
func FuzzParse(f *testing.F) {
	whole := write(f, here(f), nothing())
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte(magic + "\x00\x01\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Parse(b)
		if err != nil {
			return
		}
		n := 0
		im := s.Image(s.Header)
		for range im.Flows {
			n++
		}
		if n != s.Count().Flows {
			t.Errorf("%d flows, counted %d", n, s.Count().Flows)
		}
	})
}
