package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

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

// conntrackOptions are the flags of culvert conntrack.
type conntrackOptions struct {
	list, events, count, flush, create, remove bool

	table                            string // full name
	socket                           string
	output, eventMask, family, proto string
	expectOptions
}

func conntrackCommand() *cobra.Command {
	var o conntrackOptions
	cmd := &cobra.Command{
		Use:     "conntrack (-L | -E | -C | -F | -I | -D) [TABLE] [flags]",
		Short:   "Show, count, watch or change flows and expectations, in the words of conntrack(8)",
		Example: "  culvert conntrack -L -p tcp -o id\n  culvert conntrack -L expect",
		Args: func(_ *cobra.Command, args []string) (err error) {
			o.table, err = conntrackTable(args)
			return err
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.list, "dump", "L", false, "list the table: conntrack (the default), expect, dying or unconfirmed")
	f.BoolVarP(&o.events, "event", "E", false, "print events until interrupted")
	f.BoolVarP(&o.count, "count", "C", false, "print how many entries there are")
	f.BoolVarP(&o.flush, "flush", "F", false, "end every entry")
	f.BoolVarP(&o.create, "create", "I", false, "make an expectation")
	f.BoolVarP(&o.remove, "delete", "D", false, "end an expectation")
	f.StringVarP(&o.output, "output", "o", "", "`LIST` of extended, id, timestamp, ktimestamp; or json")
	f.StringVarP(&o.eventMask, "event-mask", "e", "", "`LIST` of events: ALL, NEW, UPDATES, DESTROY")
	f.StringVarP(&o.family, "family", "f", "", "`FAMILY` of the flows: ipv4 or ipv6")
	f.StringVarP(&o.proto, "protonum", "p", "", "`PROTOCOL` of the flows, by name or number")
	f.StringVar(&o.socket, "socket", "", socketHelp)
	o.expectOptions.add(f)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return misused(flagError(cmd, err)) })
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

func (o *conntrackOptions) run(cmd *cobra.Command) error {
	if err := o.check(cmd.Flags()); err != nil {
		return misused(err)
	}
	form, err := o.format()
	if err != nil {
		return misused(err)
	}
	x, err := o.expectation()
	if err != nil {
		return misused(err)
	}
	client := connect(o.socket)
	defer client.Close()
	ctx, expect := cmd.Context(), o.table == tableExpect
	switch {
	case o.list && expect:
		return o.dump(cmd, form, client.Expectations, "expectations")
	case o.list:
		return o.dump(cmd, form, client.Flows, "flow entries")
	case o.events && expect:
		return o.watch(cmd, form, client.ExpectEvents, "expectation")
	case o.events:
		return o.watch(cmd, form, client.Events, "flow")
	case o.count && expect:
		return o.number(cmd, client.CountExpectations)
	case o.count:
		return o.number(cmd, client.CountFlows)
	case o.create:
		return failed(cmd, client.CreateExpectation(ctx, x))
	case o.remove:
		if err := client.DeleteExpectation(ctx, x.Master); err != nil { // -s and -d name it
			return failed(cmd, err)
		}
		shown(cmd, 1, "expectations")
		return nil
	case expect:
		return o.empty(cmd, client.FlushExpectations, "expectation")
	}
	return o.empty(cmd, client.FlushFlows, "connection tracking")
}

// shown is the last line of lists.
func shown(cmd *cobra.Command, n int, what string) {
	fmt.Fprintf(cmd.ErrOrStderr(), "%s: %d %s have been shown.\n", conntrackName, n, what)
}

// source opens a list or a stream of lines.
type source func(context.Context, api.Format) (io.ReadCloser, error)

func (o *conntrackOptions) dump(cmd *cobra.Command, form api.Format, from source, what string) error {
	body, err := from(cmd.Context(), form)
	if err != nil {
		return err
	}
	defer body.Close()
	n, err := copyLines(cmd.OutOrStdout(), cmd.ErrOrStderr(), body)
	if err != nil {
		return err
	}
	shown(cmd, n, what)
	return nil
}

// watch prints events until the command is interrupted or the gateway ends.
func (o *conntrackOptions) watch(cmd *cobra.Command, form api.Format, from source, what string) error {
	body, err := from(cmd.Context(), form)
	if err != nil {
		return err
	}
	defer body.Close()
	n, err := copyLines(cmd.OutOrStdout(), cmd.ErrOrStderr(), body)
	shown(cmd, n, what+" events")
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	if n == 0 {
		return errReported
	}
	return nil
}

// number prints how many entries there are.
func (o *conntrackOptions) number(cmd *cobra.Command, count func(context.Context) (int, error)) error {
	n, err := count(cmd.Context())
	if err == nil {
		fmt.Fprintln(cmd.OutOrStdout(), n)
	}
	return err
}

// empty ends every entry of a table.
func (o *conntrackOptions) empty(cmd *cobra.Command, flush func(context.Context) (int, error), table string) error {
	if _, err := flush(cmd.Context()); err != nil {
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
