package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// loadFile returns the file that -R names, which must be the first option, and what
// comes after it.
func loadFile(args []string) (file string, rest []string, is bool) {
	if len(args) > 2 && slices.Contains([]string{"--socket", "--token-file", "--ca-file"}, args[0]) {
		file, rest, is = loadFile(args[2:])
		return file, append(args[:2:2], rest...), is
	}
	if len(args) == 0 {
		return "", nil, false
	}
	first := args[0]
	for _, attached := range []string{"--load-file=", "-R"} {
		if file, ok := strings.CutPrefix(first, attached); ok && file != "" {
			return file, args[1:], true
		}
	}
	if (first == "-R" || first == "--load-file") && len(args) > 1 {
		return args[1], args[2:], true
	}
	return "", nil, false
}

// maxLoaded bounds what is read of a file of commands, bytes: millions of flows.
const maxLoaded = 512 << 20

// load does the commands of a file in their order. All are parsed before the first one
// is done; -D and -U may find nothing.
func load(cmd *cobra.Command, file string, rest []string) error {
	in := cmd.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return misused(complain("Failed to open file %s for reading", file))
		}
		defer f.Close()
		in = f
	}
	var lines []*conntrackLine
	left := &io.LimitedReader{R: in, N: maxLoaded + 1}
	text := bufio.NewScanner(left)
	for text.Scan() {
		if left.N <= 0 { // what is left of the last line may be another command
			return fmt.Errorf("%s: is longer than %d MiB: load it in pieces", file, maxLoaded>>20)
		}
		if strings.HasPrefix(text.Text(), "#") {
			continue
		}
		args := strings.Fields(text.Text())
		if len(args) == 0 {
			continue
		}
		l, err := parseConntrack(append(args, rest...))
		if err == nil || l.command == 0 {
			err = l.loadable(err)
		}
		if err != nil {
			return misused(fmt.Errorf("%w", err))
		}
		lines = append(lines, l)
	}
	if err := text.Err(); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return runLoaded(cmd, lines)
}

// loadable checks that a command may be in a file.
func (l *conntrackLine) loadable(err error) error {
	switch {
	case err != nil:
		return err
	case l.command == 0:
		return complain("Cannot use command `unknown' with --load-file")
	case l.table == tableExpect:
		return complain("Cannot use command `-%c expect' with --load-file", l.command)
	case !strings.ContainsRune("IAUDF", rune(l.command)):
		return complain("Cannot use command `-%c' with --load-file", l.command)
	}
	return nil
}

// runLoaded does commands one after the other by one connection, and tells no numbers.
func runLoaded(cmd *cobra.Command, lines []*conntrackLine) error {
	if len(lines) == 0 {
		return nil
	}
	client := connect(lines[0].gateway)
	defer client.Close()
	for _, l := range lines {
		var err error
		switch l.command {
		case ctCreate, ctAdd:
			_, err = l.insert(cmd, client)
		case ctDelete:
			_, err = l.print(cmd, client.DeleteFlows)
		case ctUpdate:
			_, err = l.print(cmd, l.updater(client))
		default:
			err = l.empty(cmd, client)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
