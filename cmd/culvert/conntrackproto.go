package main

import "example.com/culvert/conntrack/tuple"

// protocolGrammar is what a protocol adds to the options after its -p, in the order in
// which they are checked, and which commands take them: as in conntrackLegal, a column
// for each option.
type protocolGrammar struct {
	options []longOption

	listed   string // -L, -D, -U, -E of flows
	got      string // -G
	created  string // -I, -A
	expected string // -I expect
	named    string // -G and -D of an expectation

	ends complaints // about P
}

// complaints say which pair of options is missing.
type complaints struct{ original, reply string }

var (
	addressEnds = complaints{"you have to specify `--src' and `--dst'", "you have to specify `--reply-src' and `--reply-dst'"}
	portEnds    = complaints{"you have to specify `--sport' and `--dport'", "you have to specify `--reply-src-port' and `--reply-dst-port'"}
	keyEnds     = complaints{"you have to specify `--srckey' and `--dstkey'", "you have to specify `--reply-src-key' and `--reply-dst-key'"}
)

// of returns the row for a command.
func (g *protocolGrammar) of(c conntrackCall) string {
	switch {
	case c.table == tableExpect && c.command == ctCreate:
		return g.expected
	case c.table == tableExpect:
		return g.named
	case c.command == ctGet:
		return g.got
	case c.command == ctCreate || c.command == ctAdd:
		return g.created
	}
	return g.listed
}

// protocolOf returns what a protocol adds, nothing for most.
func protocolOf(proto uint8) protocolGrammar {
	switch {
	case proto == tuple.ICMP:
		return icmpGrammar("icmp")
	case proto == tuple.ICMPv6:
		return icmpGrammar("icmpv6")
	case proto == tuple.GRE:
		return protocolGrammar{options: keyOptions, ends: keyEnds,
			//      srcdst...
			listed: "oooo....", got: "PPPP....", created: "PPPP....", expected: "MMMMMMMM", named: "MMMM...."}
	case proto == tuple.TCP:
		return portGrammar(more{listed: "o", got: "o", created: "M", expected: ".", named: "."}, stateOption)
	case proto == tuple.SCTP:
		return portGrammar(more{listed: "o..", got: "ooo", created: "MMM", expected: ".MM", named: ".oo"},
			stateOption, vtagOption("orig"), vtagOption("reply"))
	case proto == tuple.DCCP:
		return portGrammar(more{listed: "o.", got: "o.", created: "MM", expected: ".M", named: ".."}, stateOption, roleOption)
	case tuple.HasPorts(proto):
		return portGrammar(more{})
	}
	return protocolGrammar{}
}

// more are the columns after those of ports.
type more struct{ listed, got, created, expected, named string }

// portGrammar is that of a protocol with ports and more options.
func portGrammar(m more, options ...longOption) protocolGrammar {
	return protocolGrammar{options: append(portOptions, options...), ends: portEnds,
		//      srcdst..masktuple
		listed: "oooo...." + m.listed, got: "PPPP...." + m.got, created: "PPPP...." + m.created,
		expected: "MM..MMMM" + m.expected, named: "MMMM...." + m.named}
}

func icmpGrammar(name string) protocolGrammar {
	return protocolGrammar{
		options: []longOption{
			{[]string{name + "-type"}, 0, required, "`TYPE` of icmp; likewise --icmpv6-type"},
			{[]string{name + "-code"}, 0, required, "`CODE` of icmp; likewise --icmpv6-code"},
			{[]string{name + "-id"}, 0, required, "`ID` of icmp; likewise --icmpv6-id"},
		},
		listed: "ooo", got: "MMo", created: "MMo", expected: "...", named: "...",
	}
}

var stateOption = longOption{[]string{"state"}, 0, required, "`STATE` of tcp, sctp or dccp"}

var roleOption = longOption{[]string{"role"}, 0, required, "`ROLE` of who began a flow of dccp: client"}

func vtagOption(direction string) longOption {
	return longOption{[]string{direction + "-vtag"}, 0, required, "verification `TAG` of sctp in the " + direction + " direction"}
}

// portOptions are in the order in which they are checked. The slice has no room to spare:
// what is appended goes into a copy.
var portOptions = []longOption{
	{[]string{"sport", "orig-port-src"}, 0, required, "source `PORT` of the original direction"},
	{[]string{"dport", "orig-port-dst"}, 0, required, "destination `PORT` of the original direction"},
	{[]string{"reply-port-src"}, 0, required, "source `PORT` of the reply direction"},
	{[]string{"reply-port-dst"}, 0, required, "destination `PORT` of the reply direction"},
	{[]string{"mask-port-src"}, 0, required, "`MASK` of the source port"},
	{[]string{"mask-port-dst"}, 0, required, "`MASK` of the destination port"},
	{[]string{"tuple-port-src"}, 0, required, "source `PORT` that is expected"},
	{[]string{"tuple-port-dst"}, 0, required, "destination `PORT` that is expected"},
}

var keyOptions = []longOption{
	{[]string{"srckey", "orig-key-src"}, 0, required, "source `KEY` of gre in the original direction"},
	{[]string{"dstkey", "orig-key-dst"}, 0, required, "destination `KEY` of gre in the original direction"},
	{[]string{"reply-key-src"}, 0, required, "source `KEY` of gre in the reply direction"},
	{[]string{"reply-key-dst"}, 0, required, "destination `KEY` of gre in the reply direction"},
	{[]string{"mask-key-src"}, 0, required, "`MASK` of the source key"},
	{[]string{"mask-key-dst"}, 0, required, "`MASK` of the destination key"},
	{[]string{"tuple-key-src"}, 0, required, "source `KEY` that is expected"},
	{[]string{"tuple-key-dst"}, 0, required, "destination `KEY` that is expected"},
}
