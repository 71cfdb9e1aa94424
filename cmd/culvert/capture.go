package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"example.com/culvert/control/pcapng"
)

// captureMode is that of files of a capture: what hosts say is nobody else's business.
const captureMode = 0o600

// mebibyte is the unit of --file-size.
const mebibyte = 1 << 20

func captureCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "capture -w (FILE|-) [FILTER]... [flags]",
		Short:   "Write packets before and after translation, with what became of them as comments, to a pcapng file",
		Example: "  culvert capture -w lan.pcapng host 10.0.0.5",
	}
	socket := socketFlag(cmd)
	f := cmd.Flags()
	path := f.StringP("write", "w", "", "`FILE` to write, mode 0600, or - for standard output")
	snap := f.IntP("snaplen", "s", 0, "most bytes of each packet, `N` (default all)")
	size := f.Int64P("file-size", "C", 0, "begin another file (x.pcapng, x.1.pcapng, x.2.pcapng) after `N` MiB")
	files := f.IntP("files", "W", 0, "keep only the last `N` files, with --file-size")
	q := watchFlags(cmd, 0)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case *path == "":
			return usageError{err: errors.New("-w FILE is missing; use -w - for standard output")}
		case *path == "-" && *size != 0:
			return usageError{err: errors.New("--file-size is for files, not for standard output")}
		case *files != 0 && *size == 0:
			return usageError{err: errors.New("--files needs --file-size")}
		case *size < 0, *files < 0:
			return usageError{err: errors.New("--file-size and --files: want 1 or more")}
		case *snap != 0 && (*snap < 64 || *snap > 256<<10):
			return usageError{err: fmt.Errorf("--snaplen %d: want 64 to %d", *snap, 256<<10)}
		}
		if err := q.match(args); err != nil {
			return err
		}
		q.Snap = *snap
		client := connect(*socket)
		defer client.Close()
		stream, err := client.Capture(cmd.Context(), q.WatchRequest)
		if err != nil {
			return err
		}
		defer stream.Close()
		sayWatching(cmd)
		if *path == "-" {
			_, err = io.Copy(cmd.OutOrStdout(), stream)
			return untilInterrupted(cmd.Context(), err)
		}
		out := captureFiles{path: *path, most: *files}
		full := func(bytes int64) bool { return *size > 0 && bytes >= *size*mebibyte }
		err = untilInterrupted(cmd.Context(), pcapng.Split(stream, full, out.next))
		return errors.Join(err, out.close())
	}
	return cmd
}

// captureFiles are the files of one capture, one after the other.
type captureFiles struct {
	path string
	most int // files kept, 0: all
	n    int
	open *os.File
}

// name returns the name of file i: capture.pcapng, capture.1.pcapng, ...
func (c *captureFiles) name(i int) string {
	if i == 0 {
		return c.path
	}
	ext := filepath.Ext(c.path)
	return fmt.Sprintf("%s.%d%s", strings.TrimSuffix(c.path, ext), i, ext)
}

// next begins another file.
func (c *captureFiles) next() (io.Writer, error) {
	if err := c.close(); err != nil {
		return nil, err
	}
	if old := c.n - c.most; c.most > 0 && old >= 0 {
		if err := os.Remove(c.name(old)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	name := c.name(c.n)
	// What is there and no file, /dev/null for one, must not be taken away.
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file: name another, or write to standard output with -w -", name)
	}
	// A file that is there may be a link, or open to others: it gives way.
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, captureMode)
	if err != nil {
		return nil, err
	}
	c.n++
	c.open = f
	return f, nil
}

func (c *captureFiles) close() error {
	if c.open == nil {
		return nil
	}
	f := c.open
	c.open = nil
	return f.Close()
}
