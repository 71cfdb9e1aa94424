// Culvert is a userspace NAT gateway. See the README for what it does and
// `culvert help` for how to use it.
//
// The answer of a command goes to standard output, everything else to standard
// error. The exit status is 0 when the command did what it says, 1 when it could
// not, and 2 when it was called wrongly.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	code := execute(ctx, arguments(os.Args), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// arguments returns what the root command parses. Invoked as conntrack, the
// program is conntrack(8).
func arguments(argv []string) []string {
	if len(argv) == 0 {
		return nil
	}
	if filepath.Base(argv[0]) == "conntrack" {
		return append([]string{"conntrack"}, argv[1:]...)
	}
	return argv[1:]
}
