//go:build netns

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"example.com/culvert/test/netns"
)

// outer returns address n of the outside link, one that only rules have.
func (f *family) outer(n string) netip.Addr {
	if f.is4() {
		return netip.MustParseAddr("203.0.113." + n)
	}
	return netip.MustParseAddr("2001:db8:a::" + n)
}

// write fills the names of a family into a rule.
func (f *family) write(rule string) string {
	ip, block := "ip", "/28"
	inside, outside := "10.1.0.0", "203.0.113.64"
	if !f.is4() {
		ip, block, inside, outside = "ip6", "/120", "fd00:1::", "2001:db8:a::6400"
	}
	names := []string{"$(first)", inURI(f.first), "$(second)", inURI(f.second), "$family", f.name, "$ip", ip, "$first", f.first.String(), "$second", f.second.String(),
		"$outside", f.outside.String(), "$block_in", inside + block, "$block_out", outside + block}
	for _, n := range outerNumbers {
		names = append(names, "$(x"+n+")", inURI(f.outer(n)), "$x"+n, f.outer(n).String())
	}
	return strings.NewReplacer(names...).Replace(rule)
}

// outerNumbers are the addresses that rules use by themselves.
var outerNumbers = []string{"51", "52", "53", "54", "55", "56"}

// netmapped are where the first host's netmap leads.
func (f *family) netmapped() netip.Addr {
	if f.is4() {
		return f.outer("75")
	}
	return f.outer("6411")
}

// each writes rules for both families.
func each(rule string) string { return ipv4.write(rule) + ipv6.write(rule) }

// kernelAnswers gives a kernel gateway the addresses that its rules use: it does
// not answer for them by itself.
func (h *house) kernelAnswers(t *testing.T) {
	t.Helper()
	if h.gw.Kind() != netns.Kernel {
		return
	}
	box := h.Host("gateway")
	must(t, box.Sysctl("net.ipv6.conf.wan0.proxy_ndp", "1"))
	for _, f := range families {
		all := []netip.Addr{f.netmapped()}
		for _, n := range outerNumbers {
			all = append(all, f.outer(n))
		}
		for _, a := range all {
			args := []string{"ip", "addr", "add", a.String() + "/32", "dev", "wan0"}
			if !f.is4() {
				args = []string{"ip", "-6", "neigh", "add", "proxy", a.String(), "dev", "wan0"}
			}
			_, err := box.Exec(t.Context(), args...)
			must(t, err)
		}
	}
}

// sources has a rule for each way to choose one, by destination port.
var sources = setup{
	snat: each(`
[[snat]]
family = "$family"
proto = ["tcp", "udp"]
dport = 7101
action = "snat"
to = "$x51"

[[snat]]
family = "$family"
proto = ["tcp", "udp"]
dport = 7102
action = "snat"
to = "$x52-$x53"
persistent = true

[[snat]]
proto = ["tcp", "udp"]
dport = 7103
action = "snat"
map = { "$first" = "$x54", "$second" = "$x55" }

[[snat]]
src = "$block_in"
proto = ["tcp", "udp"]
dport = 7104
action = "netmap"
to = "$block_out"

[[snat]]
family = "$family"
proto = ["tcp", "udp"]
dport = 7105
out_area = "wan"
action = "masquerade"
ports = "20000-20010"

[[snat]]
family = "$family"
proto = ["tcp", "udp"]
dport = 7106
out_area = "wan"
action = "masquerade"
random = true

[[snat]]
family = "$family"
proto = ["tcp", "udp"]
dport = 7107
out_area = "wan"
action = "masquerade"
fully_random = true

[[snat]]
family = "$family"
proto = ["tcp", "udp"]
dport = 7108
action = "none"

[[snat]]
family = "$family"
proto = ["tcp", "udp"]
dport = 7109
action = "snat"
to = "$x56"
ports = 30000
`),
	postrouting: each(`
		meta nfproto $family meta l4proto { tcp, udp } th dport 7101 snat $ip to $x51
		meta nfproto $family meta l4proto { tcp, udp } th dport 7102 snat $ip to $x52-$x53 persistent
		meta nfproto $family meta l4proto { tcp, udp } th dport 7103 snat $ip to $ip saddr map { $first : $x54, $second : $x55 }
		meta nfproto $family meta l4proto { tcp, udp } th dport 7104 snat $ip prefix to $ip saddr map { $block_in : $block_out }
		meta nfproto $family meta l4proto { tcp, udp } th dport 7105 oifname wan0 masquerade to :20000-20010
		meta nfproto $family meta l4proto { tcp, udp } th dport 7106 oifname wan0 masquerade random
		meta nfproto $family meta l4proto { tcp, udp } th dport 7107 oifname wan0 masquerade fully-random
		meta nfproto $family meta l4proto { tcp, udp } th dport 7108 accept
		meta nfproto $family meta l4proto { tcp, udp } th dport 7109 snat $ip to $(x56):30000
`),
}

// TestSources asks the server from inside under every kind of source rule: what
// it sees and what the flow list says are the kernel's.
func TestSources(t *testing.T) {
	type fits func(seen, own netip.AddrPort) bool
	eachGateway(t, sources, func(t *testing.T, h *house) {
		h.kernelAnswers(t)
		eachFamily(t, func(t *testing.T, f *family) {
			exactly := func(a netip.Addr) fits {
				return func(seen, own netip.AddrPort) bool { return seen == at(a, own.Port()) }
			}
			between := func(a netip.Addr, first, last uint16) fits {
				return func(seen, _ netip.AddrPort) bool {
					return seen.Addr() == a && seen.Port() >= first && seen.Port() <= last
				}
			}
			moved := func(seen, own netip.AddrPort) bool {
				return seen.Addr() == f.outside && seen.Port() >= 1024 && seen.Port() != own.Port()
			}
			for _, tt := range []struct {
				name string
				port uint16
				fits fits
			}{
				{"address", 7101, exactly(f.outer("51"))},
				{"range", 7102, func(seen, own netip.AddrPort) bool {
					return exactly(f.outer("52"))(seen, own) || exactly(f.outer("53"))(seen, own)
				}},
				{"map", 7103, exactly(f.outer("54"))},
				{"netmap", 7104, exactly(f.netmapped())},
				{"masquerade with ports", 7105, between(f.outside, 20000, 20010)},
				{"masquerade random", 7106, moved},
				{"masquerade fully random", 7107, moved},
				{"none", 7108, exactly(f.first)},
				{"address and port", 7109, between(f.outer("56"), 30000, 30000)},
			} {
				t.Run(tt.name, func(t *testing.T) {
					service, own := at(f.server, tt.port), at(f.first, 40000+tt.port%100)
					serveUDP(t, h.server, service)
					serveTCP(t, h.server, service, greet)
					d := bindUDP(t, h.first, own)
					seen := d.ask(t, service, "who am I?")
					if !tt.fits(seen, own) {
						t.Errorf("the server sees %v", seen)
					}
					h.wantFlow(t, fmt.Sprintf("udp 17 29 src=%v dst=%v sport=%d dport=%d src=%v dst=%v sport=%d dport=%d mark=0 use=1",
						f.first, f.server, own.Port(), tt.port, f.server, seen.Addr(), tt.port, seen.Port()))
					if again := d.ask(t, service, "and now?"); again != seen {
						t.Errorf("the server sees %v and then %v", seen, again)
					}
					c := talk(t, h.first, own, service)
					if !tt.fits(c.seen, own) {
						t.Errorf("the server sees %v of a connection", c.seen)
					}
					h.wantFlow(t, fmt.Sprintf("tcp 6 431999 ESTABLISHED src=%v dst=%v sport=%d dport=%d src=%v dst=%v sport=%d dport=%d [ASSURED] mark=0 use=1",
						f.first, f.server, own.Port(), tt.port, f.server, c.seen.Addr(), tt.port, c.seen.Port()))
				})
			}
		})
	})
}

// destinations has a rule for each way to choose one.
var destinations = setup{
	config: each(`
[[dnat]]
in_area = "wan"
dst = "$x51"
action = "dnat"
to = "$first"

[[dnat]]
in_area = "wan"
dst = "$outside"
proto = ["tcp", "udp"]
dport = 7121
action = "dnat"
to = "$(first):7001"

[[dnat]]
in_area = "wan"
dst = "$x52"
proto = ["tcp", "udp"]
action = "dnat"
map = { "7122" = "$first", "7123" = "$second" }

[[dnat]]
in_area = "wan"
proto = ["tcp", "udp"]
action = "dnat"
map = { "$(x53):7124" = "$(second):7001", "$(x54):7124" = "$(first):7002" }

[[dnat]]
in_area = "wan"
dst = "$block_out"
action = "netmap"
to = "$block_in"

[[dnat]]
in_area = "wan"
dst = "$x55"
proto = ["tcp", "udp"]
dport = "7001-7003"
action = "dnat"
to = "$(second):7001-7003"

[[dnat]]
in_area = "wan"
dst = "$x56"
proto = ["tcp", "udp"]
dport = 7126
action = "dnat"
to = "$(first):7001"
source = "masquerade"

[[dnat]]
in_area = "wan"
dst = "$outside"
proto = ["tcp", "udp"]
dport = 7127
action = "dnat"
to = "$(first):7001"
`),
	prerouting: each(`
		iifname wan0 $ip daddr $x51 dnat $ip to $first
		iifname wan0 $ip daddr $outside meta l4proto { tcp, udp } th dport 7121 dnat $ip to $(first):7001
		iifname wan0 $ip daddr $x52 meta l4proto { tcp, udp } dnat $ip to th dport map { 7122 : $first, 7123 : $second }
		iifname wan0 meta l4proto { tcp, udp } dnat $ip to $ip daddr . th dport map { $x53 . 7124 : $second . 7001, $x54 . 7124 : $first . 7002 }
		iifname wan0 dnat $ip prefix to $ip daddr map { $block_out : $block_in }
		iifname wan0 $ip daddr $x55 meta l4proto { tcp, udp } th dport 7001-7003 dnat $ip to $(second):7001-7003
		iifname wan0 $ip daddr $x56 meta l4proto { tcp, udp } th dport 7126 dnat $ip to $(first):7001
		iifname { wan0, lan0 } $ip daddr $outside meta l4proto { tcp, udp } th dport 7127 dnat $ip to $(first):7001
`),
	postrouting: each(`
		oifname lan0 meta nfproto $family meta l4proto tcp ct original proto-dst 7126 masquerade
		oifname lan0 meta nfproto $family meta l4proto udp ct original proto-dst 7126 masquerade
		iifname lan0 oifname lan0 meta nfproto $family meta l4proto tcp ct original proto-dst 7127 snat $ip to $outside
		iifname lan0 oifname lan0 meta nfproto $family meta l4proto udp ct original proto-dst 7127 snat $ip to $outside
`),
}

// TestDestinations reaches the inside under every kind of destination rule: who is
// reached, whom it sees and what the flow list says are the kernel's. The kernel
// needs two rules where one with source, or the hairpin of any, says both.
func TestDestinations(t *testing.T) {
	eachGateway(t, destinations, func(t *testing.T, h *house) {
		h.kernelAnswers(t)
		eachFamily(t, func(t *testing.T, f *family) {
			for i, tt := range []struct {
				name     string
				dst, to  netip.AddrPort
				from     *netns.Host
				src, see netip.Addr
			}{
				{"address", at(f.outer("51"), 7001), at(f.first, 7001), h.server, f.server, f.server},
				{"address and port", at(f.outside, 7121), at(f.first, 7001), h.server, f.server, f.server},
				{"map by port", at(f.outer("52"), 7122), at(f.first, 7122), h.server, f.server, f.server},
				{"another port of the map", at(f.outer("52"), 7123), at(f.second, 7123), h.server, f.server, f.server},
				{"map by address and port", at(f.outer("53"), 7124), at(f.second, 7001), h.server, f.server, f.server},
				{"another address of the map", at(f.outer("54"), 7124), at(f.first, 7002), h.server, f.server, f.server},
				{"netmap", at(f.netmapped(), 7002), at(f.first, 7002), h.server, f.server, f.server},
				{"range of ports", at(f.outer("55"), 7003), at(f.second, 7003), h.server, f.server, f.server},
				{"twice", at(f.outer("56"), 7126), at(f.first, 7001), h.server, f.server, f.inside},
				{"from outside what hairpins", at(f.outside, 7127), at(f.first, 7001), h.server, f.server, f.server},
				{"hairpin", at(f.outside, 7127), at(f.first, 7001), h.second, f.second, f.outside},
			} {
				t.Run(tt.name, func(t *testing.T) {
					port := uint16(40000 + i)
					inside := h.first
					if tt.to.Addr() == f.second {
						inside = h.second
					}
					serveUDP(t, inside, tt.to)
					serveTCP(t, inside, tt.to, greet)
					if seen := bindUDP(t, tt.from, at(tt.src, port)).ask(t, tt.dst, "knock"); seen != at(tt.see, port) {
						t.Errorf("the inside sees %v, want %v", seen, at(tt.see, port))
					}
					h.wantFlow(t, fmt.Sprintf("udp 17 29 src=%v dst=%v sport=%d dport=%d src=%v dst=%v sport=%d dport=%d mark=0 use=1",
						tt.src, tt.dst.Addr(), port, tt.dst.Port(), tt.to.Addr(), tt.see, tt.to.Port(), port))
					c := talk(t, tt.from, at(tt.src, port), tt.dst)
					if c.seen != at(tt.see, port) {
						t.Errorf("the inside sees %v of a connection, want %v", c.seen, at(tt.see, port))
					}
					h.wantFlow(t, fmt.Sprintf("tcp 6 431999 ESTABLISHED src=%v dst=%v sport=%d dport=%d src=%v dst=%v sport=%d dport=%d [ASSURED] mark=0 use=1",
						tt.src, tt.dst.Addr(), port, tt.dst.Port(), tt.to.Addr(), tt.see, tt.to.Port(), port))
				})
			}
			t.Run("addresses without a rule are nobody's", func(t *testing.T) {
				unreachable(t, h.router, f.up, at(f.outer("99"), 7001), syscall.EHOSTUNREACH)
			})
			t.Run("what a map has nothing for stays out", func(t *testing.T) {
				serveUDP(t, h.first, at(f.first, 7129))
				d := bindUDP(t, h.server, at(f.server, samePort))
				_, err := d.WriteToUDPAddrPort([]byte("knock"), at(f.outer("52"), 7129))
				must(t, err)
				d.ask(t, at(f.outer("51"), 7129), "later, and answered")
				if n := h.flowCount(t, func(g netns.Flow) bool { return g.Orig.Dst == at(f.outer("52"), 7129) }); n > 0 && h.gw.Kind() == netns.Culvert {
					t.Error("it has a flow")
				}
			})
		})
	})
}
