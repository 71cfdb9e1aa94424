package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/rules"
)

func frameOf(ip []byte) mem.Frame { return mem.Frame{Data: ip} }

// small gives wan an MTU of 1400, of the port itself or only by configuration.
func small(configured bool) func(st *State, o map[string]mem.Options) {
	return func(st *State, o map[string]mem.Options) {
		o["lan"], o["wan"] = mem.Options{GSO: port.WithGSO}, mem.Options{GSO: port.WithGSO, MTU: 1400}
		if configured {
			o["wan"] = mem.Options{GSO: port.WithGSO}
			st.Ports[1].MTU = 1400
		}
	}
}

func TestTooBigIsToldOrSplit(t *testing.T) {
	for _, configured := range []bool{false, true} {
		t.Run(fmt.Sprintf("configured=%v", configured), func(t *testing.T) {
			l := newLab(t, labConfig{ports: small(configured)})
			l.send("lan", udp("10.0.0.5:1", "198.51.100.7:9", length(1373), dontFragment()))
			l.want("lan", "icmp 10.0.0.1 > 10.0.0.5 3/4 mtu 1400 [udp 10.0.0.5:1 > 198.51.100.7:9 ttl 64 len 520 BAD-LENGTH 1401 of 548]")
			l.send("lan", udp("[2001:db8:1::5]:1", "[2001:db8:77::7]:9", length(1353)))
			l.want("lan", "icmpv6 2001:db8:1::1 > 2001:db8:1::5 2/0 mtu 1400 [udp [2001:db8:1::5]:1 > [2001:db8:77::7]:9 ttl 64 len 1184 BAD-LENGTH 1361 of 1232]")
			l.wantDrops(TooBigForEgress, TooBigForEgress)
			l.wantFlows()
			l.send("lan", udp("10.0.0.5:1", "198.51.100.7:9", length(1372), dontFragment()))
			l.want("wan", "udp 203.0.113.1:1 > 198.51.100.7:9 ttl 63 len 1372")
			l.send("lan", udp("10.0.0.5:1", "198.51.100.7:9", length(1373)))
			l.want("wan", "fragment 203.0.113.1 > 198.51.100.7 ttl 63 id 77 0..1376+", "fragment 203.0.113.1 > 198.51.100.7 ttl 63 id 77 1376..1381")
			if s := l.e.Stats(); s.Forwarded != 2 {
				t.Errorf("forwarded %d packets, want 2: fragments are not packets", s.Forwarded)
			}
			l.wantDrops()
		})
	}
}

// superTCP is a GSO frame of n bytes of payload, with a partial checksum.
func superTCP(l *lab, name, src, dst string, n, size int, opts ...opt) mem.Frame {
	ip := tcp(src, dst, append([]opt{flags(packet.ACK | packet.PSH), seq(1000, 1), length(n)}, opts...)...)
	kind, h := packet.GSOTCPv4, headerLen(ip)
	if ip[0]>>4 == 6 {
		kind = packet.GSOTCPv6
	}
	return partial(l, name, ip, packet.Offload{GSOType: kind, GSOSize: uint16(size), HdrLen: uint16(h + 20), CsumOffset: 16})
}

// partial turns a packet's checksum into one of the pseudo-header only and makes it a
// frame that says so.
func partial(l *lab, name string, ip []byte, o packet.Offload) mem.Frame {
	h := headerLen(ip)
	ip = append([]byte(nil), ip...)
	proto, addrs := ip[9], ip[12:20]
	if ip[0]>>4 == 6 {
		proto, addrs = ip[6], ip[8:40]
	}
	binary.BigEndian.PutUint16(ip[h+int(o.CsumOffset):], sum(uint32(proto)+uint32(len(ip)-h), addrs))
	f := mem.Frame{Data: l.frame(name, ip)}
	l2 := uint16(len(f.Data) - len(ip))
	o.Flags = packet.NeedsCsum
	o.CsumStart = l2 + uint16(h)
	if o.HdrLen != 0 {
		o.HdrLen += l2
	}
	f.Offload = o
	return f
}

// reassemble concatenates the payloads of TCP frames.
func reassemble(frames []mem.Frame, link packet.Link) (all []byte) {
	for _, f := range frames {
		ip := ipOf(f, link)
		all = append(all, ip[headerLen(ip)+20:]...)
	}
	return all
}

func TestSuperFrames(t *testing.T) {
	const total = 4000
	addrs := map[string][2]string{"IPv4": {"10.0.0.5:40000", "198.51.100.7:80"}, "IPv6": {"[2001:db8:1::5]:40000", "[2001:db8:77::7]:80"}}
	headers := map[string]int{"IPv4": 40, "IPv6": 60}
	for family, a := range addrs {
		t.Run(family+" pass whole to a port with GSO", func(t *testing.T) {
			l := newLab(t, labConfig{ports: small(false)})
			l.inject("lan", superTCP(l, "lan", a[0], a[1], total, 1340))
			l.step()
			f := l.take("wan")
			if d := describe(f, packet.LinkEthernet); !bytes.Contains([]byte(d), []byte("len 4000 gso 1340 partial")) || bytes.Contains([]byte(d), []byte("BAD")) || bytes.Contains([]byte(d), []byte("CSUM")) {
				t.Errorf("got %s", d)
			}
			l.wantDrops()
		})
		t.Run(family+" are cut for a port without", func(t *testing.T) {
			l := newLab(t, labConfig{})
			l.inject("lan", superTCP(l, "lan", a[0], a[1], total, 1340))
			l.step()
			frames := l.ports["wan"].TakeFrames()
			if len(frames) != 3 {
				t.Fatalf("%d segments, want 3", len(frames))
			}
			for _, f := range frames {
				if d := describe(f, packet.LinkEthernet); bytes.Contains([]byte(d), []byte("BAD")) || f.Offload != (packet.Offload{}) || len(f.Data) > 14+headers[family]+1340 {
					t.Errorf("bad segment: %s, %+v", d, f.Offload)
				}
			}
			if !bytes.Equal(reassemble(frames, packet.LinkEthernet), pattern(total)) {
				t.Error("the segments are not what was sent")
			}
			if s := l.e.Stats(); s.Forwarded != 1 {
				t.Errorf("forwarded %d, want 1", s.Forwarded)
			}
			l.wantDrops()
		})
		t.Run(family+" with segments beyond the MTU are told", func(t *testing.T) {
			l := newLab(t, labConfig{ports: small(true)})
			l.inject("lan", superTCP(l, "lan", a[0], a[1], total, 1401-headers[family], dontFragment()))
			l.step()
			if f := l.take("lan"); !bytes.Contains([]byte(describe(f, packet.LinkEthernet)), []byte("mtu 1400")) {
				t.Errorf("got %s, want the MTU", describe(f, packet.LinkEthernet))
			}
			l.wantDrops(TooBigForEgress)
			l.wantFlows()
		})
	}
}

// superTunnel is a VXLAN frame of a super-packet of n bytes of payload, as kernels
// hand it to a packet socket: the virtio header is the inner packet's.
func superTunnel(l *lab, name, src, dst string, n, size int) mem.Frame {
	inner := tcp("192.168.99.1:1000", "192.168.99.2:80", flags(packet.ACK|packet.PSH), seq(1, 1), length(n))
	inner = partial(l, name, inner, packet.Offload{CsumOffset: 16}).Data[14:]
	vxlan := append([]byte{8, 0, 0, 0, 0, 0, 7, 0}, ethernet([6]byte{2}, [6]byte{4}, inner)...)
	ip := udp(src, dst, func(s *packetSpec) { s.raw = vxlan })
	return mem.Frame{Data: l.frame(name, ip), Offload: packet.Offload{
		Flags: packet.NeedsCsum, GSOType: packet.GSOTCPv4, GSOSize: uint16(size),
		CsumStart: uint16(14 + len(ip) - n - 20), CsumOffset: 16,
	}}
}

func TestTunnelSuperFramesAreCutForEveryPort(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) { masquerade(s) }})
	for _, way := range []struct{ dst, to, want string }{
		{"198.51.100.7:4789", "wan", "udp 203.0.113.1:40000 > 198.51.100.7:4789 ttl 63 len %d"},
		{"10.0.0.1:4789", "host", "udp 10.0.0.5:40000 > 10.0.0.1:4789 ttl 64 len %d"},
	} {
		l.inject("lan", superTunnel(l, "lan", "10.0.0.5:40000", way.dst, 2500, 1000))
		l.step()
		const headers = 8 + 14 + 20 + 20
		l.want(way.to, fmt.Sprintf(way.want, headers+1000), fmt.Sprintf(way.want, headers+1000), fmt.Sprintf(way.want, headers+500))
	}
	l.wantDrops()
	bad := superTunnel(l, "lan", "10.0.0.5:40000", "198.51.100.7:4789", 2500, 1000)
	bad.Offload.GSOType = packet.GSOTCPv6
	l.inject("lan", bad)
	l.step()
	l.wantDrops(BadOffload)
}

func TestSuperFrameWithoutDFObeysAConfiguredMTU(t *testing.T) {
	l := newLab(t, labConfig{ports: small(true)})
	l.inject("lan", superTCP(l, "lan", "10.0.0.5:40000", "198.51.100.7:80", 2900, 1450))
	l.step()
	for _, f := range l.ports["wan"].TakeFrames() {
		if n := len(f.Data) - 14; n > 1400 || f.Offload.GSOType != packet.GSONone {
			t.Errorf("a packet of %d bytes, %+v, on a link of 1400", n, f.Offload)
		}
	}
	l.wantDrops()
}

func TestPartialChecksumIsCompletedForAPlainPort(t *testing.T) {
	l := newLab(t, labConfig{})
	l.inject("lan", partial(l, "lan", udp("10.0.0.5:1", "198.51.100.7:53", body("abc")), packet.Offload{CsumOffset: 6}))
	l.step()
	l.want("wan", "udp 203.0.113.1:1 > 198.51.100.7:53 ttl 63 len 3")
	l.wantDrops()
}

// tunnel makes lan a TUN.
func tunnel(gso port.GSO) func(st *State, o map[string]mem.Options) {
	return func(st *State, o map[string]mem.Options) {
		o["lan"] = mem.Options{Link: packet.LinkIP, GSO: gso}
		o["wan"] = mem.Options{GSO: gso}
	}
}

func TestFramesCrossBetweenLinkKinds(t *testing.T) {
	l := newLab(t, labConfig{ports: tunnel(port.WithGSO)})
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53", body("up")))
	l.want("wan", "udp 203.0.113.1:1 > 198.51.100.7:53 ttl 63 len 2")
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:1", body("down")))
	l.want("lan", "udp 198.51.100.7:53 > 10.0.0.5:1 ttl 63 len 4")
	// csum_start moves with the header; describe says so if it does not.
	l.inject("lan", superTCP(l, "lan", "10.0.0.5:2", "198.51.100.7:80", 4000, 1400, seq(1, 1)))
	l.step()
	f := l.take("wan")
	if got, want := describe(f, packet.LinkEthernet), "tcp 203.0.113.1:2 > 198.51.100.7:80 PA seq 1 ack 1 ttl 63 len 4000 gso 1400 partial"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if f.Offload.HdrLen != 54 {
		t.Errorf("hdr_len %d, want 54", f.Offload.HdrLen)
	}
	l.inject("wan", superTCP(l, "wan", "198.51.100.7:80", "203.0.113.1:2", 4000, 1400, seq(1, 4001)))
	l.step()
	l.want("lan", "tcp 198.51.100.7:80 > 10.0.0.5:2 PA seq 1 ack 4001 ttl 63 len 4000 gso 1400 partial")
	// Answers to a TUN have no link header.
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53", ttl(1)))
	l.want("lan", "icmp 10.0.0.1 > 10.0.0.5 11/0 [udp 10.0.0.5:1 > 198.51.100.7:53 ttl 1 len 0]")
	l.wantDrops(TTLExceeded)
	if len(l.host.asked) != 0 {
		t.Errorf("asked for %v on a link without addresses", l.host.asked)
	}
}

// Outside ports clamp unless they are told otherwise.
func TestMSSIsClamped(t *testing.T) {
	l := newLab(t, labConfig{ports: small(true)})
	l.send("lan", tcp("10.0.0.5:1", "198.51.100.7:80", mss(1460)))
	l.want("wan", "tcp 203.0.113.1:1 > 198.51.100.7:80 S seq 0 ack 0 ttl 63 len 0 mss 1360")
	l.send("wan", tcp("198.51.100.7:80", "203.0.113.1:1", mss(1400), flags(packet.SYN|packet.ACK), seq(0, 1)))
	l.want("lan", "tcp 198.51.100.7:80 > 10.0.0.5:1 SA seq 0 ack 1 ttl 63 len 0 mss 1360")
	l.send("lan", tcp("[2001:db8:1::5]:1", "[2001:db8:77::7]:80", mss(1440)))
	l.want("wan", "tcp [2001:db8:1::5]:1 > [2001:db8:77::7]:80 S seq 0 ack 0 ttl 63 len 0 mss 1340")
	l.send("lan", tcp("10.0.0.5:2", "198.51.100.7:80", mss(500)))
	l.want("wan", "tcp 203.0.113.1:2 > 198.51.100.7:80 S seq 0 ack 0 ttl 63 len 0 mss 500")
	l.wantDrops()
}

func TestMSSClampSettings(t *testing.T) {
	for _, tt := range []struct {
		claim    string
		lan, wan MSSClamp
		mss4     int
		mss6     int
	}{
		{"outside clamps to the MTU by default", ClampOutside, ClampOutside, 1360, 1340},
		{"it can be switched off", ClampOutside, ClampOff, 1460, 1460},
		{"an inside port can ask for it, too", ClampMTU, ClampOff, 1360, 1340},
		{"a number counts", ClampOff, 1200, 1200, 1200},
		{"the smaller number counts", 1100, 1200, 1100, 1100},
		{"a number never exceeds the MTU", ClampOff, 1390, 1360, 1340},
	} {
		l := newLab(t, labConfig{ports: func(st *State, o map[string]mem.Options) {
			small(true)(st, o)
			st.Ports[0].MSS, st.Ports[1].MSS = tt.lan, tt.wan
		}})
		for _, way := range []struct{ from, to, src, dst, want string }{
			{"lan", "wan", "10.0.0.5:1", "198.51.100.7:80", fmt.Sprintf("tcp 203.0.113.1:1 > 198.51.100.7:80 S seq 0 ack 0 ttl 63 len 0 mss %d", tt.mss4)},
			{"wan", "lan", "198.51.100.7:80", "203.0.113.1:1", fmt.Sprintf("tcp 198.51.100.7:80 > 10.0.0.5:1 SA seq 0 ack 1 ttl 63 len 0 mss %d", tt.mss4)},
			{"lan", "wan", "[2001:db8:1::5]:1", "[2001:db8:77::7]:80", fmt.Sprintf("tcp [2001:db8:1::5]:1 > [2001:db8:77::7]:80 S seq 0 ack 0 ttl 63 len 0 mss %d", tt.mss6)},
		} {
			opts := []opt{mss(1460)}
			if way.from == "wan" {
				opts = append(opts, flags(packet.SYN|packet.ACK), seq(0, 1))
			}
			l.send(way.from, tcp(way.src, way.dst, opts...))
			if got := describe(l.take(way.to), packet.LinkEthernet); got != way.want {
				t.Errorf("%s: %s sent %s, want %s", tt.claim, way.to, got, way.want)
			}
		}
		l.wantDrops()
	}
}

func vlans(st *State, o map[string]mem.Options) {
	st.Ports = append(st.Ports, PortConfig{ID: extraID, Name: "lan.7", Parent: lanID, VLAN: 7, Addresses: prefixes("10.7.0.1/24")})
}

func TestVLAN(t *testing.T) {
	l := newLab(t, labConfig{ports: vlans})
	l.resolve(extraID, "10.7.0.5")
	tagged := func(tag uint16, ip []byte) {
		l.inject("lan", mem.Frame{Data: l.frame("lan", ip), HasVLAN: true, VLAN: tag})
		l.step()
	}
	const priority = 5 << 13
	tagged(7|priority, udp("10.7.0.5:1", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:1 > 198.51.100.7:53 ttl 63 len 0")
	l.send("wan", udp("198.51.100.7:53", "203.0.113.1:1"))
	l.want("lan", "udp 198.51.100.7:53 > 10.7.0.5:1 ttl 63 len 0 vlan 7")
	tagged(7, udp("10.7.0.5:1", "198.51.100.7:53", ttl(1)))
	l.want("lan", "icmp 10.7.0.1 > 10.7.0.5 11/0 [udp 10.7.0.5:1 > 198.51.100.7:53 ttl 1 len 0] vlan 7")
	// From one sub-interface to its own parent: the tag is taken off.
	tagged(7, udp("10.7.0.5:1", "10.0.0.5:9"))
	l.want("lan", "udp 10.7.0.5:1 > 10.0.0.5:9 ttl 63 len 0")
	// A priority tag is no VLAN.
	tagged(priority, udp("10.0.0.5:2", "198.51.100.7:53"))
	l.want("wan", "udp 203.0.113.1:2 > 198.51.100.7:53 ttl 63 len 0")
	l.wantDrops(TTLExceeded)
	tagged(8, udp("10.7.0.5:1", "198.51.100.7:53"))
	tagged(7, udp("10.0.0.5:1", "198.51.100.7:53")) // lives on the parent
	l.send("lan", udp("10.7.0.5:1", "198.51.100.8:53"))
	l.wantDrops(UnknownVLAN, SpoofedSource, SpoofedSource)
	if _, ok := l.e.view.Load().local[tuple.AddrFrom4([4]byte{10, 7, 0, 1})]; !ok {
		t.Error("the sub-interface's address is not the gateway's")
	}
}

func TestFragmentsFollowTheirFirst(t *testing.T) {
	whole := udp("10.0.0.5:1", "198.51.100.7:53", length(2000))
	frames := fragmentsOf(whole, 1000)
	want := []string{
		"fragment 203.0.113.1 > 198.51.100.7 ttl 63 id 77 0..1000+",
		"fragment 203.0.113.1 > 198.51.100.7 ttl 63 id 77 1000..2000+",
		"fragment 203.0.113.1 > 198.51.100.7 ttl 63 id 77 2000..2008",
	}
	t.Run("in order", func(t *testing.T) {
		l := newLab(t, labConfig{})
		for i, f := range frames {
			l.send("lan", f)
			l.want("wan", want[i])
		}
		l.wantDrops()
	})
	t.Run("the first one last", func(t *testing.T) {
		l := newLab(t, labConfig{})
		l.send("lan", frames[2])
		l.send("lan", frames[1])
		l.want("wan")
		if n := l.e.Stats().Waiting; n != 2 {
			t.Errorf("%d waiting, want 2", n)
		}
		l.send("lan", frames[0])
		l.want("wan", want[0], want[2], want[1])
		if n := l.e.Stats().Waiting; n != 0 {
			t.Errorf("%d still waiting", n)
		}
		l.wantDrops()
	})
	t.Run("refused with it", func(t *testing.T) {
		l := newLab(t, labConfig{routes: noRoutes})
		l.send("lan", frames[1])
		l.send("lan", frames[0])
		l.ports["lan"].Take() // no route
		l.send("lan", frames[2])
		l.wantDrops(FragmentOrphan, FragmentOrphan, NoRoute)
	})
	t.Run("or lost without it", func(t *testing.T) {
		l := newLab(t, labConfig{})
		l.send("lan", frames[1])
		l.advance(61e9)
		l.e.expireFragments()
		l.wantDrops(FragmentTimeout)
		if n := l.e.Stats().Waiting; n != 0 {
			t.Errorf("%d waiting, want 0", n)
		}
	})
	t.Run("not beyond the end of the flow", func(t *testing.T) {
		l := newLab(t, labConfig{})
		l.send("lan", frames[0])
		l.take("wan")
		if l.table.Flush() != 1 {
			t.Fatal("no flow to delete")
		}
		l.send("lan", frames[1])
		l.want("wan")
		l.wantDrops(FragmentOrphan)
	})
}

// fragmentsOf cuts an IPv4 packet into fragments of n bytes of payload.
func fragmentsOf(ip []byte, n int) (all [][]byte) {
	for at := 20; at < len(ip); at += n {
		end := min(at+n, len(ip))
		f := append(append([]byte(nil), ip[:20]...), ip[at:end]...)
		binary.BigEndian.PutUint16(f[2:], uint16(len(f)))
		field := uint16(at-20) / 8
		if end < len(ip) {
			field |= 0x2000
		}
		binary.BigEndian.PutUint16(f[6:], field)
		f[10], f[11] = 0, 0
		binary.BigEndian.PutUint16(f[10:], ^sum(0, f[:20]))
		all = append(all, f)
	}
	return all
}
