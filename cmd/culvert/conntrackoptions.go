package main

import (
	"example.com/culvert/conntrack/tuple"
)

// Commands of conntrack(8), by their letters.
const (
	ctList    = 'L'
	ctGet     = 'G'
	ctDelete  = 'D'
	ctUpdate  = 'U'
	ctFlush   = 'F'
	ctEvents  = 'E'
	ctCount   = 'C'
	ctCreate  = 'I'
	ctVersion = 'V'
	ctHelp    = 'h'
)

// conntrackCommands are the options that say what to do.
var conntrackCommands = []longOption{
	{[]string{"dump"}, ctList, optional, "list the table: conntrack (the default), expect, dying or unconfirmed"},
	{[]string{"get"}, ctGet, optional, "show the flow with a tuple"},
	{[]string{"delete"}, ctDelete, optional, "end the flows that pass the filter, or an expectation"},
	{[]string{"update"}, ctUpdate, optional, "change mark, timeout, status or labels of the flows that pass the filter"},
	{[]string{"create"}, ctCreate, optional, "make an expectation"},
	{[]string{"event"}, ctEvents, optional, "print events until interrupted"},
	{[]string{"flush"}, ctFlush, optional, "end every entry"},
	{[]string{"counter"}, ctCount, optional, "print how many entries there are"},
	{[]string{"version"}, ctVersion, nothing, "print the version of conntrack(8) that this follows"},
	{[]string{"help"}, ctHelp, nothing, "help for conntrack"},
}

// conntrackOptionList has the options in the order of conntrackLegal, which is
// that in which they are checked.
var conntrackOptionList = []longOption{
	{[]string{"src", "orig-src"}, 's', required, "source `ADDRESS[/LEN]` of the original direction"},
	{[]string{"dst", "orig-dst"}, 'd', required, "destination `ADDRESS[/LEN]` of the original direction"},
	{[]string{"reply-src"}, 'r', required, "source `ADDRESS` of the reply direction"},
	{[]string{"reply-dst"}, 'q', required, "destination `ADDRESS` of the reply direction"},
	{[]string{"protonum"}, 'p', required, "`PROTOCOL`, by name or number; options of the protocol come after it"},
	{[]string{"timeout"}, 't', required, "`SECONDS` until it ends"},
	{[]string{"status"}, 'u', required, "`LIST` of ASSURED, SEEN_REPLY, UNSET, FIXED_TIMEOUT, EXPECTED, OFFLOAD, HW_OFFLOAD, UNREPLIED"},
	{[]string{"zero"}, 'z', nothing, "not supported: counters are never reset"},
	{[]string{"event-mask"}, 'e', required, "`LIST` of events: ALL, NEW, UPDATES, DESTROY"},
	{[]string{"tuple-src"}, 0, required, "source `ADDRESS` that is expected"},
	{[]string{"tuple-dst"}, 0, required, "destination `ADDRESS` that is expected"},
	{[]string{"mask-src"}, 0, required, "`MASK` of the source address"},
	{[]string{"mask-dst"}, 0, required, "`MASK` of the destination address"},
	{[]string{"nat-range"}, 'a', required, "`IGNORED`, as in conntrack(8)"},
	{[]string{"mark"}, 'm', required, "mark as `VALUE[/MASK]`"},
	{[]string{"id"}, 'i', required, "`ID` of the flow"},
	{[]string{"family"}, 'f', required, "`FAMILY`: ipv4 or ipv6"},
	{[]string{"src-nat"}, 'n', optional, "translated source, any or `[ADDRESS[:PORT]]`"},
	{[]string{"dst-nat"}, 'g', optional, "translated destination, any or `[ADDRESS[:PORT]]`"},
	{[]string{"output"}, 'o', required, "`LIST` of extended, id, timestamp, ktimestamp, labels; or one of xml, save, json"},
	{[]string{"secmark"}, 'c', required, "not supported: there are no `SECMARKS`"},
	{[]string{"buffer-size"}, 'b', required, "`BYTES`, checked and of no effect: no socket buffer holds the events"},
	{[]string{"any-nat"}, 'j', optional, "translated source or destination, any or `[ADDRESS[:PORT]]`"},
	{[]string{"zone"}, 'w', required, "`ZONE` of both directions"},
	{[]string{"label"}, 'l', required, "`LIST` of labels that are set"},
	{[]string{"label-add"}, 0, required, "`LIST` of labels to set"},
	{[]string{"label-del"}, 0, optional, "`[LIST]` of labels to clear, or all"},
	{[]string{"orig-zone"}, 0, required, "`ZONE` of the original direction"},
	{[]string{"reply-zone"}, 0, required, "`ZONE` of the reply direction"},
}

// ownOptions are those that conntrack(8) does not have.
var ownOptions = []longOption{
	{[]string{"socket"}, 0, required, socketHelp},
	{[]string{"token-file"}, 0, required, tokenHelp},
	{[]string{"ca-file"}, 0, required, caHelp},
	{[]string{"labelmap"}, 'M', required, "`FILE` with the names of labels (default /etc/xtables/connlabel.conf)"},
}

// conntrackLegal says which options a command takes with a table, a column for
// each of conntrackOptionList: M it must be there, o it may, P it is half of a
// pair of addresses of which one must be there, . it may not.
var conntrackLegal = map[conntrackCall]string{
	//                        sdrqptuze[]{}amifngocbjwl<>()
	{ctList, tableFlows}:    "ooooo.oo...oo.o.ooooo.ooo..oo",
	{ctGet, tableFlows}:     "PPPPM..........o...o....o....",
	{ctDelete, tableFlows}:  "ooooooo....oo.oooooo...oo..oo",
	{ctUpdate, tableFlows}:  "ooooooo....oo.oooooo....ooo..",
	{ctEvents, tableFlows}:  "ooooo...o..oo.o.ooooooooo..oo",
	{ctFlush, tableFlows}:   "................o............",
	{ctCount, tableFlows}:   ".............................",
	{ctList, tableExpect}:   "................o..o.........",
	{ctCreate, tableExpect}: "MMooMM...MMMM................",
	{ctDelete, tableExpect}: "MMooM........................",
	{ctEvents, tableExpect}: "...................o.........",
	{ctFlush, tableExpect}:  ".............................",
	{ctCount, tableExpect}:  ".............................",
}

// conntrackCall is a command and the table it is for.
type conntrackCall struct {
	command byte
	table   string
}

// protocolOptions are the options that exist after -p.
func protocolOptions(proto uint8) []longOption {
	switch {
	case proto == tuple.ICMP:
		return icmpOptions("icmp")
	case proto == tuple.ICMPv6:
		return icmpOptions("icmpv6")
	case proto == tuple.GRE:
		return keyOptions
	case proto == tuple.TCP:
		return append(portOptions, stateOption)
	case proto == tuple.SCTP:
		return append(portOptions, stateOption, longOption{[]string{"orig-vtag"}, 0, required, ""}, longOption{[]string{"reply-vtag"}, 0, required, ""})
	case proto == tuple.DCCP:
		return append(portOptions, stateOption, longOption{[]string{"role"}, 0, required, ""})
	case tuple.HasPorts(proto):
		return portOptions
	}
	return nil
}

func icmpOptions(name string) []longOption {
	return []longOption{
		{[]string{name + "-type"}, 0, required, "`TYPE` of icmp; likewise --icmpv6-type"},
		{[]string{name + "-code"}, 0, required, "`CODE` of icmp; likewise --icmpv6-code"},
		{[]string{name + "-id"}, 0, required, "`ID` of icmp; likewise --icmpv6-id"},
	}
}

var stateOption = longOption{[]string{"state"}, 0, required, "`STATE` of tcp, sctp or dccp"}

// portOptions has no room to spare: what is appended goes into a copy.
var portOptions = []longOption{
	{[]string{"sport", "orig-port-src"}, 0, required, "source `PORT` of the original direction"},
	{[]string{"dport", "orig-port-dst"}, 0, required, "destination `PORT` of the original direction"},
	{[]string{"reply-port-src"}, 0, required, "source `PORT` of the reply direction"},
	{[]string{"reply-port-dst"}, 0, required, "destination `PORT` of the reply direction"},
	{[]string{"tuple-port-src"}, 0, required, "source `PORT` that is expected"},
	{[]string{"tuple-port-dst"}, 0, required, "destination `PORT` that is expected"},
	{[]string{"mask-port-src"}, 0, required, "`MASK` of the source port"},
	{[]string{"mask-port-dst"}, 0, required, "`MASK` of the destination port"},
}

var keyOptions = []longOption{
	{[]string{"srckey", "orig-key-src"}, 0, required, "source `KEY` of gre in the original direction"},
	{[]string{"dstkey", "orig-key-dst"}, 0, required, "destination `KEY` of gre in the original direction"},
	{[]string{"reply-key-src"}, 0, required, "source `KEY` of gre in the reply direction"},
	{[]string{"reply-key-dst"}, 0, required, "destination `KEY` of gre in the reply direction"},
	{[]string{"tuple-key-src"}, 0, required, ""},
	{[]string{"tuple-key-dst"}, 0, required, ""},
	{[]string{"mask-key-src"}, 0, required, ""},
	{[]string{"mask-key-dst"}, 0, required, ""},
}
