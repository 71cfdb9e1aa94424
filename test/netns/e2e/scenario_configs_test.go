//go:build netns

package e2e

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/culvert/test/netns"
)

// equivalent is the kernel's twin of a sample file.
type equivalent struct {
	ends    []netns.End // addresses that the file gives
	sysctls map[string]string
	ruleset string
}

// sample builds a network around the gateway of one of the sample files, which
// runs as it is, and before that around a kernel which does the same.
func sample(t *testing.T, name string, topology netns.Topology, kernel equivalent, scenario func(t *testing.T, h *house)) {
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "configs", name))
	must(t, err)
	for _, kind := range netns.Kinds() {
		t.Run("gateway="+kind.String(), func(t *testing.T) {
			network := topology
			network.Prefix = "cve2e"
			network.Gateway = &netns.GatewaySpec{Host: "gateway", Kind: kind, Config: string(text), Ruleset: kernel.ruleset, Sysctls: kernelSysctls(kind)}
			if kind == netns.Kernel {
				maps.Copy(network.Gateway.Sysctls, kernel.sysctls)
			}
			lab := netns.ForTest(t, network)
			h := &house{Lab: lab, gw: lab.Gateway()}
			if kind == netns.Kernel {
				for _, e := range kernel.ends {
					must(t, lab.Configure(t.Context(), e))
				}
			}
			t.Cleanup(func() { h.noDefect(t) })
			scenario(t, h)
		})
	}
}

// sampleRuleset completes the chains that differ between the twins of the samples.
func sampleRuleset(prerouting, input, forward, postrouting string) string {
	return `
table inet sample {
	chain prerouting {
		type nat hook prerouting priority dstnat
		` + prerouting + `
	}
	chain input {
		type filter hook input priority filter
		policy drop
		icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
		ct state established,related accept
		iifname "lo" accept
		` + input + `
	}
	chain forward {
		type filter hook forward priority filter
		policy drop
		ct state established,related accept
		` + forward + `
	}
	chain postrouting {
		type nat hook postrouting priority srcnat
		` + postrouting + `
	}
}
`
}

// parse is for addresses in tests.
func parse(a string) netip.Addr { return netip.MustParseAddr(a) }

// sees connects to a greeting server and expects that it sees somebody.
func (h *house) sees(t *testing.T, client, from, server string, want string) netip.AddrPort {
	t.Helper()
	to := netip.MustParseAddrPort(server)
	c := talk(t, h.Host(client), at(parse(from), 0), to)
	if c.seen.Addr() != parse(want) {
		t.Errorf("%s sees %v, want %s", server, c.seen, want)
	}
	return c.seen
}

// greetOn has a host greet on many addresses.
func (h *house) greetOn(t *testing.T, host string, on ...string) {
	t.Helper()
	for _, a := range on {
		serveTCP(t, h.Host(host), netip.MustParseAddrPort(a), greet)
	}
}

// unheard expects that nothing of what client sends to an address gets to host.
// After it has sent, an exchange between the two directions of marker follows.
func (h *house) unheard(t *testing.T, client, from, to, host string, marker func()) {
	t.Helper()
	f := &ipv4
	if parse(to).Is6() {
		f = &ipv6
	}
	marker() // neighbours are known from now on
	answers, hears := capture(t, h.Host(client), "eth0"), capture(t, h.Host(host), "eth0")
	knock(t, h.Host(client), f, parse(from), parse(to))
	marker()
	if client == "provider" {
		nothingCame(t, answers, markerPort)
	} else {
		nothingButRefusals(t, answers, markerPort)
	}
	nothingCame(t, hears, markerPort)
}

// marker returns an exchange of datagrams with a server, twice.
func (h *house) marker(t *testing.T, server, on string, clients map[string]string) func() {
	t.Helper()
	service := at(parse(on), markerPort)
	serveUDP(t, h.Host(server), service)
	return func() {
		t.Helper()
		for range 2 {
			for client, from := range clients {
				bindUDP(t, h.Host(client), at(parse(from), 0)).ask(t, service, "mark")
			}
		}
	}
}

func TestHomeRouter(t *testing.T) {
	sample(t, "home-router.toml", netns.Topology{Links: []netns.Link{
		{Ends: []netns.End{
			{Host: "gateway", If: "eth0", Addrs: []string{"203.0.113.2/24", "2001:db8:0:1::2/64"}, Via: []string{"203.0.113.1", "2001:db8:0:1::1"}},
			{Host: "provider", If: "eth0", Addrs: []string{"203.0.113.1/24", "2001:db8:0:1::1/64"}, Routes: []netns.Route{
				{To: "2001:db8:1::/48", Via: "2001:db8:0:1::2"}, {To: "192.168.0.0/16", Via: "203.0.113.2"}}},
		}},
		{Ends: []netns.End{
			{Host: "gateway", If: "eth1", Addrs: []string{"192.168.1.1/24", "2001:db8:1:1::1/64"}},
			{Host: "home", If: "eth0", Addrs: []string{"192.168.1.5/24", "2001:db8:1:1::5/64"}, Via: []string{"192.168.1.1", "2001:db8:1:1::1"}},
		}},
		{Ends: []netns.End{
			{Host: "gateway", If: "eth2", Addrs: []string{"192.168.2.1/24", "2001:db8:1:2::1/64"}},
			{Host: "guest", If: "eth0", Addrs: []string{"192.168.2.5/24", "2001:db8:1:2::5/64"}, Via: []string{"192.168.2.1", "2001:db8:1:2::1"}},
		}},
	}}, equivalent{ruleset: strings.Replace(sampleRuleset(`
		tcp dport 21 ct helper set "ftp"`, `
		iifname "eth1" accept
		iifname "eth2" udp dport { 53, 67 } accept`, `
		iifname { "eth1", "eth2" } oifname "eth0" accept`, `
		oifname "eth0" meta nfproto ipv4 masquerade`), "chain", `ct helper ftp {
		type "ftp" protocol tcp
	}
	chain`, 1)}, homeRouter)
}

func homeRouter(t *testing.T, h *house) {
	h.greetOn(t, "provider", "203.0.113.1:80", "[2001:db8:0:1::1]:80")
	h.greetOn(t, "gateway", "192.168.1.1:22", "[2001:db8:1:1::1]:22", "192.168.2.1:22", "203.0.113.2:22")
	h.greetOn(t, "home", "192.168.1.5:22", "[2001:db8:1:1::5]:22")

	t.Run("home and guests go out", func(t *testing.T) {
		h.sees(t, "home", "192.168.1.5", "203.0.113.1:80", "203.0.113.2")
		h.sees(t, "home", "2001:db8:1:1::5", "[2001:db8:0:1::1]:80", "2001:db8:1:1::5")
		h.sees(t, "guest", "192.168.2.5", "203.0.113.1:80", "203.0.113.2")
		h.sees(t, "guest", "2001:db8:1:2::5", "[2001:db8:0:1::1]:80", "2001:db8:1:2::5")
	})
	t.Run("home uses FTP", func(t *testing.T) {
		f := newScript(t, ftpSite{client: h.Host("home"), server: h.Host("provider"), on: parse("203.0.113.1"), to: parse("203.0.113.1")}, at(parse("192.168.1.5"), 0))
		f.command(t, "PORT 192,168,1,5,156,65", "PORT 203,0,113,2,156,65")
		h.greetOn(t, "home", "192.168.1.5:40001")
		h.sees(t, "provider", "203.0.113.1", "203.0.113.2:40001", "203.0.113.1")
	})
	t.Run("home reaches the box, and guests its resolver only", func(t *testing.T) {
		h.sees(t, "home", "192.168.1.5", "192.168.1.1:22", "192.168.1.5")
		h.sees(t, "home", "2001:db8:1:1::5", "[2001:db8:1:1::1]:22", "2001:db8:1:1::5")
		serveUDP(t, h.Host("gateway"), netip.MustParseAddrPort("192.168.2.1:53"))
		bindUDP(t, h.Host("guest"), at(parse("192.168.2.5"), 0)).ask(t, netip.MustParseAddrPort("192.168.2.1:53"), "who is example.org?")
		marker := h.marker(t, "provider", "203.0.113.1", map[string]string{"guest": "192.168.2.5"})
		marker()
		answers := capture(t, h.Host("guest"), "eth0")
		sendRaw(t, h.Host("guest"), parse("192.168.2.1"), syn(t, at(parse("192.168.2.5"), 50001), at(parse("192.168.2.1"), 22)))
		marker()
		nothingCame(t, answers, markerPort)
	})
	t.Run("the box itself goes out", func(t *testing.T) {
		h.sees(t, "gateway", "203.0.113.2", "203.0.113.1:80", "203.0.113.2")
	})
	t.Run("nothing comes in, and guests stay out of home", func(t *testing.T) {
		both := map[string]string{"home": "192.168.1.5", "guest": "192.168.2.5"}
		marker := h.marker(t, "provider", "203.0.113.1", both)
		marker6 := h.marker(t, "provider", "2001:db8:0:1::1", map[string]string{"home": "2001:db8:1:1::5", "guest": "2001:db8:1:2::5"})
		h.unheard(t, "provider", "203.0.113.1", "203.0.113.2", "home", marker)
		h.unheard(t, "provider", "203.0.113.1", "192.168.1.5", "home", marker)
		h.unheard(t, "provider", "2001:db8:0:1::1", "2001:db8:1:1::5", "home", marker6)
		h.unheard(t, "guest", "192.168.2.5", "192.168.1.5", "home", marker)
		h.unheard(t, "guest", "2001:db8:1:2::5", "2001:db8:1:1::5", "home", marker6)
	})
}

func TestContainerEgress(t *testing.T) {
	sample(t, "container-egress.toml", netns.Topology{
		Hosts: []string{"third"},
		Links: []netns.Link{
			{Ends: []netns.End{
				{Host: "gateway", If: "eth0", Addrs: []string{"203.0.113.2/24"}, Via: []string{"203.0.113.1"}},
				{Host: "world", If: "eth0", Addrs: []string{"203.0.113.1/24", "10.200.0.9/32", "169.254.169.254/32"}, Routes: []netns.Route{{To: "192.168.0.0/16", Via: "203.0.113.2"}}},
			}},
			{Ends: []netns.End{
				{Host: "gateway", If: "veth1", Addrs: []string{"192.168.11.1/24"}},
				{Host: "one", If: "eth0", Addrs: []string{"192.168.11.2/24"}, Via: []string{"192.168.11.1"}},
			}},
			{Ends: []netns.End{
				{Host: "gateway", If: "veth2", Addrs: []string{"192.168.12.1/24"}},
				{Host: "two", If: "eth0", Addrs: []string{"192.168.12.2/24"}, Via: []string{"192.168.12.1"}},
			}},
		},
	}, equivalent{ruleset: sampleRuleset("", `
		iifname "veth*" accept`, `
		iifname "veth*" ip daddr 169.254.169.254 meta l4proto tcp reject with tcp reset
		iifname "veth*" oifname "eth0" tcp dport 25 reject with tcp reset
		iifname "veth*" oifname { "eth0", "veth*" } accept`, `
		oifname "eth0" ip daddr { 10.0.0.0/8, 172.16.0.0/12 } accept
		oifname "eth0" meta l4proto { tcp, udp } masquerade to :32768-65535
		oifname "eth0" masquerade`)}, containerEgress)
}

func containerEgress(t *testing.T, h *house) {
	h.greetOn(t, "world", "203.0.113.1:80", "10.200.0.9:80", "169.254.169.254:80", "203.0.113.1:25")
	h.greetOn(t, "two", "192.168.12.2:80")

	t.Run("containers go out as the box, with a port of the range", func(t *testing.T) {
		for range 5 {
			if seen := h.sees(t, "one", "192.168.11.2", "203.0.113.1:80", "203.0.113.2"); seen.Port() < 32768 {
				t.Errorf("the world sees port %d, want 32768 or more", seen.Port())
			}
		}
		c := talk(t, h.Host("one"), at(parse("192.168.11.2"), 1500), at(parse("203.0.113.1"), 80))
		if c.seen.Port() < 32768 {
			t.Errorf("the world sees port %d for 1500, want 32768 or more", c.seen.Port())
		}
	})
	t.Run("the company's networks see the container", func(t *testing.T) {
		h.sees(t, "one", "192.168.11.2", "10.200.0.9:80", "192.168.11.2")
	})
	t.Run("metadata and mail are refused", func(t *testing.T) {
		refusedTCP(t, h.Host("one"), parse("192.168.11.2"), at(parse("169.254.169.254"), 80))
		refusedTCP(t, h.Host("one"), parse("192.168.11.2"), at(parse("203.0.113.1"), 25))
	})
	t.Run("containers reach each other and the box's ping", func(t *testing.T) {
		h.sees(t, "one", "192.168.11.2", "192.168.12.2:80", "192.168.11.2")
		openPing(t, h.Host("two"), &ipv4, parse("192.168.12.2")).ping(t, parse("192.168.12.1"), 3, 1)
	})
	t.Run("nothing comes in", func(t *testing.T) {
		marker := h.marker(t, "world", "203.0.113.1", map[string]string{"two": "192.168.12.2"})
		h.unheard(t, "world", "203.0.113.1", "192.168.12.2", "two", marker)
	})
	t.Run("a container that comes later is served", func(t *testing.T) {
		join(t, h.Lab, h.gw.Host, "veth3", "third", []string{"192.168.13.1/24"}, []string{"192.168.13.2/24"}, []string{"192.168.13.1"})
		if h.gw.Kind() == netns.Culvert {
			h.served(t, "veth3", present)
		}
		h.sees(t, "third", "192.168.13.2", "203.0.113.1:80", "203.0.113.2")
	})
	if h.gw.Kind() == netns.Kernel {
		return // the kernel has no metrics
	}
	t.Run("metrics are served to the box alone", func(t *testing.T) {
		c := dial(t, h.Host("gateway"), at(parse("127.0.0.1"), 0), at(parse("127.0.0.1"), 9464))
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://127.0.0.1/metrics", nil)
		must(t, err)
		request.Close = true
		must(t, request.Write(c))
		text, err := io.ReadAll(c)
		must(t, err)
		if !strings.Contains(string(text), "\nculvert_dropped_packets_total{") {
			t.Errorf("the metrics lack the dropped packets:\n%s", text)
		}
	})
}

func TestLab(t *testing.T) {
	sample(t, "lab.toml", netns.Topology{Links: []netns.Link{
		{Ends: []netns.End{
			{Host: "client", If: "eth0", Addrs: []string{"10.0.0.2/24", "fd00:a::2/64"}, Via: []string{"10.0.0.1", "fd00:a::1"}},
			{Host: "gateway", If: "lan0"},
		}},
		{Ends: []netns.End{
			{Host: "gateway", If: "wan0"},
			{Host: "server", If: "eth0", Addrs: []string{"192.0.2.2/24", "2001:db8:b::2/64"}},
		}},
	}}, equivalent{
		ends: []netns.End{
			{Host: "gateway", If: "lan0", Addrs: []string{"10.0.0.1/24", "fd00:a::1/64"}},
			{Host: "gateway", If: "wan0", Addrs: []string{"192.0.2.1/24", "2001:db8:b::1/64"}, Via: []string{"192.0.2.2", "2001:db8:b::2"}},
		},
		sysctls: map[string]string{"net.netfilter.nf_conntrack_acct": "1", "net.netfilter.nf_conntrack_timestamp": "1"},
		ruleset: sampleRuleset(`
		iifname "wan0" ip daddr 192.0.2.1 tcp dport 8080 dnat ip to 10.0.0.2:80
		iifname "wan0" ip6 daddr 2001:db8:b::1 tcp dport 8080 dnat ip6 to [fd00:a::2]:80
		iifname "lan0" meta l4proto { tcp, udp } th dport 7 redirect to :7007`, `
		iifname "lan0" accept`, `
		ct status dnat accept
		iifname "lan0" oifname "wan0" accept`, `
		oifname "wan0" masquerade`),
	}, fixedLab)
}

func fixedLab(t *testing.T, h *house) {
	for _, tt := range []struct{ name, client, inside, outside, server string }{
		{"ipv4", "10.0.0.2", "10.0.0.1", "192.0.2.1", "192.0.2.2"},
		{"ipv6", "fd00:a::2", "fd00:a::1", "2001:db8:b::1", "2001:db8:b::2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			service := at(parse(tt.server), 80)
			serveTCP(t, h.Host("server"), service, greet)
			h.sees(t, "client", tt.client, service.String(), tt.outside)
			_, err := h.gw.WaitFlow(t.Context(), func(f netns.Flow) bool {
				return f.Orig.Dst == service && f.Orig.Packets > 2 && f.Reply.Bytes > 100 && strings.Contains(f.Line, "delta-time=")
			})
			if err != nil {
				t.Errorf("no flow shows its counters and its age: %v", err)
			}
			serveTCP(t, h.Host("client"), at(parse(tt.client), 80), greet)
			h.sees(t, "server", tt.server, at(parse(tt.outside), 8080).String(), tt.server)
			refused(t, h.Host("client"), parse(tt.client), at(parse(tt.server), 7)) // redirected, and no service embeds this gateway
			h.wantFlowLike(t, at(parse(tt.server), 7), at(parse(tt.inside), 7007))
		})
	}
}

// wantFlowLike waits for a datagram's flow by its destination, before and after.
func (h *house) wantFlowLike(t *testing.T, asked, reached netip.AddrPort) {
	t.Helper()
	if _, err := h.gw.WaitFlow(t.Context(), func(f netns.Flow) bool { return f.Proto == "udp" && f.Orig.Dst == asked && f.Reply.Src == reached }); err != nil {
		t.Errorf("no flow leads from %v to %v: %v", asked, reached, err)
	}
}

func TestPortForwarding(t *testing.T) {
	inside := func(host, addr string, more ...string) netns.End {
		e := netns.End{Host: host, If: "eth0", Addrs: append([]string{addr}, more...), Via: []string{"192.168.1.1"}}
		if len(more) > 0 {
			e.Via = append(e.Via, "2001:db8:0:2::1")
		}
		return e
	}
	var game []string // nft(8) has no ranges that keep their order
	for i := range 16 {
		game = append(game, fmt.Sprintf("%d : 192.168.1.20 . %d", 27000+i, 28000+i))
	}
	sample(t, "port-forwarding.toml", netns.Topology{Links: []netns.Link{
		{Ends: []netns.End{
			{Host: "gateway", If: "eth0"},
			{Host: "world", If: "eth0", Addrs: []string{"203.0.113.1/24", "198.51.100.7/32", "192.0.2.7/32", "2001:db8:0:1::1/64"},
				Routes: []netns.Route{{To: "2001:db8:0:2::/64", Via: "2001:db8:0:1::2"}}},
		}},
		{Ends: []netns.End{
			{Host: "gateway", If: "eth1"},
			inside("web", "192.168.1.10/24", "2001:db8:0:2::10/64"),
			inside("game", "192.168.1.20/24"),
			inside("dns1", "192.168.1.30/24"),
			inside("dns2", "192.168.1.31/24"),
		}},
	}}, equivalent{
		ends: []netns.End{
			{Host: "gateway", If: "eth0", Addrs: []string{"203.0.113.2/24", "2001:db8:0:1::2/64"}, Via: []string{"203.0.113.1", "2001:db8:0:1::1"}},
			{Host: "gateway", If: "eth1", Addrs: []string{"192.168.1.1/24", "2001:db8:0:2::1/64"}},
		},
		ruleset: sampleRuleset(`
		iifname "eth0" ip daddr 203.0.113.2 tcp dport 443 dnat ip to 192.168.1.10:8443
		iifname "eth0" ip daddr 203.0.113.2 dnat ip to udp dport map { `+strings.Join(game, ", ")+` }
		iifname "eth0" ip daddr 203.0.113.2 meta l4proto { tcp, udp } th dport 53 dnat ip to 192.168.1.30-192.168.1.31 persistent
		iifname "eth0" ip daddr 203.0.113.2 tcp dport 2222 dnat ip to 192.168.1.10:22
		iifname "eth1" udp dport 123 redirect`, `
		iifname "eth1" accept`, `
		iifname "eth0" ip saddr != 198.51.100.0/24 ip daddr 192.168.1.10 tcp dport 22 drop
		ct status dnat accept
		iifname "eth0" ip6 daddr 2001:db8:0:2::10 tcp dport 443 accept
		iifname "eth1" oifname "eth0" accept`, `
		oifname "eth0" meta nfproto ipv4 masquerade`),
	}, portForwarding)
}

func portForwarding(t *testing.T, h *house) {
	h.greetOn(t, "world", "203.0.113.1:80")
	h.greetOn(t, "web", "192.168.1.10:8443", "192.168.1.10:22", "[2001:db8:0:2::10]:443", "[2001:db8:0:2::10]:444")

	t.Run("https", func(t *testing.T) {
		h.sees(t, "world", "203.0.113.1", "203.0.113.2:443", "203.0.113.1")
		h.sees(t, "world", "2001:db8:0:1::1", "[2001:db8:0:2::10]:443", "2001:db8:0:1::1")
	})
	t.Run("a range keeps its order", func(t *testing.T) {
		for _, i := range []uint16{0, 5, 15} {
			serveUDP(t, h.Host("game"), at(parse("192.168.1.20"), 28000+i))
			bindUDP(t, h.Host("world"), at(parse("203.0.113.1"), 0)).ask(t, at(parse("203.0.113.2"), 27000+i), "ready")
		}
	})
	t.Run("a client sticks to one resolver", func(t *testing.T) {
		for host, a := range map[string]string{"dns1": "192.168.1.30", "dns2": "192.168.1.31"} {
			serveUDP(t, h.Host(host), at(parse(a), 53))
		}
		for _, client := range []string{"203.0.113.1", "198.51.100.7", "192.0.2.7"} {
			for range 8 {
				bindUDP(t, h.Host("world"), at(parse(client), 0)).ask(t, at(parse("203.0.113.2"), 53), "who is example.org?")
			}
		}
		flows, err := h.gw.Flows(t.Context(), "-p", "udp")
		must(t, err)
		chosen := map[netip.Addr]netip.Addr{}
		for _, f := range flows {
			if f.Orig.Dst.Port() != 53 {
				continue
			}
			client, resolver := f.Orig.Src.Addr(), f.Reply.Src.Addr()
			if other, ok := chosen[client]; ok && other != resolver {
				t.Errorf("%v asks %v and %v", client, resolver, other)
			}
			chosen[client] = resolver
		}
		if len(chosen) != 3 {
			t.Errorf("%d clients have flows, want 3", len(chosen))
		}
	})
	t.Run("ssh is for the office", func(t *testing.T) {
		h.sees(t, "world", "198.51.100.7", "203.0.113.2:2222", "198.51.100.7")
		marker := h.marker(t, "world", "203.0.113.1", map[string]string{"web": "192.168.1.10"})
		marker()
		hears := capture(t, h.Host("web"), "eth0")
		sendRaw(t, h.Host("world"), parse("203.0.113.2"), syn(t, at(parse("192.0.2.7"), 50002), at(parse("203.0.113.2"), 2222)))
		sendRaw(t, h.Host("world"), parse("2001:db8:0:2::10"), syn(t, at(parse("2001:db8:0:1::1"), 50002), at(parse("2001:db8:0:2::10"), 444)))
		marker()
		nothingCame(t, hears, markerPort)
	})
	t.Run("time comes from the gateway", func(t *testing.T) {
		d := connectUDP(t, h.Host("web"), at(parse("192.168.1.10"), 0), at(parse("203.0.113.1"), 123))
		_, err := d.Write([]byte("what time is it?"))
		must(t, err)
		h.wantFlowLike(t, at(parse("203.0.113.1"), 123), at(parse("192.168.1.1"), 123))
	})
	t.Run("inside goes out as the gateway", func(t *testing.T) {
		h.sees(t, "web", "192.168.1.10", "203.0.113.1:80", "203.0.113.2")
	})
}
