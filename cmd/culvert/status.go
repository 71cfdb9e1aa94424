package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.com/culvert/control/api"
)

func statusCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "status [flags]",
		Short:   "Show the health of a running gateway, or wait until it is ready",
		Example: "  culvert status --wait 10s",
		Args:    noArguments,
	}
	socket, output := socketFlag(cmd), outputFlag(cmd)
	wait := cmd.Flags().Duration("wait", 0, "wait up to `DURATION` for the gateway to be ready")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client := connect(*socket)
		defer client.Close()
		st, err := statusOf(cmd.Context(), client, *wait)
		if err != nil {
			return err
		}
		if err := render(cmd.OutOrStdout(), output, st, func(w io.Writer) error { return printStatus(w, st) }); err != nil {
			return err
		}
		if !st.Ready {
			return fmt.Errorf("not ready: %s", strings.Join(st.Waiting, "; "))
		}
		return nil
	}
	return cmd
}

func statusOf(ctx context.Context, client *api.Client, wait time.Duration) (api.Status, error) {
	if wait <= 0 {
		return client.Status(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return client.WaitReady(ctx)
}

func printStatus(w io.Writer, st api.Status) error {
	state := "ready"
	if !st.Ready {
		state = "waiting"
	}
	fmt.Fprintf(w, "%s: %s, generation %d, %s, up %v\n",
		st.Name, state, st.Generation, count(st.Rules, "rule"), time.Since(st.Started).Round(time.Second))
	if len(st.Troubles) == 0 {
		fmt.Fprintln(w, "health: good")
	}
	for _, trouble := range st.Troubles {
		fmt.Fprintf(w, "trouble: %s\n", trouble)
	}
	if l := st.Load; l != nil {
		fmt.Fprintf(w, "load: %s packets/s, %s/s, %d of %s at work, busy %s (last %s)\n", si(l.Packets), bits(8*l.Bytes), l.Working, count(len(l.Busy), "worker"), percents(l.Busy), wholeSeconds(l.Seconds))
		fmt.Fprintf(w, "flows: %d of %d, %d %% full; %s begin and %s end a second\n", st.Flows, st.FlowLimit, st.Flows*100/max(st.FlowLimit, 1), si(l.Begun), si(l.Ended))
	} else {
		fmt.Fprintf(w, "flows: %d of %d\n", st.Flows, st.FlowLimit)
	}
	if len(st.Holders) > 0 {
		fmt.Fprintf(w, "nearly full; most flows: %s\n", holders(st.Holders))
	}
	if c := st.Changes; c != nil {
		fmt.Fprintf(w, "last reload: %d of %s differed: %d kept, %d ended, %d reevaluated\n",
			c.Changed(), count(c.Flows, "live flow"), c.Kept, c.Ended, c.Reevaluated)
	}
	if r := st.Recalled; r != nil && r.Refused != "" {
		fmt.Fprintf(w, "of the last process no flows are there: %s\n", r.Refused)
	} else if r != nil && *r != (api.Recalled{}) {
		fmt.Fprintf(w, "of the last process: %s\n", restoredText(&r.RestoreResult))
	}
	for _, p := range st.Ports[:min(len(st.Ports), portsShown)] {
		if p.Percent() >= portsFrom || p.FullIn != 0 {
			fmt.Fprintf(w, "ports: %s\n", p)
		}
	}
	if st.Requested > 0 {
		fmt.Fprintf(w, "requested by hosts: %s\n", count(st.Requested, "port"))
	}
	for _, r := range st.Refusals {
		fmt.Fprintf(w, "no port %v ago: %s for %s to %s %s, at %s: %s\n", time.Since(r.At).Round(time.Second), r.Reason, r.Client, r.Protocol, r.Destination, r.Address, r.Advice)
	}
	for _, h := range st.Helpers {
		fmt.Fprintf(w, "helper %s: %s unread, %s refused; last: %s\n", h.Name, count(int(h.Unread), "message"), count(int(h.Refused), "announcement"), h.Last)
	}
	fmt.Fprintf(w, "packets: %d forwarded, %d dropped\n\n", st.Forwarded, st.Dropped)
	if err := dropsText(w, st.Load); err != nil {
		return err
	}
	return table(w, func(row func(...any)) {
		row("INTERFACE", "AREA", "STATE", "UPLINK", "DRIVER", "MTU", "ADDRESSES", "NEXT HOPS")
		for _, i := range st.Interfaces {
			row(i.Name, i.Area, i.State, uplink(i.Uplink), i.Driver, i.MTU, words(i.Addresses), words(i.NextHops))
		}
	})
}

// dropsText prints what was dropped lately, and what to do about it.
func dropsText(w io.Writer, l *api.Load) error {
	if l == nil || len(l.Drops) == 0 {
		return nil
	}
	err := table(w, func(row func(...any)) {
		row("DROPPED IN "+wholeSeconds(l.Seconds), "REASON", "ADVICE")
		for _, d := range l.Drops {
			row(d.Count, d.Reason, d.Advice)
		}
	})
	fmt.Fprintln(w)
	return err
}

// wholeSeconds is a length of time in whole seconds.
func wholeSeconds(s float64) string { return fmt.Sprintf("%.0f s", s) }

// percents joins shares for a line: "12 %, 3 %".
func percents(shares []float64) string {
	parts := make([]string, len(shares))
	for i, s := range shares {
		parts[i] = fmt.Sprintf("%.0f %%", 100*s)
	}
	return strings.Join(parts, ", ")
}

// Addresses whose ports are shown: how many, and from which percentage on.
const (
	portsShown = 5
	portsFrom  = 50
)

// uplink says how an uplink is and for how long, "-" for one that is not checked.
func uplink(u *api.Uplink) string {
	if u == nil {
		return "-"
	}
	return fmt.Sprintf("%s %v", u.State, time.Since(u.Since).Round(time.Second))
}

// holders joins clients for a line.
func holders(list []api.Holder) string {
	parts := make([]string, len(list))
	for i, h := range list {
		parts[i] = h.String()
	}
	return strings.Join(parts, ", ")
}

// words joins a list for a table cell.
func words(list []string) string {
	if len(list) == 0 {
		return "-"
	}
	return strings.Join(list, ",")
}
