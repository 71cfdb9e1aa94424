package dataplane

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket/layers"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/frag"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// sctpInit is an SCTP packet with an INIT, of n bytes with its padding parameter
// (RFC 4820), and of kind 2 an INIT ACK.
func sctpInit(kind uint8, tag uint32, src, dst string, n int, opts ...opt) []byte {
	s, a, b := specOf(opts), netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	s.raw = make([]byte, n)
	copy(s.raw, []byte{kind, 0, byte(n >> 8), byte(n), 0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 9})
	copy(s.raw[20:], []byte{0x80, 5, byte((n - 20) >> 8), byte(n - 20)})
	copy(s.raw[24:], pattern(n-24))
	return serialize(a.Addr(), b.Addr(), layers.IPProtocolSCTP, &s,
		&layers.SCTP{SrcPort: layers.SCTPPort(a.Port()), DstPort: layers.SCTPPort(b.Port()), VerificationTag: tag})
}

// piecesOf cuts an IP packet of either family into fragments of n bytes of payload.
func piecesOf(ip []byte, n int) (all [][]byte) {
	if ip[0]>>4 == 4 {
		return fragmentsOf(ip, n)
	}
	for at := 40; at < len(ip); at += n {
		end := min(at+n, len(ip))
		field := uint16(at - 40)
		if end < len(ip) {
			field |= 1
		}
		f := append(slices.Clone(ip[:40]), ip[6], 0, byte(field>>8), byte(field), 0xa, 0xb, 0xc, 0xd)
		f = append(f, ip[at:end]...)
		f[6] = 44
		binary.BigEndian.PutUint16(f[4:], uint16(len(f)-40))
		all = append(all, f)
	}
	return all
}

// gathered is what a receiver makes of fragments, the slow way.
type gathered struct {
	src, dst netip.AddrPort
	longest  int    // IP packet
	id       string // the distinct identifications
	df       int    // how many IPv4 fragments have it
	body     []byte // from the SCTP or UDP header on
	whole    bool   // no byte is missing or came twice
}

func (l *lab) gather(name string) (g gathered) {
	l.Helper()
	came := map[int]int{}
	end := -1
	ids := map[string]bool{}
	for _, f := range l.ports[name].TakeFrames() {
		ip := ipOf(f, l.ports[name].Info().Link)
		g.longest = max(g.longest, len(ip))
		var at, data int
		var more bool
		if ip[0]>>4 == 4 {
			field := binary.BigEndian.Uint16(ip[6:])
			at, more, data = int(field&0x1fff)*8, field&0x2000 != 0, headerLen(ip)
			if field&0x4000 != 0 {
				g.df++
			}
			ids[fmt.Sprint(binary.BigEndian.Uint16(ip[4:]))] = true
			if sum(0, ip[:data]) != 0xffff || int(binary.BigEndian.Uint16(ip[2:])) != len(ip) {
				l.Errorf("%s: broken header % x", name, ip[:data])
			}
			g.src, g.dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:16])), 0), netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), 0)
		} else {
			if ip[6] != 44 || int(binary.BigEndian.Uint16(ip[4:]))+40 != len(ip) {
				l.Errorf("%s: broken header % x", name, ip[:48])
			}
			field := binary.BigEndian.Uint16(ip[42:])
			at, more, data = int(field&^7), field&1 != 0, 48
			ids[fmt.Sprintf("%x", ip[44:48])] = true
			g.src, g.dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(ip[8:24])), 0), netip.AddrPortFrom(netip.AddrFrom16([16]byte(ip[24:40])), 0)
		}
		if !more {
			end = at + len(ip) - data
		}
		for i, b := range ip[data:] {
			came[at+i]++
			for len(g.body) <= at+i {
				g.body = append(g.body, 0)
			}
			g.body[at+i] = b
		}
	}
	g.whole = end == len(g.body) && len(came) == end
	for _, n := range came {
		g.whole = g.whole && n == 1
	}
	for id := range ids {
		g.id += id
	}
	if len(g.body) > 4 {
		g.src = netip.AddrPortFrom(g.src.Addr(), binary.BigEndian.Uint16(g.body))
		g.dst = netip.AddrPortFrom(g.dst.Addr(), binary.BigEndian.Uint16(g.body[2:]))
	}
	return g
}

// wantSCTP checks that a port sent one SCTP packet in fragments.
func (l *lab) wantSCTP(name, src, dst string, original []byte, longest int) gathered {
	l.Helper()
	g := l.gather(name)
	if !g.whole || g.longest > longest {
		l.Fatalf("%s: whole is %v, the longest piece %d bytes, want at most %d", name, g.whole, g.longest, longest)
	}
	if g.src.String() != src || g.dst.String() != dst {
		l.Errorf("%s: from %v to %v, want %s and %s", name, g.src, g.dst, src, dst)
	}
	sent := original[headerLen(original):]
	if !bytes.Equal(g.body[12:], sent[12:]) || !bytes.Equal(g.body[4:8], sent[4:8]) {
		l.Errorf("%s: the chunks are not those that were sent", name)
	}
	zeroed := slices.Concat(g.body[:8], make([]byte, 4), g.body[12:])
	if got, want := binary.LittleEndian.Uint32(g.body[8:]), crc32.Checksum(zeroed, crc32.MakeTable(crc32.Castagnoli)); got != want {
		l.Errorf("%s: CRC32c is %#x, want %#x", name, got, want)
	}
	return g
}

// translateBoth gives all that goes to wan the source port 40000 and the port's
// address.
func translateBoth(s *rules.Spec) {
	s.Lists[rules.Snat] = []rules.RuleSpec{{
		If: rules.Conditions{OutArea: oneOf("wan")}, Then: rules.ActMasquerade,
		Src: nat.Source{Ports: nat.PortRange{First: 40000, Last: 40000}},
	}}
}

// sctpFamilies are the ends of SCTP flows in labs.
var sctpFamilies = []struct {
	name, in, out, peer, id string
}{
	{"IPv4", "10.0.0.5:9000", "203.0.113.1:40000", "198.51.100.7:36412", "77"},
	{"IPv6", "[2001:db8:1::5]:9000", "[2001:db8:2::1]:40000", "[2001:db8:77::7]:36412", "0a0b0c0d"},
}

// permutations calls f with every order of 0..n-1.
func permutations(n int, f func(order []int)) {
	order := make([]int, 0, n)
	var rest func()
	rest = func() {
		if len(order) == n {
			f(order)
			return
		}
		for i := range n {
			if !slices.Contains(order, i) {
				order = append(order, i)
				rest()
				order = order[:len(order)-1]
			}
		}
	}
	rest()
}

func TestFragmentedSCTPIsTranslatedInAnyOrder(t *testing.T) {
	for _, f := range sctpFamilies {
		t.Run(f.name, func(t *testing.T) {
			l := newLab(t, labConfig{rules: translateBoth})
			init := sctpInit(1, 0, f.in, f.peer, 1800)
			ack := sctpInit(2, 7, f.peer, f.out, 2200)
			permutations(4, func(order []int) {
				l.table.Flush()
				l.advance(time.Second)
				for _, way := range []struct {
					from, to, src, dst string
					ip                 []byte
				}{{"lan", "wan", f.out, f.peer, init}, {"wan", "lan", f.peer, f.in, ack}} {
					pieces := piecesOf(way.ip, 600)
					for i, at := range order {
						l.want(way.to)
						l.send(way.from, pieces[at])
						if held := l.e.Stats().Waiting; held != uint64(i+1)%4 {
							t.Fatalf("order %v: %d fragments wait after %d", order, held, i+1)
						}
					}
					g := l.wantSCTP(way.to, way.src, way.dst, way.ip, len(pieces[0]))
					if g.id != f.id || g.df != 0 {
						t.Errorf("order %v: identification %s, %d with DF, want %s and none", order, g.id, g.df, f.id)
					}
				}
			})
			l.wantDrops()
			if s := l.e.Stats(); s.Joined != 24*6 || s.Forwarded != 24*2 {
				t.Errorf("joined %d and forwarded %d, want %d and %d", s.Joined, s.Forwarded, 24*6, 24*2)
			}
		})
	}
}

func TestDFOfFragmentsIsKept(t *testing.T) {
	l := newLab(t, labConfig{rules: translateBoth})
	ip := sctpInit(1, 0, "10.0.0.5:9000", "198.51.100.7:36412", 1000)
	for _, f := range fragmentsOf(ip, 400) {
		f[6] |= 0x40
		f[10], f[11] = 0, 0
		binary.BigEndian.PutUint16(f[10:], ^sum(0, f[:20]))
		l.send("lan", f)
	}
	if g := l.wantSCTP("wan", "203.0.113.1:40000", "198.51.100.7:36412", ip, 420); g.df != 3 {
		t.Errorf("%d fragments with DF, want 3", g.df)
	}
	l.wantDrops()
}

func TestWholePacketObeysTheEgressMTU(t *testing.T) {
	t.Run("IPv4 is split smaller", func(t *testing.T) {
		l := newLab(t, labConfig{rules: translateBoth, ports: small(true)})
		ip := sctpInit(1, 0, "10.0.0.5:9000", "198.51.100.7:36412", 4000)
		for _, f := range fragmentsOf(ip, 1480) {
			l.send("lan", f)
		}
		l.wantSCTP("wan", "203.0.113.1:40000", "198.51.100.7:36412", ip, 1400)
		l.wantDrops()
	})
	t.Run("IPv6 is told", func(t *testing.T) {
		l := newLab(t, labConfig{rules: translateBoth, ports: small(true)})
		for _, f := range piecesOf(sctpInit(1, 0, "[2001:db8:1::5]:9000", "[2001:db8:77::7]:36412", 4000), 1448) {
			l.send("lan", f)
		}
		if m := ipOf(l.take("lan"), packet.LinkEthernet); m[40] != 2 || binary.BigEndian.Uint32(m[44:]) != 1400 {
			t.Errorf("ICMPv6 type %d says MTU %d, want packet too big and 1400", m[40], binary.BigEndian.Uint32(m[44:]))
		}
		l.wantDrops(TooBigForEgress)
		l.wantFlows()
	})
}

func TestWholePacketWaitsForItsNeighbour(t *testing.T) {
	for _, f := range sctpFamilies {
		l := newLab(t, labConfig{rules: translateBoth, cold: true})
		ip := sctpInit(1, 0, f.in, f.peer, 3000)
		pieces := piecesOf(ip, 800)
		for _, p := range pieces {
			l.send("lan", p)
		}
		if n := l.e.Stats().Waiting; n != 1 {
			t.Fatalf("%s: %d packets wait, want 1", f.name, n)
		}
		l.resolve(wanID, "203.0.113.254")
		l.resolve(wanID, "2001:db8:2::fe")
		l.step()
		l.wantSCTP("wan", f.out, f.peer, ip, len(pieces[0]))
		l.wantDrops()
	}
}

func TestWholePacketComesInItsTurn(t *testing.T) {
	l := newLab(t, labConfig{rules: translateBoth})
	ip := sctpInit(1, 0, "10.0.0.5:9000", "198.51.100.7:36412", 1000)
	l.inject("lan", frameOf(l.frame("lan", udp("10.0.0.5:1", "198.51.100.7:53"))))
	for _, f := range fragmentsOf(ip, 600) {
		l.inject("lan", frameOf(l.frame("lan", f)))
	}
	l.inject("lan", frameOf(l.frame("lan", udp("10.0.0.5:1", "198.51.100.7:53"))))
	l.step()
	var kinds []byte
	for _, f := range l.ports["wan"].TakeFrames() {
		kinds = append(kinds, ipOf(f, packet.LinkEthernet)[9])
	}
	if want := []byte{tuple.UDP, tuple.SCTP, tuple.SCTP, tuple.UDP}; !bytes.Equal(kinds, want) {
		t.Errorf("left in the order %v, want %v", kinds, want)
	}
	l.wantDrops()
}

func TestBrokenWholePacketsAreDropped(t *testing.T) {
	good := sctpInit(1, 0, "10.0.0.5:9000", "198.51.100.7:36412", 1000)
	bad := slices.Clone(good)
	bad[len(bad)-1] ^= 1
	tests := []struct {
		name   string
		pieces [][]byte
		want   []Reason
	}{
		{"damaged", fragmentsOf(bad, 400), []Reason{BadChecksum}},
		{"overlapping", [][]byte{fragmentsOf(good, 400)[0], fragmentsOf(good, 392)[1], fragmentsOf(good, 400)[2]},
			[]Reason{FragmentOverlap, FragmentOverlap, FragmentOverlap}},
		{"without an end", fragmentsOf(good, 400)[:2], []Reason{FragmentTimeout, FragmentTimeout}},
		{"without a beginning", fragmentsOf(good, 400)[1:], []Reason{FragmentTimeout, FragmentTimeout}},
		{"without its header", fragmentsOf(good, 8)[:1], []Reason{FragmentTiny}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, labConfig{})
			for _, f := range tt.pieces {
				l.send("lan", f)
			}
			l.now += int64(31 * time.Second)
			l.e.expireFragments()
			l.want("wan")
			l.wantDrops(tt.want...)
			if n := l.e.Stats().Waiting; n != 0 {
				t.Errorf("%d fragments wait, want none", n)
			}
			l.wantFlows()
		})
	}
}

func TestHelperSeesWholePackets(t *testing.T) {
	for _, zone := range []uint16{0, 7} {
		t.Run(fmt.Sprintf("zone %d", zone), func(t *testing.T) { testHelper(t, zone) })
	}
}

func testHelper(t *testing.T, zone uint16) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Pre] = []rules.RuleSpec{{Then: rules.ActZone, Zone: zone}}
	}})
	l.send("lan", udp("10.0.0.5:5060", "198.51.100.7:5060"))
	l.take("wan")
	pieces := fragmentsOf(udp("10.0.0.5:5060", "198.51.100.7:5060", length(2000)), 1000)
	l.send("lan", pieces[0])
	l.take("wan") // no helper: at once
	for _, f := range pieces[1:] {
		l.send("lan", f)
		l.take("wan")
	}
	ref := l.w.ct.Find(&tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr("198.51.100.7"), SrcPort: 5060, DstPort: 5060, Proto: tuple.UDP, Family: tuple.IPv4, Zone: zone})
	if !ref.Found() {
		t.Fatal("no flow")
	}
	l.table.Entry(ref.Slot).SetStatus(conntrack.Helper)
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}} {
		for _, i := range order {
			l.want("wan")
			l.send("lan", pieces[i])
		}
		g := l.gather("wan")
		if !g.whole || g.longest > 1020 || g.src.String() != "203.0.113.1:5060" || !bytes.Equal(g.body[8:], pattern(2000)) {
			t.Errorf("order %v: whole %v, longest %d, from %v", order, g.whole, g.longest, g.src)
		}
	}
	l.wantDrops()
}

func TestUntrackedSCTPIsNotPutTogether(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		s.Lists[rules.Pre] = []rules.RuleSpec{{Then: rules.ActNoTrack}}
	}})
	pieces := fragmentsOf(sctpInit(1, 0, "10.0.0.5:9000", "203.0.113.7:36412", 1000), 600)
	for _, f := range pieces {
		l.send("lan", f)
		l.take("wan")
	}
	l.wantDrops()
}

func TestFloodOfUnfinishedSCTPLeavesRoomForOthers(t *testing.T) {
	l := newLab(t, labConfig{rules: translateBoth, engine: func(c *Config) {
		c.Fragments = frag.Config{Datagrams: 64, DatagramsPerSource: 16, Bytes: 64 << 11, BytesPerSource: 8 << 11}
	}})
	attack := fragmentsOf(sctpInit(1, 0, "10.0.0.6:1", "198.51.100.7:1", 1000), 400)
	ip := sctpInit(1, 0, "10.0.0.5:9000", "198.51.100.7:36412", 1000)
	victim := fragmentsOf(ip, 400)
	for round := range uint16(50) {
		for i := range uint16(20) {
			f := attack[i%2]
			binary.BigEndian.PutUint16(f[4:], round*20+i)
			f[10], f[11] = 0, 0
			binary.BigEndian.PutUint16(f[10:], ^sum(0, f[:20]))
			l.send("lan", f)
		}
		l.send("lan", victim[round%3])
		if u := l.e.frags.Usage(); u.Bytes > 64<<11 || u.Datagrams > 64 {
			t.Fatalf("%+v is beyond the bounds", u)
		}
		if round%3 == 2 {
			l.wantSCTP("wan", "203.0.113.1:40000", "198.51.100.7:36412", ip, 420)
		}
	}
	l.e.expireFragments()
	l.send("lan", victim[2]) // rounds 48 and 49 brought the others
	l.wantSCTP("wan", "203.0.113.1:40000", "198.51.100.7:36412", ip, 420)
	if d := l.e.Stats().Dropped; d[FragmentLimit] == 0 || d[FragmentLimit] != sumOf(d[:]) {
		t.Errorf("drops %v, want only %v", d, FragmentLimit)
	}
}

func sumOf(v []uint64) (n uint64) {
	for _, x := range v {
		n += x
	}
	return n
}

func TestKernelGetsWholePacketsInPieces(t *testing.T) {
	l := boxLab(t)
	ip := sctpInit(1, 0, "10.0.0.5:9000", "10.0.0.1:36412", 4000)
	for _, f := range fragmentsOf(ip, 1480) {
		l.send("lan", f)
	}
	l.wantSCTP("lan-box", "10.0.0.5:9000", "10.0.0.1:36412", ip, 1500) // as the MTU of the TAP asks
	answer := sctpInit(2, 7, "10.0.0.1:36412", "10.0.0.5:9000", 4000)
	for _, f := range fragmentsOf(answer, 1480) {
		l.injectAsKernel("lan-box", l.boxFrame("lan", macOf(addr("10.0.0.5")), f))
	}
	l.wantSCTP("lan", "10.0.0.1:36412", "10.0.0.5:9000", answer, 1500)
	l.wantDrops()
}

func TestOwnStackGetsPacketsWhole(t *testing.T) {
	l := newLab(t, labConfig{})
	ip := sctpInit(1, 0, "[2001:db8:1::5]:9000", "[2001:db8:1::1]:36412", 4000)
	for _, f := range piecesOf(ip, 1400) {
		l.send("lan", f)
	}
	if got := l.take("host").Data; len(got) != len(ip)+8 || got[6] != 44 || !bytes.Equal(got[48:], ip[40:]) {
		t.Errorf("got %d bytes, want the %d of the packet and a fragment header", len(got), len(ip))
	}
	l.wantDrops()
}
