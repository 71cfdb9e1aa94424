package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"example.com/culvert/conntrack/ctfmt"
	"example.com/culvert/control/api"
)

// Tables of conntrack(8).
const (
	tableFlows       = string(api.TableFlows)
	tableExpect      = "expect"
	tableDying       = string(api.TableDying)
	tableUnconfirmed = string(api.TableUnconfirmed)
)

// conntrackTable returns the table that a beginning of its name stands for.
func conntrackTable(args []string) (string, error) {
	if len(args) == 0 {
		return tableFlows, nil
	}
	var found []string
	for _, table := range []string{tableFlows, tableExpect, tableDying, tableUnconfirmed} {
		if args[0] != "" && strings.HasPrefix(table, args[0]) {
			found = append(found, table)
		}
	}
	switch {
	case len(args) > 1:
		return "", misused(fmt.Errorf("unknown argument %q", args[1]))
	case len(found) != 1:
		return "", misused(fmt.Errorf("unknown argument %q", args[0]))
	}
	return found[0], nil
}

// conntrackCommands are the flags that say what to do.
var conntrackCommands = []string{"dump", "event", "count", "flush", "create", "delete"}

// entryOptions say which entry a command is about.
var entryOptions = []string{"src", "dst", "protonum"}

// conntrackLegal says which options a command takes with a table, as conntrack(8)
// does; not all of its options exist here yet.
var conntrackLegal = map[[2]string]struct{ needs, takes []string }{
	{"dump", tableFlows}:       {takes: []string{"family", "protonum", "output"}},
	{"dump", tableDying}:       {takes: []string{"family", "protonum", "output"}},
	{"dump", tableUnconfirmed}: {takes: []string{"family", "protonum", "output"}},
	{"dump", tableExpect}:      {takes: []string{"family", "output"}},
	{"event", tableFlows}:      {takes: []string{"family", "protonum", "output", "event-mask"}},
	{"event", tableExpect}:     {takes: []string{"output"}},
	{"count", tableFlows}:      {},
	{"count", tableExpect}:     {},
	{"flush", tableFlows}:      {},
	{"flush", tableExpect}:     {},
	{"delete", tableExpect}:    {needs: entryOptions, takes: []string{"sport", "dport"}},
	{"create", tableExpect}: {
		needs: append([]string{"timeout", "tuple-src", "tuple-dst", "mask-src", "mask-dst"}, entryOptions...),
		takes: []string{"sport", "dport", "tuple-port-src", "tuple-port-dst", "mask-port-src", "mask-port-dst"},
	},
}

// check holds the command and its options against conntrackLegal.
func (o *conntrackOptions) check(flags *pflag.FlagSet) error {
	var commands, options []string
	flags.Visit(func(f *pflag.Flag) {
		switch {
		case slices.Contains(conntrackCommands, f.Name):
			commands = append(commands, f.Name)
		case f.Name != "socket":
			options = append(options, f.Name)
		}
	})
	if len(commands) != 1 {
		return errors.New("want exactly one of -L, -E, -C, -F, -I and -D")
	}
	legal, ok := conntrackLegal[[2]string{commands[0], o.table}]
	switch {
	case ok:
	case o.table == tableDying || o.table == tableUnconfirmed:
		return fmt.Errorf("the table %s takes no command but -L", o.table)
	default:
		return fmt.Errorf("-%s takes the table %s only", flags.Lookup(commands[0]).Shorthand, tableExpect)
	}
	for _, name := range options {
		if !slices.Contains(legal.needs, name) && !slices.Contains(legal.takes, name) {
			return fmt.Errorf("illegal option `--%s' with this command", name)
		}
	}
	for _, name := range legal.needs {
		if !slices.Contains(options, name) {
			return fmt.Errorf("you need to supply the `--%s' option for this command", name)
		}
	}
	return nil
}

// format returns how a list or stream is to be written.
func (o *conntrackOptions) format() (f api.Format, err error) {
	f.Form = api.FormText
	if o.list && o.table != tableExpect {
		f.Table = api.Table(o.table)
	}
	for _, word := range strings.FieldsFunc(o.output, func(r rune) bool { return r == ',' }) {
		if word == "json" {
			f.Form = api.FormJSON
		} else {
			f.Output = append(f.Output, word)
		}
	}
	if err := api.ParseOutput(strings.Join(f.Output, ","), &ctfmt.Options{}); err != nil {
		return f, err
	}
	if o.eventMask != "" {
		if _, err := api.ParseEvents(o.eventMask); err != nil {
			return f, err
		}
		f.Events = []string{o.eventMask}
	}
	if f.Family, err = api.ParseFamily(o.family); err != nil {
		return f, err
	}
	if o.proto != "" {
		f.Proto, err = api.ParseProto(o.proto)
	}
	return f, err
}
