package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"example.com/culvert/control/api"
)

func explainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "explain 'PROTOCOL SOURCE > DESTINATION [in INTERFACE] [WORD VALUE]...' [flags]",
		Short:   "Say what would become of a packet, step by step, without sending or changing anything",
		Example: "  culvert explain 'tcp 10.0.0.5:40000 > 198.51.100.7:443 in lan0'",
	}
	socket, output := socketFlag(cmd), outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		packet := strings.Join(args, " ") // a shell may have cut it
		if _, err := api.ParseProbe(packet); err != nil {
			return usageError{err: err}
		}
		client := connect(*socket)
		defer client.Close()
		x, err := client.Explain(cmd.Context(), packet)
		if err != nil {
			return err
		}
		return render(cmd.OutOrStdout(), output, x, func(w io.Writer) error { return explainText(w, &x) })
	}
	return cmd
}

// explainText prints an explanation, the rules of a step below it.
func explainText(w io.Writer, x *api.Explanation) error {
	verdict := x.Verdict
	switch {
	case x.Reason != "":
		verdict += ": " + x.Reason + " (" + x.Advice + ")"
	case x.Out != "":
		verdict += " by " + x.Out + " as " + x.Leaves
	}
	return table(w, func(row func(...any)) {
		for _, s := range x.Steps {
			row(s.Step, s.Text)
			for _, r := range s.Rules {
				row("", fmt.Sprintf("  rule %v", r))
			}
		}
		row("verdict", verdict)
	})
}
