package config

import (
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// sections are the tables that a file may have.
var sections = []string{
	"gateway", "area", "interface", "route", "conntrack", "host", "pcp", "api", "helpers", "limits", "events", "log", "flowlog", "ipfix", "set",
	rules.Pre.String(), rules.Dnat.String(), rules.Filter.String(), rules.Snat.String(),
}

// decode reads the file into c. Areas come first and interfaces second, because
// all else names them.
func (d *decoder) decode(root *node, c *Config) {
	d.root = root
	for _, name := range root.order {
		known := false
		for _, s := range sections {
			known = known || s == name
		}
		if !known {
			d.errorf(root.table[name].key, "unknown section %q; %s", name, suggest(name, sections))
		}
	}
	single(d, "gateway", gatewayKeys, &c.Gateway)
	d.decodeAreas(c)
	d.decodeInterfaces(c)
	d.decodeRoutes(c)
	single(d, "conntrack", conntrackKeys, &c.Conntrack)
	single(d, "host", hostKeys, &c.Host)
	d.decodePCP(c)
	d.decodeAPI(c)
	d.decodeHelpers(c)
	single(d, "limits", limitKeys, &c.Limits)
	d.decodeLogs(c)
	d.decodeEvents(c)
	d.decodeSets(c)
	for list := range rules.NumLists {
		d.decodeRules(c, list)
	}
	if c.Conntrack.Profile == ProfileRFC {
		applyRFC(c.Rules.Lists[rules.Snat])
		applyRFCTwice(c.Rules.Lists[rules.Dnat])
	}
}

// single reads a table that exists once.
func single[T any](d *decoder, name string, keys []key[T], v *T) {
	n := d.root.table[name]
	switch {
	case n == nil:
	case n.kind == kindArray:
		d.errorf(n.at, "%s is not a list: write the header as [%s], once", name, name)
	default:
		table(d, n, "["+name+"]", keys, v)
	}
}

// each calls f for each table of an array of tables.
func (d *decoder) each(name string, f func(n *node)) {
	n := d.root.table[name]
	if n == nil {
		return
	}
	if n.kind != kindArray {
		d.errorf(n.at, "%s is a list: write the header as [[%s]]", name, name)
		return
	}
	for _, item := range n.array {
		if item.kind != kindTable {
			d.errorf(item.at, "%s is a list of tables, not of values: write each as a header [[%s]]", name, name)
			continue
		}
		f(item)
	}
}

// need reports a key that is missing from n, with its example.
func need[T any](d *decoder, n *node, title string, keys []key[T], names ...string) bool {
	ok := true
	for _, name := range names {
		if n.table[name] == nil {
			d.errorf(n.key, "%s has no %s: add %s = %s", title, name, name, keys[indexKey(keys, name)].example)
			ok = false
		}
	}
	return ok
}

// applyRFC gives translations the port choice of profile rfc.
func applyRFC(list []rules.RuleSpec) {
	for i := range list {
		switch list[i].Then {
		case rules.ActSnat, rules.ActMasquerade, rules.ActNetmap:
			list[i].Src.Each(func(s *nat.Source) { s.Flags |= nat.RFC | nat.Paired })
		}
	}
}

// applyRFCTwice does the same for dnat rules that give a source, too.
func applyRFCTwice(list []rules.RuleSpec) {
	for i := range list {
		if list[i].Twice != nil {
			list[i].Twice.Flags |= nat.RFC
		}
	}
}
