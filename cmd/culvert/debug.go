package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"
)

// errDefects: the table of flows is damaged. What is wrong is on stdout.
var errDefects = errors.New("the table of flows has defects: please report them")

func debugCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "debug COMMAND",
		Short:   "Look for defects of a running gateway",
		Example: "  culvert debug check",
		Args:    unknownCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(debugCheckCommand(), debugOwnerCommand())
	return cmd
}

func debugCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "check [flags]",
		Short:   "Verify every invariant of the table of flows while it is in use; exit 1 if one is broken",
		Example: "  culvert debug check",
		Args:    noArguments,
	}
	socket := socketFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client := connect(*socket)
		defer client.Close()
		result, err := client.Check(cmd.Context())
		if err != nil {
			return err
		}
		out := cmd.OutOrStdout()
		for _, defect := range result.Defects {
			fmt.Fprintln(out, defect)
		}
		if len(result.Defects) > 0 {
			return errDefects
		}
		_, err = fmt.Fprintf(out, "%s checked, no defect\n", count(result.Flows, "flow"))
		return err
	}
	return cmd
}
