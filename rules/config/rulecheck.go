package config

import (
	"slices"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

func (d *decoder) decodeRules(c *Config, list rules.List) {
	names := map[string]*draft{}
	before := newEarlier()
	drafts := d.drafts(c, list)
	d.checkPlans(drafts)
	for _, r := range drafts {
		d.checkRuleName(r, names)
		d.checkShadow(r, before)
		before.add(r)
		c.Rules.Lists[list] = append(c.Rules.Lists[list], r.RuleSpec)
	}
}

// drafts reads the rules of a list. Rules that are wrong in themselves are
// reported and left out.
func (d *decoder) drafts(c *Config, list rules.List) []*draft {
	keys := ruleKeys(list)
	title := "[[" + list.String() + "]]"
	var drafts []*draft
	pos := 0
	d.each(list.String(), func(n *node) {
		pos++
		r := &draft{list: list, pos: pos, node: n}
		r.Source = d.location(n.key)
		before := len(d.errs)
		d.foreignKeys(n, list, keys)
		table(d, d.without(n, keys), title, keys, r)
		d.checkNames(c, r)
		if !need(d, n, title, keys, "action") || len(d.errs) > before {
			return
		}
		if d.finish(r); len(d.errs) == before {
			d.finishPorts(c, r)
		}
		if len(d.errs) == before {
			drafts = append(drafts, r)
		}
	})
	return drafts
}

// foreignKeys reports keys that other lists take, with the reason.
func (d *decoder) foreignKeys(n *node, list rules.List, keys []key[draft]) {
	for _, name := range n.order {
		if indexKey(keys, name) >= 0 {
			continue
		}
		for i := range allRuleKeys {
			if allRuleKeys[i].name == name {
				d.errorf(n.table[name].key, "%s does not belong in [[%s]]: %s", name, list, allRuleKeys[i].why)
			}
		}
	}
}

// without returns n without the keys that foreignKeys has reported.
func (d *decoder) without(n *node, keys []key[draft]) *node {
	m := *n
	m.order = slices.DeleteFunc(slices.Clone(n.order), func(name string) bool {
		return indexKey(keys, name) < 0 && slices.ContainsFunc(allRuleKeys, func(k ruleKey) bool { return k.name == name })
	})
	return &m
}

// finish checks what depends on several keys of one rule.
func (d *decoder) finish(r *draft) {
	d.checkProtocol(r)
	d.checkArguments(r)
	switch r.Then {
	case rules.ActDnat, rules.ActRedirect:
		d.finishDestination(r)
	case rules.ActSnat, rules.ActMasquerade:
		d.finishSource(r)
	case rules.ActNetmap, rules.ActNPTv6:
		d.finishNetmap(r)
	}
	d.finishAttributes(r)
	var err error
	if r.family, err = r.Family(); err != nil {
		d.errorf(r.node.key, "src, dst, to and family name both address families, so the rule never applies: use one rule for each family")
	}
}

// checkNames wants areas and interfaces to exist, and to be able to meet.
func (d *decoder) checkNames(c *Config, r *draft) {
	areas := func(key string, m *rules.Match[string]) {
		for _, name := range m.Values {
			if _, ok := c.Rules.AreaID(name); !ok {
				d.errorf(r.at(key), "%s: unknown area %q; %s, or declare it with [[area]]", key, name, trimQuestion(suggest(name, areaNames(c))))
			}
		}
	}
	interfaces := func(key string, m, area *rules.Match[string]) {
		met := area.IsAny() || m.IsAny() || len(m.Sets) > 0 || area.Sense == rules.IsNot || m.Sense == rules.IsNot
		for _, name := range m.Values {
			if !knownInterface(c, name) {
				d.errorf(r.at(key), "%s: interface %q is not declared; %s", key, name, suggest(name, interfaceNames(c)))
				return
			}
			met = met || slices.ContainsFunc(c.Interfaces, func(i Interface) bool {
				return slices.Contains(area.Values, i.Area) && (rules.MatchName(name, i.Name) || rules.MatchName(i.Name, name))
			})
		}
		if !met {
			d.errorf(r.at(key), "%s: no such interface is in the area that the rule names too, so it never applies: delete one of the two", key)
		}
	}
	areas("in_area", &r.If.InArea)
	areas("out_area", &r.If.OutArea)
	interfaces("iif", &r.If.In, &r.If.InArea)
	interfaces("oif", &r.If.Out, &r.If.OutArea)
}

// checkProtocol wants the protocol to have what the rule looks at.
func (d *decoder) checkProtocol(r *draft) {
	proto := &r.If.Proto
	named := func(p uint8) bool { return proto.Sense == rules.Is && slices.Contains(proto.Values, p) }
	for _, key := range [...]string{"sport", "dport"} {
		if r.has(key) && proto.Sense == rules.Is && !proto.IsAny() && !slices.ContainsFunc(proto.Values, tuple.HasPorts) {
			d.errorf(r.at(key), "%s: %s has no ports: delete the key, or name tcp or udp in proto", key, rules.ProtoName(proto.Values[0]))
		}
	}
	only := len(proto.Values) == 1
	switch {
	case only && named(tuple.ICMP) && r.If.Family == tuple.IPv6:
		d.errorf(r.at("proto"), "proto: icmp is IPv4 only: write icmpv6")
	case only && named(tuple.ICMPv6) && r.If.Family == tuple.IPv4:
		d.errorf(r.at("proto"), "proto: icmpv6 is IPv6 only: write icmp")
	}
	if r.icmp == nil {
		return
	}
	if !only || !named(tuple.ICMP) && !named(tuple.ICMPv6) {
		d.errorf(r.icmp.at, "icmp_type: types mean different things in icmp and icmpv6: add proto = \"icmp\" or \"icmpv6\", and nothing else")
		return
	}
	d.about("icmp_type", icmpTypeExample, func() {
		match(d, r.icmp, &r.If.ICMP, icmpType(proto.Values[0]), compareICMP)
	})
}

// icmpTypeExample is how an icmp_type looks; it is read once proto is known.
const icmpTypeExample = `"echo-request"`

// arguments says which keys an action takes beside conditions and attributes, or
// needs although they are attributes.
var arguments = map[rules.Action]map[string]wanted{
	rules.ActCount:   {"count": needed},
	rules.ActLog:     {"log": needed},
	rules.ActHelper:  {"helper": needed},
	rules.ActTimeout: {"timeout": needed},
	rules.ActReject:  {"reject_with": optional},
	rules.ActZone:    {"set_zone": needed, "zone_direction": optional},
	rules.ActDnat: {"to": optional, "map": optional, "balance": optional, "balance_by": optional, "source": optional, "hairpin": optional,
		"ports": optional, "random": optional, "persistent": optional},
	rules.ActRedirect: {"hairpin": optional, "ports": optional, "random": optional},
	rules.ActSnat: {"to": optional, "map": optional, "ports": optional, "random": optional, "fully_random": optional, "persistent": optional,
		"mapping": optional, "filtering": optional, "pooling": optional, "hold_down": optional, "ports_per_client": optional,
		"block_size": optional, "max_blocks": optional, "deterministic": optional},
	rules.ActMasquerade: {"mapping": optional, "filtering": optional, "hold_down": optional, "ports_per_client": optional,
		"block_size": optional, "max_blocks": optional,
		"ports": optional, "random": optional, "fully_random": optional},
	rules.ActNetmap: {"to": needed, "source": optional, "hairpin": optional},
	rules.ActNPTv6:  {"to": needed, "hairpin": optional},
}

type wanted uint8

const (
	optional wanted = iota + 1
	needed
)

// attributes are what rules may do beside any action that lets a packet go on;
// those that watch also beside the others.
var (
	attributes = []string{"set_mark", "set_packet_mark", "helper", "helper_options", "timeout", "count", "log", "log_rate"}
	watching   = []string{"count", "log", "log_rate"}
)

// takes says whether rules with action a take a key that is no condition.
func takes(a rules.Action, key string) wanted {
	if key == "on_change" && (a.Terminal() || a == rules.ActHelper) {
		return optional
	}
	keys := attributes
	if a == rules.ActDrop || a == rules.ActReject {
		keys = watching
	}
	if w := arguments[a][key]; w != 0 || !slices.Contains(keys, key) {
		return w
	}
	return optional
}

// companions are keys that say more about another one.
var companions = []struct{ key, of string }{
	{"burst", "limit"}, {"per", "limit"}, {"log_rate", "log"}, {"helper_options", "helper"},
}

func (d *decoder) checkArguments(r *draft) {
	for _, key := range [...]string{"set_mark", "set_packet_mark", "helper", "helper_options", "count", "log", "log_rate", "reject_with",
		"set_zone", "zone_direction", "to", "map", "balance", "balance_by", "source", "hairpin",
		"ports", "random", "fully_random", "persistent", "timeout", "on_change",
		"mapping", "filtering", "pooling", "hold_down", "ports_per_client", "block_size", "max_blocks", "deterministic"} {
		switch {
		case r.has(key) && takes(r.Then, key) == 0:
			d.errorf(r.node.table[key].key, "%s does nothing with action = %q: delete it, or change the action", key, r.Then)
		case !r.has(key) && takes(r.Then, key) == needed:
			keys := ruleKeys(r.list)
			if i := indexKey(keys, key); i >= 0 {
				d.errorf(r.at("action"), "action %q needs %s: add %s = %s", r.Then, key, key, keys[i].example)
			}
		}
	}
	for _, c := range companions {
		if r.has(c.key) && !r.has(c.of) {
			d.errorf(r.node.table[c.key].key, "%s does nothing without %s: delete it, or add %s", c.key, c.of, c.of)
		}
	}
	if r.has("timezone") && !r.has("hours") && !r.has("weekdays") {
		d.errorf(r.node.table["timezone"].key, "timezone does nothing without hours or weekdays: delete it, or add one of them")
	}
	if r.Then == rules.ActMark && !r.has("set_mark") && !r.has("set_packet_mark") {
		d.errorf(r.at("action"), "action \"mark\" needs set_mark or set_packet_mark: add set_mark = \"0x10/0xff\"")
	}
	if r.Then == rules.ActDnat || r.Then == rules.ActSnat {
		d.checkChoice(r)
	}
	if r.has("ports") && !r.toPort.IsZero() {
		d.errorf(r.at("ports"), "ports: the address in to has ports already: give them in one place")
	}
	if r.ports.IsZero() {
		r.ports = r.toPort
	}
}

// finishDestination builds the translation of dnat and redirect.
func (d *decoder) finishDestination(r *draft) {
	r.Dest.Addrs, r.Dest.Ports, r.Dest.Flags = r.to, r.ports, r.random
	if r.Then == rules.ActRedirect {
		r.Dest.Redirect = nat.ToLocal
	}
	if len(r.pairs) > 0 {
		d.finishMap(r)
		return
	}
	at := r.at("ports")
	if !r.toPort.IsZero() {
		at = r.at("to")
	}
	dport := &r.If.DstPort
	switch {
	case r.ports.IsZero():
		if r.random&nat.Random != 0 {
			d.errorf(r.at("random"), "random: there are no ports to choose from: give a range in ports")
		}
		return
	case r.portless():
		d.errorf(at, "%s", portNeeded)
	case r.ports.First == r.ports.Last || r.random&nat.Random != 0:
	case len(dport.Values) != 1 || dport.Sense == rules.IsNot:
		d.errorf(at, "a range of new ports is filled from a range of old ones: give one range of the same size in dport, or random = true")
	case dport.Values[0].Size() != r.ports.Size():
		d.errorf(at, "%d ports cannot become %d: make %s and dport %s the same size, or set random = true",
			dport.Values[0].Size(), r.ports.Size(), r.ports, dport.Values[0])
	default:
		r.Dest.Flags |= nat.Shift
		r.Dest.Base = dport.Values[0].First
	}
}

// portless reports whether r may apply to packets without ports.
func (r *draft) portless() bool {
	proto := &r.If.Proto
	return r.If.DstPort.IsAny() && (proto.IsAny() || proto.Sense == rules.IsNot || !allHavePorts(proto.Values))
}

const portNeeded = "a new port needs a protocol that has ports: add proto = \"tcp\" or another, or dport"

func allHavePorts(protos []uint8) bool {
	return !slices.ContainsFunc(protos, func(p uint8) bool { return !tuple.HasPorts(p) })
}

// finishSource builds the translation of snat and masquerade.
func (d *decoder) finishSource(r *draft) {
	r.Src.Addrs, r.Src.Ports, r.Src.Flags = r.to, r.ports, r.random
	if len(r.pairs) > 0 {
		defer d.finishMap(r)
	}
	out := !r.If.Out.IsAny() || !r.If.OutArea.IsAny()
	if r.Then == rules.ActMasquerade && !out {
		d.errorf(r.at("action"), "masquerade takes the address of the interface that the flow leaves by: say which with out_area or oif")
	}
	if r.has("persistent") && len(r.to) == 1 && r.to[0].First == r.to[0].Last {
		d.errorf(r.at("persistent"), "persistent: there is one address to choose from: delete the key, or give a pool in to")
	}
}

func (d *decoder) checkRuleName(r *draft, names map[string]*draft) {
	if r.Name == "" {
		return
	}
	if b := names[r.Name]; b != nil {
		d.errorf(r.at("name"), "name: rule %d in line %d is called %q too: names are unique in a list", b.pos, b.Source.Line, r.Name)
		return
	}
	names[r.Name] = r
}

// checkShadow reports a rule whose packets are all decided by one before it, or
// a mark rule that is there already.
func (d *decoder) checkShadow(r *draft, before *earlier) {
	switch b := before.deciding(r); {
	case b == nil:
	case !b.Then.Terminal():
		d.errorf(r.node.key, "the same rule is in line %d already: delete one", b.Source.Line)
	default:
		d.errorf(r.node.key, "the rule never applies: rule %d in line %d decides all of its packets (%s); delete one, or move this one before it",
			b.pos, b.Source.Line, b.Text())
	}
}

// decidesFirst reports whether a filter rule leaves established packets alone.
func decidesFirst(r *draft) bool {
	c := &r.If
	return r.list == rules.Filter && r.Then != rules.ActAccept &&
		c.State.IsAny() && c.Mark.IsAny() && c.TTL.IsAny() && c.DSCP.IsAny() &&
		c.Length.IsAny() && c.Direction.IsAny() && c.Window.IsAny() && c.Limit == nil
}

// covers reports whether every packet that meets b meets a, the family aside. It
// may say false for some that do. What tells rules of long lists apart comes
// first: every rule is compared with all before it.
func covers(a, b *rules.Conditions) bool {
	return within(&a.Src, &b.Src, holdsAddrs) && within(&a.Dst, &b.Dst, holdsAddrs) &&
		within(&a.DstPort, &b.DstPort, holdsPorts) && within(&a.SrcPort, &b.SrcPort, holdsPorts) &&
		within(&a.In, &b.In, holdsName) && within(&a.Out, &b.Out, holdsName) &&
		within(&a.InArea, &b.InArea, equal[string]) &&
		within(&a.OutArea, &b.OutArea, equal[string]) &&
		within(&a.Proto, &b.Proto, equal[uint8]) &&
		within(&a.ICMP, &b.ICMP, func(a, b rules.ICMPType) bool {
			return a.Type == b.Type && a.MinCode <= b.MinCode && b.MaxCode <= a.MaxCode
		}) &&
		within(&a.Local, &b.Local, equal[rules.Delivery]) &&
		within(&a.State, &b.State, equal[rules.State]) &&
		within(&a.Mark, &b.Mark, equal[rules.MarkMatch]) &&
		within(&a.TTL, &b.TTL, holdsBytes) && within(&a.DSCP, &b.DSCP, holdsBytes) &&
		within(&a.Length, &b.Length, holdsShort) && within(&a.Zone, &b.Zone, holdsShort) &&
		within(&a.Direction, &b.Direction, equal[tuple.Direction]) &&
		within(&a.Helper, &b.Helper, equal[string]) &&
		within(&a.Window.Hours, &b.Window.Hours, equal[rules.HourRange]) &&
		within(&a.Window.Weekdays, &b.Window.Weekdays, equal[time.Weekday]) &&
		(a.Window.IsAny() || a.Window.Zone == b.Window.Zone || a.Window.Zone != nil && b.Window.Zone != nil && a.Window.Zone.String() == b.Window.Zone.String()) &&
		a.Limit == nil && a.Flows == nil
}

// within reports whether what meets b meets a, for one field.
func within[T any](a, b *rules.Match[T], holds func(a, b T) bool) bool {
	switch {
	case a.IsAny():
		return true
	case b.IsAny() || a.Sense != b.Sense:
		return false
	case a.Sense == rules.IsNot:
		a, b = b, a // what is outside b is outside a when a is inside b
	}
	for _, name := range b.Sets {
		if !slices.Contains(a.Sets, name) {
			return false // what is in it may change
		}
	}
	for _, v := range b.Values {
		if !slices.ContainsFunc(a.Values, func(w T) bool { return holds(w, v) }) {
			return false
		}
	}
	return true
}

func equal[T comparable](a, b T) bool { return a == b }

func holdsAddrs(a, b nat.AddrRange) bool {
	return a.First.Is4() == b.First.Is4() && a.Contains(b.First) && a.Contains(b.Last)
}

func holdsName(a, b string) bool { return a == b || rules.MatchName(a, b) }

func holdsPorts(a, b nat.PortRange) bool { return a.Contains(b.First) && a.Contains(b.Last) }

func holdsShort(a, b rules.ShortRange) bool { return a.First <= b.First && b.Last <= a.Last }

func holdsBytes(a, b rules.ByteRange) bool { return a.First <= b.First && b.Last <= a.Last }
