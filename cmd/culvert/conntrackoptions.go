package main

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
	ctAdd     = 'A'
	ctStats   = 'S'
	ctVersion = 'V'
	ctHelp    = 'h'
)

// conntrackCommands are the options that say what to do.
var conntrackCommands = []longOption{
	{[]string{"dump"}, ctList, optional, "list the table: conntrack (the default), expect, dying or unconfirmed"},
	{[]string{"get"}, ctGet, optional, "show the flow with a tuple"},
	{[]string{"delete"}, ctDelete, optional, "end the flows that pass the filter, or an expectation"},
	{[]string{"update"}, ctUpdate, optional, "change mark, timeout, status or labels of the flows that pass the filter"},
	{[]string{"create"}, ctCreate, optional, "make a flow or an expectation"},
	{[]string{"add"}, ctAdd, optional, "make a flow unless it is there already"},
	{[]string{"event"}, ctEvents, optional, "print events until interrupted"},
	{[]string{"flush"}, ctFlush, optional, "end every entry"},
	{[]string{"counter"}, ctCount, optional, "print how many entries there are"},
	{[]string{"stats"}, ctStats, optional, "print what happened to lookups and new flows"},
	{[]string{"version"}, ctVersion, optional, "print the version of conntrack(8) that this follows"},
	{[]string{"help"}, ctHelp, optional, "help for conntrack"},
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
	{[]string{"zero"}, 'z', nothing, "print counters and set them to zero"},
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
	{[]string{"output"}, 'o', required, "`LIST` of extended, id, timestamp, ktimestamp, labels, why; or one of xml, save, json"},
	{[]string{"secmark"}, 'c', required, "`VALUE[/MASK]`, of no effect: no flow has a secmark"},
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

// loadOption must come first.
var loadOption = longOption{[]string{"load-file"}, 'R', required, "do the commands -I, -A, -U, -D and -F in `FILE`, a line each; - is standard input. Must come first"}

// conntrackLegal says which options a command takes with a table, a column for
// each of conntrackOptionList: M it must be there, o it may, P it is half of a
// pair of addresses of which one must be there, . it may not.
var conntrackLegal = map[conntrackCall]string{
	//                        sdrqptuze[]{}amifngocbjwl<>()
	{ctList, tableFlows}:    "ooooo.oo...oo.o.ooooo.ooo..oo",
	{ctCreate, tableFlows}:  "PPPPMMo......oo..oo....o.o.oo",
	{ctAdd, tableFlows}:     "PPPPMMo......oo..oo....o.o.oo",
	{ctGet, tableFlows}:     "PPPPM..........o...o....o....",
	{ctDelete, tableFlows}:  "ooooooo....oo.oooooo...oo..oo",
	{ctUpdate, tableFlows}:  "ooooooo....oo.oooooo....ooo..",
	{ctEvents, tableFlows}:  "ooooo...o..oo.o.ooooooooo..oo",
	{ctFlush, tableFlows}:   "................o............",
	{ctCount, tableFlows}:   ".............................",
	{ctStats, tableFlows}:   ".............................",
	{ctList, tableExpect}:   "................o..o.........",
	{ctCreate, tableExpect}: "MMooMM...MMMM................",
	{ctGet, tableExpect}:    "MMooM........................",
	{ctDelete, tableExpect}: "MMooM........................",
	{ctEvents, tableExpect}: "...................o.........",
	{ctFlush, tableExpect}:  ".............................",
	{ctCount, tableExpect}:  ".............................",
	{ctStats, tableExpect}:  ".............................",
	{0, tableFlows}:         ".............................",
}

// conntrackCall is a command and the table it is for.
type conntrackCall struct {
	command byte
	table   string
}
