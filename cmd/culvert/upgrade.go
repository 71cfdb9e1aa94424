package main

import (
	"fmt"
	"io"
	"path/filepath"

	"github.com/spf13/cobra"

	"example.com/culvert/control/api"
)

func upgradeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "upgrade [flags]",
		Short: "Have a new process go on with interfaces and flows of a running gateway, by the program and configuration as they are now; " +
			"when it returns that one forwards, or nothing has changed",
		Example: "  culvert upgrade --binary /usr/local/bin/culvert",
		Args:    noArguments,
	}
	socket, output := socketFlag(cmd), outputFlag(cmd)
	binary := cmd.Flags().String("binary", "", "another program than the `FILE` that the gateway was started from")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var request api.UpgradeRequest
		if *binary != "" {
			abs, err := filepath.Abs(*binary) // the gateway has another working directory
			if err != nil {
				return err
			}
			request.Binary = abs
		}
		client := connect(*socket)
		defer client.Close()
		result, err := client.Upgrade(cmd.Context(), request)
		if err != nil {
			return err
		}
		return render(cmd.OutOrStdout(), output, result, func(w io.Writer) error { return upgradedText(w, &result) })
	}
	return cmd
}

// upgradedText says what the new process has.
func upgradedText(w io.Writer, r *api.UpgradeResult) error {
	text := fmt.Sprintf("version %s goes on in process %d in place of %s: %s, %s and %s; packets waited for %.1f ms", r.After, r.PID, r.Before,
		count(r.Flows, "flow"), count(r.Expectations, "expectation"), count(r.Ports, "kept port"), r.Pause)
	if r.Lost > 0 {
		text += fmt.Sprintf("; %d could not be taken over", r.Lost)
	}
	_, err := fmt.Fprintln(w, text)
	return err
}
