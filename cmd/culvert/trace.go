package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.com/culvert/alg/registry"
	"example.com/culvert/control/api"
)

func traceCommand() *cobra.Command {
	names := registry.New().Names()
	cmd := &cobra.Command{
		Use:     "trace [FILTER]... [flags]",
		Short:   "Show what becomes of each packet: flow, rules, translation, helper's edits, where it went or why not",
		Example: "  culvert trace tcp host 10.0.0.5 port 443\n  culvert trace --helper ftp",
	}
	socket, output := socketFlag(cmd), outputFlag(cmd)
	helper := &choice{"", names}
	cmd.Flags().Var(helper, "helper", "only what the helper `NAME` replaces and expects, as a diff")
	q := watchFlags(cmd, 1000)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if helper.word != "" {
			args = append(args, "helper", helper.word, "helped")
		}
		if err := q.match(args); err != nil {
			return err
		}
		client := connect(*socket)
		defer client.Close()
		lines, err := client.Trace(cmd.Context(), q.WatchRequest)
		if err != nil {
			return err
		}
		defer lines.Close()
		sayWatching(cmd)
		if output.word == "json" {
			_, err = io.Copy(cmd.OutOrStdout(), lines)
			return untilInterrupted(cmd.Context(), err)
		}
		text := traceText
		if helper.word != "" {
			text = traceDiff
		}
		return untilInterrupted(cmd.Context(), traceTo(cmd.OutOrStdout(), lines, text))
	}
	return cmd
}

// watchRequest is what flags of trace and capture say.
type watchRequest struct{ api.WatchRequest }

// watchFlags adds the flags that trace and capture have in common.
func watchFlags(cmd *cobra.Command, rate int) *watchRequest {
	var q watchRequest
	f := cmd.Flags()
	f.IntVarP(&q.Count, "count", "c", 0, "end after `N` packets")
	f.DurationVarP(&q.Duration, "duration", "G", 0, "end after a `TIME` such as 10s")
	f.IntVar(&q.Rate, "rate", rate, "most packets a second, `N`; the others are counted; 0: no limit")
	f.IntVar(&q.Walks, "buffer", 0, "room for `N` packets of each worker that are not read yet (default 1024, of a capture 4096)")
	return &q
}

// match takes the words of a filter.
func (q *watchRequest) match(words []string) error {
	q.Match = strings.Join(words, " ") // a shell may have cut it
	if _, err := api.ParseMatch(q.Match); err != nil {
		return usageError{err: err}
	}
	switch {
	case q.Count < 0:
		return usageError{err: fmt.Errorf("--count %d: want 1 or more", q.Count)}
	case q.Rate < 0:
		return usageError{err: fmt.Errorf("--rate %d: want 0 or more", q.Rate)}
	case q.Duration < 0:
		return usageError{err: fmt.Errorf("--duration %v: want a time such as 10s", q.Duration)}
	}
	return nil
}

// sayWatching says that from now on every packet is seen.
func sayWatching(cmd *cobra.Command) { fmt.Fprintln(cmd.ErrOrStderr(), "culvert: watching") }

// untilInterrupted takes the end of a stream by a signal for its end.
func untilInterrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// traceTo prints packets as they come.
func traceTo(w io.Writer, lines io.Reader, text func(io.Writer, *api.TracedPacket) error) error {
	for in := json.NewDecoder(lines); ; {
		var p api.TracedPacket
		err := in.Decode(&p)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("answer of the gateway: %w", err)
		}
		if m := p.Missed; m != nil {
			_, err = fmt.Fprintf(w, "# missed %d packets that were not read in time, %d beyond the rate\n", m.Unread, m.Beyond)
		} else {
			err = text(w, &p)
		}
		if err != nil {
			return err
		}
	}
}

// stampForm is how the times of packets are printed.
const stampForm = "15:04:05.000000"

// traceText prints a packet's walk: a line with its time, then its steps in columns as
// explain does, then what its helper did.
func traceText(w io.Writer, p *api.TracedPacket) error {
	fmt.Fprintf(w, "%s %s\n", p.Time.Local().Format(stampForm), p.Packet)
	x := api.Explanation{Steps: p.Steps, Verdict: p.Verdict, Reason: p.Reason, Advice: p.Advice, Out: p.Out, Leaves: p.Leaves}
	if err := explainText(w, &x); err != nil {
		return err
	}
	if p.Helper != nil {
		if _, err := io.WriteString(w, p.Helper.String()); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(w)
	return err
}

// traceDiff prints what a helper did with a packet, as alg replay does.
func traceDiff(w io.Writer, p *api.TracedPacket) error {
	if p.Helper == nil {
		return nil
	}
	_, err := fmt.Fprintf(w, "@@ flow %d, %s, %s, in %s @@\n%s", p.Flow, p.Time.UTC().Format(time.RFC3339Nano), p.Of, p.In, p.Helper)
	return err
}
