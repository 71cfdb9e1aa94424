package config

import (
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Log has the settings of the process's own log.
type Log struct {
	Level      slog.Level
	Components map[string]slog.Level // by name; those that are not here have Level
	JSON       bool                  // instead of text
	Repeats    int                   // lines with the same message in ten seconds, 0: any number
}

// LogComponents are the parts of the gateway whose level can be set by itself.
var LogComponents = []string{"gateway", "api", "export", "helper", "pcp", "port", "rule", "stack", "uplink"}

// defaultLog is what the keys of [log] are when they are left out.
var defaultLog = Log{Repeats: 20}

var levels = []string{"debug", "info", "warn", "error"}

// logKeys describe [log].
var logKeys = []key[Log]{
	{"level", quoted(levels), `"info"`, `"warn"`,
		"Least level that is logged; --log-level wins over it, culvert log changes it until the next reload.",
		func(d *decoder, n *node, v *Log) { d.level(n, &v.Level) }},
	{"components", "table", "", `{ pcp = "debug" }`,
		"See [log.components].",
		func(d *decoder, n *node, v *Log) {
			v.Components = make(map[string]slog.Level)
			table(d, n, "[log.components]", componentKeys, &v.Components)
		}},
	{"format", `"text" or "json"`, `"text"`, `"json"`,
		"Form of the lines on standard error; --log-format wins over it.",
		func(d *decoder, n *node, v *Log) {
			var i uint8
			word(d, n, &i, "text", "json")
			v.JSON = i == 1
		}},
	{"repeats", "integer 0-1000000", "20", "5",
		"How many lines with the same message are written in ten seconds; what comes then is counted and told in one line. Lines of rules and of blocks of ports are always written. 0 means no limit.",
		func(d *decoder, n *node, v *Log) { d.integer(n, &v.Repeats, 0, 1000000) }},
}

// componentKeys describe [log.components].
var componentKeys = makeComponentKeys()

func makeComponentKeys() (keys []key[map[string]slog.Level]) {
	docs := map[string]string{
		"gateway": "Life cycle, interfaces, reloads, and all that is not below.",
		"api":     "Requests on the control socket.",
		"export":  "Flow log and IPFIX.",
		"helper":  "What helpers announce.",
		"pcp":     "Ports that hosts ask for.",
		"port":    "Ports that are refused, and blocks of ports.",
		"rule":    "Rules with a log.",
		"stack":   "The gateway's own stack.",
		"uplink":  "Checks of uplinks.",
	}
	for _, name := range LogComponents {
		keys = append(keys, key[map[string]slog.Level]{name, quoted(levels), "that of [log]", `"debug"`, docs[name],
			func(d *decoder, n *node, v *map[string]slog.Level) {
				var level slog.Level
				before := len(d.errs)
				if d.level(n, &level); len(d.errs) == before {
					if *v == nil {
						*v = make(map[string]slog.Level)
					}
					(*v)[name] = level
				}
			}})
	}
	return keys
}

func (d *decoder) level(n *node, v *slog.Level) {
	var i uint8
	before := len(d.errs)
	if word(d, n, &i, levels...); len(d.errs) == before {
		*v = [...]slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError}[i]
	}
}

// Via says whose stack a connection to a server leaves by.
type Via uint8

const (
	ViaKernel  Via = iota // the kernel's, in the gateway's own namespace
	ViaGateway            // the gateway's own, over its interfaces
)

const viaDoc = "Whose sockets reach it: the kernel's, in the gateway's own namespace, or the gateway's, over the interfaces that it serves."

// FlowEvents is a set of what flow logs have lines about.
type FlowEvents uint8

const (
	FlowNew FlowEvents = 1 << iota
	FlowDestroy
	FlowBlock
	FlowRefused
)

var flowEventNames = []string{"new", "destroy", "block", "refused"}

// FlowLog is a [[flowlog]].
type FlowLog struct {
	File       string      // path; empty: Network and Address say which syslog server
	Mode       fs.FileMode // of files that are made
	MaxSize    int64       // bytes of a file, 0: no bound
	Keep       int         // older files
	Network    string      // "unixgram", "udp" or "tcp"
	Address    string
	Facility   int // RFC 5424 section 6.2.1
	Via        Via
	JSON       bool // instead of text
	Events     FlowEvents
	Translated bool // flows that are not translated are left out
	Buffer     int  // events that wait
}

var defaultFlowLog = FlowLog{Mode: 0o640, MaxSize: 100 << 20, Keep: 5, Facility: 16, Events: FlowNew | FlowDestroy | FlowBlock | FlowRefused, Buffer: 8192}

// facilities are the words for facilities by their number; those that are empty are for
// others.
var facilities = []string{"", "user", "", "daemon", "", "", "", "", "", "", "", "", "", "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"}

// flowLogKeys describe [[flowlog]].
var flowLogKeys = []key[FlowLog]{
	{"file", "path", "", `"/var/log/culvert/flows.log"`,
		"File that lines are appended to. SIGHUP opens it anew, for logrotate; max_size bounds it without.",
		func(d *decoder, n *node, v *FlowLog) { d.absolute(n, &v.File) }},
	{"mode", "octal digits", `"0640"`, `"0600"`,
		"Permissions of files that the gateway makes.",
		func(d *decoder, n *node, v *FlowLog) { d.mode(n, &v.Mode) }},
	{"max_size", "integer 0-1000000", "100", "500",
		"MiB that the file may have before it is renamed to .1, and .1 to .2; 0 means no bound.",
		func(d *decoder, n *node, v *FlowLog) {
			mib := int(v.MaxSize >> 20)
			d.integer(n, &mib, 0, 1000000)
			v.MaxSize = int64(mib) << 20
		}},
	{"keep", "integer 0-1000", "5", "30",
		"How many older files are kept.",
		func(d *decoder, n *node, v *FlowLog) { d.integer(n, &v.Keep, 0, 1000) }},
	{"syslog", `"unix:PATH", "udp:ADDRESS:PORT" or "tcp:ADDRESS:PORT"`, "", `"unix:/dev/log"`,
		"Syslog server that lines are sent to instead, as RFC 5424 has it; by TCP with counted octets.",
		func(d *decoder, n *node, v *FlowLog) { d.server(n, v) }},
	{"facility", quoted(without(facilities, "")), `"local0"`, `"daemon"`,
		"Facility of syslog messages.",
		func(d *decoder, n *node, v *FlowLog) {
			var i uint8
			before := len(d.errs)
			words := without(facilities, "")
			if word(d, n, &i, words...); len(d.errs) == before {
				for number, name := range facilities {
					if name == words[i] {
						v.Facility = number
					}
				}
			}
		}},
	{"via", `"kernel" or "gateway"`, `"kernel"`, `"gateway"`,
		"With syslog over UDP or TCP: " + viaDoc,
		func(d *decoder, n *node, v *FlowLog) { word(d, n, &v.Via, "kernel", "gateway") }},
	{"format", `"text" or "json"`, `"text"`, `"json"`,
		"Lines of key=value, or JSON objects with the same keys.",
		func(d *decoder, n *node, v *FlowLog) {
			var i uint8
			word(d, n, &i, "text", "json")
			v.JSON = i == 1
		}},
	{"events", quoted(flowEventNames) + ", or a list", "all", `["block", "refused"]`,
		"What has lines: flows that begin, flows that end, blocks of ports (instead of flows, if their rules give ports in blocks), flows that found no port.",
		func(d *decoder, n *node, v *FlowLog) { set(d, n, &v.Events, flowEventNames) }},
	{"flows", `"all" or "translated"`, `"all"`, `"translated"`,
		"Whether flows that keep their addresses and ports have lines, too.",
		func(d *decoder, n *node, v *FlowLog) {
			var i uint8
			word(d, n, &i, "all", "translated")
			v.Translated = i == 1
		}},
	{"buffer", "integer 64-1000000", "8192", "65536",
		"Events that may wait, half a kilobyte each, while the file or server is slow; what comes then is counted, and said in the log.",
		func(d *decoder, n *node, v *FlowLog) { d.integer(n, &v.Buffer, 64, 1000000) }},
}

// NATEvents is a set of what is told to IPFIX collectors.
type NATEvents uint8

const (
	NATSession NATEvents = 1 << iota
	NATMapping
	NATBlock
	NATExhausted
	NATQuota
	NATThreshold
)

var natEventNames = []string{"session", "mapping", "block", "exhausted", "quota", "threshold"}

// IPFIX is an [[ipfix]]: a collector.
type IPFIX struct {
	Collector netip.AddrPort
	TCP       bool
	Via       Via
	Domain    uint32
	Max       int // bytes of a message
	Refresh   time.Duration
	Events    NATEvents
	High, Low int // percent
	Queue     int // events that wait
}

var defaultIPFIX = IPFIX{Domain: 1, Max: 1400, Refresh: 10 * time.Minute, High: 90, Low: 70, Queue: 8192,
	Events: NATSession | NATMapping | NATBlock | NATExhausted | NATQuota | NATThreshold}

// ipfixKeys describe [[ipfix]].
var ipfixKeys = []key[IPFIX]{
	{"collector", "address:port", required, `"192.0.2.10:4739"`,
		"Where the messages go.",
		func(d *decoder, n *node, v *IPFIX) { one(d, n, &v.Collector, parseServer) }},
	{"transport", `"udp" or "tcp"`, `"udp"`, `"tcp"`,
		"By UDP, where templates are repeated and what is lost on the way is seen in the sequence numbers, or by TCP.",
		func(d *decoder, n *node, v *IPFIX) {
			var i uint8
			word(d, n, &i, "udp", "tcp")
			v.TCP = i == 1
		}},
	{"via", `"kernel" or "gateway"`, `"kernel"`, `"gateway"`,
		viaDoc,
		func(d *decoder, n *node, v *IPFIX) { word(d, n, &v.Via, "kernel", "gateway") }},
	{"domain", "integer 0-2147483647", "1", "7",
		"Observation domain of the messages: give each gateway its own.",
		func(d *decoder, n *node, v *IPFIX) { number(d, n, &v.Domain, 0, 1<<31-1) }},
	{"mtu", "integer 512-65535", "1400", "8900",
		"Largest message in bytes. By UDP it should leave room for IP and UDP headers in a packet.",
		func(d *decoder, n *node, v *IPFIX) { d.integer(n, &v.Max, 512, 65535) }},
	{"template_refresh", "duration 1s-100d", `"10m"`, `"1m"`,
		"How often templates are repeated over UDP.",
		func(d *decoder, n *node, v *IPFIX) { d.duration(n, &v.Refresh) }},
	{"events", quoted(natEventNames) + ", or a list", "all", `["block", "exhausted", "quota", "threshold"]`,
		"What is told (RFC 8158): translated flows, endpoint-independent mappings, blocks of ports, addresses without ports, quotas and thresholds that were reached.",
		func(d *decoder, n *node, v *IPFIX) { set(d, n, &v.Events, natEventNames) }},
	{"high", "integer 1-100", "90", "80",
		"Percent of the ports of an address, of the addresses of a pool, of the ports of a client or of the table of flows at which a threshold event is sent.",
		func(d *decoder, n *node, v *IPFIX) { d.integer(n, &v.High, 1, 100) }},
	{"low", "integer 0-99", "70", "50",
		"Percent below which the next one may be sent, and the low threshold of a pool is.",
		func(d *decoder, n *node, v *IPFIX) { d.integer(n, &v.Low, 0, 99) }},
	{"queue", "integer 64-1000000", "8192", "65536",
		"Events that may wait while the collector is slow or away; what comes then is counted, also in the sequence numbers.",
		func(d *decoder, n *node, v *IPFIX) { d.integer(n, &v.Queue, 64, 1000000) }},
}

// decodeLogs reads [log], [[flowlog]] and [[ipfix]].
func (d *decoder) decodeLogs(c *Config) {
	single(d, "log", logKeys, &c.Log)
	targets := map[string]Pos{}
	d.each("flowlog", func(n *node) {
		v := defaultFlowLog
		before := len(d.errs)
		if table(d, n, "[[flowlog]]", flowLogKeys, &v); len(d.errs) > before {
			return
		}
		d.checkFlowLog(n, &v, targets)
		c.FlowLogs = append(c.FlowLogs, v)
	})
	d.each("ipfix", func(n *node) {
		if !need(d, n, "[[ipfix]]", ipfixKeys, "collector") {
			return
		}
		v := defaultIPFIX
		before := len(d.errs)
		if table(d, n, "[[ipfix]]", ipfixKeys, &v); len(d.errs) > before {
			return
		}
		if v.Via == ViaGateway && v.Collector.Addr().IsLoopback() {
			d.errorf(n.table["via"].at, "via: %v is this machine, which the gateway's own stack does not reach so: delete via", v.Collector)
		}
		if v.Low >= v.High {
			d.errorf(n.key, "[[ipfix]] has low = %d and high = %d: low must be less", v.Low, v.High)
		}
		if at := slices.IndexFunc(c.IPFIX, func(o IPFIX) bool { return o.Events&v.Events&NATThreshold != 0 }); at >= 0 && (c.IPFIX[at].High != v.High || c.IPFIX[at].Low != v.Low) {
			d.errorf(n.key, "[[ipfix]] has high = %d and low = %d, another one %d and %d: thresholds are the same for all collectors", v.High, v.Low, c.IPFIX[at].High, c.IPFIX[at].Low)
		}
		d.onlyOnce(targets, n.table["collector"].at, "collector", fmt.Sprint("ipfix ", v.Collector, v.TCP))
		c.IPFIX = append(c.IPFIX, v)
	})
}

// checkFlowLog checks that there is one place to write to, with the keys of its kind.
func (d *decoder) checkFlowLog(n *node, v *FlowLog, targets map[string]Pos) {
	file, syslog := n.table["file"], n.table["syslog"]
	switch {
	case (file == nil) == (syslog == nil):
		d.errorf(n.key, "[[flowlog]] needs one of file and syslog: add file = \"/var/log/culvert/flows.log\", or keep one of the two")
		return
	case file != nil:
		d.onlyOnce(targets, file.at, "file", "file "+filepath.Clean(v.File))
		d.notWith(n, "file", "facility", "via")
	default:
		d.onlyOnce(targets, syslog.at, "syslog", "syslog "+v.Network+v.Address)
		d.notWith(n, "syslog", "mode", "max_size", "keep")
		k := n.table["via"]
		switch at, err := netip.ParseAddrPort(v.Address); {
		case k == nil:
		case v.Network == "unixgram":
			d.errorf(k.key, "via is for servers reached by UDP or TCP: delete it")
		case err == nil && at.Addr().IsLoopback() && v.Via == ViaGateway:
			d.errorf(k.at, "via: %v is this machine, which the gateway's own stack does not reach so: delete via", at)
		}
	}
}

// notWith reports keys that do not go with another one.
func (d *decoder) notWith(n *node, key string, others ...string) {
	for _, name := range others {
		if k := n.table[name]; k != nil {
			d.errorf(k.key, "%s does not go with %s: delete it", name, key)
		}
	}
}

// onlyOnce reports a target that two tables have.
func (d *decoder) onlyOnce(seen map[string]Pos, at Pos, key, target string) {
	if first, again := seen[target]; again {
		d.errorf(at, "%s: line %d has the same one: delete one of the two", key, first.Line)
		return
	}
	seen[target] = at
}

// mode reads permissions.
func (d *decoder) mode(n *node, v *fs.FileMode) {
	s, ok := d.text(n)
	if !ok {
		return
	}
	bits, err := strconv.ParseUint(s, 8, 32)
	switch {
	case err != nil || bits > 0o777:
		d.errorf(n.at, "%q is no permissions: write it like %s", s, exampleMark)
	case bits&0o200 == 0 || bits&0o002 != 0:
		d.errorf(n.at, "%q: the owner must be able to write, and not everybody: write it like %s", s, exampleMark)
	default:
		*v = fs.FileMode(bits)
	}
}

// server reads where a syslog server is.
func (d *decoder) server(n *node, v *FlowLog) {
	s, ok := d.text(n)
	if !ok {
		return
	}
	kind, address, _ := strings.Cut(s, ":")
	_, err := parseServer(address)
	switch {
	case kind == "unix" && filepath.IsAbs(address) && len(address) < 108:
		v.Network, v.Address = "unixgram", address
	case (kind == "udp" || kind == "tcp") && err == nil:
		v.Network, v.Address = kind, address
	default:
		d.errorf(n.at, "%q is no syslog server: write unix:PATH, udp:ADDRESS:PORT or tcp:ADDRESS:PORT, like %s", s, exampleMark)
	}
}

// parseServer accepts a port of a host, which may be this one.
func parseServer(s string) (netip.AddrPort, error) {
	ap, err := netip.ParseAddrPort(s)
	if err != nil || ap.Port() == 0 || ap.Addr().IsUnspecified() || ap.Addr().IsMulticast() {
		return ap, fmt.Errorf("%q is not the address:port of a server", s)
	}
	return ap, nil
}

// set reads one or several of a closed set of words: bits by their position in words.
func set[T ~uint8](d *decoder, n *node, v *T, words []string) {
	var bits T
	for _, item := range d.items(n) {
		var i uint8
		before := len(d.errs)
		if word(d, item, &i, words...); len(d.errs) > before {
			continue
		}
		if bits&(1<<i) != 0 {
			d.errorf(item.at, "%s is listed twice: delete one", words[i])
		}
		bits |= 1 << i
	}
	*v = bits
}

// without returns the words that are not w.
func without(words []string, w string) (out []string) {
	for _, s := range words {
		if s != w {
			out = append(out, s)
		}
	}
	return out
}
