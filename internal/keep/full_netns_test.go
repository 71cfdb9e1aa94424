//go:build netns

package keep

import (
	"errors"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A full file system is an error, never a signal: nothing of what was reserved before is
// lost, and what was not can be reserved when there is room again.
func TestFullFileSystemIsAnError(t *testing.T) {
	done := make(chan struct{})
	root := t.TempDir()
	go func() {
		defer close(done)
		runtime.LockOSThread() // and ended with its mounts
		for _, err := range []error{
			unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", root, "tmpfs", 0, "size=4m"),
		} {
			if err != nil {
				t.Error(err)
				return
			}
		}
		f, err := Open(filepath.Join(root, "state"), Alone)
		if err != nil {
			t.Error(err)
			return
		}
		small, err1 := f.Array("small", 1<<20)
		large, err2 := f.Array("large", 16<<20)
		if err := errors.Join(err1, err2, f.Reserve(small)); err != nil {
			t.Error(err)
		}
		if lacking, err := f.Lacking(); err != nil || lacking < 12<<20 || lacking > 14<<20 {
			t.Errorf("%d bytes are missing for 16 MiB where there are three, %v", lacking, err)
		}
		if err := f.Reserve(large); !errors.Is(err, unix.ENOSPC) {
			t.Errorf("16 MiB of 4: %v, want %v", err, unix.ENOSPC)
		}
		for i := range small {
			small[i] = 1
		}
		if err := f.Reserve(large[:1<<20]); err != nil {
			t.Errorf("one MiB of three: %v", err)
		}
		for i := range large[:1<<20] {
			large[i] = 1
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}()
	<-done
}
