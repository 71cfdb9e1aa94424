package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"example.com/culvert/control/api"
)

func eventsCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "events [flags] [-- FILTER]",
		Short:   "Follow what happens to flows and expectations, from now on, behind a list, or from where you were; FILTER is as of conntrack -L",
		Example: "  culvert events --snapshot --about all -o json\n  culvert events --types NEW,DESTROY -- -p tcp --dport 443",
	}
	socket, output := socketFlag(cmd), outputFlag(cmd)
	about := &choice{string(api.AboutFlows), []string{string(api.AboutFlows), string(api.AboutExpectations), string(api.AboutAll)}}
	cmd.Flags().Var(about, "about", "`WHAT` events are of: flows, expectations or all")
	snapshot := cmd.Flags().Bool("snapshot", false, "begin with what there is")
	cursor := cmd.Flags().String("cursor", "", "go on behind the event with this `CURSOR` of -o json")
	types := cmd.Flags().StringSlice("types", nil, "only these `TYPES`: NEW, UPDATES, DESTROY")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if *snapshot && *cursor != "" {
			return usageError{err: errors.New("--snapshot begins anew; drop it or --cursor")}
		}
		if _, err := api.ParseEvents(strings.Join(*types, ",")); err != nil {
			return usageError{err: err}
		}
		f, err := flowFilter(args)
		if err != nil {
			return usageError{err: err}
		}
		f.Form, f.Events = api.Form(output.word), *types
		client := connect(*socket)
		defer client.Close()
		body, err := client.Follow(cmd.Context(), f, api.Follow{About: api.About(about.word), Snapshot: *snapshot, Cursor: *cursor})
		if err != nil {
			return err
		}
		defer body.Close()
		if f.Form == api.FormText {
			_, err = copyLines(cmd.OutOrStdout(), cmd.ErrOrStderr(), body, "")
		} else {
			err = copyEvents(cmd.OutOrStdout(), cmd.ErrOrStderr(), body)
		}
		if errors.Is(err, context.Canceled) {
			return nil // interrupted
		}
		return err
	}
	return cmd
}

// copyEvents copies JSON lines, each as soon as it is there. What is missing is told to
// notes, too.
func copyEvents(w, notes io.Writer, from io.Reader) error {
	in := bufio.NewReaderSize(from, 64<<10)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.Write(line); err != nil {
			return err
		}
		var e struct {
			Type   string `json:"type"`
			Missed uint64 `json:"missed"`
		}
		if err := json.Unmarshal(line, &e); err == nil && e.Type == api.EventMissed {
			fmt.Fprintf(notes, "culvert: %s lost: read faster, or raise memory in [events]\n", count(int(e.Missed), "event"))
		}
	}
}
