package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// pair is a key of map with its target.
type pair struct {
	to       *node
	text     string // the key
	addrs    nat.AddrRange
	ports    nat.PortRange
	target   []nat.AddrRange // one, or none: the address stays
	toPorts  nat.PortRange
	toPrefix bool
}

// byAddr and byPort report what the key looks at.
func (p *pair) byAddr() bool { return p.addrs != nat.AnyAddr }
func (p *pair) byPort() bool { return p.ports != nat.AnyPort }

// readMap reads { key = target }. Whether the two fit is seen in finish, when the
// list's other keys are known.
func (r *draft) readMap(d *decoder, n *node) {
	switch {
	case n.kind != kindTable:
		d.wrongType(n, "a table")
		return
	case len(n.order) == 0:
		d.errorf(n.at, "is an empty table: write it like %s", exampleMark)
		return
	}
	for _, text := range n.order {
		to := n.table[text]
		p := pair{to: to, text: text}
		if err := p.parseKey(text); err != nil {
			d.errorf(to.key, "%v", err)
			continue
		}
		if to.kind == kindTable {
			d.errorf(to.key, "%s has no target: write keys with dots in quotes, like %s", text, exampleMark)
			continue
		}
		s, ok := d.text(to)
		if !ok {
			continue
		}
		if err := p.parseTarget(s); err != nil {
			d.errorf(to.at, "%v", err)
			continue
		}
		r.pairs = append(r.pairs, p)
	}
}

// parseKey reads a port, an address or both; ranges of them; a prefix.
func (p *pair) parseKey(s string) error {
	p.addrs, p.ports = nat.AnyAddr, nat.AnyPort
	var err error
	if !strings.ContainsAny(s, ".:") {
		p.ports, err = parsePorts(s)
		return err
	}
	addr, port := splitPort(s)
	if p.addrs, err = parseRange(addr); err == nil && port != "" {
		p.ports, err = parsePorts(port[1:])
	}
	return err
}

// parseTarget reads an address, range or prefix, with a port or ports or
// without, or ":port" alone.
func (p *pair) parseTarget(s string) error {
	addr, port := splitPort(s)
	if addr != "" {
		r, err := parseTarget(addr)
		if err != nil {
			return err
		}
		p.target, p.toPrefix = []nat.AddrRange{r}, strings.Contains(addr, "/")
	}
	if port == "" {
		return nil
	}
	var err error
	p.toPorts, err = parsePorts(port[1:])
	return err
}

// checkPairs wants keys of one kind and family without overlaps, and targets
// that can take what their keys give. It reports whether all is well.
func (d *decoder) checkPairs(r *draft) bool {
	before := len(d.errs)
	first := &r.pairs[0]
	for i := range r.pairs {
		p := &r.pairs[i]
		at := p.to.key
		switch {
		case p.byAddr() != first.byAddr() || p.byPort() != first.byPort():
			d.errorf(at, "map: %s is another kind of key than %s: use addresses, ports or address:port in one map", p.text, first.text)
		case p.byPort() && r.list == rules.Snat:
			d.errorf(at, "map: %s has a port, but a snat map looks at the source address alone: leave the port out", p.text)
		case p.byAddr() && len(p.target) > 0 && p.addrs.First.Is4() != p.target[0].First.Is4():
			d.errorf(p.to.at, "map: %s leads to the other address family: give a target of its own", p.text)
		case len(p.target) == 0 && r.list == rules.Snat:
			d.errorf(p.to.at, "map: %s has no new address: put one before the port", p.text)
		case p.toPrefix && !p.toPorts.IsZero():
			d.errorf(p.to.at, "map: a prefix takes no ports: give an address or a range, or leave the ports out")
		case p.toPrefix && !sameLength(p.addrs, p.target[0]):
			d.errorf(p.to.at, "map: %s is no prefix as long as %s: give the target as range for a pool, or prefixes of one length", p.text, rules.RangeText(p.target[0]))
		case r.list == rules.Dnat && !p.toPorts.IsZero():
			d.checkMapPorts(r, p)
		}
	}
	d.checkOverlaps(r)
	return len(d.errs) == before
}

// checkOverlaps wants each packet to fit one key at most. If two keys have
// something in common, so have two neighbours.
func (d *decoder) checkOverlaps(r *draft) {
	sorted := make([]*pair, len(r.pairs))
	for i := range sorted {
		sorted[i] = &r.pairs[i]
	}
	slices.SortStableFunc(sorted, func(a, b *pair) int {
		return cmp.Or(compareRanges(a.addrs, b.addrs), comparePorts(a.ports, b.ports))
	})
	for i := 1; i < len(sorted); i++ {
		a, b := sorted[i-1], sorted[i]
		switch {
		case !overlap(a, b):
		case a.addrs == b.addrs && a.ports == b.ports:
			d.errorf(b.to.key, "map: %s is the same key as %s: delete one", b.text, a.text)
		default:
			d.errorf(b.to.key, "map: %s overlaps %s: no packet may have two targets", b.text, a.text)
		}
	}
}

// checkMapPorts wants the new ports of a dnat map to follow from the old ones.
func (d *decoder) checkMapPorts(r *draft, p *pair) {
	switch {
	case !p.byPort() && r.portless():
		d.errorf(p.to.at, "map: %s", portNeeded)
	case p.toPorts.First == p.toPorts.Last:
	case !p.byPort() || p.ports.Size() != p.toPorts.Size():
		d.errorf(p.to.at, "map: a range of new ports is filled from a range of old ones: give a key with as many ports")
	}
}

// overlap reports whether some packet fits a and b, which comes after a in order,
// or the lookup could not tell them apart: ranges of addresses are equal or have
// nothing in common.
func overlap(a, b *pair) bool {
	return a.addrs.Contains(b.addrs.First) && (a.addrs != b.addrs || a.ports.Contains(b.ports.First))
}

// sameLength reports whether a and b are prefixes of one length and family.
func sameLength(a, b nat.AddrRange) bool {
	p, ok := rules.PrefixOf(a)
	q, ok2 := rules.PrefixOf(b)
	return ok && ok2 && p.Bits() == q.Bits() && p.Addr().Is4() == q.Addr().Is4()
}

// finishMap builds the map and the conditions that its keys stand for.
func (d *decoder) finishMap(r *draft) {
	if !d.checkPairs(r) {
		return
	}
	addrs, ports, addrKey, portKey := &r.If.Dst, &r.If.DstPort, "dst", "dport"
	if r.list == rules.Snat {
		addrs, ports, addrKey, portKey = &r.If.Src, &r.If.SrcPort, "src", "sport"
	}
	byAddr, byPort := r.pairs[0].byAddr(), r.pairs[0].byPort()
	switch {
	case byAddr && (!addrs.IsAny() || r.list == rules.Dnat && !r.If.Local.IsAny()):
		d.errorf(r.at(addrKey), "%s: the keys of map say it already: delete this key", addrKey)
		return
	case byPort && !ports.IsAny():
		d.errorf(r.at(portKey), "%s: the keys of map say it already: delete this key", portKey)
		return
	}
	if byAddr {
		addrs.Values = keys(r.pairs, func(p *pair) nat.AddrRange { return p.addrs }, compareRanges)
	}
	if byPort {
		ports.Values = keys(r.pairs, func(p *pair) nat.PortRange { return p.ports }, comparePorts)
	}
	var err error
	if r.list == rules.Snat {
		r.Src.Map, err = nat.NewMap(entries(r.pairs, func(p *pair) nat.Source { return p.source(&r.Src) }))
	} else {
		r.Dest.Map, err = nat.NewMap(entries(r.pairs, func(p *pair) nat.Destination { return p.destination(&r.Dest) }))
	}
	if err != nil {
		d.errorf(r.at("map"), "map: %v: no packet may have two targets", err)
	}
}

// keys returns the different values of pick in order.
func keys[T comparable](pairs []pair, pick func(*pair) T, compare func(a, b T) int) []T {
	values := make([]T, len(pairs))
	for i := range pairs {
		values[i] = pick(&pairs[i])
	}
	slices.SortFunc(values, compare)
	return slices.Compact(values)
}

func entries[T any](pairs []pair, to func(*pair) T) []nat.Entry[T] {
	all := make([]nat.Entry[T], len(pairs))
	for i := range pairs {
		all[i] = nat.Entry[T]{Addrs: pairs[i].addrs, Ports: pairs[i].ports, To: to(&pairs[i])}
	}
	return all
}

func (p *pair) fit() nat.Fit {
	if p.toPrefix && p.target[0].First != p.target[0].Last {
		return nat.KeepBits
	}
	return nat.Choose
}

// source returns what p makes of a source, the rest as of rule.
func (p *pair) source(rule *nat.Source) nat.Source {
	s := *rule
	s.Addrs, s.Fit = p.target, p.fit()
	if !p.toPorts.IsZero() {
		s.Ports = p.toPorts
	}
	return s
}

// destination returns what p makes of a destination, the rest as of rule.
func (p *pair) destination(rule *nat.Destination) nat.Destination {
	t := *rule
	t.Addrs, t.Ports, t.Fit = p.target, p.toPorts, p.fit()
	if p.toPorts.First != p.toPorts.Last {
		t.Flags |= nat.Shift
		t.Base = p.ports.First
	}
	return t
}

// balance is the balanced set of r.
func (r *draft) balance() *nat.Balance {
	if r.Dest.Balance == nil {
		r.Dest.Balance = &nat.Balance{}
	}
	return r.Dest.Balance
}

// maxBackends bounds the hosts of a balanced set, which every new flow weighs.
const maxBackends = 256

var backendKeys = []key[nat.Backend]{
	{"to", "address[:port]", required, `"10.0.0.11:8080"`, "The host.",
		func(d *decoder, n *node, v *nat.Backend) {
			if s, ok := d.text(n); ok {
				if err := parseBackend(s, v); err != nil {
					d.errorf(n.at, "%v", err)
				}
			}
		}},
	{"weight", "integer 1-1000", "1", "3", "Its share among all.",
		func(d *decoder, n *node, v *nat.Backend) { number(d, n, &v.Weight, 1, 1000) }},
}

func parseBackend(s string, v *nat.Backend) error {
	addr, port := splitPort(s)
	r, err := parseTarget(addr)
	if err != nil {
		return err
	}
	if r.First != r.Last {
		return fmt.Errorf("%s is more than one host: list each with its weight", s)
	}
	v.Addr = r.First
	if port == "" {
		return nil
	}
	ports, err := parsePorts(port[1:])
	if err == nil && ports.First != ports.Last {
		err = errors.New("a host takes one port: give one, or leave it out to keep the packet's")
	}
	v.Port = ports.First
	return err
}

func (r *draft) readBalance(d *decoder, n *node) {
	if n.kind != kindArray || len(n.array) == 0 {
		d.wrongType(n, "a list of tables")
		return
	}
	b := r.balance()
	for _, item := range n.array {
		if item.kind != kindTable {
			d.wrongType(item, "a table")
			continue
		}
		e := nat.Backend{Weight: 1}
		before := len(d.errs)
		if table(d, item, "balance", backendKeys, &e); len(d.errs) > before {
			continue
		}
		same := func(o nat.Backend) bool { return o.Addr == e.Addr && o.Port == e.Port }
		switch {
		case item.table["to"] == nil:
			d.errorf(item.at, "a host has no to: add to = %s", backendKeys[0].example)
		case len(b.Backends) > 0 && b.Backends[0].Addr.Is4() != e.Addr.Is4():
			d.errorf(item.at, "%v is of another address family than the others: use one rule for each family", e.Addr)
		case slices.ContainsFunc(b.Backends, same):
			d.errorf(item.at, "%v is listed twice: delete one, or give it more weight", e.Addr)
		case len(b.Backends) == maxBackends:
			d.errorf(item.at, "there are more than %d hosts: balance by client over a pool in to instead", maxBackends)
			return
		default:
			b.Backends = append(b.Backends, e)
		}
	}
	slices.SortFunc(b.Backends, func(a, b nat.Backend) int {
		return cmp.Or(a.Addr.Netip().Compare(b.Addr.Netip()), cmp.Compare(a.Port, b.Port))
	})
}

// readTwice reads the source of a dnat rule.
func (r *draft) readTwice(d *decoder, n *node) {
	r.Twice = &nat.Source{}
	if s, _ := n.value.(string); s == "masquerade" {
		return
	}
	r.Twice.Addrs = d.pool(n, func(item *node, s, port string, alone bool) {
		d.errorf(item.at, "%s has a port: the source port is kept when it is free, so give the address alone", s)
	})
}

// checkChoice wants one of the keys that say where flows go.
func (d *decoder) checkChoice(r *draft) {
	ways := []string{"to", "map", "balance"}
	if r.list == rules.Snat {
		ways = ways[:2]
	}
	given := slices.DeleteFunc(slices.Clone(ways), func(key string) bool { return !r.has(key) })
	switch {
	case len(given) == 0:
		ks := ruleKeys(r.list)
		d.errorf(r.at("action"), "action %q needs to, or one of %s: add to = %s", r.Then, strings.Join(ways[1:], ", "), ks[indexKey(ks, "to")].example)
	case len(given) > 1:
		d.errorf(r.node.table[given[1]].key, "%s and %s both say where flows go: keep one", given[0], given[1])
	}
	if r.has("balance_by") && !r.has("balance") {
		d.errorf(r.node.table["balance_by"].key, "balance_by: there is nothing to balance: add balance, or delete the key")
	}
	if b := r.Dest.Balance; b != nil && r.portless() && slices.ContainsFunc(b.Backends, func(b nat.Backend) bool { return b.Port != 0 }) {
		d.errorf(r.at("balance"), "balance: %s", portNeeded)
	}
	for _, key := range [...]string{"ports", "random", "persistent"} {
		if r.has("balance") && r.has(key) {
			d.errorf(r.node.table[key].key, "%s does nothing with balance: delete it", key)
		}
	}
	if r.list == rules.Dnat && r.has("map") {
		for _, key := range [...]string{"ports", "random"} {
			if r.has(key) {
				d.errorf(r.node.table[key].key, "%s does nothing with map: give the ports in its targets", key)
			}
		}
	}
}

// finishNetmap builds the translation of netmap and nptv6: the one prefix that
// the rule matches becomes the one in to.
func (d *decoder) finishNetmap(r *draft) {
	matched, key := &r.If.Dst, "dst"
	if r.list == rules.Snat {
		matched, key = &r.If.Src, "src"
	}
	to := r.at("to")
	if len(r.to) == 0 {
		return // checkArguments says so
	}
	if !r.toPort.IsZero() || len(r.to) != 1 {
		d.errorf(to, "to: action %q takes one prefix without ports: give one", r.Then)
		return
	}
	if matched.Sense == rules.IsNot || len(matched.Values) != 1 {
		d.errorf(r.at("action"), "action %q turns one prefix into another: give the old one, and no other, in %s", r.Then, key)
		return
	}
	from, ok := rules.PrefixOf(matched.Values[0])
	target, ok2 := rules.PrefixOf(r.to[0])
	switch {
	case !ok:
		d.errorf(r.at(key), "%s: action %q needs a prefix, such as %s", key, r.Then, netip.PrefixFrom(matched.Values[0].First.Netip(), 24).Masked())
	case !ok2:
		d.errorf(to, "to: action %q needs a prefix as long as %s", r.Then, from)
	case from.Addr().Is4() != target.Addr().Is4():
		d.errorf(to, "to: %s and %s are of different address families: give prefixes of one", from, target)
	case from.Bits() != target.Bits():
		d.errorf(to, "to: %s and %s differ in length, so that hosts would share addresses: make both /%d, or use action = %q for a pool", from, target, from.Bits(), poolAction[r.list])
	case from == target:
		d.errorf(to, "to: %s becomes itself: use action = \"none\" to leave it alone", from)
	case r.Then == rules.ActNPTv6 && from.Addr().Is4():
		d.errorf(r.at("action"), "action \"nptv6\" is for IPv6: use action = \"netmap\"")
	case r.Then == rules.ActNPTv6 && from.Bits() > 64:
		d.errorf(to, "to: action \"nptv6\" takes prefixes of at most 64 bits: use action = \"netmap\"")
	}
	fit := nat.KeepBits
	if r.Then == rules.ActNPTv6 {
		fit = nat.Neutral
	}
	if r.list == rules.Snat {
		r.Src.Addrs, r.Src.Fit, r.Src.From = r.to, fit, matched.Values[0]
	} else {
		r.Dest.Addrs, r.Dest.Fit, r.Dest.From = r.to, fit, matched.Values[0]
	}
}

// poolAction is what chooses from a pool in each list.
var poolAction = [rules.NumLists]rules.Action{rules.Dnat: rules.ActDnat, rules.Snat: rules.ActSnat}
