package config

import (
	"slices"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

const (
	rfcHoldDown   = 120 * time.Second // RFC 6888 REQ-8
	maxHoldDown   = time.Hour
	leastBlock    = 32
	largestBlock  = 32768
	defaultBlocks = 4
	sourcesOnly   = "only rules that translate sources have ports to give: use the key in [[snat]]"
)

// portKeys are the keys of snat rules that say how flows get their ports.
var portKeys = []ruleKey{
	{key[draft]{"mapping", quoted(rules.Behaviours[:]), `"linux"; profile rfc "endpoint-independent"`, `"endpoint-independent"`,
		"Whether flows of one inside socket appear from one external port (RFC 4787 section 4.1): always, for one destination host, for one destination port; or as in netfilter, by accident. Name the protocol in proto to choose for each.",
		func(d *decoder, n *node, v *draft) {
			word(d, n, &v.Src.Mapping, rules.Behaviours[:]...)
			v.PortKeys |= rules.MappingKey
		}}, []rules.List{rules.Snat}, sourcesOnly},
	{key[draft]{"filtering", quoted(rules.Behaviours[1:]), `"address-dependent"; none with mapping linux`, `"address-dependent"`,
		"Who may send to the external port of a flow from inside (RFC 4787 section 5): anybody, hosts that it has sent to, or the ports of these. What it admits needs no filter rule; one that drops it is obeyed.",
		func(d *decoder, n *node, v *draft) {
			var i uint8
			word(d, n, &i, rules.Behaviours[1:]...)
			v.Src.Filtering = nat.EndpointIndependent + nat.Behaviour(i)
			v.PortKeys |= rules.FilteringKey
		}}, []rules.List{rules.Snat}, sourcesOnly},
	{key[draft]{"pooling", `"paired" or "arbitrary"`, `by client and destination; profile rfc "paired"`, `"paired"`,
		"For pools: give a client one address for all of its flows, as long as that has a port left (the same as persistent = true; RFC 4787 REQ-2), or any.",
		func(d *decoder, n *node, v *draft) {
			var i uint8
			word(d, n, &i, "paired", "arbitrary")
			v.random |= [...]nat.Flags{nat.Persistent, nat.Arbitrary}[i]
			v.PortKeys |= rules.PoolingKey
		}}, []rules.List{rules.Snat}, sourcesOnly},
	{key[draft]{"hold_down", "duration 0s-1h", `"0s"; profile rfc "2m"`, `"2m"`,
		"How long a port stays with the client whose last flow on it has ended, before others may have it (RFC 6888 REQ-8). Mapping linux keeps none.",
		func(d *decoder, n *node, v *draft) {
			d.holdDown(n, &v.Src.HoldDown)
			v.PortKeys |= rules.HoldDownKey
		}}, []rules.List{rules.Snat}, sourcesOnly},
	{key[draft]{"ports_per_client", "integer 1-65535", "no limit", "1000",
		"Most external ports of one client (IPv6: of its /64) for each protocol (RFC 6888 REQ-4).",
		func(d *decoder, n *node, v *draft) { number(d, n, &v.Src.PortsPerClient, 1, 65535) }}, []rules.List{rules.Snat}, sourcesOnly},
	{key[draft]{"block_size", "power of two, 32-32768", "", "512",
		"Clients get their ports in blocks of so many, and what is logged are blocks (RFC 6888 REQ-14).",
		func(d *decoder, n *node, v *draft) {
			var i int
			before := len(d.errs)
			if d.integer(n, &i, leastBlock, largestBlock); len(d.errs) == before && i&(i-1) != 0 {
				below := leastBlock
				for below*2 < i {
					below *= 2
				}
				d.errorf(n.at, "%d is not a power of two: give %d or %d", i, below, 2*below)
			}
			v.Src.BlockSize = uint16(i)
		}}, []rules.List{rules.Snat}, sourcesOnly},
	{key[draft]{"max_blocks", "integer 1-16", "4", "2",
		"With block_size: most blocks of one client.",
		func(d *decoder, n *node, v *draft) { number(d, n, &v.Src.MaxBlocks, 1, ports.MaxBlocks) }}, []rules.List{rules.Snat}, sourcesOnly},
	{key[draft]{"deterministic", "boolean", "false", "true",
		"Give each address of src its own ports of the pool by arithmetic (RFC 7422): as many as fit, or block_size. Who had a port, culvert debug owner says without a log.",
		func(d *decoder, n *node, v *draft) { d.boolean(n, &v.deterministic) }}, []rules.List{rules.Snat}, sourcesOnly},
}

func (d *decoder) holdDown(n *node, v *time.Duration) {
	s, ok := d.text(n)
	if !ok {
		return
	}
	t, err := time.ParseDuration(s)
	switch {
	case err != nil:
		d.errorf(n.at, "%q is not a duration: write it like %s", s, exampleMark)
	case t < 0 || t > maxHoldDown || t%time.Second != 0:
		d.errorf(n.at, "%s is out of range: give whole seconds, 0s to 1h", s)
	default:
		*v = t
	}
}

// finishPorts checks what a rule says about ports, and fills in what the profile
// says.
func (d *decoder) finishPorts(c *Config, r *draft) {
	if r.Then != rules.ActSnat && r.Then != rules.ActMasquerade {
		return
	}
	src, rfc := &r.Src, c.Conntrack.Profile == ProfileRFC
	if r.PortKeys&rules.MappingKey == 0 && rfc {
		src.Mapping = nat.EndpointIndependent
	}
	if src.Mapping == nat.Linux {
		for _, key := range [...]string{"filtering", "hold_down"} {
			if r.has(key) {
				d.errorf(r.at(key), "%s: with mapping \"linux\" a port is nobody's for longer than a flow, and only answers come in: delete the key, or add mapping = \"endpoint-independent\"", key)
			}
		}
	} else {
		if r.PortKeys&rules.FilteringKey == 0 {
			src.Filtering = nat.AddressDependent
		}
		if r.PortKeys&rules.HoldDownKey == 0 && rfc {
			src.HoldDown = rfcHoldDown
		}
	}
	d.checkPooling(r)
	d.checkBlocks(r)
	if r.deterministic {
		d.makePlan(r)
	}
}

func (d *decoder) checkPooling(r *draft) {
	one := len(r.to) == 0 || len(r.to) == 1 && r.to[0].First == r.to[0].Last
	switch {
	case !r.has("pooling"):
	case one && len(r.pairs) == 0:
		d.errorf(r.at("pooling"), "pooling: there is one address to choose from: delete the key, or give a pool in to")
	case r.has("persistent") && r.random&nat.Arbitrary != 0:
		d.errorf(r.at("persistent"), "persistent: pooling = \"arbitrary\" says the opposite: delete one of the two")
	}
}

// checkBlocks wants blocks to fit into the ports of the rule.
func (d *decoder) checkBlocks(r *draft) {
	src := &r.Src
	if src.BlockSize == 0 {
		if r.has("max_blocks") {
			d.errorf(r.at("max_blocks"), "max_blocks: there are no blocks: add block_size, or delete the key")
		}
		return
	}
	if src.MaxBlocks == 0 {
		src.MaxBlocks = defaultBlocks
	}
	if p := src.Ports; !p.IsZero() && !r.deterministic {
		size := int(src.BlockSize)
		if first := (int(p.First) + size - 1) / size * size; first+size-1 > int(p.Last) {
			d.errorf(r.at("block_size"), "block_size: no block of %d ports lies in %s: blocks begin at multiples of their size; make the range wider, or the blocks smaller", size, p)
		}
	}
}

// makePlan computes whose ports are which.
func (d *decoder) makePlan(r *draft) {
	at, in := r.at("deterministic"), &r.If.Src
	switch {
	case len(r.to) == 0:
		d.errorf(at, "deterministic: there is no pool to divide: use action = \"snat\" with to")
		return
	case in.Sense == rules.IsNot || len(in.Values) != 1:
		d.errorf(at, "deterministic: the inside addresses are those in src: give one prefix or range there")
		return
	case r.has("max_blocks"):
		d.errorf(r.at("max_blocks"), "max_blocks: with deterministic = true every client has one block: delete the key")
		return
	case !r.Src.Ports.IsZero():
		d.errorf(r.at("ports"), "ports: with deterministic = true the ports from 1024 up are divided: delete the key")
		return
	}
	plan, err := nat.NewPlan(in.Values[0], slices.Clone(r.to), uint32(r.Src.BlockSize))
	if err != nil {
		d.errorf(at, "deterministic: %v: widen to, or narrow src", err)
		return
	}
	r.Src.Plan, r.Src.BlockSize, r.Src.MaxBlocks = plan, 0, 0
}

// checkPlans wants ports that are divided by arithmetic to be given by that rule
// alone: else the plan would name the wrong client.
func (d *decoder) checkPlans(drafts []*draft) {
	for _, planned := range drafts {
		plan := planned.Src.Plan
		if plan == nil {
			continue
		}
		for _, r := range drafts {
			if r == planned || protocolsApart(r, planned) || r.Src.Plan != nil && (r.pos < planned.pos || samePlan(r.Src.Plan, plan)) {
				continue
			}
			if a, shared := sharedAddr(r.Src.Targets(), plan.Pool); shared {
				d.errorf(r.targetsAt(), "%v is divided among the clients of the rule in line %d (deterministic): who has a port there could not be told: use other addresses", a, planned.Source.Line)
			}
		}
	}
}

// targetsAt is where a rule says what sources become.
func (r *draft) targetsAt() Pos {
	if r.has("map") {
		return r.at("map")
	}
	return r.at("to")
}

// samePlan reports whether two plans give everybody the same ports.
func samePlan(a, b *nat.Plan) bool {
	return a.Inside == b.Inside && a.Size == b.Size && slices.Equal(a.Pool, b.Pool)
}

// protocolsApart reports whether no packet has the protocols of both rules.
func protocolsApart(a, b *draft) bool {
	p, q := &a.If.Proto, &b.If.Proto
	return p.Sense == rules.Is && q.Sense == rules.Is && !p.IsAny() && !q.IsAny() &&
		!slices.ContainsFunc(p.Values, func(v uint8) bool { return slices.Contains(q.Values, v) })
}

// sharedAddr returns an address that lies in ranges of both lists.
func sharedAddr(a, b []nat.AddrRange) (tuple.Addr, bool) {
	for i := range a {
		for j := range b {
			switch {
			case a[i].Contains(b[j].First):
				return b[j].First, true
			case b[j].Contains(a[i].First):
				return a[i].First, true
			}
		}
	}
	return tuple.Addr{}, false
}
