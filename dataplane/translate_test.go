package dataplane

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"testing"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// flight is one packet between two ends, as the test builds it from scratch.
type flight struct {
	src, dst     string
	sport, dport uint16
	answer       bool
	ttl          uint8
}

// wireProto is a protocol as the test writes it.
type wireProto struct {
	name   string
	number func(v6 bool) uint8
	sumAt  int // of the checksum in the transport header; -1: none
	ports  bool
	header func(f flight, v6 bool) []byte
	covers func(transport []byte) int // how much of it the checksum covers; nil: all
}

func always(n uint8) func(bool) uint8 { return func(bool) uint8 { return n } }

// wireProtos are all kinds of protocols that translation knows.
var wireProtos = []wireProto{
	{"tcp", always(tuple.TCP), 16, true, func(f flight, _ bool) []byte {
		h := make([]byte, 20+7)
		h[12], h[13], h[14] = 5<<4, packet.SYN, 0x40
		if f.answer {
			h[11], h[13] = 1, packet.SYN|packet.ACK
		}
		return h[:20]
	}, nil},
	{"udp", always(tuple.UDP), 6, true, func(flight, bool) []byte { return []byte{7: 0, 4: 0, 5: 8 + 5, 12: 9} }, nil},
	{"udp without checksum", always(tuple.UDP), -1, true, func(flight, bool) []byte { return []byte{7: 0, 4: 0, 5: 8 + 5, 12: 9} }, nil},
	{"udplite", always(tuple.UDPLite), 6, true, func(flight, bool) []byte { return []byte{5: 10, 13: 9} }, func([]byte) int { return 10 }},
	{"dccp", always(tuple.DCCP), 6, true, func(f flight, _ bool) []byte {
		if f.answer {
			return []byte{4: 7, 8: 1<<1 | 1, 27: 5} // RESPONSE, 48-bit sequence numbers (RFC 4340 section 5.1)
		}
		return []byte{4: 5, 8: 0<<1 | 1, 19: 5} // REQUEST
	}, nil},
	{"sctp", always(tuple.SCTP), -1, true, func(f flight, _ bool) []byte {
		b := make([]byte, 32)
		copy(b[12:], []byte{1, 0, 0, 20, 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9})
		if f.answer {
			b[7], b[12] = 7, 2
		}
		return b
	}, nil},
	{"echo", func(v6 bool) uint8 {
		if v6 {
			return tuple.ICMPv6
		}
		return tuple.ICMP
	}, 2, false, func(f flight, v6 bool) []byte {
		typ := byte(8)
		switch {
		case v6 && f.answer:
			typ = 129
		case v6:
			typ = 128
		case f.answer:
			typ = 0
		}
		return []byte{0: typ, 4: 3, 5: 9, 7: 1, 9: 0}
	}, nil},
	{"gre with a key", always(tuple.GRE), -1, false, func(flight, bool) []byte { return []byte{0: 0x20, 2: 8, 4: 1, 7: 2, 20: 0} }, nil},
	{"esp", always(50), -1, false, func(flight, bool) []byte { return []byte{3: 7, 7: 1, 15: 0} }, nil},
	{"protocol 253", always(253), -1, false, func(flight, bool) []byte { return []byte{5: 1} }, nil},
}

// build writes f as an IP packet, every checksum computed anew.
func (w *wireProto) build(f flight) []byte {
	src, dst := netip.MustParseAddr(f.src), netip.MustParseAddr(f.dst)
	v6 := src.Is6()
	t := w.header(f, v6)
	if w.ports {
		binary.BigEndian.PutUint16(t, f.sport)
		binary.BigEndian.PutUint16(t[2:], f.dport)
	}
	proto := w.number(v6)
	addrs := append(src.AsSlice(), dst.AsSlice()...)
	if w.sumAt >= 0 {
		cover := len(t)
		if w.covers != nil {
			cover = w.covers(t)
		}
		pseudo := uint32(0)
		if proto != tuple.ICMP {
			pseudo = uint32(sum(uint32(proto)+uint32(len(t)), addrs))
		}
		binary.BigEndian.PutUint16(t[w.sumAt:], ^sum(pseudo, t[:cover]))
	}
	if proto == tuple.SCTP {
		binary.LittleEndian.PutUint32(t[8:], crc32.Checksum(t, crc32.MakeTable(crc32.Castagnoli)))
	}
	if v6 {
		ip := []byte{0: 0x60, 4: byte(len(t) >> 8), 5: byte(len(t)), 6: proto, 7: f.ttl}
		return append(append(ip, addrs...), t...)
	}
	ip := []byte{0: 0x45, 3: byte(20 + len(t)), 5: 77, 8: f.ttl, 9: proto, 11: 0}
	ip = append(ip, addrs...)
	binary.BigEndian.PutUint16(ip[10:], ^sum(0, ip))
	return append(ip, t...)
}

// translated is a case of TestEveryProtocolIsTranslatedAndBack: what a flow from
// one port to the other becomes under some rules.
type translated struct {
	name     string
	from, to string    // ports
	ends     [2]string // as the flow comes in
	want     [2]string // as it goes out
	list     rules.List
	rule     rules.RuleSpec
}

func network(s string) nat.AddrRange { return rules.Prefix(netip.MustParsePrefix(s)) }

func translations() []translated {
	snat := func(src nat.Source) rules.RuleSpec {
		return rules.RuleSpec{If: rules.Conditions{OutArea: oneOf("wan")}, Then: rules.ActSnat, Src: src}
	}
	dnat := func(dst string, to nat.Destination, twice *nat.Source) rules.RuleSpec {
		return rules.RuleSpec{If: rules.Conditions{InArea: oneOf("wan"), Dst: oneOf(network(dst))}, Then: rules.ActDnat, Dest: to, Twice: twice}
	}
	list := func(r ...nat.AddrRange) []nat.AddrRange { return r }
	mustMap := func(key string, to nat.Source) *nat.Map[nat.Source] {
		m, err := nat.NewMap([]nat.Entry[nat.Source]{{Addrs: network(key), Ports: nat.AnyPort, To: to}})
		if err != nil {
			panic(err)
		}
		return m
	}
	out4, out6 := [2]string{"10.0.0.5", "198.51.100.7"}, [2]string{"2001:db8:1::5", "2001:db8:77::7"}
	in4, in6 := "198.51.100.7", "2001:db8:77::7"
	return []translated{
		{"masquerade", "lan", "wan", out4, [2]string{"203.0.113.1", out4[1]}, rules.Snat, snat(nat.Source{})},
		{"masquerade", "lan", "wan", out6, [2]string{"2001:db8:2::1", out6[1]}, rules.Snat, snat(nat.Source{})},
		{"snat", "lan", "wan", out4, [2]string{"203.0.113.9", out4[1]}, rules.Snat, snat(nat.Source{Addrs: single("203.0.113.9")})},
		{"snat", "lan", "wan", out6, [2]string{"2001:db8:2::9", out6[1]}, rules.Snat, snat(nat.Source{Addrs: single("2001:db8:2::9")})},
		{"snat by map", "lan", "wan", out4, [2]string{"203.0.113.9", out4[1]}, rules.Snat,
			snat(nat.Source{Map: mustMap("10.0.0.0/29", nat.Source{Addrs: single("203.0.113.9")})})},
		{"snat netmap", "lan", "wan", out4, [2]string{"203.0.113.69", out4[1]}, rules.Snat,
			snat(nat.Source{Addrs: list(network("203.0.113.64/26")), Fit: nat.KeepBits})},
		{"snat netmap", "lan", "wan", out6, [2]string{"2001:db8:9::5", out6[1]}, rules.Snat,
			snat(nat.Source{Addrs: list(network("2001:db8:9::/64")), Fit: nat.KeepBits})},
		{"snat nptv6", "lan", "wan", out6, [2]string{"2001:db8:2:0:fffe::5", out6[1]}, rules.Snat,
			snat(nat.Source{Addrs: list(network("2001:db8:2::/64")), Fit: nat.Neutral, From: network("2001:db8:1::/64")})},
		{"dnat", "wan", "lan", [2]string{in4, "203.0.113.9"}, [2]string{in4, "10.0.0.6"}, rules.Dnat,
			dnat("203.0.113.9/32", nat.Destination{Addrs: single("10.0.0.6")}, nil)},
		{"dnat", "wan", "lan", [2]string{in6, "2001:db8:2::9"}, [2]string{in6, "2001:db8:1::6"}, rules.Dnat,
			dnat("2001:db8:2::9/128", nat.Destination{Addrs: single("2001:db8:1::6")}, nil)},
		{"dnat netmap", "wan", "lan", [2]string{in4, "203.0.113.38"}, [2]string{in4, "10.0.0.6"}, rules.Dnat,
			dnat("203.0.113.32/28", nat.Destination{Addrs: list(network("10.0.0.0/28")), Fit: nat.KeepBits}, nil)},
		{"dnat netmap", "wan", "lan", [2]string{in6, "2001:db8:9::6"}, [2]string{in6, "2001:db8:1::6"}, rules.Dnat,
			dnat("2001:db8:9::/64", nat.Destination{Addrs: list(network("2001:db8:1::/64")), Fit: nat.KeepBits}, nil)},
		{"dnat nptv6", "wan", "lan", [2]string{in6, "2001:db8:2:0:fffe::5"}, [2]string{in6, "2001:db8:1::5"}, rules.Dnat,
			dnat("2001:db8:2::/64", nat.Destination{Addrs: list(network("2001:db8:1::/64")), Fit: nat.Neutral, From: network("2001:db8:2::/64")}, nil)},
		{"twice", "wan", "lan", [2]string{in4, "203.0.113.9"}, [2]string{"10.0.0.1", "10.0.0.6"}, rules.Dnat,
			dnat("203.0.113.9/32", nat.Destination{Addrs: single("10.0.0.6")}, &nat.Source{})},
		{"twice", "wan", "lan", [2]string{in6, "2001:db8:2::9"}, [2]string{"2001:db8:1::99", "2001:db8:1::6"}, rules.Dnat,
			dnat("2001:db8:2::9/128", nat.Destination{Addrs: single("2001:db8:1::6")}, &nat.Source{Addrs: single("2001:db8:1::99")})},
	}
}

// Packets come out as if they had been written with the new ends, and answers
// as if they had been written to the old ones: all bytes, all checksums.
func TestEveryProtocolIsTranslatedAndBack(t *testing.T) {
	for _, c := range translations() {
		for i := range wireProtos {
			w := &wireProtos[i]
			v6 := netip.MustParseAddr(c.ends[0]).Is6()
			family := "ipv4"
			if v6 {
				family = "ipv6"
			}
			t.Run(c.name+"/"+family+"/"+w.name, func(t *testing.T) {
				l := newLab(t, labConfig{rules: func(s *rules.Spec) { s.Lists[c.list] = []rules.RuleSpec{c.rule} }})
				there := flight{src: c.ends[0], dst: c.ends[1], sport: 40000, dport: 4711, ttl: 64}
				first := w.build(there)
				l.send(c.from, first)
				got := ipOf(l.take(c.to), packet.LinkEthernet)
				if want := w.build(flight{c.want[0], c.want[1], 40000, 4711, false, 63}); !bytes.Equal(got, want) {
					t.Fatalf("%s sent\n% x, want\n% x", c.to, got, want)
				}
				if c.rule.Src.Fit == nat.Neutral && !bytes.Equal(got[40:], first[40:]) {
					t.Error("a checksum changed that prefix translation leaves alone")
				}
				l.send(c.to, w.build(flight{c.want[1], c.want[0], 4711, 40000, true, 64}))
				back := ipOf(l.take(c.from), packet.LinkEthernet)
				if want := w.build(flight{c.ends[1], c.ends[0], 4711, 40000, true, 63}); !bytes.Equal(back, want) {
					t.Fatalf("%s sent\n% x, want\n% x", c.from, back, want)
				}
				l.wantDrops()
			})
		}
	}
}

// unreachable builds an ICMP error that quotes n bytes of a packet, every checksum
// computed anew.
func unreachable(src, dst string, hops uint8, quoted []byte, n int) []byte {
	quoted = quoted[:min(n, len(quoted))]
	w := wireProto{number: always(tuple.ICMP), sumAt: 2, header: func(_ flight, v6 bool) []byte {
		typ := byte(3)
		if v6 {
			typ = 1
		}
		return append([]byte{0: typ, 1: 1, 7: 0}, quoted...)
	}}
	if netip.MustParseAddr(src).Is6() {
		w.number = always(tuple.ICMPv6)
	}
	return w.build(flight{src: src, dst: dst, ttl: hops})
}

// An error that quotes a packet as it was on one side of the gateway quotes it as
// it was on the other side when it comes out there, however little it quotes: RFC
// 5508 REQ-4 and REQ-5.
func TestErrorsAboutEveryProtocolAreTranslated(t *testing.T) {
	router := map[string][2]string{ // by port: who speaks up, by family
		"wan": {"192.0.2.33", "2001:db8:66::1"},
		"lan": {"10.0.0.7", "2001:db8:1::7"},
	}
	for _, c := range translations() {
		v6 := netip.MustParseAddr(c.ends[0]).Is6()
		header, family := 20, 0
		if v6 {
			header, family = 40, 1
		}
		for i := range wireProtos {
			w := &wireProtos[i]
			for _, n := range [...]int{header + 8, 1 << 16} {
				if w.name == "sctp" && n > header+8 {
					continue // its CRC32c covers the ports and is left alone
				}
				l := newLab(t, labConfig{rules: func(s *rules.Spec) { s.Lists[c.list] = []rules.RuleSpec{c.rule} }})
				l.send(c.from, w.build(flight{c.ends[0], c.ends[1], 40000, 4711, false, 64}))
				l.take(c.to)

				// About the first packet, as it came out.
				speaker := router[c.to][family]
				quoted := w.build(flight{c.want[0], c.want[1], 40000, 4711, false, 63})
				l.send(c.to, unreachable(speaker, c.want[0], 64, quoted, n))
				if c.want[1] != c.ends[1] {
					speaker = c.ends[1] // what is inside is not shown
				}
				quoted = w.build(flight{c.ends[0], c.ends[1], 40000, 4711, false, 63})
				got := ipOf(l.take(c.from), packet.LinkEthernet)
				if want := unreachable(speaker, c.ends[0], 63, quoted, n); !bytes.Equal(got, want) {
					t.Errorf("%s, IPv6 %v, %s: %s sent\n% x, want\n% x", c.name, v6, w.name, c.from, got, want)
				}

				// About the answer, as its receiver got it.
				l.send(c.to, w.build(flight{c.want[1], c.want[0], 4711, 40000, true, 64}))
				l.take(c.from)
				quoted = w.build(flight{c.ends[1], c.ends[0], 4711, 40000, true, 63})
				l.send(c.from, unreachable(c.ends[0], c.ends[1], 64, quoted, n))
				quoted = w.build(flight{c.want[1], c.want[0], 4711, 40000, true, 63})
				got = ipOf(l.take(c.to), packet.LinkEthernet)
				if want := unreachable(c.want[0], c.want[1], 63, quoted, n); !bytes.Equal(got, want) {
					t.Errorf("%s, IPv6 %v, %s: %s sent\n% x, want\n% x", c.name, v6, w.name, c.to, got, want)
				}
				l.wantDrops()
			}
		}
	}
}
