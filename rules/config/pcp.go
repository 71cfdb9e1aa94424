package config

import (
	"time"

	"example.com/culvert/rules"
)

// PCP has the settings of the service that gives hosts ports at their request.
type PCP struct {
	Enabled      bool
	Areas        []string // whose hosts may ask
	LifetimeMax  time.Duration
	MaxPerClient int
}

// defaultPCP is what the keys of [pcp] are when they are left out.
var defaultPCP = PCP{Areas: []string{"lan"}, LifetimeMax: 24 * time.Hour, MaxPerClient: 64}

// pcpKeys describe [pcp].
var pcpKeys = []key[PCP]{
	{"enabled", "boolean", "false", "true",
		"Whether hosts inside may ask for external ports, by PCP (RFC 6887) or NAT-PMP (RFC 6886), at the gateway's addresses in areas, UDP port 5351.",
		func(d *decoder, n *node, v *PCP) { d.boolean(n, &v.Enabled) }},
	{"areas", "area or list", `"lan"`, `["lan", "guest"]`,
		"Whose hosts may ask; inside areas with local = true.",
		func(d *decoder, n *node, v *PCP) { list(d, n, &v.Areas, parseString) }},
	{"lifetime_max", "duration 2m-7d", `"1d"`, `"2h"`,
		"For how long a port is given at most; hosts renew it at half of that.",
		func(d *decoder, n *node, v *PCP) { d.lifetime(n, &v.LifetimeMax) }},
	{"max_per_client", "integer 1-65535", "64", "16",
		"How many ports one host may have so. They count for the rule that translates it, too: for its ports_per_client and its blocks.",
		func(d *decoder, n *node, v *PCP) { d.integer(n, &v.MaxPerClient, 1, 65535) }},
}

// lifetime reads a duration from the least that RFC 6887 section 15 allows.
func (d *decoder) lifetime(n *node, v *time.Duration) {
	before := len(d.errs)
	var t time.Duration
	switch d.duration(n, &t); {
	case len(d.errs) > before:
	case t < 2*time.Minute || t > 7*24*time.Hour:
		d.errorf(n.at, "%s is out of range: give 2m to 7d", n.value)
	default:
		*v = t
	}
}

// decodePCP reads [pcp] and checks its areas.
func (d *decoder) decodePCP(c *Config) {
	single(d, "pcp", pcpKeys, &c.PCP)
	n := d.root.table["pcp"]
	if n == nil || n.kind != kindTable {
		return
	}
	n = n.table["areas"]
	if n != nil && c.PCP.Enabled && len(c.PCP.Areas) == 0 {
		d.errorf(n.at, "areas: nobody may ask: name an area, such as %q", "lan")
	}
	for i, name := range c.PCP.Areas {
		id, ok := c.Rules.AreaID(name)
		if n == nil && ok && c.PCP.Enabled {
			n = d.root.table["pcp"]
		}
		switch {
		case n == nil:
		case !ok:
			d.errorf(n.item(i), "areas: unknown area %q; %s, or declare it with [[area]]", name, trimQuestion(suggest(name, areaNames(c))))
		case id == rules.AreaHost || c.Rules.Areas[id].Side == rules.Outside:
			d.errorf(n.item(i), "areas: hosts of %q are not translated to the outside: name inside areas only", name)
		case c.PCP.Enabled && c.Rules.Areas[id].Services != rules.Answered:
			d.errorf(n.item(i), "areas: the gateway does not answer %q: add local = true to its [[area]], or leave it out", name)
		}
	}
}
