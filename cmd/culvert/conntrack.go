package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"example.com/culvert/control/api"
)

// conntrackName is how conntrack(8) signs its messages: the version whose text
// forms we keep.
const conntrackName = "conntrack v1.4.7 (conntrack-tools)"

// conntrackHint follows every complaint about parameters.
const conntrackHint = "Try `conntrack -h' or 'conntrack --help' for more information."

// eventsLost is what conntrack(8) says in this case; the number is ours.
const eventsLost = "WARNING: We have hit ENOBUFS! We are losing events.\n" +
	"This message means that the current socket buffer size is too small.\n" +
	"Please, check --buffer-size in conntrack(8) manpage. (%s events lost)\n"

func conntrackCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "conntrack (-L | -G | -D | -U | -E | -C | -F | -I) [TABLE] [flags]",
		Short:   "Show, count, watch or change flows and expectations, in the words of conntrack(8)",
		Example: "  culvert conntrack -L -p tcp --dport 443 -o id\n  culvert conntrack -L expect",

		DisableFlagParsing: true, // its own rules are older than ours
		ValidArgsFunction:  completeConntrack,
		RunE:               conntrackMain,
	}
	help := cmd.Flags() // for help texts alone
	for _, o := range slices.Concat(conntrackCommands, conntrackOptionList, portOptions, []longOption{stateOption}, icmpOptions("icmp"), keyOptions, ownOptions) {
		if o.short == ctHelp || o.help == "" {
			continue
		}
		letter := ""
		if o.short != 0 {
			letter = string(o.short)
		}
		if strings.Contains(o.help, "`") {
			help.StringP(o.names[0], letter, "", o.help)
		} else {
			help.BoolP(o.names[0], letter, false, o.help)
		}
	}
	return cmd
}

// misused makes a complaint in the form of conntrack(8).
func misused(err error) error {
	return usageError{err: err, program: conntrackName, hint: conntrackHint}
}

// failed reports what the gateway refused in the form of conntrack(8). Other
// errors are ours.
func failed(cmd *cobra.Command, err error) error {
	if !errors.Is(err, api.ErrNotFound) && !errors.Is(err, api.ErrExists) && !errors.Is(err, api.ErrRefused) {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s: Operation failed: %v\n", conntrackName, err)
	return errReported
}

func conntrackMain(cmd *cobra.Command, args []string) error {
	l, err := parseConntrack(args)
	for _, note := range l.notes {
		fmt.Fprintln(cmd.ErrOrStderr(), note)
	}
	if errors.Is(err, errSave) {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s: %v\n", conntrackName, err)
		return errReported
	}
	if err != nil {
		return misused(err)
	}
	return l.run(cmd)
}

func (l *conntrackLine) run(cmd *cobra.Command) error {
	switch l.command {
	case 0, ctHelp:
		return cmd.Help()
	case ctVersion:
		fmt.Fprintln(cmd.OutOrStdout(), conntrackName)
		return nil
	}
	client := connect(l.gateway)
	defer client.Close()
	if l.table == tableExpect {
		return l.runExpect(cmd, client)
	}
	switch l.command {
	case ctList:
		_, err := l.dump(cmd, client.Flows, "flow entries", "shown")
		return err
	case ctGet:
		get := func(ctx context.Context, f api.Format) (io.ReadCloser, error) { return client.Flow(ctx, l.tuple(), f) }
		return l.some(cmd, get, "shown")
	case ctDelete:
		return l.some(cmd, client.DeleteFlows, "deleted")
	case ctUpdate:
		update := func(ctx context.Context, f api.Format) (io.ReadCloser, error) {
			return client.UpdateFlows(ctx, l.update, f)
		}
		return l.some(cmd, update, "updated")
	case ctEvents:
		return l.watch(cmd, client.Events, "flow")
	case ctCount:
		return printCount(cmd, client.CountFlows)
	}
	return l.empty(cmd, client)
}

func (l *conntrackLine) runExpect(cmd *cobra.Command, client *api.Client) error {
	ctx := cmd.Context()
	switch l.command {
	case ctList:
		_, err := l.dump(cmd, client.Expectations, "expectations", "shown")
		return err
	case ctEvents:
		return l.watch(cmd, client.ExpectEvents, "expectation")
	case ctCount:
		return printCount(cmd, client.CountExpectations)
	case ctCreate:
		x, err := l.expectation()
		if err != nil {
			return misused(err)
		}
		return failed(cmd, client.CreateExpectation(ctx, x))
	case ctDelete:
		if err := client.DeleteExpectation(ctx, l.tuple()); err != nil {
			return failed(cmd, err)
		}
		footer(cmd, 1, "expectations", "shown")
		return nil
	}
	return l.empty(cmd, client)
}

// footer is the last line of commands that are about entries.
func footer(cmd *cobra.Command, n int, what, done string) {
	fmt.Fprintf(cmd.ErrOrStderr(), "%s: %d %s have been %s.\n", conntrackName, n, what, done)
}

// source opens a list or a stream of lines.
type source func(context.Context, api.Format) (io.ReadCloser, error)

// dump prints a list and returns how many entries it has.
func (l *conntrackLine) dump(cmd *cobra.Command, from source, what, done string) (int, error) {
	body, err := from(cmd.Context(), l.format)
	if err != nil {
		return 0, failed(cmd, err)
	}
	defer body.Close()
	whole := l.format.Form == api.FormXML && (l.command == ctList || l.command == ctGet)
	if whole {
		fmt.Fprintln(cmd.OutOrStdout(), "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<conntrack>")
	}
	n, err := copyLines(cmd.OutOrStdout(), cmd.ErrOrStderr(), body)
	if whole && err == nil {
		fmt.Fprintln(cmd.OutOrStdout(), "</conntrack>")
	}
	if err == nil {
		footer(cmd, n, what, done)
	}
	return n, err
}

// some is dump for commands that fail when there is no such flow.
func (l *conntrackLine) some(cmd *cobra.Command, from source, done string) error {
	n, err := l.dump(cmd, from, "flow entries", done)
	if err == nil && n == 0 {
		err = errReported
	}
	return err
}

// watch prints events until the command is interrupted or the gateway ends.
func (l *conntrackLine) watch(cmd *cobra.Command, from source, what string) error {
	body, err := from(cmd.Context(), l.format)
	if err != nil {
		return err
	}
	defer body.Close()
	n, err := copyLines(cmd.OutOrStdout(), cmd.ErrOrStderr(), body)
	footer(cmd, n, what+" events", "shown")
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	if n == 0 {
		return errReported
	}
	return nil
}

// printCount prints how many entries there are.
func printCount(cmd *cobra.Command, count func(context.Context) (int, error)) error {
	n, err := count(cmd.Context())
	if err == nil {
		fmt.Fprintln(cmd.OutOrStdout(), n)
	}
	return err
}

// empty ends every entry of a table, or the flows of one family.
func (l *conntrackLine) empty(cmd *cobra.Command, client *api.Client) error {
	ctx, table := cmd.Context(), "connection tracking"
	var err error
	switch {
	case l.table == tableExpect:
		table = "expectation"
		_, err = client.FlushExpectations(ctx)
	case l.family != 0:
		var body io.ReadCloser
		if body, err = client.DeleteFlows(ctx, l.format); err == nil {
			_, err = io.Copy(io.Discard, body)
			body.Close()
		}
	default:
		_, err = client.FlushFlows(ctx)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s table has been emptied.\n", conntrackName, table)
	return nil
}

// copyLines copies lines to w, each as soon as it is there, and returns how
// many. Notes about lost events go to notes.
func copyLines(w, notes io.Writer, from io.Reader) (n int, err error) {
	in, out := bufio.NewReaderSize(from, 64<<10), bufio.NewWriterSize(w, 64<<10)
	defer func() { err = errors.Join(err, out.Flush()) }()
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if lost, is := bytes.CutPrefix(line, []byte(api.MissedPrefix)); is {
			fmt.Fprintf(notes, eventsLost, bytes.TrimSpace(lost))
			continue
		}
		if bytes.HasPrefix(line, []byte(api.RestartedPrefix)) {
			fmt.Fprintln(notes, "The gateway began anew: flows that were listed are gone.")
			continue
		}
		n++
		if _, err := out.Write(line); err != nil {
			return n, err
		}
		if in.Buffered() == 0 {
			if err := out.Flush(); err != nil {
				return n, err
			}
		}
	}
}
