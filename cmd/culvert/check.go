package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"example.com/culvert/rules/config"
)

// checked is the answer of culvert check about a file without mistakes.
type checked struct {
	File  string   `json:"file"`
	Rules []string `json:"rules"` // in normal form
}

func checkCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "check -c FILE [flags]",
		Short:   "Check a configuration and print its rules in normal form",
		Example: "  culvert check -c configs/home-router.toml",
		Args:    noArguments,
	}
	path, output := cmd.Flags().StringP("config", "c", "", "configuration `FILE`"), outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *path == "" {
			return usageError{err: errors.New("-c FILE is missing")}
		}
		cfg, err := config.Load(*path)
		if err != nil {
			fmt.Fprintln(cmd.ErrOrStderr(), err) // begins with file:line:column, as editors want it
			return errReported
		}
		answer := checked{File: *path, Rules: []string{}}
		for line := range strings.Lines(cfg.Normal()) {
			answer.Rules = append(answer.Rules, strings.TrimSuffix(line, "\n"))
		}
		return render(cmd.OutOrStdout(), output, answer, func(w io.Writer) error {
			_, err := fmt.Fprint(w, cfg.Normal())
			return err
		})
	}
	return cmd
}
