package upgrade

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func pair(t testing.TB) (a, b *Conn) {
	t.Helper()
	a, b, err := Pair()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

// openFiles returns how many descriptors this process has.
func openFiles(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestMessagesCarryDescriptors(t *testing.T) {
	for _, n := range []int{0, 1, maxFDs - 1, maxFDs, 2*maxFDs + 7} {
		a, b := pair(t)
		f, err := newFile("test")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("it is this one"); err != nil {
			t.Fatal(err)
		}
		fds := make([]int, n)
		for i := range fds {
			fds[i] = int(f.Fd())
		}
		before := openFiles(t)
		sent := make(chan error, 1)
		go func() { sent <- a.Send(KindTaken, Taken{Not: []uint32{1, 2}}, fds...) }()
		var got Taken
		theirs, err := b.Receive(KindTaken, &got, time.Second)
		if err := errors.Join(err, <-sent); err != nil {
			t.Fatalf("%d descriptors: %v", n, err)
		}
		if len(theirs) != n || len(got.Not) != 2 {
			t.Errorf("%d descriptors and %+v came, want %d", len(theirs), got, n)
		}
		for _, fd := range theirs {
			var b [14]byte
			if _, err := unix.Pread(fd, b[:], 0); err != nil || string(b[:]) != "it is this one" {
				t.Errorf("a descriptor has %q, %v", b, err)
			}
		}
		closeAll(theirs)
		if after := openFiles(t); after != before {
			t.Errorf("%d descriptors are open, were %d", after, before)
		}
		f.Close()
	}
}

func TestWhatIsNotSaidIsAnError(t *testing.T) {
	a, b := pair(t)
	if _, err := b.Receive(KindHello, &Hello{}, time.Millisecond); !errors.Is(err, ErrSilent) {
		t.Errorf("nobody says anything: %v", err)
	}
	if err := a.Send(KindReady, Ready{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Receive(KindHello, &Hello{}, time.Second); !errors.Is(err, ErrProtocol) {
		t.Errorf("something else is said: %v", err)
	}
	_ = a.Fail(errors.New("no memory"))
	var failed *FailedError
	if _, err := b.Receive(KindHello, &Hello{}, time.Second); !errors.As(err, &failed) || failed.Why != "no memory" {
		t.Errorf("it has failed: %v", err)
	}
	if _, err := b.Receive(KindHello, &Hello{}, time.Second); !errors.Is(err, ErrEnded) {
		t.Errorf("it has ended: %v", err)
	}
	if err := b.Send(KindLeave, Leave{}); !errors.Is(err, ErrEnded) {
		t.Errorf("it has ended: %v", err)
	}
}

// Whatever the other side sends, Receive returns, and keeps no descriptor but those that
// it returns.
func FuzzReceive(f *testing.F) {
	header := func(kind Kind, n uint32) []byte {
		return binary.NativeEndian.AppendUint32(binary.NativeEndian.AppendUint32(nil, uint32(kind)), n)
	}
	f.Add(header(KindHello, 1), []byte(`{"Version":"1"}`), uint8(1))
	f.Add(header(KindHello, 2), []byte(`{}`), uint8(1))                // one descriptor is missing
	f.Add(header(KindHello, 1), []byte(`{}`), uint8(3))                // two are too many
	f.Add(header(KindHello, 0), []byte(nil), uint8(0))                 // no content
	f.Add(header(KindFailed, 1), []byte(`{"Why":"no"}`), uint8(1))     //
	f.Add(header(99, 1<<31), []byte(`{}`), uint8(1))                   // as many as nobody has
	f.Add([]byte{1, 0, 0}, []byte(`{}`), uint8(1))                     // half a header
	f.Add(append(header(KindHello, 1), 0), []byte(`{}`), uint8(1))     // something behind it
	f.Add(header(KindHello, 1), []byte(`{"Protocol":"x"}`), uint8(1))  // another type
	f.Add(header(KindHello, 1), []byte(`{"Version":"`), uint8(1))      // half a content
	f.Add(header(KindHello, 1), []byte(`{"Protocol":1e99}`), uint8(1)) // out of range
	f.Fuzz(func(t *testing.T, record, content []byte, n uint8) {
		if len(record) == 0 {
			return // a socket sends none
		}
		before := openFiles(t)
		a, b := pair(t)
		file, err := newFile("fuzz")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.Write(content); err != nil {
			t.Fatal(err)
		}
		fds := make([]int, n%8)
		for i := range fds {
			fds[i] = int(file.Fd())
		}
		if err := unix.Sendmsg(a.fd, record, unix.UnixRights(fds...), nil, 0); err != nil {
			t.Fatal(err)
		}
		a.Close()
		theirs, err := b.Receive(KindHello, &Hello{}, time.Second)
		if err != nil && theirs != nil {
			t.Errorf("%d descriptors with %v", len(theirs), err)
		}
		closeAll(theirs)
		b.Close()
		file.Close()
		if after := openFiles(t); after != before {
			t.Errorf("%d descriptors are open, were %d", after, before)
		}
	})
}
