//go:build netns

package own

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// Whoever has the estate keeps the kernel out, whatever the other one does; only when
// nobody has it any more is the interface the kernel's.
func TestEstateKeepsTheKernelOut(t *testing.T) {
	for name, exit := range map[string]OnExit{"on_exit release": Release, "on_exit hold": Hold} {
		t.Run(name, func(t *testing.T) {
			w, cfg := newWire(t), Config{OnExit: exit}
			if exit == Hold {
				cfg.PinDir = pinDir(t)
			}
			old := w.take(t, cfg)
			w.answers(t) // what the kernel sent just before
			adopt := func(cfg Config) (*Owner, error) {
				e, fds, err := old.Estate()
				if err != nil {
					t.Fatal(err)
				}
				var theirs []int
				for _, fd := range fds {
					d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
					if err != nil {
						t.Fatal(err)
					}
					theirs = append(theirs, d)
				}
				cfg.Ifindex, cfg.Netns = w.gate.Index(t), w.gate.Netns
				return Adopt(cfg, &e, theirs)
			}
			for _, other := range []Config{{OnExit: Hold - exit, PinDir: cfg.PinDir}, {OnExit: exit, PinDir: cfg.PinDir, Host: &HostPath{}}} {
				if _, err := adopt(other); !errors.Is(err, ErrEstate) {
					t.Errorf("owned as %+v: %v, want %v", other, err, ErrEstate)
				}
			}
			failed, err := adopt(cfg) // takes over and ends: nothing has changed
			if err == nil {
				err = failed.Close()
			}
			if err != nil {
				t.Fatal(err)
			}
			before, err := old.Stats()
			if err != nil {
				t.Fatal(err)
			}
			next, err := adopt(cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer next.Release()
			if err := errors.Join(next.Reclaim(), old.Close()); err != nil {
				t.Fatal(err)
			}
			w.ask(t)
			if frames := w.answers(t); len(frames) != 0 {
				t.Errorf("the kernel sent %d frames, the first: %s", len(frames), frames[0])
			}
			if after, err := next.Stats(); err != nil || after.IngressDropped <= before.IngressDropped {
				t.Errorf("the counters went from %+v to %+v, %v", before, after, err)
			}
			if err := next.Release(); err != nil {
				t.Fatal(err)
			}
			w.mustAnswer(t)
		})
	}
}
