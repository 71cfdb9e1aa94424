package demo

import (
	"fmt"
	"net/netip"
	"strings"

	"example.com/culvert/test/netns"
)

// Hosts and the client's interface.
const (
	client   = "client"
	gateway  = "gateway"
	server   = "server"
	clientIf = "eth0"
)

// Ports of the demo.
const (
	webPort       = 80   // the server's, and the client's behind forwardedPort
	bulkPort      = 5001 // the server's sink and source
	echoPort      = 7    // the server's
	dnsPort       = 53   // the server's
	ftpPort       = 21   // the server's
	ftpDataPort   = 20   // the server's, of active data connections
	tracePort     = 33434
	forwardedPort = 8080 // on the gateway's outside, leads to the client's webPort
	redirectPort  = 8088 // of any address outside, ends at the gateway's own servicePort
	servicePort   = 8081 // of the gateway's own host
)

// family is the network as one address family sees it.
type family struct {
	name    string
	client  netip.Prefix
	inside  netip.Prefix // the gateway's address towards the client
	outside netip.Prefix // the gateway's address towards the server
	server  netip.Prefix
	seen    netip.Addr // what the server takes the client for
}

var v4 = family{
	name:    "IPv4",
	client:  netip.MustParsePrefix("10.77.0.2/24"),
	inside:  netip.MustParsePrefix("10.77.0.1/24"),
	outside: netip.MustParsePrefix("198.51.100.1/24"),
	server:  netip.MustParsePrefix("198.51.100.9/24"),
	seen:    netip.MustParseAddr("198.51.100.1"), // masqueraded
}

var v6 = family{
	name:    "IPv6",
	client:  netip.MustParsePrefix("2001:db8:77::2/64"),
	inside:  netip.MustParsePrefix("2001:db8:77::1/64"),
	outside: netip.MustParsePrefix("2001:db8:88::1/64"),
	server:  netip.MustParsePrefix("2001:db8:88::9/64"),
	seen:    netip.MustParseAddr("2001:db8:77::2"), // routed
}

var families = []family{v4, v6}

// topology declares the network. self is this program.
func topology(driver string, kind netns.Kind, self string) netns.Topology {
	outside := netns.Link{Ends: []netns.End{
		{Host: gateway, If: "wan0", Addrs: []string{v4.outside.String(), v6.outside.String()}},
		// Only IPv6 is routed back: the inside of IPv4 is unknown out there.
		{Host: server, If: "eth0", Addrs: []string{v4.server.String(), v6.server.String()},
			Routes: []netns.Route{{To: v6.inside.Masked().String(), Via: v6.outside.Addr().String()}}},
	}}
	inside := netns.Link{Ends: []netns.End{
		{Host: client, If: clientIf, Addrs: []string{v4.client.String(), v6.client.String()},
			Via: []string{v4.inside.Addr().String(), v6.inside.Addr().String()}},
		{Host: gateway, If: "lan0", Addrs: []string{v4.inside.String(), v6.inside.String()}},
	}}
	t := netns.Topology{
		Prefix: "culvert-demo",
		Hosts:  []string{client, gateway, server},
		Links:  []netns.Link{inside, outside},
		Gateway: &netns.GatewaySpec{
			Host: gateway, Kind: kind, Binary: self,
			Config: lanConfig + rules, Command: []string{self, "demo", gatewayVerb},
			Ruleset: ruleset,
		},
	}
	if driver == driverTUN {
		t.Links = t.Links[1:]
		t.Gateway.Config = tunConfig + rules
	}
	if kind == netns.Kernel {
		t.Gateway.Sysctls = map[string]string{"net.netfilter.nf_conntrack_tcp_timeout_time_wait": "1"}
	}
	return t
}

// The configuration of the gateway: the inside by driver, then what both share.
const (
	lanConfig = `
[[interface]]
name = "lan0"
area = "lan"
`

	tunConfig = `
[[interface]]
name = "` + clientIf + `"
area = "lan"
driver = "tun"
netns = "${ns:` + client + `}"
addresses = ["10.77.0.1/24", "2001:db8:77::1/64"]
peer_addresses = ["10.77.0.2/24", "2001:db8:77::2/64"]
peer_routes = ["0.0.0.0/0", "::/0"]
`

	rules = `
[[interface]]
name = "wan0"
area = "wan"

# The demo shows the end of a connection without waiting two minutes for it.
[conntrack.timeouts]
tcp_time_wait = "1s"

[[dnat]]
name = "forwarded-port"
in_area = "wan"
proto = "tcp"
dst = "198.51.100.1"
dport = 8080
action = "dnat"
to = "10.77.0.2:80"

[[dnat]]
name = "forwarded-port-ipv6"
in_area = "wan"
proto = "tcp"
dst = "2001:db8:88::1"
dport = 8080
action = "dnat"
to = "[2001:db8:77::2]:80"

[[dnat]]
name = "answered-by-the-gateway"
in_area = "lan"
proto = "tcp"
dport = 8088
action = "redirect"
ports = 8081

[[filter]]
name = "ftp"
proto = "tcp"
dport = 21
action = "helper"
helper = "ftp"

[[snat]]
name = "one-address-for-all"
out_area = "wan"
family = "ipv4"
action = "masquerade"
`

	// The same for nftables.
	ruleset = `
table inet demo {
	ct helper ftp {
		type "ftp" protocol tcp
	}
	chain prerouting {
		type nat hook prerouting priority dstnat
		tcp dport 21 ct helper set "ftp"
		iifname "wan0" ip daddr 198.51.100.1 tcp dport 8080 dnat ip to 10.77.0.2:80
		iifname "wan0" ip6 daddr 2001:db8:88::1 tcp dport 8080 dnat ip6 to [2001:db8:77::2]:80
		iifname "lan0" tcp dport 8088 redirect to :8081
	}
	chain forward {
		type filter hook forward priority filter
		policy drop
		ct state established,related accept
		ct status dnat accept
		iifname "lan0" accept
	}
	chain postrouting {
		type nat hook postrouting priority srcnat
		oifname "wan0" meta nfproto ipv4 masquerade
	}
}
`
)

// picture draws the network.
func picture(lab *netns.Lab, o options) string {
	inside := "lan0"
	if o.driver == driverTUN {
		inside = "tun"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "  %-22s    %-42s    %s\n", "client", "gateway", "server")
	fmt.Fprintf(&b, "  %-22s    %-42s    %s\n", strings.Repeat("─", 22), strings.Repeat("─", 42), strings.Repeat("─", 22))
	fmt.Fprintf(&b, "  %-22s ── %-20s  %20s ── %s\n", clientIf, inside, "wan0", "eth0")
	for _, f := range families {
		fmt.Fprintf(&b, "  %-22s    %-20s  %20s    %s\n", f.client, f.inside.Addr(), f.outside.Addr(), f.server)
	}
	fmt.Fprintf(&b, "\n  IPv4 is masqueraded, IPv6 routed with the same stateful filter. Port %d outside leads to\n", forwardedPort)
	fmt.Fprintf(&b, "  the client's port %d; port %d of anybody is answered by the gateway itself.\n", webPort, redirectPort)
	fmt.Fprintf(&b, "  Namespaces: %s, %s, %s\n", lab.Host(client).Namespace(), lab.Host(gateway).Namespace(), lab.Host(server).Namespace())
	return b.String()
}

// lookAround lists commands for a held demo.
func lookAround(lab *netns.Lab) string {
	gw := lab.Gateway()
	var b strings.Builder
	in := func(host, command string) {
		fmt.Fprintf(&b, "  ip netns exec %s %s\n", lab.Host(host).Namespace(), command)
	}
	in(client, "bash                           # a shell on the client")
	in(client, fmt.Sprintf("curl http://%s/          # through the gateway", v4.server.Addr()))
	in(client, fmt.Sprintf("curl http://%s:%d/     # answered by the gateway itself", v4.server.Addr(), redirectPort))
	in(server, fmt.Sprintf("curl http://%s:%d/     # the client, through the forwarded port", v4.outside.Addr(), forwardedPort))
	in(server, "tcpdump -ni eth0               # what is seen outside")
	if gw.Kind() == netns.Kernel {
		in(gateway, "conntrack -L")
		return b.String()
	}
	self := gw.Binary()
	for _, args := range []string{"status", "conntrack -L", "conntrack -E", "rules", "counters --all"} {
		fmt.Fprintf(&b, "  %s %s --socket %s\n", self, args, gw.Socket())
	}
	return b.String()
}
