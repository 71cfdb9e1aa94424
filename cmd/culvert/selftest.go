package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"example.com/culvert/control/selftest"
	"example.com/culvert/nat/discover"
	"example.com/culvert/rules/config"
)

// errBroken: the gateway let out packets with wrong lengths or checksums. They are on stdout.
var errBroken = errors.New("the gateway made broken packets: please report them")

func selftestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "selftest [flags]",
		Short:   "Find out by packets how the running configuration behaves, in a copy of the gateway in memory",
		Example: "  culvert selftest -c configs/home-router.toml",
		Args:    noArguments,
	}
	socket, output := socketFlag(cmd), outputFlag(cmd)
	path := cmd.Flags().StringP("config", "c", "", "configuration `FILE` in place of the running one")
	opts := selftest.Options{Scope: discover.Everything}
	cmd.Flags().StringVar(&opts.Inside, "inside", "", "inside `INTERFACE` (default the first one of an inside area)")
	cmd.Flags().StringVar(&opts.Outside, "outside", "", "outside `INTERFACE` (default the first one of an outside area)")
	quick := cmd.Flags().Bool("quick", false, "leave out lifetimes and the search for forwarded ports")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if *quick {
			opts.Scope = discover.Basic
		}
		cfg, err := configToTest(cmd.Context(), *path, *socket)
		if wrong := (config.Errors)(nil); errors.As(err, &wrong) {
			fmt.Fprintln(cmd.ErrOrStderr(), wrong) // begins with file:line:column, as editors want it
			return errReported
		}
		if err != nil {
			return err
		}
		result, err := selftest.Run(cfg, opts)
		if err != nil {
			return err
		}
		if err := render(cmd.OutOrStdout(), output, withVerdicts(result), func(w io.Writer) error { return printSelftest(w, result) }); err != nil {
			return err
		}
		for _, r := range result.Reports {
			if len(r.Faults) > 0 {
				return errBroken
			}
		}
		return nil
	}
	return cmd
}

// configToTest reads a file, or asks a running gateway.
func configToTest(ctx context.Context, path string, socket whereabouts) (*config.Config, error) {
	if path != "" {
		return config.Load(path)
	}
	client := connect(socket)
	defer client.Close()
	in, err := client.Config(ctx)
	if err != nil {
		return nil, err
	}
	st, err := client.Status(ctx)
	if err != nil {
		return nil, err
	}
	return selftest.Running(in, st.Interfaces)
}

// selftestAnswer is a selftest as JSON: the behaviours, and what requirements say to them.
type selftestAnswer struct {
	*selftest.Result
	Lines map[string][]discover.Line `json:"verdicts"` // by family
}

func withVerdicts(r *selftest.Result) selftestAnswer {
	a := selftestAnswer{Result: r, Lines: make(map[string][]discover.Line)}
	for _, report := range r.Reports {
		a.Lines[report.Family] = report.Lines()
	}
	return a
}

func printSelftest(w io.Writer, r *selftest.Result) error {
	for i, report := range r.Reports {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s from %s to %s\n", report.Family, r.Inside, r.Outside)
		if len(r.Invented) > 0 {
			fmt.Fprintf(w, "addresses made up for this test: %s\n", strings.Join(r.Invented, ", "))
		}
		err := table(w, func(row func(...any)) {
			row("PROTOCOL", "BEHAVIOUR", "FOUND", "VERDICT")
			for _, l := range report.Lines() {
				row(l.Protocol, l.Test, l.Result, verdicts(l.Verdicts))
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// verdicts joins what complies and what does not: "complies with RFC 4787 REQ-1; against RFC 4787 REQ-11".
func verdicts(list []discover.Verdict) string {
	if len(list) == 0 {
		return "-"
	}
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = v.String()
	}
	return strings.Join(words, "; ")
}
