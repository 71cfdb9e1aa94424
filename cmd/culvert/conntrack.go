package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"example.com/culvert/conntrack/tuple"
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
		Use:     "conntrack (-L | -G | -D | -I | -A | -U | -E | -F | -C | -S) [TABLE] [flags]",
		Short:   "Show, count, watch or change flows and expectations, in the words of conntrack(8)",
		Example: "  culvert conntrack -L -p tcp --dport 443 -o id\n  culvert conntrack -L expect\n  culvert conntrack -L -o json      # what -o xml and -o save leave out: ICMP, marks, labels, counters",

		DisableFlagParsing: true, // its own rules are older than ours
		ValidArgsFunction:  completeConntrack,
		RunE:               conntrackMain,
	}
	help := cmd.Flags() // for help texts alone
	for _, o := range slices.Concat(conntrackCommands, conntrackOptionList, protocolOf(tuple.SCTP).options,
		[]longOption{roleOption}, protocolOf(tuple.ICMP).options, keyOptions, ownOptions, []longOption{loadOption}) {
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

// failed is failed in the words of the kernel, to whom an expectation is a file.
func (l *conntrackLine) failed(cmd *cobra.Command, err error) error {
	switch {
	case l.table == tableExpect && errors.Is(err, api.ErrNotFound):
		return operationFailed(cmd, "No such file or directory")
	case l.command == ctUpdate && errors.Is(err, api.ErrInvalid):
		return operationFailed(cmd, "Operation not supported")
	}
	return failed(cmd, err)
}

func conntrackMain(cmd *cobra.Command, args []string) error {
	if file, rest, is := loadFile(args); is {
		return load(cmd, file, rest)
	}
	l, err := parseConntrack(args)
	if l.labels.note != "" {
		l.notes = append(l.notes, l.labels.note)
	}
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
	if l.command == ctStats {
		return l.stats(cmd, client)
	}
	if l.table == tableExpect {
		return l.runExpect(cmd, client)
	}
	switch l.command {
	case ctList:
		from := client.Flows
		if l.has("zero") && l.table == tableFlows {
			from, l.format.Table = client.ZeroFlows, ""
		}
		_, err := l.dump(cmd, from, "flow entries", "shown")
		return err
	case ctCreate, ctAdd:
		n, err := l.insert(cmd, client)
		if err == nil {
			footer(cmd, n, "flow entries", map[byte]string{ctCreate: "created", ctAdd: "added"}[l.command])
		}
		return err
	case ctGet:
		get := func(ctx context.Context, f api.Format) (io.ReadCloser, error) { return client.Flow(ctx, l.tuple(), f) }
		return l.some(cmd, get, "shown")
	case ctDelete:
		return l.some(cmd, client.DeleteFlows, "deleted")
	case ctUpdate:
		return l.some(cmd, l.updater(client), "updated")
	case ctEvents:
		return l.watch(cmd, client.Events, "flow")
	case ctCount:
		return printCount(cmd, client.CountFlows)
	}
	return l.empty(cmd, client)
}

// updater is what -U asks for.
func (l *conntrackLine) updater(client *api.Client) source {
	return func(ctx context.Context, f api.Format) (io.ReadCloser, error) {
		return client.UpdateFlows(ctx, l.update, f)
	}
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
	case ctGet:
		get := func(ctx context.Context, f api.Format) (io.ReadCloser, error) {
			return client.Expectation(ctx, l.tuple(), api.Format{Form: f.Form})
		}
		_, err := l.dump(cmd, get, "expectations", "shown")
		return err
	case ctDelete:
		if err := client.DeleteExpectation(ctx, l.tuple()); err != nil {
			return l.failed(cmd, err)
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
	n, err := l.print(cmd, from)
	if err == nil {
		footer(cmd, n, what, done)
	}
	return n, err
}

// print is dump without the last line.
func (l *conntrackLine) print(cmd *cobra.Command, from source) (int, error) {
	body, err := from(cmd.Context(), l.format)
	if err != nil {
		return 0, l.failed(cmd, err)
	}
	defer body.Close()
	return l.copy(cmd, body)
}

// copy prints lines. Around them XML has more, but when flows are deleted or changed.
func (l *conntrackLine) copy(cmd *cobra.Command, body io.Reader) (int, error) {
	root := ""
	if l.format.Form == api.FormXML && l.command != ctDelete && l.command != ctUpdate {
		root = map[bool]string{true: "expect", false: "conntrack"}[l.table == tableExpect]
	}
	return copyLines(cmd.OutOrStdout(), cmd.ErrOrStderr(), body, root)
}

// some is dump for commands that fail when there is no such flow.
func (l *conntrackLine) some(cmd *cobra.Command, from source, done string) error {
	n, err := l.dump(cmd, from, "flow entries", done)
	if err == nil && n == 0 {
		err = errReported
	}
	return err
}

// leastBuffer is the smallest buffer that the kernel gives a socket, bytes. Ours has
// none: the option is there for scripts.
const leastBuffer = 2304

// watch prints events until the command is interrupted or the gateway ends.
func (l *conntrackLine) watch(cmd *cobra.Command, from source, what string) error {
	if arg, ok := l.given["buffer-size"]; ok {
		bytes, _ := strconv.ParseUint(arg, 0, 31)
		fmt.Fprintf(cmd.ErrOrStderr(), "NOTICE: Netlink socket buffer size has been set to %d bytes.\n", max(2*bytes, leastBuffer))
	}
	body, err := from(cmd.Context(), l.format)
	if err != nil {
		return err
	}
	defer body.Close()
	n, err := l.copy(cmd, body)
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
// many. Notes about lost events go to notes. If root is not empty, they are in an XML
// element of that name, unless there are none.
func copyLines(w, notes io.Writer, from io.Reader, root string) (n int, err error) {
	in, out := bufio.NewReaderSize(from, 64<<10), bufio.NewWriterSize(w, 64<<10)
	defer func() {
		if root != "" && n > 0 {
			fmt.Fprintf(out, "</%s>\n", root)
		}
		err = errors.Join(err, out.Flush())
	}()
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
		if n == 0 && root != "" {
			fmt.Fprintf(out, "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<%s>\n", root)
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
