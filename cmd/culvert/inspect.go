package main

import (
	"cmp"
	"io"

	"github.com/spf13/cobra"

	"example.com/culvert/control/api"
)

func rulesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "rules [flags]",
		Short:   "List the rules in force in their normal form, with how often each matched",
		Example: "  culvert rules -o json",
		Args:    noArguments,
	}
	socket, output := socketFlag(cmd), outputFlag(cmd)
	counters := cmd.Flags().Bool("counters", false, "list the counters that rules name instead")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client := connect(*socket)
		defer client.Close()
		if *counters {
			return showRuleCounters(cmd, client, output)
		}
		rules, err := client.Rules(cmd.Context())
		if err != nil {
			return err
		}
		return render(cmd.OutOrStdout(), output, rules, func(w io.Writer) error {
			return table(w, func(row func(...any)) {
				row("HITS", "BYTES", "RULE", "WHERE")
				for _, r := range rules {
					row(r.Hits, r.Bytes, r.Text, cmp.Or(r.Position, "built in"))
				}
			})
		})
	}
	return cmd
}

func showRuleCounters(cmd *cobra.Command, client *api.Client, output *choice) error {
	counters, err := client.RuleCounters(cmd.Context())
	if err != nil {
		return err
	}
	return render(cmd.OutOrStdout(), output, counters, func(w io.Writer) error {
		return table(w, func(row func(...any)) {
			row("PACKETS", "BYTES", "COUNTER")
			for _, c := range counters {
				row(c.Packets, c.Bytes, c.Name)
			}
		})
	})
}

func countersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "counters [flags]",
		Short:   "List dropped packets by reason, with what to do about them, or what helpers did",
		Example: "  culvert counters --all",
		Args:    noArguments,
	}
	socket, output := socketFlag(cmd), outputFlag(cmd)
	all := cmd.Flags().Bool("all", false, "also reasons that never occurred")
	helpers := cmd.Flags().Bool("helpers", false, "list instead, for each helper, messages that it could not read, and announcements of flows")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client := connect(*socket)
		defer client.Close()
		if *helpers {
			return showHelpers(cmd, client, output)
		}
		counters, err := client.Counters(cmd.Context())
		if err != nil {
			return err
		}
		return render(cmd.OutOrStdout(), output, counters, func(w io.Writer) error {
			return table(w, func(row func(...any)) {
				row("PACKETS", "REASON", "STEP", "ADVICE")
				for _, c := range counters {
					if c.Count > 0 || *all {
						row(c.Count, c.Reason, c.Step, c.Advice)
					}
				}
			})
		})
	}
	return cmd
}

func showHelpers(cmd *cobra.Command, client *api.Client, output *choice) error {
	helpers, err := client.Helpers(cmd.Context())
	if err != nil {
		return err
	}
	return render(cmd.OutOrStdout(), output, helpers, func(w io.Writer) error { return printHelpers(w, helpers) })
}

func printHelpers(w io.Writer, helpers []api.Helper) error {
	return table(w, func(row func(...any)) {
		row("HELPER", "UNREAD", "ANNOUNCED", "REFUSED", "LAST REFUSED")
		for i := range helpers {
			h := &helpers[i]
			row(h.Name, h.Unread, h.Announced, h.Refused, h.Last)
		}
	})
}
