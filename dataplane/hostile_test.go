package dataplane

import (
	"encoding/binary"
	"slices"
	"testing"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/dataplane/route"
)

// noRoutes leaves a lab with its connected routes.
var noRoutes = []route.Route{}

func TestPacketsThatMustNotBe(t *testing.T) {
	l := newLab(t, labConfig{})
	lan := l.ports["lan"].Info().MAC
	raw := func(dst [6]byte, ip []byte) mem.Frame {
		return mem.Frame{Data: ethernet(dst, macOf(addr("10.0.0.5")), ip)}
	}
	tests := []struct {
		claim string
		port  string
		frame mem.Frame
		why   Reason
	}{
		{"source is destination", "lan", raw(lan, udp("10.0.0.5:1", "10.0.0.5:1")), LandPacket},
		{"from loopback", "lan", raw(lan, udp("127.0.0.1:1", "198.51.100.7:1")), Martian},
		{"to loopback", "lan", raw(lan, udp("10.0.0.5:1", "127.0.0.1:1")), Martian},
		{"from nobody", "lan", raw(lan, udp("0.0.0.0:1", "198.51.100.7:1")), Martian},
		{"from multicast", "lan", raw(lan, udp("224.0.0.1:1", "198.51.100.7:1")), Martian},
		{"from class E", "lan", raw(lan, udp("240.0.0.1:1", "198.51.100.7:1")), Martian},
		{"from ::1", "lan", raw(lan, udp("[::1]:1", "[2001:db8:77::7]:1")), Martian},
		{"from ::", "lan", raw(lan, udp("[::]:1", "[2001:db8:77::7]:1")), Martian},
		{"from IPv4 inside IPv6", "lan", raw(lan, udp("[::a00:5]:1", "[2001:db8:77::7]:1")), Martian},
		{"from an IPv4 address in an IPv6 header", "lan", raw(lan, inIPv6("10.0.0.5", "2001:db8:77::7")), Martian},
		{"to an IPv4 address in an IPv6 header", "lan", raw(lan, inIPv6("2001:db8:1::5", "198.51.100.7")), Martian},
		{"IPv4 in an IPv6 header, as if it were a flow", "lan", raw(lan, inIPv6("10.0.0.5", "198.51.100.7")), Martian},
		{"IPv4 in an IPv6 header, to everybody", "lan", raw(lan, inIPv6("10.0.0.5", "255.255.255.255")), Martian},
		{"from IPv6 multicast", "lan", raw(lan, udp("[ff02::1]:1", "[2001:db8:77::7]:1")), Martian},
		{"to multicast", "lan", raw(lan, udp("10.0.0.5:1", "224.0.0.251:5353")), Multicast},
		{"to everybody", "lan", raw(lan, udp("10.0.0.5:1", "255.255.255.255:67")), Multicast},
		{"to everybody on the link", "lan", raw(lan, udp("10.0.0.5:1", "10.0.0.255:67")), Multicast},
		{"to everybody on another link", "lan", raw(lan, udp("10.0.0.5:1", "10.9.0.255:67")), Multicast},
		{"to IPv6 multicast", "lan", raw(lan, udp("[2001:db8:1::5]:1", "[ff02::fb]:5353")), Multicast},
		{"unicast in a broadcast frame", "lan", raw([6]byte{255, 255, 255, 255, 255, 255}, udp("10.0.0.5:1", "198.51.100.7:1")), Multicast},
		{"for another machine", "lan", raw([6]byte{2, 8, 8, 8, 8, 8}, udp("10.0.0.5:1", "198.51.100.7:1")), OtherHost},
		{"a source of another link", "lan", raw(lan, udp("10.9.0.5:1", "198.51.100.7:1")), SpoofedSource},
		{"an inside source outside", "wan", mem.Frame{Data: l.frame("wan", udp("10.0.0.5:1", "203.0.113.1:1"))}, SpoofedSource},
		{"our own source", "lan", raw(lan, udp("10.0.0.1:1", "198.51.100.7:1")), SpoofedSource},
		{"our own source of another port", "lan", raw(lan, udp("203.0.113.1:1", "10.0.0.1:1")), SpoofedSource},
		{"from this link to beyond", "lan", raw(lan, udp("[fe80::5]:1", "[2001:db8:77::7]:1")), SpoofedSource},
		{"a wrong checksum", "lan", raw(lan, damaged(udp("10.0.0.5:1", "198.51.100.7:1"), 27)), BadChecksum},
		{"a wrong header checksum", "lan", raw(lan, damaged(udp("10.0.0.5:1", "198.51.100.7:1"), 8)), BadChecksum},
		{"a length beyond the frame", "lan", raw(lan, udp("10.0.0.5:1", "198.51.100.7:1")[:24]), BadPacket},
		{"another EtherType", "lan", mem.Frame{Data: append(append(lan[:], 2, 0, 0, 0, 0, 9, 0x88, 0xcc), make([]byte, 46)...)}, NotIP},
		{"an undeclared tag", "lan", mem.Frame{Data: l.frame("lan", udp("10.0.0.5:1", "198.51.100.7:1")), HasVLAN: true, VLAN: 7}, UnknownVLAN},
		{"a frame too short to be one", "lan", mem.Frame{Data: lan[:]}, BadPacket},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			l.TB = t
			l.inject(tt.port, tt.frame)
			l.step()
			l.wantDrops(tt.why)
			l.wantFlows()
			for _, p := range []string{"lan", "wan", "guest", "host"} {
				l.want(p)
			}
		})
	}
	l.TB = t
}

// inIPv6 is an IPv6 datagram between any addresses, IPv4 ones in the mapped form
// (RFC 4291 section 2.5.5.2) that is no address on a wire.
func inIPv6(src, dst string) []byte {
	ip := udp("[2001:db8:1::5]:1", "[2001:db8:77::7]:1")
	a, b := addr(src), addr(dst)
	copy(ip[8:], a[:])
	copy(ip[24:], b[:])
	ip[46], ip[47] = 0, 0
	pseudo := append(slices.Clone(ip[8:40]), 0, 0, 0, byte(len(ip)-40), 0, 0, 0, tuple.UDP)
	binary.BigEndian.PutUint16(ip[46:], ^sum(uint32(sum(0, pseudo)), ip[40:]))
	return ip
}

func damaged(ip []byte, at int) []byte {
	ip[at] ^= 0x10
	return ip
}

func TestReversePath(t *testing.T) {
	foreign := udp("172.16.0.9:1", "198.51.100.7:1") // no route but the default one, which leaves by wan
	tests := []struct {
		claim  string
		rpf    RPF
		routes []route.Route
		passes bool
	}{
		{"strict: the way back leaves elsewhere", RPFStrict, nil, false},
		{"loose: there is a way back", RPFLoose, nil, true},
		{"loose: there is none", RPFLoose, noRoutes, false},
		{"off: nobody asks", RPFOff, nil, true},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			l := newLab(t, labConfig{routes: tt.routes, ports: func(st *State, _ map[string]mem.Options) { st.Ports[0].RPF = tt.rpf }})
			l.send("lan", foreign)
			if tt.passes {
				l.want("wan", "udp 203.0.113.1:1 > 198.51.100.7:1 ttl 63 len 0")
				l.wantDrops()
			} else {
				l.want("wan")
				l.wantDrops(SpoofedSource)
			}
			// Nobody may use our addresses, whatever the check.
			l.send("lan", udp("10.0.0.1:1", "203.0.113.7:1"))
			l.wantDrops(SpoofedSource)
		})
	}
}

func TestLinkControlGoesToTheHost(t *testing.T) {
	l := newLab(t, labConfig{})
	arp := make([]byte, 42)
	copy(arp, []byte{255, 255, 255, 255, 255, 255, 2, 0, 10, 0, 0, 5, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1})
	l.inject("lan", mem.Frame{Data: arp})
	l.step()
	if len(l.host.links) != 1 || len(l.host.links[0]) != len(arp) {
		t.Fatalf("the host stack got %d frames, want the ARP request", len(l.host.links))
	}
	l.host.full = true
	l.inject("lan", mem.Frame{Data: arp})
	l.step()
	l.wantDrops(HostQueueFull)
}

func TestOwnAnswersAreLimited(t *testing.T) {
	l := newLab(t, labConfig{engine: func(c *Config) { c.ICMPRate = 2 }})
	expired := udp("10.0.0.5:33434", "198.51.100.7:33434", ttl(1))
	for range 5 {
		l.send("lan", expired)
	}
	if n := len(l.ports["lan"].Take()); n != 2 {
		t.Errorf("%d answers in no time, want 2", n)
	}
	l.advance(1e9)
	for range 5 {
		l.send("lan", expired)
	}
	if n := len(l.ports["lan"].Take()); n != 2 {
		t.Errorf("%d answers a second later, want 2", n)
	}
	if n := l.e.Stats().Unanswered; n != 6 {
		t.Errorf("%d answers counted as not given, want 6", n)
	}
	l.wantDrops(TTLExceeded, TTLExceeded, TTLExceeded, TTLExceeded, TTLExceeded, TTLExceeded, TTLExceeded, TTLExceeded, TTLExceeded, TTLExceeded)
}

func TestErrorsAreNeverAnsweredWithErrors(t *testing.T) {
	l := newLab(t, labConfig{})
	l.send("lan", udp("10.0.0.5:40000", "198.51.100.7:53"))
	l.take("wan")
	about := udp("198.51.100.7:53", "10.0.0.5:40000")
	e := icmpErrorAbout("10.0.0.5", "198.51.100.7", 3, 3, 0, about)
	e[8] = 1 // its own TTL; the header checksum follows
	e[10], e[11] = 0, 0
	s := ^sum(0, e[:20])
	e[10], e[11] = byte(s>>8), byte(s)
	l.send("lan", e)
	l.wantDrops(TTLExceeded)
	l.want("lan")
	if packet.AnswerLen < 1280 {
		t.Error("buffers for answers are too short for IPv6")
	}
}

func TestNoRouteLeadsToLinkLocalAddresses(t *testing.T) {
	l := newLab(t, labConfig{})
	l.send("lan", udp("[2001:db8:1::5]:1", "[fe80::99]:1"))
	l.want("wan")
	l.want("lan", "icmpv6 2001:db8:1::1 > 2001:db8:1::5 1/0 [udp [2001:db8:1::5]:1 > [fe80::99]:1 ttl 64 len 0]")
	l.wantDrops(NoRoute)
	l.wantFlows()
}

func TestLiveFlowIsNoPassForSpoofedSources(t *testing.T) {
	l := newLab(t, labConfig{})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:1"))
	l.want("wan", "udp 203.0.113.1:1 > 198.51.100.7:1 ttl 63 len 0")
	l.send("wan", udp("198.51.100.7:1", "203.0.113.1:1"))
	l.want("lan", "udp 198.51.100.7:1 > 10.0.0.5:1 ttl 63 len 0")

	l.send("wan", udp("10.0.0.5:1", "198.51.100.7:1"))
	l.want("wan")
	l.wantDrops(SpoofedSource)
	l.send("lan", udp("198.51.100.7:1", "203.0.113.1:1"))
	l.want("lan")
	l.wantDrops(SpoofedSource)

	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:1"))
	l.want("wan", "udp 203.0.113.1:1 > 198.51.100.7:1 ttl 63 len 0")
	l.wantDrops()
}
