package main

import (
	"errors"
	"io"

	"github.com/spf13/cobra"

	"example.com/culvert/control/api"
	"example.com/culvert/control/logging"
)

// logState is what culvert log shows.
type logState struct {
	api.Log
	Exports []api.Export `json:"exports"`
}

func logCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "log [flags]",
		Short:   "Show or change what a running gateway logs, and how its flow logs and IPFIX collectors fare",
		Example: "  culvert log --level debug --component pcp",
		Args:    noArguments,
	}
	socket, output := socketFlag(cmd), outputFlag(cmd)
	level := choice{words: []string{"debug", "info", "warn", "error"}}
	cmd.Flags().Var(&level, "level", "least `LEVEL` that is logged until the next reload: debug, info, warn or error")
	components := cmd.Flags().StringSlice("component", nil, "`COMPONENT` that --level is for; repeat for more (default all)")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		for _, name := range *components {
			if _, err := logging.ParseComponent(name); err != nil {
				return usageError{err: errors.New(err.Error() + didYouMean(name, logging.Names()))}
			}
		}
		if len(*components) > 0 && level.word == "" {
			return usageError{err: errors.New("--component is about --level: add it")}
		}
		client := connect(*socket)
		defer client.Close()
		var state logState
		var err error
		if level.word != "" {
			state.Log, err = client.SetLog(cmd.Context(), api.LogChange{Level: level.word, Components: *components})
		} else {
			state.Log, err = client.Log(cmd.Context())
		}
		if err != nil {
			return err
		}
		if state.Exports, err = client.Exports(cmd.Context()); err != nil {
			return err
		}
		return render(cmd.OutOrStdout(), output, state, func(w io.Writer) error { return logText(w, &state) })
	}
	return cmd
}

// logText prints levels, and exports if there are any.
func logText(w io.Writer, s *logState) error {
	return table(w, func(row func(...any)) {
		row("COMPONENT", "LEVEL")
		for _, l := range s.Levels {
			row(l.Component, l.Level)
		}
		if s.Suppressed > 0 {
			row("suppressed", s.Suppressed)
		}
		if len(s.Exports) == 0 {
			return
		}
		row("")
		row("EXPORT", "TO", "STATE", "WRITTEN", "LOST")
		for _, e := range s.Exports {
			state := "failing"
			if e.Working {
				state = "working"
			}
			row(e.Kind, e.To, state, e.Written, e.Lost)
		}
	})
}
