package main

import (
	"errors"
	"fmt"
	"strings"

	"example.com/culvert/control/api"
)

// finish checks the options against each other and fills filter and format.
func (l *conntrackLine) finish() error {
	if l.command == ctHelp || l.command == ctVersion {
		return nil
	}
	if l.filter.AnyNAT != nil && (l.filter.SrcNAT != nil || l.filter.DstNAT != nil) {
		return complain("cannot specify `--src-nat' or `--dst-nat' with `--any-nat'")
	}
	if err := l.legal(); err != nil || l.command == 0 {
		return err
	}
	if l.has("zero") && l.filters() {
		return complain("Can't use -z with filtering parameters")
	}
	if l.table != tableExpect {
		for _, end := range []string{"src", "dst"} {
			if mask := l.address["mask-"+end]; mask.IsValid() {
				l.masks[end] = mask.Addr()
			}
		}
	}
	if form := l.format.Form; l.wantsWhy() && (l.table == tableExpect || form == api.FormXML || form == api.FormSave) {
		return complain("option `-o why' is for flows as text or json")
	}
	if l.table == tableExpect && l.format.Form == api.FormSave {
		l.format.Form = api.FormText // there is no other
	}
	if err := l.numbers(); err != nil {
		return err
	}
	l.fill()
	return nil
}

// filters reports whether options are there that -z does not take beside it.
func (l *conntrackLine) filters() bool {
	for _, name := range []string{"protonum", "src", "dst", "reply-src", "reply-dst", "mark", "secmark", "status", "id", "zone", "orig-zone", "reply-zone", "label"} {
		if l.has(name) {
			return true
		}
	}
	return false
}

// legal holds the options against conntrackLegal, and then those of the protocol
// against its own table.
func (l *conntrackLine) legal() error {
	call := conntrackCall{l.command, l.table}
	if l.table == tableDying || l.table == tableUnconfirmed || l.command == 0 {
		call.table = tableFlows
	}
	if err := l.hold(conntrackOptionList, conntrackLegal[call]); err != nil {
		return err
	}
	if conntrackLegal[call][0] == 'P' {
		if err := l.paired(conntrackOptionList, addressEnds); err != nil {
			return err
		}
	}
	for _, end := range []string{"src", "dst"} {
		if l.table == call.table && l.has("mask-"+end) && !l.has(end) {
			return complain("Can't use --mask-%s without --%s", end, end)
		}
	}
	proto := protocolOf(l.proto)
	row := proto.of(call)
	if err := l.hold(proto.options, row); err != nil || row == "" || row[0] != 'P' {
		return err
	}
	return l.paired(proto.options, proto.ends)
}

// hold holds options against a row of a table.
func (l *conntrackLine) hold(options []longOption, row string) error {
	for i, o := range options {
		given := l.has(o.names[0])
		switch {
		case given && row[i] == '.':
			return complain("Illegal option `--%s' with this command", o.names[0])
		case !given && row[i] == 'M':
			return complain("You need to supply the `--%s' option for this command", o.names[0])
		}
	}
	return nil
}

// paired checks that both of the first two options are there, or both of the next two.
func (l *conntrackLine) paired(options []longOption, or complaints) error {
	has := func(i int) bool { return l.has(options[i].names[0]) }
	switch {
	case has(0) && has(1), has(2) && has(3):
		return nil
	case has(2) || has(3):
		return complaint(or.reply)
	}
	return complaint(or.original)
}

func (l *conntrackLine) has(name string) bool {
	_, ok := l.given[name]
	return ok
}

// flowFilter reads which flows other commands are about: options of conntrack -L that
// select flows, and nothing else.
func flowFilter(words []string) (f api.Format, err error) {
	if len(words) == 0 {
		return f, nil
	}
	if !strings.HasPrefix(words[0], "-") {
		return f, fmt.Errorf("unexpected argument %q; a filter is of options, after --", words[0])
	}
	l, err := parseConntrack(append([]string{"-L"}, words...))
	switch {
	case err != nil:
		return f, fmt.Errorf("filter: %w", err)
	case len(l.notes) > 0:
		return f, fmt.Errorf("filter: %s", l.notes[0])
	case l.has("zero") || l.has("output") || l.gateway != (whereabouts{}) || l.format.Table != "" && l.format.Table != api.TableFlows:
		return f, errors.New("filter: give options that select flows alone")
	}
	return api.Format{Family: l.format.Family, Proto: l.format.Proto, Filter: l.format.Filter}, nil
}
