package main

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"example.com/culvert/control/api"
)

func reloadCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "reload [flags]",
		Short:   "Have a running gateway read its configuration again; when it returns, new packets meet it",
		Example: "  culvert reload --dry-run -c /etc/culvert/culvert.toml",
		Args:    noArguments,
	}
	socket, output := socketFlag(cmd), outputFlag(cmd)
	path := cmd.Flags().StringP("config", "c", "", "another configuration `FILE` than the present one")
	dry := cmd.Flags().Bool("dry-run", false, "change nothing; say which live flows the new rules would treat otherwise")
	flows := cmd.Flags().Int("flows", 20, "list at most `N` of these flows")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		request := api.ReloadRequest{DryRun: *dry, Flows: *flows}
		if *path != "" {
			abs, err := filepath.Abs(*path) // the gateway has another working directory
			if err != nil {
				return err
			}
			request.Config = abs
		}
		client := connect(*socket)
		defer client.Close()
		result, err := client.Reload(cmd.Context(), request)
		if err != nil {
			return err
		}
		return render(cmd.OutOrStdout(), output, result, func(w io.Writer) error {
			what := "generation"
			if *dry {
				what = "dry run: nothing has changed; it would be generation"
			}
			fmt.Fprintf(w, "%s %d: %s, %s\n", what, result.Generation, count(result.Rules, "rule"), count(result.Interfaces, "interface"))
			return changesText(w, &result.Changes)
		})
	}
	return cmd
}

// changesText prints which live flows differ from the rules.
func changesText(w io.Writer, c *api.Changes) error {
	if c.Changed() == 0 {
		return nil
	}
	fmt.Fprintf(w, "%d of %s differ: %d kept, %d ended, %d reevaluated\n", c.Changed(), count(c.Flows, "live flow"), c.Kept, c.Ended, c.Reevaluated)
	return table(w, func(row func(...any)) {
		row("FLOWS", "FATE", "RULES")
		for i := range c.Groups {
			row(c.Groups[i].Flows, c.Groups[i].Fate, c.Groups[i].String())
		}
		if len(c.Sample) == 0 {
			return
		}
		row("")
		row("FLOW", "FATE", "RULES")
		for i := range c.Sample {
			row(c.Sample[i].Flow, c.Sample[i].Fate, c.Sample[i].String())
		}
	})
}
