package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"example.com/culvert/control/api"
)

func topCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "top [flags] [-- FILTER]",
		Short:   "Show the flows, talkers, rules, drops or ports that matter most now, live; FILTER is as of conntrack -L",
		Example: "  culvert top --view talkers\n  culvert top --once -- -p tcp --dport 443",
	}
	socket, output := socketFlag(cmd), outputFlag(cmd)
	view := choice{api.ViewFlows, api.TopViews()}
	cmd.Flags().Var(&view, "view", "`VIEW`: "+strings.Join(view.words, ", "))
	order := cmd.Flags().String("sort", "", "`WORD` to sort by (default bytes; of rules hits, of drops packets, of ports used)")
	interval := cmd.Flags().Duration("interval", 2*time.Second, "`TIME` between two looks")
	rows := cmd.Flags().Int("rows", 20, "print at most `N` rows; on a terminal as many as it has")
	batch := cmd.Flags().BoolP("batch", "b", false, "print one look below the other, as without a terminal")
	number := cmd.Flags().IntP("count", "n", 0, "end after `N` looks (default: go on)")
	once := cmd.Flags().Bool("once", false, "print one look: -b -n 1")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ask := api.TopRequest{View: view.word, Sort: *order, Rows: *rows, Interval: *interval, Count: *number}
		if err := topOptions(&ask, args); err != nil {
			return usageError{err: err}
		}
		if *once {
			ask.Count = 1
		}
		client := connect(*socket)
		defer client.Close()
		if out, ok := cmd.OutOrStdout().(*os.File); ok && !*batch && !*once && output.word == "text" && isTerminal(out) && isTerminal(os.Stdin) {
			return liveTop(cmd.Context(), client, ask, os.Stdin, out)
		}
		return printTops(cmd.Context(), client, ask, output, cmd.OutOrStdout())
	}
	return cmd
}

// topOptions checks what the flags say and adds the filter, in the words of conntrack -L.
func topOptions(ask *api.TopRequest, filter []string) error {
	if orders := api.TopOrders(ask.View); ask.Sort != "" && !slices.Contains(orders, ask.Sort) {
		return fmt.Errorf("--sort %s: view %s has %s%s", ask.Sort, ask.View, strings.Join(orders, ", "), didYouMean(ask.Sort, orders))
	}
	if ask.Rows < 1 {
		return fmt.Errorf("--rows %d: want one at least", ask.Rows)
	}
	if ask.Count < 0 {
		return fmt.Errorf("--count %d: want a positive number", ask.Count)
	}
	if ask.Interval < 100*time.Millisecond || ask.Interval > time.Hour {
		return fmt.Errorf("--interval %v: want 100ms to 1h", ask.Interval)
	}
	var err error
	ask.Format, err = flowFilter(filter)
	return err
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// printTops prints one look below the other. As JSON each is a line.
func printTops(ctx context.Context, client *api.Client, ask api.TopRequest, output *choice, to io.Writer) error {
	w := bufio.NewWriter(to)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	var failed error
	n := 0
	err := client.Top(ctx, ask, func(t *api.Top) bool {
		switch {
		case output.word == "json":
			failed = enc.Encode(t)
		default:
			if n > 0 {
				fmt.Fprintln(w)
			}
			failed = topText(w, t)
		}
		n++
		failed = errors.Join(failed, w.Flush())
		return failed == nil
	})
	if ctx.Err() != nil { // interrupted: that is how it ends
		return nil
	}
	return errors.Join(err, failed)
}

// topText prints one look.
func topText(w io.Writer, t *api.Top) error {
	match := ""
	if t.Matched < t.Flows {
		match = fmt.Sprintf(" (%d match)", t.Matched)
	}
	fmt.Fprintf(w, "%s: %s by %s, over %.1f s\n", t.Time.Format(time.TimeOnly), t.View, t.Sort, t.Seconds)
	fmt.Fprintf(w, "%d of %d flows%s, %s begin a second; %s packets/s, up %s/s, down %s/s; %s dropped a second\n\n", t.Flows, t.Limit, match,
		si(t.Begun), si(t.Packets), bits(8*t.Up), bits(8*t.Down), si(t.Dropped))
	return table(w, func(row func(...any)) {
		switch t.View {
		case api.ViewFlows:
			row("UP/S", "DOWN/S", "PACKETS/S", "BYTES", "PROTO", "STATE", "FLOW", "TRANSLATED")
			for i := range t.TopFlows {
				f := &t.TopFlows[i]
				row(bits(8*f.Up), bits(8*f.Down), si(f.Packets), si(float64(f.Total)), f.Flow.Proto, flowState(f.Flow), flowEnds(f.Flow), flowTranslation(f.Flow))
			}
		case api.ViewTalkers:
			row("UP/S", "DOWN/S", "PACKETS/S", "FLOWS", "BEGUN/S", "CLIENT")
			for _, c := range t.Talkers {
				client := c.Client
				if c.Zone != 0 {
					client += fmt.Sprintf(" in zone %d", c.Zone)
				}
				row(bits(8*c.Up), bits(8*c.Down), si(c.Packets), c.Flows, si(c.Begun), client)
			}
		case api.ViewRules:
			row("HITS/S", "BYTES/S", "HITS", "FLOWS", "RULE", "WHERE")
			for _, r := range t.Rules {
				row(si(r.HitRate), si(r.ByteRate), r.Hits, r.Flows, r.Text, cmp.Or(r.Position, "built in"))
			}
		case api.ViewDrops:
			row("PACKETS/S", "PACKETS", "REASON", "STEP", "ADVICE")
			for _, d := range t.Drops {
				row(si(d.Rate), d.Count, d.Reason, d.Step, d.Advice)
			}
		case api.ViewPorts:
			row("USED", "OF", "PERCENT", "FULL IN", "PROTO", "ADDRESS")
			for _, p := range t.Ports {
				full := "-"
				if p.FullIn > 0 {
					full = time.Duration(p.FullIn * float64(time.Second)).Round(time.Second).String()
				}
				row(p.Used+p.Kept, p.Total, p.Percent(), full, p.Protocol, p.Address)
			}
		}
	})
}

// flowState is the state of a flow, or for protocols without how far it has come.
func flowState(f *api.Flow) string {
	switch {
	case f.State != "":
		return f.State
	case slices.Contains(f.Status, "ASSURED"):
		return "ASSURED"
	case slices.Contains(f.Status, "SEEN_REPLY"):
		return "REPLIED"
	}
	return "UNREPLIED"
}

// flowEnds is where a flow comes from and goes to: "10.0.0.5:40000 > 198.51.100.7:443".
func flowEnds(f *api.Flow) string {
	o := &f.Original
	switch {
	case o.Ident != nil:
		return fmt.Sprintf("%v > %v id %d", o.Src, o.Dst, *o.Ident)
	case o.Sport == nil:
		return fmt.Sprintf("%v > %v", o.Src, o.Dst)
	}
	return withPort(o.Src, o.Sport) + " > " + withPort(o.Dst, o.Dport)
}

// withPort is an address with its port, if the protocol has ports.
func withPort(a netip.Addr, port *uint16) string {
	if port == nil {
		return a.String()
	}
	return netip.AddrPortFrom(a, *port).String()
}

// flowTranslation is what the other side sees of a flow: "as 203.0.113.1:51712", "to
// 10.0.0.9:8443", or both.
func flowTranslation(f *api.Flow) string {
	var parts []string
	o, r := &f.Original, &f.Reply
	if as := withPort(r.Dst, r.Dport); as != withPort(o.Src, o.Sport) {
		parts = append(parts, "as "+as)
	}
	if to := withPort(r.Src, r.Sport); to != withPort(o.Dst, o.Dport) {
		parts = append(parts, "to "+to)
	}
	if len(parts) == 0 {
		return "-"
	}
	return strings.Join(parts, " ")
}
