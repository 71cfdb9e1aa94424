//go:build netns

package control

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// To forward packets comes first: a file system that what was left fills, whether anybody
// can read it or not, keeps no gateway from starting.
func TestFullFileSystemKeepsNoGatewayFromStarting(t *testing.T) {
	root := stateFolder(t)
	one := keeping(t, root)
	one.send(t, 40000)
	one.received(t)
	for name, spoil := range map[string]func(folder string) error{
		"with flows of this program":    func(string) error { return nil },
		"with flows of another program": edit("header.json", `"version":1,`, `"version":2,`),
	} {
		t.Run(name, func(t *testing.T) {
			at := t.TempDir()
			if err := unix.Mount("tmpfs", at, "tmpfs", 0, "size=64m,mode=700"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
			err := os.CopyFS(at, os.DirFS(root))
			folders, _ := filepath.Glob(filepath.Join(at, "flows.*"))
			if err != nil || len(folders) != 1 {
				t.Fatalf("%q, %v", folders, err)
			}
			var fsys unix.Statfs_t
			if err := errors.Join(spoil(folders[0]), unix.Statfs(at, &fsys)); err != nil {
				t.Fatal(err)
			}
			used := fmt.Sprintf("size=%d", (int64(fsys.Blocks)-int64(fsys.Bfree))*fsys.Bsize)
			if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_REMOUNT, used); err != nil {
				t.Fatal(err)
			}
			two := keeping(t, at)
			if r := two.Status().Recalled; r == nil || (r.Flows == 0) == (r.Refused == "") {
				t.Errorf("taken over: %+v, want flows, or why there are none", r)
			}
			two.send(t, 40001)
			two.received(t)
		})
	}
}
