package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.com/culvert/alg"
	"example.com/culvert/alg/registry"
	"example.com/culvert/dataplane/replay"
	"example.com/culvert/rules"
)

func algCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "alg COMMAND",
		Short:   "See what helpers do",
		Example: "  culvert alg replay calls.pcap --helper sip",
		Args:    unknownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(algReplayCommand())
	return cmd
}

// Addresses that stand for the gateway's in a replay.
const (
	exampleExternal4 = "203.0.113.1"
	exampleExternal6 = "2001:db8::1"
)

func algReplayCommand() *cobra.Command {
	names := registry.New().Names()
	cmd := &cobra.Command{
		Use:     "replay FILE",
		Short:   "Run a helper over a capture (pcap, pcapng) and print what it would replace and expect",
		Example: "  culvert alg replay calls.pcap --helper sip --external 192.0.2.1",
	}
	cmd.Args = func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usageError{err: errors.New("name one capture file")}
		}
		return nil
	}
	helper := &choice{"", names}
	cmd.Flags().Var(helper, "helper", "`NAME` of the helper: "+strings.Join(names, ", "))
	port := cmd.Flags().Uint16("port", 0, "destination `PORT` of the flows that have the helper (default: its usual one)")
	external := cmd.Flags().StringSlice("external", []string{exampleExternal4, exampleExternal6}, "`ADDRESS` that clients are translated to, one of each family, or none")
	subnet := cmd.Flags().String("subnet", "", "`PREFIX` of a link of the gateway, for helpers of broadcasts: flows to it are not translated")
	allow := cmd.Flags().StringSlice("helper-options", nil, "`WORD` as in helper_options of a rule: "+strings.Join(helperOptionNames(), ", "))
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if helper.word == "" {
			return usageError{err: fmt.Errorf("--helper NAME is missing: there are %s", strings.Join(names, ", "))}
		}
		cfg := replay.Config{Path: args[0], Port: *port}
		if err := setExternal(&cfg, *external); err != nil {
			return usageError{err: err}
		}
		if *subnet != "" {
			net, err := netip.ParsePrefix(*subnet)
			if err != nil {
				return usageError{err: fmt.Errorf("--subnet %q: want a prefix as 10.0.0.0/24", *subnet)}
			}
			cfg.Subnet = net.Masked()
		}
		options, err := helperOptions(*allow)
		if err != nil {
			return usageError{err: err}
		}
		set := registry.New()
		number, err := set.Number(helper.word, options)
		if err != nil {
			return err
		}
		cfg.Attachment = *set.Get(number)
		return replayTo(cmd.OutOrStdout(), output, cfg)
	}
	return cmd
}

func helperOptionNames() (names []string) {
	for _, known := range rules.HelperOptions {
		names = append(names, known.Name)
	}
	return names
}

// helperOptions returns what words allow a helper.
func helperOptions(words []string) (o alg.Options, err error) {
	for _, word := range words {
		i := slices.IndexFunc(rules.HelperOptions[:], func(known rules.HelperOption) bool { return known.Name == word })
		if i < 0 {
			return o, fmt.Errorf("--helper-options %q: there are %s%s", word, strings.Join(helperOptionNames(), ", "), didYouMean(word, helperOptionNames()))
		}
		*rules.HelperOptions[i].Of(&o) = true
	}
	return o, nil
}

// setExternal gives a replay the addresses of the gateway.
func setExternal(cfg *replay.Config, addrs []string) error {
	if slices.Equal(addrs, []string{"none"}) {
		return nil
	}
	for _, text := range addrs {
		a, err := netip.ParseAddr(text)
		if err != nil {
			return fmt.Errorf("--external %q: want an address, or none", text)
		}
		to := &cfg.External6
		if a.Is4() {
			to = &cfg.External4
		}
		*to = a
	}
	return nil
}

// replayTo prints what happens while it does.
func replayTo(w io.Writer, form *choice, cfg replay.Config) error {
	if form.word == "json" {
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		sum, err := replay.Run(cfg, func(e *replay.Event) error { return enc.Encode(e) })
		if err != nil {
			return err
		}
		return enc.Encode(struct {
			Summary replay.Summary `json:"summary"`
		}{sum})
	}
	sum, err := replay.Run(cfg, func(e *replay.Event) error {
		_, err := io.WriteString(w, replayText(e))
		return err
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s, %d unread; %s with helper %s, %s, %s\n", count(sum.Packets, "packet"), sum.Unread,
		count(sum.Flows, "flow"), cfg.Attachment.Spec.Name, count(sum.Edited, "edit"), count(sum.Refused, "refusal"))
	return err
}

// replayText writes an event as a diff below a heading.
func replayText(e *replay.Event) string {
	return fmt.Sprintf("@@ packet %d, %s, %s, %s @@\n%s", e.Packet, e.Time.UTC().Format(time.RFC3339Nano), e.Flow, e.From, &e.Work)
}
