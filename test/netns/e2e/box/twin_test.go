//go:build netns

package box

import (
	"testing"

	"example.com/culvert/test/netns"
)

// Both gateways run the scenarios about what a box with daemons does on the wire,
// the kernel first: it proves the scenario. Only Culvert runs the others. They are
// about what the kernel does not have: what is left of a gateway that ends (TCX,
// on_exit, capabilities), a kernel that has to be silent, TAPs, a gateway inside of
// a process or without a configuration. The kernel also forgets masqueraded flows
// when their interface goes down, which Culvert keeps as long as the address stays.

// eachGateway runs a scenario with the kernel in the middle, and then Culvert.
func eachGateway(t *testing.T, topology netns.Topology, scenario func(t *testing.T, lab *netns.Lab)) {
	for _, kind := range netns.Kinds() {
		t.Run("gateway="+kind.String(), func(t *testing.T) {
			spec, network := *topology.Gateway, topology
			spec.Kind = kind
			network.Gateway = &spec
			scenario(t, netns.ForTest(t, network))
		})
	}
}

// ruleset is what the kernel has in place of a configuration. Zero does what
// boxConfig with withKernel does.
type ruleset struct {
	prerouting  string // statements of the chain of dstnat
	lan         string // what the inside may ask the box, "" for everything
	postrouting string // statements for what leaves by wan0, "" masquerades
}

// text writes the ruleset for nft(8).
func (r ruleset) text() string {
	if r.lan == "" {
		r.lan = "accept"
	}
	if r.postrouting == "" {
		r.postrouting = `oifname "wan0" masquerade`
	}
	return `
table inet box {
	chain prerouting {
		type nat hook prerouting priority dstnat
		` + r.prerouting + `
	}
	chain input {
		type filter hook input priority filter
		policy drop
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept
		ct state established,related accept
		iifname "lo" accept
		iifname "lan0" ` + r.lan + `
	}
	chain forward {
		type filter hook forward priority filter
		policy drop
		ct state established,related accept
		ct status dnat accept
		iifname "lan0" oifname "wan0" accept
	}
	chain postrouting {
		type nat hook postrouting priority srcnat
		` + r.postrouting + `
	}
}
`
}

// withRuleset gives a network the ruleset of its kernel twin.
func withRuleset(topology netns.Topology, r ruleset) netns.Topology {
	spec := *topology.Gateway
	spec.Ruleset = r.text()
	topology.Gateway = &spec
	return topology
}
