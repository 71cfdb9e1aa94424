package upgrade

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack"
	"example.com/culvert/nat/ports"
)

// some returns a state with n records of each kind, of random bytes.
func some(n int) *State {
	rnd := rand.NewChaCha8([32]byte{1})
	s := &State{Ended: make([]uint32, n+1), Flows: make([]conntrack.Saved, n), Expects: make([]conntrack.SavedExpect, n), Kept: make([]ports.Saved, n)}
	for _, b := range [][]byte{bytesOf(s.Ended), bytesOf(s.Flows), bytesOf(s.Expects), bytesOf(s.Kept)} {
		_, _ = rnd.Read(b)
	}
	return s
}

func TestStateComesAsItWas(t *testing.T) {
	for _, n := range []int{0, 1, 1000} {
		was := some(n)
		fd, err := was.File()
		if err != nil {
			t.Fatal(err)
		}
		is, err := OpenState(fd)
		if err != nil {
			t.Fatalf("%d records: %v", n, err)
		}
		if !bytes.Equal(bytesOf(is.Ended), bytesOf(was.Ended)) || !bytes.Equal(bytesOf(is.Flows), bytesOf(was.Flows)) ||
			!bytes.Equal(bytesOf(is.Expects), bytesOf(was.Expects)) || !bytes.Equal(bytesOf(is.Kept), bytesOf(was.Kept)) {
			t.Errorf("%d records came as others", n)
		}
		if err := errors.Join(is.Close(), unix.Close(fd)); err != nil {
			t.Error(err)
		}
	}
}

// aligned returns b where records may lie.
func aligned(b []byte) []byte {
	words := make([]uint64, len(b)/8+1)
	to := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(words))), len(b))
	copy(to, b)
	return to
}

func TestDamagedStateIsRefused(t *testing.T) {
	whole := some(2).append(nil)
	if _, err := parseState(aligned(whole)); err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		flipped := bytes.Clone(whole)
		flipped[n] ^= 0x10
		for claim, b := range map[string][]byte{"with a bit flipped in": flipped, "cut off behind": whole[:n]} {
			if _, err := parseState(aligned(b)); !errors.Is(err, ErrState) {
				t.Errorf("a state %s byte %d: %v, want %v", claim, n, err, ErrState)
			}
		}
	}
	if _, err := OpenState(0); !errors.Is(err, ErrState) {
		t.Errorf("something that is no file: %v", err)
	}
}

// Whatever the file says, parseState neither panics nor finds records beyond its end.
func FuzzParseState(f *testing.F) {
	f.Add(some(0).append(nil))
	f.Add(some(2).append(nil))
	huge := some(0).append(nil)
	binary.NativeEndian.PutUint64(huge[24:], 1<<60)
	f.Add(huge)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= stateHeader+4 { // or nearly nothing gets past the checksum
			binary.NativeEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b[:len(b)-4], castagnoli))
		}
		s, err := parseState(aligned(b))
		if err != nil {
			return
		}
		n := len(bytesOf(s.Ended)) + len(bytesOf(s.Flows)) + len(bytesOf(s.Expects)) + len(bytesOf(s.Kept))
		if n > len(b)-stateHeader-4 {
			t.Errorf("%d bytes of records in %d", n, len(b))
		}
	})
}

func TestDigestIsThatOfTheFormat(t *testing.T) {
	if a, b := Digest(), Digest(); a != b || len(a) != 64 {
		t.Errorf("%s and %s", a, b)
	}
}
