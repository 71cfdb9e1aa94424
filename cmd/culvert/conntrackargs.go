package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
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
func conntrackTable(word string) (string, error) {
	if word == "" {
		return tableFlows, nil
	}
	for _, table := range []string{tableExpect, tableFlows, tableDying, tableUnconfirmed} {
		if strings.HasPrefix(table, word) {
			return table, nil
		}
	}
	return "", fmt.Errorf("unknown type `%s'", word)
}

// conntrackLine is a parsed command line of culvert conntrack.
type conntrackLine struct {
	command byte // its letter; 0: none
	table   string
	gateway whereabouts
	notes   []string // what was ignored

	given   map[string]string // options by their first name
	format  api.Format
	filter  api.Filter
	update  api.FlowUpdate // of -U
	outputs []string       // words of -o
	proto   uint8
	family  uint8
	address map[string]netip.Prefix // of the options that have one
	masks   map[string]netip.Addr   // of the addresses of flows, instead of the length of a prefix
	tags    [tuple.NumDirections]*uint32
	labels  labelMap
}

// errSave is a complaint that conntrack(8) takes for a failure.
const errSave complaint = "cannot combine save output with any other output type, use -o save only"

// complaint is an error in the words of conntrack(8), which begins some of them
// with a capital.
type complaint string

func (c complaint) Error() string { return string(c) }

func complain(format string, args ...any) error { return complaint(fmt.Sprintf(format, args...)) }

// parseConntrack parses a command line in the order that conntrack(8) does, so that
// of several mistakes it names the same.
func parseConntrack(args []string) (*conntrackLine, error) {
	l := &conntrackLine{given: make(map[string]string), address: make(map[string]netip.Prefix), masks: make(map[string]netip.Addr)}
	g := getopt{args: args, known: slices.Concat(conntrackCommands, conntrackOptionList, ownOptions)}
	for {
		o, arg, err := g.next()
		if err != nil || o == nil {
			return l, cmpError(err, l.finish)
		}
		if slices.ContainsFunc(conntrackCommands, func(c longOption) bool { return c.short == o.short && o.short != 0 }) {
			err = l.setCommand(o.short, arg)
		} else {
			err = l.option(o.names[0], arg, &g)
		}
		if err != nil {
			return l, err
		}
	}
}

// cmpError returns err, or else what next returns.
func cmpError(err error, next func() error) error {
	if err != nil {
		return err
	}
	return next()
}

func (l *conntrackLine) setCommand(letter byte, word string) (err error) {
	if l.table, err = conntrackTable(word); err != nil {
		return err
	}
	if l.command != 0 {
		return complain("Invalid commands combination")
	}
	l.command = letter
	if l.table == tableExpect && (letter == ctUpdate || letter == ctAdd) {
		return complain("Can't do --%s on expectations", map[byte]string{ctUpdate: "update", ctAdd: "add"}[letter])
	}
	if letter != ctList && (l.table == tableDying || l.table == tableUnconfirmed) {
		return complain("Can't do that command with tables `dying' and `unconfirmed'")
	}
	return nil
}

// option takes note of an option. Some are checked here and now, as they come.
func (l *conntrackLine) option(name, arg string, g *getopt) (err error) {
	switch name {
	case "nat-range":
		l.notes = append(l.notes, "WARNING: ignoring -a, deprecated option.")
		return nil
	case "socket":
		l.gateway.socket = arg
	case "token-file":
		l.gateway.tokenFile = arg
	case "ca-file":
		l.gateway.caFile = arg
		return nil
	case "labelmap":
		l.labels.path = arg
		return nil
	case "src", "dst", "tuple-src", "tuple-dst", "mask-src", "mask-dst", "reply-src", "reply-dst":
		if err = l.addr(name, arg); err != nil {
			return err
		}
	case "src-nat", "dst-nat", "any-nat":
		err = l.nat(name, arg)
	case "protonum":
		p, unknown := api.ParseProto(arg)
		if unknown != nil {
			return complain("`%s' unsupported protocol", arg)
		}
		l.proto = p
		g.known = append(g.known, protocolOf(p).options...)
	case "family":
		f, unknown := api.ParseFamily(arg)
		if unknown != nil || f == 0 {
			return complain("`%s' unsupported protocol", arg)
		}
		err = l.setFamily(f)
	case "status":
		err = l.status(arg)
	case "output":
		err = l.output(arg)
	case "event-mask":
		if _, unknown := api.ParseEvents(arg); unknown != nil {
			return badParameter(arg)
		}
		l.format.Events = append(l.format.Events, arg)
	case "label-add", "label-del":
		if name == "label-add" && l.has("label-del") || name == "label-del" && l.has("label-add") {
			return complain("cannot use --label-add and --label-del at the same time")
		}
		err = l.setLabels(name, arg)
	case "label":
		var bits []int
		bits, err = l.labels.bits(arg)
		l.filter.Labels = append(l.filter.Labels, bits...)
	case "state":
		err = l.state(arg)
	case "role":
		if arg != "client" && arg != "server" {
			err = complain("Unknown DCCP role `%s'", arg)
		}
	}
	l.given[name] = arg
	return err
}

func badParameter(word string) error { return complain("Bad parameter `%s'", word) }

// setFamily holds all addresses and -f to one family.
func (l *conntrackLine) setFamily(family uint8) error {
	if l.family != 0 && l.family != family {
		return complain("mismatched address family")
	}
	l.family = family
	return nil
}

// addr parses an address that may be followed by the length of a prefix.
func (l *conntrackLine) addr(name, arg string) error {
	text, length, prefixed := strings.Cut(arg, "/")
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return complain("Invalid IP address `%s'", text)
	}
	bits := a.BitLen()
	if prefixed {
		n, err := strconv.ParseUint(length, 10, 8)
		if err != nil || int(n) > bits {
			return complain("Invalid netmask")
		}
		if name != "src" && name != "dst" {
			return complain("CIDR notation unavailable for `--%s'", name)
		}
		bits = int(n)
		l.given["mask-"+name] = length
	}
	l.address[name] = netip.PrefixFrom(a, bits)
	return l.setFamily(familyOf(a))
}

func familyOf(a netip.Addr) uint8 {
	if a.Is4() {
		return tuple.IPv4
	}
	return tuple.IPv6
}

// nat parses an address with a port, which may both be left out: "1.2.3.4:80",
// "[2001:db8::1]:80".
func (l *conntrackLine) nat(name, arg string) error {
	n := &api.NATFilter{}
	switch name {
	case "src-nat":
		l.filter.SrcNAT = n
	case "dst-nat":
		l.filter.DstNAT = n
	default:
		l.filter.AnyNAT = n
	}
	if arg == "" {
		return nil
	}
	text, port, ported := arg, "", false
	if inner, is := strings.CutPrefix(arg, "["); is {
		var rest string
		if text, rest, is = strings.Cut(inner, "]"); !is {
			return complain("No closing ']' around IPv6 address")
		}
		if text == "" {
			return complain("No IPv6 address specified")
		}
		port, ported = strings.CutPrefix(rest, ":")
	} else if strings.Count(arg, ":") == 1 {
		text, port, ported = strings.Cut(arg, ":")
	}
	if ported {
		if port == "" {
			return complain("No port specified after `:'")
		}
		number, err := strconv.ParseUint(port, 10, 16)
		if err != nil || number == 0 {
			return complain("Invalid port `%s'", port)
		}
		n.Port = uint16(number)
	}
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" {
		return complain("Invalid IP address `%s'", text)
	}
	n.Addr = a
	return l.setFamily(familyOf(a))
}

// statusWords are what -u takes. UNSET wants nothing.
var statusWords = []string{"ASSURED", "SEEN_REPLY", "UNSET", "FIXED_TIMEOUT", "EXPECTED", "OFFLOAD", "HW_OFFLOAD", "UNREPLIED"}

func (l *conntrackLine) status(list string) error {
	for word := range strings.SplitSeq(list, ",") {
		upper := strings.ToUpper(word)
		switch {
		case upper == "SRC_NAT":
			l.notes = append(l.notes, "WARNING: ignoring SRC_NAT, use --src-nat instead")
		case upper == "DST_NAT":
			l.notes = append(l.notes, "WARNING: ignoring DST_NAT, use --dst-nat instead")
		case !slices.Contains(statusWords, upper):
			return badParameter(word)
		case upper != "UNSET":
			l.filter.Status = append(l.filter.Status, upper)
		}
	}
	return nil
}

// output takes words of -o; json is ours.
func (l *conntrackLine) output(list string) error {
	for word := range strings.SplitSeq(list, ",") {
		lower := strings.ToLower(word)
		l.outputs = append(l.outputs, lower)
		switch lower {
		case "json", "xml", "save":
			l.format.Form = api.Form(lower)
		case "extended", "id", "timestamp", "ktimestamp", "labels", "why":
			l.format.Output = append(l.format.Output, lower)
		case "userspace": // says itself
		default:
			return badParameter(word)
		}
	}
	if len(l.outputs) > 1 && slices.Contains(l.outputs, string(api.FormSave)) {
		return errSave
	}
	return nil
}

// state parses a state by the names of the protocol.
func (l *conntrackLine) state(name string) error {
	if name == "LISTEN" && l.proto == tuple.TCP {
		name = conntrack.SynSent2.String()
	}
	if _, ok := conntrack.ParseState(l.proto, name); !ok {
		switch l.proto {
		case tuple.DCCP:
			return complain("Unknown DCCP state `%s'", name)
		default:
			return complain("unknown %s state `%s'", strings.ToUpper(tuple.ProtoName(l.proto)), name)
		}
	}
	l.filter.State = name
	return nil
}

// number parses the argument of an option, if it was given, as conntrack(8) does, but
// refuses what is no number.
func number[T uint8 | uint16 | uint32](l *conntrackLine, name string, into **T) error {
	arg, ok := l.given[name]
	if !ok {
		return nil
	}
	var v T
	n, err := strconv.ParseUint(arg, 0, 32)
	if v = T(n); err != nil || uint64(v) != n {
		return badParameter(arg)
	}
	*into = &v
	return nil
}

// numbers parses everything that is a number.
func (l *conntrackLine) numbers() error {
	f := &l.filter
	o, r := &f.Original, &f.Reply
	icmp := tuple.ProtoName(l.proto)
	err := errors.Join(
		number(l, "sport", &o.Sport), number(l, "dport", &o.Dport),
		number(l, "reply-port-src", &r.Sport), number(l, "reply-port-dst", &r.Dport),
		number(l, icmp+"-type", &o.Type), number(l, icmp+"-code", &o.Code), number(l, icmp+"-id", &o.Ident),
		number(l, "id", &f.ID), number(l, "timeout", &f.Timeout), number(l, "zone", &f.Zone),
		number(l, "orig-zone", &f.OrigZone), number(l, "reply-zone", &f.ReplyZone),
		number(l, "orig-vtag", &l.tags[tuple.Original]), number(l, "reply-vtag", &l.tags[tuple.Reply]),
	)
	if err == nil && l.proto == tuple.GRE {
		err = errors.Join(number(l, "srckey", &o.Sport), number(l, "dstkey", &o.Dport),
			number(l, "reply-key-src", &r.Sport), number(l, "reply-key-dst", &r.Dport))
	}
	if arg, ok := l.given["mark"]; ok && err == nil {
		f.Mark, err = parseMark(arg)
	}
	if joined, is := err.(interface{ Unwrap() []error }); is {
		return joined.Unwrap()[0] // the first is enough
	}
	return err
}

// parseMark parses VALUE[/MASK].
func parseMark(arg string) (*api.MarkFilter, error) {
	value, mask, masked := strings.Cut(arg, "/")
	m := &api.MarkFilter{Mask: 1<<32 - 1}
	v, err := strconv.ParseUint(value, 0, 32)
	if masked && err == nil {
		var bits uint64
		bits, err = strconv.ParseUint(mask, 0, 32)
		m.Mask = uint32(bits)
	}
	if err != nil {
		return nil, badParameter(arg)
	}
	m.Value = uint32(v)
	return m, nil
}

// setLabels notes which labels to set or, without names, that all are cleared.
func (l *conntrackLine) setLabels(name, arg string) (err error) {
	var bits []int
	switch {
	case name == "label-add":
		bits, err = l.labels.bits(arg)
		l.update.AddLabels = append(l.update.AddLabels, bits...)
	case arg != "":
		bits, err = l.labels.bits(arg)
		l.update.ClearLabels = append(l.update.ClearLabels, bits...)
	default:
		l.labels.names() // the real one complains, too, when there are none
		for bit := range 128 {
			l.update.ClearLabels = append(l.update.ClearLabels, bit)
		}
	}
	return err
}

// split moves from the filter to the update what -U changes.
func (l *conntrackLine) split() {
	f, u := &l.filter, &l.update
	u.Mark, u.Timeout, u.Status = f.Mark, f.Timeout, f.Status
	f.Mark, f.Timeout, f.Status = nil, nil, nil
}

// showLabels has labels printed if an option is about them, but with flows that are
// deleted, as the real one does. JSON has them always, and save never.
func (l *conntrackLine) showLabels() {
	l.format.Output = slices.DeleteFunc(l.format.Output, func(word string) bool { return word == "labels" })
	named := l.has("label") || l.has("label-add") || l.has("label-del")
	printed := l.format.Form == api.FormText || l.format.Form == api.FormXML
	if printed && l.command != ctDelete && (named || slices.Contains(l.outputs, "labels")) {
		l.format.Output = append(l.format.Output, "labels")
		l.format.Labels = l.labels.names()
	}
}

// fill completes filter and format.
func (l *conntrackLine) fill() {
	if l.format.Form == "" {
		l.format.Form = api.FormText
	}
	if l.command == ctList && l.table != tableExpect {
		l.format.Table = api.Table(l.table)
	}
	l.showLabels()
	l.format.Family, l.format.Proto = l.family, l.proto
	l.filter.Original.Src, l.filter.Original.Dst = l.address["src"], l.address["dst"]
	l.filter.Original.SrcMask, l.filter.Original.DstMask = l.masks["src"], l.masks["dst"]
	l.filter.Reply.Src, l.filter.Reply.Dst = l.address["reply-src"], l.address["reply-dst"]
	if l.command == ctUpdate {
		l.split()
	}
	if l.table != tableExpect {
		l.format.Filter = &l.filter
		return
	}
	l.format.Labels = nil // expectations have none
	if l.command == ctList {
		l.format.Output = nil // which only adds to flows and events
	}
}

// tuple is the one that the options name, by the original direction if they name both.
func (l *conntrackLine) tuple() api.Tuple {
	e := &l.filter.Original
	if !e.Src.IsValid() {
		e = &l.filter.Reply
	}
	t := api.Tuple{Proto: strconv.Itoa(int(l.proto)), Src: e.Src.Addr(), Dst: e.Dst.Addr()}
	if tuple.IsICMP(l.proto) {
		e = &l.filter.Original
		t.Sport, t.Dport = value(e.Ident), uint16(value(e.Type))<<8|uint16(value(e.Code))
		return t
	}
	t.Sport, t.Dport = value(e.Sport), value(e.Dport)
	return t
}

// wantsWhy reports whether lines shall say who decided.
func (l *conntrackLine) wantsWhy() bool { return slices.Contains(l.format.Output, "why") }

// value is that of an option that may not be there.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
