package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"example.com/culvert/rules/config"
)

func checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "check -c FILE",
		Short:   "Check a configuration and print its rules in normal form",
		Example: "  culvert check -c configs/home-router.toml",
		Args:    noArguments,
	}
	path := cmd.Flags().StringP("config", "c", "", "configuration `FILE`")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *path == "" {
			return usageError{err: errors.New("-c FILE is missing")}
		}
		cfg, err := config.Load(*path)
		if err != nil {
			fmt.Fprintln(cmd.ErrOrStderr(), err) // begins with file:line:column, as editors want it
			return errReported
		}
		_, err = fmt.Fprint(cmd.OutOrStdout(), cfg.Normal())
		return err
	}
	return cmd
}
