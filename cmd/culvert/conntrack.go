package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"example.com/culvert/conntrack/ctfmt"
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
	list, events, count, flush  bool
	socket                      string
	output, mask, family, proto string
}

func conntrackCommand() *cobra.Command {
	var o conntrackOptions
	cmd := &cobra.Command{
		Use:     "conntrack (-L | -E | -C | -F) [flags]",
		Short:   "Show, count, watch or empty the table of flows, in the words of conntrack(8)",
		Example: "  culvert conntrack -L -p tcp -o id",
		Args:    func(_ *cobra.Command, args []string) error { return conntrackTable(args) },
		RunE:    func(cmd *cobra.Command, _ []string) error { return o.run(cmd) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.list, "dump", "L", false, "list the flows")
	f.BoolVarP(&o.events, "event", "E", false, "print events until interrupted")
	f.BoolVarP(&o.count, "count", "C", false, "print how many flows there are")
	f.BoolVarP(&o.flush, "flush", "F", false, "end every flow")
	f.StringVarP(&o.output, "output", "o", "", "`LIST` of extended, id, timestamp, ktimestamp; or json")
	f.StringVarP(&o.mask, "event-mask", "e", "", "`LIST` of events: ALL, NEW, UPDATES, DESTROY")
	f.StringVarP(&o.family, "family", "f", "", "`FAMILY` of the flows: ipv4 or ipv6")
	f.StringVarP(&o.proto, "protonum", "p", "", "`PROTOCOL` of the flows, by name or number")
	f.StringVar(&o.socket, "socket", "", socketHelp)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return misused(flagError(cmd, err)) })
	return cmd
}

// conntrackTable accepts the name of the only table there is.
func conntrackTable(args []string) error {
	if len(args) == 0 || len(args) == 1 && args[0] != "" && strings.HasPrefix("conntrack", args[0]) {
		return nil
	}
	return misused(fmt.Errorf("unknown argument %q", args[0]))
}

// misused makes a complaint in the form of conntrack(8).
func misused(err error) error {
	return usageError{err: err, program: conntrackName, hint: conntrackHint}
}

func (o *conntrackOptions) run(cmd *cobra.Command) error {
	form, err := o.format()
	if err != nil {
		return misused(err)
	}
	if o.commands() != 1 {
		return misused(errors.New("want exactly one of -L, -E, -C and -F"))
	}
	client := connect(o.socket)
	defer client.Close()
	switch {
	case o.list:
		return o.dump(cmd, client, form)
	case o.events:
		return o.watch(cmd, client, form)
	case o.count:
		n, err := client.CountFlows(cmd.Context())
		if err == nil {
			fmt.Fprintln(cmd.OutOrStdout(), n)
		}
		return err
	}
	if _, err := client.FlushFlows(cmd.Context()); err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s: connection tracking table has been emptied.\n", conntrackName)
	return nil
}

// commands returns how many commands were given.
func (o *conntrackOptions) commands() (n int) {
	for _, given := range [...]bool{o.list, o.events, o.count, o.flush} {
		if given {
			n++
		}
	}
	return n
}

func (o *conntrackOptions) format() (f api.Format, err error) {
	if o.mask != "" && !o.events {
		return f, errors.New("-e is for -E")
	}
	if (o.count || o.flush) && o.output+o.family+o.proto != "" {
		return f, errors.New("-C and -F take no other option")
	}
	f.Form = api.FormText
	for _, word := range strings.FieldsFunc(o.output, func(r rune) bool { return r == ',' }) {
		if word == "json" {
			f.Form = api.FormJSON
		} else {
			f.Output = append(f.Output, word)
		}
	}
	if err := api.ParseOutput(strings.Join(f.Output, ","), &ctfmt.Options{}); err != nil {
		return f, err
	}
	if o.mask != "" {
		if _, err := api.ParseEvents(o.mask); err != nil {
			return f, err
		}
		f.Events = []string{o.mask}
	}
	if f.Family, err = api.ParseFamily(o.family); err != nil {
		return f, err
	}
	if o.proto != "" {
		f.Proto, err = api.ParseProto(o.proto)
	}
	return f, err
}

func (o *conntrackOptions) dump(cmd *cobra.Command, client *api.Client, form api.Format) error {
	body, err := client.Flows(cmd.Context(), form)
	if err != nil {
		return err
	}
	defer body.Close()
	n, err := copyLines(cmd.OutOrStdout(), cmd.ErrOrStderr(), body)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "%s: %d flow entries have been shown.\n", conntrackName, n)
	return nil
}

// watch prints events until the command is interrupted or the gateway ends.
func (o *conntrackOptions) watch(cmd *cobra.Command, client *api.Client, form api.Format) error {
	body, err := client.Events(cmd.Context(), form)
	if err != nil {
		return err
	}
	defer body.Close()
	n, err := copyLines(cmd.OutOrStdout(), cmd.ErrOrStderr(), body)
	fmt.Fprintf(cmd.ErrOrStderr(), "%s: %d flow events have been shown.\n", conntrackName, n)
	if err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	if n == 0 {
		return errReported
	}
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
