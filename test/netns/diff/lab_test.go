//go:build netns

package diff

import (
	"net/netip"
	"testing"

	"example.com/culvert/test/netns"
)

// Addresses of the two networks, which are the same.
var (
	macs = [numSides]struct{ host, gateway string }{
		client: {"02:00:00:00:0c:02", "02:00:00:00:0c:01"},
		server: {"02:00:00:00:05:02", "02:00:00:00:05:01"},
	}
	outside = [...]netip.Addr{netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("2001:db8:9::1")}
	inner   = [...]netip.Addr{netip.MustParseAddr("10.64.0.0"), netip.MustParseAddr("fd00:64::")}
	outer   = [...]netip.Addr{netip.MustParseAddr("198.18.0.0"), netip.MustParseAddr("2001:db8:18::")}
)

// config and ruleset are the same policy: the inside goes out masqueraded,
// nothing else may pass, and what conntrack finds invalid does not either.
const (
	config = `
[gateway]
workers = 1
icmp_rate = 0

[[interface]]
name = "lan0"
area = "lan"

[[interface]]
name = "wan0"
area = "wan"

[[snat]]
out_area = "wan"
action = "masquerade"
`
	ruleset = `
table inet diff {
	chain input {
		type filter hook input priority filter
		policy drop
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
	}
	chain forward {
		type filter hook forward priority filter
		policy drop
		ct state invalid drop
		ct state established,related accept
		iifname "lan0" oifname "wan0" accept
	}
	chain postrouting {
		type nat hook postrouting priority srcnat
		oifname "wan0" masquerade
	}
}
`
)

// topology is the network around a gateway. The hosts have routes, or they would
// complain of what is not for them; they do not forward.
func topology(kind netns.Kind) netns.Topology {
	return netns.Topology{
		Prefix: "cvdiff",
		Links: []netns.Link{
			{Ends: []netns.End{
				{Host: "client", If: "eth0", MAC: macs[client].host, Addrs: []string{"10.9.0.2/24", "fd00:9::2/64"},
					Via: []string{"10.9.0.1", "fd00:9::1"}},
				{Host: "gateway", If: "lan0", MAC: macs[client].gateway, Addrs: []string{"10.9.0.1/24", "fd00:9::1/64"},
					Routes: []netns.Route{{To: "10.64.0.0/16", Via: "10.9.0.2"}, {To: "fd00:64::/64", Via: "fd00:9::2"}}},
			}},
			{Ends: []netns.End{
				{Host: "gateway", If: "wan0", MAC: macs[server].gateway, Addrs: []string{"203.0.113.1/24", "2001:db8:9::1/64"},
					Via: []string{"203.0.113.2", "2001:db8:9::2"}},
				{Host: "server", If: "eth0", MAC: macs[server].host, Addrs: []string{"203.0.113.2/24", "2001:db8:9::2/64"},
					Via: []string{"203.0.113.1", "2001:db8:9::1"}},
			}},
		},
		Gateway: &netns.GatewaySpec{Host: "gateway", Kind: kind, Config: config, Ruleset: ruleset, Sysctls: sysctls(kind)},
	}
}

// sysctls gives the kernel's tracker the defaults that package conntrack has, whatever
// this machine was told.
func sysctls(kind netns.Kind) map[string]string {
	if kind != netns.Kernel {
		return nil
	}
	return map[string]string{
		"net.netfilter.nf_conntrack_acct":                   "0",
		"net.netfilter.nf_conntrack_timestamp":              "0",
		"net.netfilter.nf_conntrack_checksum":               "1",
		"net.netfilter.nf_conntrack_generic_timeout":        "600",
		"net.netfilter.nf_conntrack_icmp_timeout":           "30",
		"net.netfilter.nf_conntrack_icmpv6_timeout":         "30",
		"net.netfilter.nf_conntrack_udp_timeout":            "30",
		"net.netfilter.nf_conntrack_udp_timeout_stream":     "120",
		"net.netfilter.nf_conntrack_tcp_loose":              "1",
		"net.netfilter.nf_conntrack_tcp_be_liberal":         "0",
		"net.netfilter.nf_conntrack_tcp_ignore_invalid_rst": "0",
		"net.netfilter.nf_conntrack_tcp_max_retrans":        "3",
		"net.ipv4.icmp_ratelimit":                           "0",
		"net.ipv6.icmp.ratelimit":                           "0",
	}
}

// gateway is one of the two networks with its packet sockets.
type gateway struct {
	*netns.Gateway
	wires [numSides]*wire
}

// build makes a network.
func build(t *testing.T, kind netns.Kind) *gateway {
	t.Helper()
	lab := netns.ForTest(t, topology(kind))
	g := &gateway{Gateway: lab.Gateway()}
	for s := range numSides {
		var err error
		if g.wires[s], err = openWire(lab.Host(s.String()), s); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(g.wires[s].close)
	}
	return g
}

// slot is where a sequence runs: addresses that no other has.
type slot uint16

const (
	serverPort = 443
	firstPort  = 20000
	numPorts   = 40000 // client ports in use
	markerSlot = slot(0)
)

// offset returns the n-th address after base.
func offset(base netip.Addr, n slot) netip.Addr {
	b := base.AsSlice()
	b[len(b)-2], b[len(b)-1] = byte(n>>8), byte(n)
	a, _ := netip.AddrFromSlice(b)
	return a
}

// slotOf tells whose address a is.
func slotOf(a netip.Addr) (slot, bool) {
	b := a.AsSlice()
	n := slot(b[len(b)-2])<<8 | slot(b[len(b)-1])
	for i := range inner {
		if a == offset(inner[i], n) || a == offset(outer[i], n) {
			return n, true
		}
	}
	return 0, false
}

// ends returns the addresses of a packet from side s at its sender.
func (n slot) ends(s side, v6 family) ends {
	cport := firstPort + uint16(n%numPorts)
	if s == client {
		return ends{offset(inner[v6], n), offset(outer[v6], n), cport, serverPort}
	}
	return ends{offset(outer[v6], n), outside[v6], serverPort, cport}
}

// family indexes the address tables.
type family uint8

const (
	ipv4 family = iota
	ipv6
)

func (f family) String() string { return [...]string{"ipv4", "ipv6"}[f] }
