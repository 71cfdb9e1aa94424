package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"example.com/culvert/control/api"
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

// defectsText prints what is wrong with the table, or that nothing is.
func defectsText(w io.Writer, result *api.CheckResult) (err error) {
	for _, defect := range result.Defects {
		_, err = fmt.Fprintln(w, defect)
	}
	if len(result.Defects) == 0 {
		_, err = fmt.Fprintf(w, "%s checked, no defect\n", count(result.Flows, "flow"))
	}
	return err
}

func debugCheckCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "check [flags]",
		Short:   "Verify every invariant of the table of flows while it is in use; exit 1 if one is broken",
		Example: "  culvert debug check",
		Args:    noArguments,
	}
	socket, output := socketFlag(cmd), outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		client := connect(*socket)
		defer client.Close()
		result, err := client.Check(cmd.Context())
		if err != nil {
			return err
		}
		err = render(cmd.OutOrStdout(), output, result, func(w io.Writer) error { return defectsText(w, &result) })
		if err == nil && len(result.Defects) > 0 {
			return errDefects
		}
		return err
	}
	return cmd
}
