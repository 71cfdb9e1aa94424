package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// draft is a rule while it is read: its keys may come in any order, so what
// depends on several of them waits for finish.
type draft struct {
	rules.RuleSpec
	list          rules.List
	pos           int
	node          *node
	family        uint8 // the one that conditions and translation leave, 0: both
	to            []nat.AddrRange
	toPort        nat.PortRange // of to
	ports         nat.PortRange
	random        nat.Flags
	icmp          *node
	pairs         []pair // of map
	share         rules.Share
	burst         int
	rate          rules.Rate // of log lines
	deterministic bool
}

// at is where key name of the rule stands, or the rule itself.
func (r *draft) at(name string) Pos {
	if n := r.node.table[name]; n != nil {
		return n.at
	}
	return r.node.key
}

func (r *draft) has(name string) bool { return r.node.table[name] != nil }

var listDocs = [rules.NumLists]string{
	rules.Pre:    "Before a flow is looked up: marks, zones, and what is not tracked. The first rule that applies ends the list, but rules that only mark, count, log or set timeouts and helpers go on.",
	rules.Dnat:   "New destinations for new flows. The first rule that applies decides, but rules that only mark, count, log or set timeouts and helpers go on.",
	rules.Filter: "What may pass. The first rule that applies decides, but rules that only mark, count, log or set timeouts and helpers go on; when none does, the default policy decides: inside may go out, answers may come back, what a dnat rule names may come in.",
	rules.Snat:   "New sources for new flows, after routing. The first rule that applies decides, but rules that only mark, count, log or set timeouts and helpers go on.",
}

// ruleKey is a key of rules with the lists that take it.
type ruleKey struct {
	key[draft]
	lists []rules.List
	why   string // why the other lists do not take it, and what to do
}

var (
	flowLists     = []rules.List{rules.Dnat, rules.Filter, rules.Snat}
	anyList       = []rules.List{rules.Pre, rules.Dnat, rules.Filter, rules.Snat}
	routed        = []rules.List{rules.Filter, rules.Snat}
	unrouted      = "the packet is not routed yet in this list: match the destination (dst), or use the key in a filter or snat rule"
	noSource      = "only snat rules choose sources: use action = \"masquerade\" in [[snat]]"
	noDestination = "only dnat rules choose destinations: move the rule to [[dnat]]"
	newOnly       = "only filter rules see other packets than the first of a flow: leave the key out"
	noFlow        = "there is no flow yet in this list: use a dnat, filter or snat rule"
	noZone        = "the zone is not chosen yet in this list: use a dnat, filter or snat rule"
	filterOnly    = "only filter rules reject: use action = \"reject\" in [[filter]]"
	firstOnly     = "this list does not translate: use a dnat or snat rule"
)

var allRuleKeys = append([]ruleKey{
	{key[draft]{"name", "string", "", `"web"`, "Name for people; unique in its list.",
		func(d *decoder, n *node, v *draft) { d.name(n, &v.Name) }}, anyList, ""},
	{key[draft]{"comment", "string", "", `"the web server"`, "Note for people. Editing it changes nothing.",
		func(d *decoder, n *node, v *draft) { v.Comment, _ = d.text(n) }}, anyList, ""},
	{key[draft]{"iif", "interface or list", "", `"eth1"`, "Interface that the packet came in by; a trailing * matches any rest. \"@name\" stands for a [[set]].",
		func(d *decoder, n *node, v *draft) {
			matchOrSet(d, n, rules.SetInterfaces, &v.If.In, parseIfname, strings.Compare)
		}}, anyList, ""},
	{key[draft]{"oif", "interface or list", "", `"eth0"`, "Interface that the packet leaves by.",
		func(d *decoder, n *node, v *draft) {
			matchOrSet(d, n, rules.SetInterfaces, &v.If.Out, parseIfname, strings.Compare)
		}}, routed, unrouted},
	{key[draft]{"in_area", "area or list", "", `"lan"`, "Area of the interface that the packet came in by.",
		func(d *decoder, n *node, v *draft) { match(d, n, &v.If.InArea, parseString, strings.Compare) }}, anyList, ""},
	{key[draft]{"out_area", "area or list", "", `"wan"`, "Area of the interface that the packet leaves by; host is the gateway itself.",
		func(d *decoder, n *node, v *draft) { match(d, n, &v.If.OutArea, parseString, strings.Compare) }}, routed, unrouted},
	{key[draft]{"family", `"ipv4" or "ipv6"`, "both", `"ipv4"`, "Address family.",
		func(d *decoder, n *node, v *draft) {
			var i uint8
			before := len(d.errs)
			if word(d, n, &i, "ipv4", "ipv6"); len(d.errs) == before {
				v.If.Family = [...]uint8{tuple.IPv4, tuple.IPv6}[i]
			}
		}}, anyList, ""},
	{key[draft]{"proto", "protocol or list", "", `["tcp", "udp"]`, "IP protocol: tcp, udp, icmp, icmpv6, sctp, dccp, gre, esp, ah, udplite or a number.",
		func(d *decoder, n *node, v *draft) { match(d, n, &v.If.Proto, parseProto, cmp.Compare[uint8]) }}, anyList, ""},
	{key[draft]{"src", "addresses", "", `["10.0.0.0/8", "192.0.2.1-192.0.2.9"]`, "Source: addresses, prefixes, ranges, or \"@name\" of a [[set]]. A leading ! takes all but these, here and in the other conditions.",
		func(d *decoder, n *node, v *draft) {
			matchOrSet(d, n, rules.SetAddrs, &v.If.Src, parseRange, compareRanges)
		}}, anyList, ""},
	{key[draft]{"sport", "port, range or list", "", `"1024-65535"`, "Source port, or \"@name\" of a [[set]].",
		func(d *decoder, n *node, v *draft) {
			matchOrSet(d, n, rules.SetPorts, &v.If.SrcPort, parsePorts, comparePorts)
		}}, anyList, ""},
	{key[draft]{"dst", `addresses, or "gateway"`, "", `"192.0.2.1"`, "Destination: addresses, prefixes, ranges, or \"@name\" of a [[set]]; gateway means all addresses that the gateway itself has.",
		func(d *decoder, n *node, v *draft) { v.readDst(d, n) }}, anyList, ""},
	{key[draft]{"dport", "port, range or list", "", `[80, 443]`, "Destination port (in filter and snat after translation by dnat), or \"@name\" of a [[set]].",
		func(d *decoder, n *node, v *draft) {
			matchOrSet(d, n, rules.SetPorts, &v.If.DstPort, parsePorts, comparePorts)
		}}, anyList, ""},
	{key[draft]{"icmp_type", "type, type/code or list", "", icmpTypeExample, "ICMP type, by name or number. Needs proto icmp or icmpv6.",
		func(_ *decoder, n *node, v *draft) { v.icmp = n }}, anyList, ""},
	{key[draft]{"state", "state or list", "", `["new", "related"]`, "Tracking state of the packet: new, established, related, invalid or untracked. Only a rule that names invalid accepts invalid packets, and none of them is translated.",
		func(d *decoder, n *node, v *draft) { match(d, n, &v.If.State, parseState, cmp.Compare[rules.State]) }}, []rules.List{rules.Filter}, newOnly},
	{key[draft]{"mark", "mark, mark/mask or list", "", `"0x10/0xff"`, "Mark of the packet: that of its flow when it comes, then as the rules before have changed it.",
		func(d *decoder, n *node, v *draft) { match(d, n, &v.If.Mark, parseMark, compareMarks) }}, anyList, ""},
	{key[draft]{"ttl", "number, range or list", "", `"0-4"`, "TTL or hop limit on arrival.",
		func(d *decoder, n *node, v *draft) { match(d, n, &v.If.TTL, byteRange(255), compareBytes) }}, anyList, ""},
	{key[draft]{"dscp", "number, range or list", "", "46", "Differentiated services code point.",
		func(d *decoder, n *node, v *draft) { match(d, n, &v.If.DSCP, byteRange(63), compareBytes) }}, anyList, ""},
	{key[draft]{"length", "number, range or list", "", `"1400-65535"`, "Length of the IP packet in bytes. Packets that came joined count as one.",
		func(d *decoder, n *node, v *draft) { match(d, n, &v.If.Length, shortRange, compareShort) }}, anyList, ""},
	{key[draft]{"zone", "number, range or list", "", `"!0"`, "Conntrack zone of the packet.",
		func(d *decoder, n *node, v *draft) { match(d, n, &v.If.Zone, shortRange, compareShort) }}, flowLists, noZone},
	{key[draft]{"direction", `"original" or "reply"`, "", `"reply"`, "Direction of the packet in its flow. A rule that names one is for packets of established flows, too.",
		func(d *decoder, n *node, v *draft) {
			match(d, n, &v.If.Direction, parseDirection, cmp.Compare[tuple.Direction])
		}}, []rules.List{rules.Filter}, newOnly},
	{key[draft]{"ct_helper", "helper or list", "", `"ftp"`, "Helper that announced the flow: its master's, as ct helper of nftables.",
		func(d *decoder, n *node, v *draft) { match(d, n, &v.If.Helper, parseHelper, strings.Compare) }}, flowLists, noFlow},
	{key[draft]{"hours", "part of the day or list", "", `"22:00-06:00"`, "Time of day, as hh:mm or hh:mm:ss, from the first on until before the second. A flow that was accepted within the hours ends with them.",
		func(d *decoder, n *node, v *draft) { match(d, n, &v.If.Window.Hours, parseHours, compareHours) }}, anyList, ""},
	{key[draft]{"weekdays", "weekday or list", "", `["sat", "sun"]`, "Day of the week at the moment the packet comes.",
		func(d *decoder, n *node, v *draft) {
			match(d, n, &v.If.Window.Weekdays, parseWeekday, cmp.Compare[time.Weekday])
		}}, anyList, ""},
	{key[draft]{"timezone", "string", "the machine's", `"Europe/Berlin"`, "Time zone of hours and weekdays, by its name in the IANA database.",
		func(d *decoder, n *node, v *draft) { one(d, n, &v.If.Window.Zone, parseZone) }}, anyList, ""},
	{key[draft]{"limit", "rate", "", `"10/s"`, "The rule applies to so many packets a second (s), minute (m), hour (h) or day (d) for which all else holds; with a leading ! to those beyond it.",
		func(d *decoder, n *node, v *draft) { v.readLimit(d, n) }}, anyList, ""},
	{key[draft]{"burst", "integer 1-1000000", "5", "20", "For limit: how many packets may come at once before the rate counts.",
		func(d *decoder, n *node, v *draft) { d.integer(n, &v.burst, 1, 1000000) }}, anyList, ""},
	{key[draft]{"per", `"rule" or "source"`, `"rule"`, `"source"`, "For limit: who has it for himself, the rule or each IPv4 address and IPv6 /64 that sends.",
		func(d *decoder, n *node, v *draft) { word(d, n, &v.share, "rule", "source") }}, anyList, ""},
	{key[draft]{"flows_per_source", "number or \"!number\", 1-1000", "", `"!20"`, "The rule applies to a new flow while its IPv4 address or IPv6 /64 has fewer flows that met the rule; with a leading ! when it has so many.",
		func(d *decoder, n *node, v *draft) { v.readFlowLimit(d, n) }}, flowLists, noFlow},
	{key[draft]{"action", "word", required, `"accept"`, "What the rule does.",
		func(d *decoder, n *node, v *draft) { v.readAction(d, n) }}, anyList, ""},
	{key[draft]{"reject_with", quoted(spellings(rules.Rejections())), "tcp-reset for TCP, else admin-prohibited", `"port-unreachable"`, "For action reject: what the sender is told.",
		func(d *decoder, n *node, v *draft) {
			var i uint8
			word(d, n, &i, spellings(rules.Rejections())...)
			v.Reject = rules.Rejections()[i]
		}}, []rules.List{rules.Filter}, filterOnly},
	{key[draft]{"set_mark", "mark or mark/mask", "", `"0x10/0xff"`, "The bits under the mask become these, in the mark of the packet and of its flow (nftables: meta mark and ct mark).",
		func(d *decoder, n *node, v *draft) {
			var m rules.MarkMatch
			d.single(n, func(s string) (err error) { m, err = parseMark(s); return err })
			v.Mark, v.MarkMask = m.Value, m.Mask
		}}, anyList, ""},
	{key[draft]{"set_packet_mark", "mark or mark/mask", "", `"0x1/0x1"`, "The same for this packet alone, for rules and routes that it still meets (nftables: meta mark).",
		func(d *decoder, n *node, v *draft) {
			d.single(n, func(s string) (err error) { v.PacketMark, err = parseMark(s); return err })
		}}, anyList, ""},
	{key[draft]{"helper", "string", "", `"ftp"`, "Helper that watches the new flows that the rule applies to.",
		func(d *decoder, n *node, v *draft) { one(d, n, &v.Helper, parseHelper) }}, flowLists, noFlow},
	{key[draft]{"helper_options", "list of words", "", `["foreign"]`, "What helper may do beyond the safe: foreign, announce addresses of others; low-ports, ports below 1024; any-signalling and any-media, let anybody come to what is announced.",
		func(d *decoder, n *node, v *draft) { v.readHelperOptions(d, n) }}, flowLists, noFlow},
	{key[draft]{"count", "string", "", `"web"`, "Counter of packets and bytes that the rule counts on; several rules may name one. See culvert rules --counters.",
		func(d *decoder, n *node, v *draft) { d.name(n, &v.Count) }}, anyList, ""},
	{key[draft]{"log", "string", "", `"ssh from outside"`, "Log each packet that the rule applies to, with this text.",
		func(d *decoder, n *node, v *draft) { v.readLog(d, n) }}, anyList, ""},
	{key[draft]{"log_rate", "rate", `"10/s"`, `"5/m"`, "For log: how many lines there are at most; the others are counted.",
		func(d *decoder, n *node, v *draft) { one(d, n, &v.rate, rules.ParseRate) }}, anyList, ""},
	{key[draft]{"set_zone", "integer 1-65535", "", "7", "For action zone: the conntrack zone of the flow.",
		func(d *decoder, n *node, v *draft) { number(d, n, &v.Zone, 1, 65535) }}, []rules.List{rules.Pre}, "the zone is chosen before the lookup: use a pre rule"},
	{key[draft]{"zone_direction", `"both", "original" or "reply"`, `"both"`, `"original"`, "For action zone: the direction of the flow that is in the zone; the other one is in zone 0.",
		func(d *decoder, n *node, v *draft) { word(d, n, &v.ZoneSide, "both", "original", "reply") }}, []rules.List{rules.Pre}, "the zone is chosen before the lookup: use a pre rule"},
	{key[draft]{"to", "address[:port], range, prefix or list", "", `"10.0.0.9:8443"`, "For actions dnat and snat: the new address, perhaps with port or ports. A pool is chosen from by client and destination.",
		func(d *decoder, n *node, v *draft) { v.readTo(d, n) }}, []rules.List{rules.Dnat, rules.Snat}, firstOnly},
	{key[draft]{"ports", "port or range", "", `"1024-65535"`, "For actions that translate: the new port, or the range it is chosen from. A range in a dnat or redirect rule keeps the distance to the first port of dport, unless random is set.",
		func(d *decoder, n *node, v *draft) {
			d.single(n, func(s string) (err error) { v.ports, err = parsePorts(s); return err })
		}}, []rules.List{rules.Dnat, rules.Snat}, firstOnly},
	{key[draft]{"random", "boolean", "false", "true", "For actions that translate: choose the port at random instead of keeping it.",
		func(d *decoder, n *node, v *draft) { v.flag(d, n, nat.Random) }}, []rules.List{rules.Dnat, rules.Snat}, firstOnly},
	{key[draft]{"fully_random", "boolean", "false", "true", "The same as random, as in netfilter today.",
		func(d *decoder, n *node, v *draft) { v.flag(d, n, nat.FullyRandom) }}, []rules.List{rules.Snat}, noSource},
	{key[draft]{"persistent", "boolean", "false", "true", "For pools: give a client the same address for all destinations.",
		func(d *decoder, n *node, v *draft) { v.flag(d, n, nat.Persistent) }}, []rules.List{rules.Dnat, rules.Snat}, firstOnly},
	{key[draft]{"map", "table of key = target", "", `{ "203.0.113.5:80" = "10.0.0.5:8080", "203.0.113.16/28" = "10.0.1.16/28" }`, "For actions dnat and snat, in place of to: what becomes of each destination (dnat) or source (snat). Keys are addresses, prefixes or ranges; in dnat rules also ports or address:port. A prefix leads to one of the same length and keeps the host bits; a range is a pool. The rule applies to what has a key.",
		func(d *decoder, n *node, v *draft) { v.readMap(d, n) }}, []rules.List{rules.Dnat, rules.Snat}, firstOnly},
	{key[draft]{"balance", "list of tables", "", `[{ to = "10.0.0.11:8080", weight = 3 }, { to = "10.0.0.12:8080" }]`, "For action dnat, in place of to: hosts that share the flows by weight (1-1000, default 1).",
		func(d *decoder, n *node, v *draft) { v.readBalance(d, n) }}, []rules.List{rules.Dnat}, noDestination},
	{key[draft]{"balance_by", `"client", "flow" or "round-robin"`, `"client"`, `"flow"`, "With balance: a client stays with its host, as long as that is listed; or each flow is on its own, by hash or one after the other.",
		func(d *decoder, n *node, v *draft) {
			var by nat.BalanceBy
			word(d, n, &by, "client", "flow", "round-robin")
			v.balance().By = by
		}}, []rules.List{rules.Dnat}, noDestination},
	{key[draft]{"source", `"masquerade", address, range, prefix or list`, "", `"masquerade"`, "For actions dnat and netmap: the flow's new source, too, in place of what the snat list says. masquerade is the address of the interface that it leaves by.",
		func(d *decoder, n *node, v *draft) { v.readTwice(d, n) }}, []rules.List{rules.Dnat}, "the key is for dnat rules: use action = \"snat\" with to"},
	{key[draft]{"hairpin", "boolean", "true", "false", "Whether inside hosts reach the target by the outside address, too, and appear with an outside address then (RFC 4787 REQ-9).",
		func(d *decoder, n *node, v *draft) {
			on := true
			d.boolean(n, &on)
			v.Hairpin = rules.Hairpinned
			if !on {
				v.Hairpin = rules.NoHairpin
			}
		}}, []rules.List{rules.Dnat}, noDestination},
	{key[draft]{"on_change", `"keep", "end" or "reevaluate"`, "", `"end"`, "What becomes of live flows that a reload would treat otherwise: those this rule admitted or translated, and those it would refuse or translate now. They go on as they are, end with notice to inside hosts, or are forgotten so that their next packets meet the new rules. Left out: they go on, but flows of UDP and others without connections are forgotten when their dnat target is gone, and a flow whose helper rules no longer give it, or with other options, goes on without it, or with those; what it has announced is not expected any more. That is what reevaluate means for a helper, too: no packet is lost.",
		func(d *decoder, n *node, v *draft) {
			var i uint8
			word(d, n, &i, spellings(rules.OnChanges())...)
			v.OnChange = rules.OnChanges()[i]
		}}, flowLists, noFlow},
	{key[draft]{"timeout", "table", "", `{ tcp_established = "1h", udp = "10s" }`, "Timeouts of the new flows that the rule applies to, by the names of [conntrack.timeouts]; what is left out is as there. When several rules on the way of a flow have some, it takes all from the last one.",
		func(d *decoder, n *node, v *draft) { v.readTimeouts(d, n) }}, flowLists, noFlow},
}, portKeys...)

// spellings returns values as files spell them.
func spellings[T fmt.Stringer](values []T) []string {
	words := make([]string, len(values))
	for i, v := range values {
		words[i] = v.String()
	}
	return words
}

// ruleKeys returns the keys that rules of a list take. The example of action is
// one that the list has.
func ruleKeys(list rules.List) []key[draft] {
	var keys []key[draft]
	for i := range allRuleKeys {
		k := allRuleKeys[i].key
		if !slices.Contains(allRuleKeys[i].lists, list) {
			continue
		}
		switch {
		case k.name == "action":
			k.typ, k.example = quoted(spellings(rules.Actions(list))), actionExamples[list]
		case k.name == "to" && list == rules.Snat:
			k.example = `"203.0.113.4"`
		}
		keys = append(keys, k)
	}
	return keys
}

// quoted returns `"a", "b" or "c"`.
func quoted(words []string) string {
	var b strings.Builder
	for i, w := range words {
		switch {
		case i == 0:
		case i == len(words)-1:
			b.WriteString(" or ")
		default:
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%q", w)
	}
	return b.String()
}

var actionExamples = [rules.NumLists]string{
	rules.Pre: `"notrack"`, rules.Dnat: `"dnat"`, rules.Filter: `"accept"`, rules.Snat: `"masquerade"`,
}

func parseString(s string) (string, error) {
	if s == "" {
		return s, errors.New("is empty: give a name")
	}
	return s, nil
}

// single reads one string or integer.
func (d *decoder) single(n *node, parse func(string) error) {
	if n.kind != kindScalar {
		d.wrongType(n, "one value")
		return
	}
	if s, ok := d.scalarText(n); ok {
		if err := parse(s); err != nil {
			d.errorf(n.at, "%v", err)
		}
	}
}

func (r *draft) flag(d *decoder, n *node, f nat.Flags) {
	var on bool
	if d.boolean(n, &on); on {
		r.random |= f
	}
}

func (r *draft) readDst(d *decoder, n *node) {
	s, _ := n.value.(string)
	switch s {
	case "gateway":
		r.If.Local = rules.Match[rules.Delivery]{Values: []rules.Delivery{rules.ToLocal}}
	case "!gateway":
		r.If.Local = rules.Match[rules.Delivery]{Sense: rules.IsNot, Values: []rules.Delivery{rules.ToLocal}}
	default:
		matchOrSet(d, n, rules.SetAddrs, &r.If.Dst, func(s string) (nat.AddrRange, error) {
			if s == "gateway" {
				return nat.AddrRange{}, errors.New("\"gateway\" stands alone: use another rule for the addresses")
			}
			return parseRange(s)
		}, compareRanges)
	}
}

func (r *draft) readAction(d *decoder, n *node) {
	s, ok := d.text(n)
	if !ok {
		return
	}
	for a := rules.ActNone; a <= rules.ActNPTv6; a++ {
		if a.String() != s {
			continue
		}
		if !rules.Allowed(r.list, a) {
			d.errorf(n.at, "%q does not belong in [[%s]], which takes %s%s", s, r.list, quoted(spellings(rules.Actions(r.list))), otherList(a))
			return
		}
		r.Then = a
		return
	}
	d.errorf(n.at, "unknown action %q; %s", s, suggest(s, spellings(rules.Actions(r.list))))
}

// otherList says where a belongs.
func otherList(a rules.Action) string {
	for list := range rules.NumLists {
		if rules.Allowed(list, a) {
			return fmt.Sprintf(": move the rule to [[%s]]", list)
		}
	}
	return ""
}

func (r *draft) readTimeouts(d *decoder, n *node) {
	switch {
	case n.kind != kindTable:
		d.wrongType(n, "a table")
	case len(n.order) == 0:
		d.errorf(n.at, "is an empty table: leave the key out, or write it like %s", exampleMark)
	default:
		r.Timeouts = new(conntrack.Timeouts)
		table(d, n, "timeout", timeoutKeys, r.Timeouts)
	}
}

// readTo reads "addr", "addr:port", "[addr]:port-port", ranges, prefixes and
// lists of them without ports.
func (r *draft) readTo(d *decoder, n *node) {
	r.to = d.pool(n, func(item *node, s, port string, alone bool) {
		if !alone {
			d.errorf(item.at, "%s has a port: for a pool give the port for all addresses with the key ports", s)
			return
		}
		ports, err := parsePorts(port)
		if err != nil {
			d.errorf(item.at, "%v", err)
		}
		r.toPort = ports
	})
}

// pool reads addresses, ranges and prefixes that have nothing in common. onPort
// is told of an item with a port.
func (d *decoder) pool(n *node, onPort func(item *node, s, port string, alone bool)) (pool []nat.AddrRange) {
	items := d.items(n)
	for _, item := range items {
		s, ok := d.text(item)
		if !ok {
			continue
		}
		addr, port := splitPort(s)
		if port != "" {
			before := len(d.errs)
			if onPort(item, s, port[1:], len(items) == 1); len(d.errs) > before && len(items) > 1 {
				continue
			}
		}
		target, err := parseTarget(addr)
		if err != nil {
			d.errorf(item.at, "%v", err)
			continue
		}
		for _, other := range pool {
			switch {
			case other.First.Is4() != target.First.Is4():
				d.errorf(item.at, "%s is of another address family than the rest of the pool: use one rule for each family", s)
			case other.Contains(target.First) || target.Contains(other.First):
				d.errorf(item.at, "%s overlaps another part of the pool: list each address once", s)
			default:
				continue
			}
			break
		}
		pool = append(pool, target)
	}
	return pool
}

// splitPort cuts ":port" off "addr:port" and "[addr]:port". It leaves IPv6
// addresses without brackets alone.
func splitPort(s string) (addr, port string) {
	if rest, ok := strings.CutPrefix(s, "["); ok {
		if addr, port, ok := strings.Cut(rest, "]:"); ok {
			return addr, ":" + port
		}
		return strings.TrimSuffix(rest, "]"), ""
	}
	if i := strings.IndexByte(s, ':'); i >= 0 && i == strings.LastIndexByte(s, ':') {
		return s[:i], s[i:]
	}
	return s, ""
}
