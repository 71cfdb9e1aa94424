//go:build netns

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"

	"example.com/culvert/control/api"
	"example.com/culvert/internal/await"
	"example.com/culvert/test/netns"
)

// TestMain builds the binary once for all labs.
func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "culvert-e2e-")
	if err == nil {
		defer os.RemoveAll(dir)
		var binary string
		if binary, err = netns.Binary(context.Background(), dir); err == nil {
			err = os.Setenv(netns.BinaryEnv, binary)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// family is the network as one address family sees it.
type family struct {
	name                   string // of subtests, and for conntrack -f
	first, second, visitor netip.Addr
	inside, guest, outside netip.Addr // the gateway's
	up, down               netip.Addr // the router's
	server                 netip.Addr
	bits                   int // prefix length of every link
}

var ipv4 = family{
	name:    "ipv4",
	first:   netip.MustParseAddr("10.1.0.11"),
	second:  netip.MustParseAddr("10.1.0.12"),
	visitor: netip.MustParseAddr("10.2.0.11"),
	inside:  netip.MustParseAddr("10.1.0.1"),
	guest:   netip.MustParseAddr("10.2.0.1"),
	outside: netip.MustParseAddr("203.0.113.1"),
	up:      netip.MustParseAddr("203.0.113.2"),
	down:    netip.MustParseAddr("198.51.100.1"),
	server:  netip.MustParseAddr("198.51.100.9"),
	bits:    24,
}

var ipv6 = family{
	name:    "ipv6",
	first:   netip.MustParseAddr("fd00:1::11"),
	second:  netip.MustParseAddr("fd00:1::12"),
	visitor: netip.MustParseAddr("fd00:2::11"),
	inside:  netip.MustParseAddr("fd00:1::1"),
	guest:   netip.MustParseAddr("fd00:2::1"),
	outside: netip.MustParseAddr("2001:db8:a::1"),
	up:      netip.MustParseAddr("2001:db8:a::2"),
	down:    netip.MustParseAddr("2001:db8:b::1"),
	server:  netip.MustParseAddr("2001:db8:b::9"),
	bits:    64,
}

// families are what a scenario runs over.
var families = []*family{&ipv4, &ipv6}

// net returns the link that a is on.
func (f *family) net(a netip.Addr) netip.Prefix {
	return netip.PrefixFrom(a, f.bits).Masked()
}

func (f *family) is4() bool { return f.server.Is4() }

// own writes an interface address.
func own(f *family, a netip.Addr) string { return netip.PrefixFrom(a, f.bits).String() }

// both picks an address of each family.
func both(pick func(f *family) netip.Addr) []string {
	return []string{pick(&ipv4).String(), pick(&ipv6).String()}
}

// bothOwn picks an interface address of each family.
func bothOwn(pick func(f *family) netip.Addr) []string {
	return []string{own(&ipv4, pick(&ipv4)), own(&ipv6, pick(&ipv6))}
}

// setup is what a scenario changes in the house. Zero is the plain one: the
// inside goes out masqueraded in both families, nothing comes in.
type setup struct {
	gateway string // keys of [gateway]
	wan     string // keys of the outside interface
	lan     string // keys of the inside interface
	config  string // more TOML
	snat    string // TOML rules before the one that masquerades

	objects    string // what the kernel's table has beside chains
	prerouting string // statements of the kernel's chain of dstnat
	raw        string // statements before that, for the reverse path
	input      string // statements of the kernel's chains
	forward    string
	// statements of the kernel's chain of srcnat, before the one that masquerades
	postrouting string

	outside reach
	hosts   []string // more hosts, without links
	command []string // starts Culvert

	insideMTU, transitMTU, serverMTU int // 0 is 1500
}

// reach is where the gateway's routes lead.
type reach uint8

const (
	everywhere reach = iota
	onlyTheServer
)

// house is a running network with its gateway.
type house struct {
	*netns.Lab
	first, second, visitor, router, server *netns.Host
	gw                                     *netns.Gateway
}

// topology declares the network.
func (s *setup) topology(kind netns.Kind) netns.Topology {
	inside := []netns.Route{}
	for _, f := range families {
		for _, n := range []netip.Addr{f.inside, f.guest} {
			inside = append(inside, netns.Route{To: f.net(n).String(), Via: f.outside.String()})
		}
	}
	host := func(name string, pick, via func(f *family) netip.Addr) netns.End {
		return netns.End{Host: name, If: "eth0", Addrs: bothOwn(pick), Via: both(via)}
	}
	inner := func(f *family) netip.Addr { return f.inside }
	wan := netns.End{Host: "gateway", If: "wan0", Addrs: bothOwn(func(f *family) netip.Addr { return f.outside })}
	if s.outside == onlyTheServer {
		for _, f := range families {
			wan.Routes = append(wan.Routes, netns.Route{To: f.net(f.server).String(), Via: f.up.String()})
		}
	} else {
		wan.Via = both(func(f *family) netip.Addr { return f.up })
	}
	return netns.Topology{
		Prefix: "cve2e",
		Hosts:  s.hosts,
		Links: []netns.Link{
			{MTU: s.insideMTU, Ends: []netns.End{
				host("first", func(f *family) netip.Addr { return f.first }, inner),
				host("second", func(f *family) netip.Addr { return f.second }, inner),
				{Host: "gateway", If: "lan0", Addrs: bothOwn(inner)},
			}},
			{Ends: []netns.End{
				host("visitor", func(f *family) netip.Addr { return f.visitor }, func(f *family) netip.Addr { return f.guest }),
				{Host: "gateway", If: "guest0", Addrs: bothOwn(func(f *family) netip.Addr { return f.guest })},
			}},
			{MTU: s.transitMTU, Ends: []netns.End{
				wan,
				{Host: "router", If: "up0", Addrs: bothOwn(func(f *family) netip.Addr { return f.up }), Routes: inside},
			}},
			{MTU: s.serverMTU, Ends: []netns.End{
				{Host: "router", If: "down0", Addrs: bothOwn(func(f *family) netip.Addr { return f.down })},
				host("server", func(f *family) netip.Addr { return f.server }, func(f *family) netip.Addr { return f.down }),
			}},
		},
		Gateway: &netns.GatewaySpec{Host: "gateway", Kind: kind, Config: s.toml(), Ruleset: s.ruleset(), Sysctls: kernelSysctls(kind), Command: s.command},
	}
}

// quiet takes the limits off that the kernel has for ICMP errors.
var quiet = [][2]string{
	{"net.ipv4.icmp_ratelimit", "0"},
	{"net.ipv6.icmp.ratelimit", "0"},
	{"net.ipv4.icmp_msgs_per_sec", "100000"}, // of both families
	{"net.ipv4.icmp_msgs_burst", "100000"},
}

// kernelSysctls are the settings of a gateway that is the kernel. A Culvert
// gateway does without any.
func kernelSysctls(kind netns.Kind) map[string]string {
	all := map[string]string{}
	if kind == netns.Kernel {
		for _, kv := range quiet {
			all[kv[0]] = kv[1]
		}
	}
	return all
}

func (s *setup) toml() string {
	gateway := s.gateway
	if !strings.Contains(gateway, "icmp_rate") {
		gateway += "\nicmp_rate = 0"
	}
	return "[gateway]\n" + gateway + `

[[interface]]
name = "lan0"
area = "lan"
` + s.lan + `

[[interface]]
name = "guest0"
area = "guest"

[[interface]]
name = "wan0"
area = "wan"
` + s.wan + `

` + s.snat + `
[[snat]]
out_area = "wan"
action = "masquerade"
` + s.config
}

func (s *setup) ruleset() string {
	return `
table inet house {` + s.objects + `
	chain raw {
		type filter hook prerouting priority raw
		` + s.raw + `
	}
	chain prerouting {
		type nat hook prerouting priority dstnat
		` + s.prerouting + `
	}
	chain input {
		type filter hook input priority filter
		policy drop
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		ct state established,related accept
		` + s.input + `
		iifname { "lan0", "lo" } accept
	}
	chain forward {
		type filter hook forward priority filter
		policy drop
		` + s.forward + `
		ct state established,related accept
		ct status dnat accept
		iifname { "lan0", "guest0" } oifname "wan0" accept
	}
	chain postrouting {
		type nat hook postrouting priority srcnat
		` + s.postrouting + `
		oifname "wan0" masquerade
	}
}
`
}

// text is what Reload wants for a setup.
func (s *setup) text(kind netns.Kind) string {
	if kind == netns.Kernel {
		return s.ruleset()
	}
	return s.toml()
}

// build makes the house.
func (s *setup) build(t *testing.T, kind netns.Kind) *house {
	t.Helper()
	topology := s.topology(kind)
	lab := netns.ForTest(t, topology)
	h := &house{
		Lab: lab, gw: lab.Gateway(),
		first: lab.Host("first"), second: lab.Host("second"), visitor: lab.Host("visitor"),
		router: lab.Host("router"), server: lab.Host("server"),
	}
	for _, host := range []*netns.Host{h.first, h.second, h.visitor, h.router, h.server} {
		for _, kv := range quiet {
			must(t, host.Sysctl(kv[0], kv[1]))
		}
	}
	must(t, h.router.Sysctl("net.ipv4.ip_forward", "1"))
	must(t, h.router.Sysctl("net.ipv6.conf.all.forwarding", "1"))
	if kind == netns.Culvert {
		t.Cleanup(func() { h.noDefect(t) })
	}
	return h
}

// noDefect expects that the gateway blames nothing on itself.
func (h *house) noDefect(t *testing.T) {
	if h.gw.Process() == nil {
		return
	}
	out, err := h.gw.Ctl(context.Background(), "counters")
	if err != nil {
		return // the test has ended it
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "internal") {
			t.Errorf("the gateway counts defects of its own: %s", line)
		}
	}
	if check, err := h.gw.Ctl(context.Background(), "debug", "check"); err != nil {
		t.Errorf("debug check: %v\n%s", err, check)
	}
	if t.Failed() {
		t.Logf("counters:\n%s", out)
	}
}

// eachGateway runs a scenario with the kernel in the middle, and then Culvert.
func eachGateway(t *testing.T, s setup, scenario func(t *testing.T, h *house)) {
	for _, kind := range netns.Kinds() {
		t.Run("gateway="+kind.String(), func(t *testing.T) { scenario(t, s.build(t, kind)) })
	}
}

// onlyCulvert runs a scenario about something the kernel does not have.
func onlyCulvert(t *testing.T, s setup, scenario func(t *testing.T, h *house)) {
	for _, kind := range netns.Kinds() {
		if kind == netns.Culvert {
			t.Run("gateway="+kind.String(), func(t *testing.T) { scenario(t, s.build(t, kind)) })
		}
	}
}

// eachFamily runs a part of a scenario over IPv4 and IPv6.
func eachFamily(t *testing.T, part func(t *testing.T, f *family)) {
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) { part(t, f) })
	}
}

// until waits for a condition.
func until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	await.Until(t, what, cond)
}

type ifStatus = api.Interface

// status is what Culvert says about itself.
func (h *house) status(t *testing.T) api.Status {
	t.Helper()
	out, err := h.gw.Ctl(t.Context(), "status", "-o", "json")
	must(t, err)
	var st api.Status
	must(t, json.Unmarshal([]byte(out), &st))
	return st
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
