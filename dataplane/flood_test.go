package dataplane

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/alg/sip"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port/mem"
)

// bystanders are hosts behind lan with flows that live, and such as begin all the time, while
// somebody floods. Their servers answer at once.
type bystanders struct {
	*lab
	live          [][2]uint16 // protocol and port of flows that live
	sent, came    int         // packets of these
	tried, served int         // new connections
	next          uint16      // port of the next one
}

const (
	bystanderPort = 7777 // of all that bystanders talk to
	floodMax      = 1 << 12
)

var bystanderPeer = addr("198.51.100.7")

// bystanderAt returns whose connection has a port: flows that live are of one host, new ones
// of a hundred others.
func bystanderAt(port uint16) tuple.Addr {
	if port < 20000 {
		return addr("10.0.0.6")
	}
	return tuple.AddrFrom4([4]byte{10, 0, 0, byte(100 + port%100)})
}

// floodLab is a lab with a small table and the helper of SIP.
func floodLab(t *testing.T, profile conntrack.Profile) *bystanders {
	t.Helper()
	set, number := helperAt(t, 5060, sip.Helper{}, alg.Options{})
	l := newLab(t, labConfig{rules: portForward,
		ports:  func(_ *State, o map[string]mem.Options) { o["guest"] = mem.Options{Link: packet.LinkIP} },
		table:  func(c *conntrack.Config) { c.Max, c.Profile, c.HelperName = floodMax, profile, set.Name },
		engine: func(c *Config) { c.Helpers, c.Helper, c.ICMPRate = set, number, 100 }})
	b := &bystanders{lab: l, next: 20000}
	for i := range uint16(100) {
		l.resolve(lanID, bystanderAt(20000+i).Netip().String())
	}
	for i := range uint16(20) {
		proto := tuple.UDP
		if i%2 == 0 {
			proto = tuple.TCP
			b.shake(1000+i, func() {})
		}
		b.live = append(b.live, [2]uint16{uint16(proto), 1000 + i})
	}
	for range 4 { // what is new is no stream yet
		for _, live := range b.live {
			b.say(uint8(live[0]), live[1])
		}
		b.now += int64(time.Second)
	}
	if b.came != b.sent || b.sent != 160 {
		t.Fatalf("%d of %d packets arrive before there is a flood", b.came, b.sent)
	}
	return b
}

// segment is a packet of a bystander to its server, or of that to the gateway.
func segment(proto uint8, in bool, port uint16, flags uint8, seq, ack uint32) []byte {
	h := ports16(port, bystanderPort)
	src, dst := bystanderAt(port), bystanderPeer
	if !in {
		h, src, dst = ports16(bystanderPort, port), bystanderPeer, addr("203.0.113.1")
	}
	if proto == tuple.TCP {
		h = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(h, seq), ack)
		return packetOf(src, dst, proto, 64, 0, append(h, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0))
	}
	return packetOf(src, dst, proto, 64, 0, append(h, 0, 0, 0, 0, 'h', 'i'))
}

// pass has a packet of a bystander arrive, with what of the flood came before, and reports
// whether it leaves on the other side.
func (b *bystanders) pass(in bool, port uint16, ip []byte) bool {
	from, to := "wan", "lan"
	if in {
		from, to = to, from
	}
	b.inject(from, mem.Frame{Data: b.frame(from, ip)})
	b.step()
	left := false
	for _, name := range []string{"lan", "wan", "guest", "host"} {
		for _, f := range b.ports[name].TakeFrames() {
			ip := ipOf(f, b.ports[name].Info().Link)
			if name != to || ip[0] != 0x45 || len(ip) < 28 || ip[9] == tuple.ICMP {
				continue
			}
			mine, peer := binary.BigEndian.Uint16(ip[20:]), binary.BigEndian.Uint16(ip[22:])
			if !in {
				mine, peer = peer, mine
			}
			left = left || mine == port && peer == bystanderPort
		}
	}
	return left
}

// shake makes a connection, with a wait for the server's answer, and reports whether every
// packet of it arrived.
func (b *bystanders) shake(port uint16, wait func()) bool {
	if !b.pass(true, port, segment(tuple.TCP, true, port, packet.SYN, 99, 0)) {
		return false
	}
	wait()
	return b.pass(false, port, segment(tuple.TCP, false, port, packet.SYN|packet.ACK, 499, 100)) &&
		b.pass(true, port, segment(tuple.TCP, true, port, packet.ACK, 100, 500))
}

// say sends a packet of a flow that lives, and has it answered.
func (b *bystanders) say(proto uint8, port uint16) {
	for _, in := range []bool{true, false} {
		seq, ack := uint32(100), uint32(500)
		if !in {
			seq, ack = ack, seq
		}
		b.sent++
		if b.pass(in, port, segment(proto, in, port, packet.ACK, seq, ack)) {
			b.came++
		}
	}
}

// endure lets a flood of n packets come in, forty each millisecond, and the bystanders go
// on: one flow after the other, and a new connection every twenty milliseconds whose server
// is ten away.
func (b *bystanders) endure(from string, n int, next func(i int) []byte) {
	b.Helper()
	const each = 40
	i := 0
	flood := func(ms int) {
		for range ms {
			for range each {
				b.inject(from, mem.Frame{Data: b.frame(from, next(i))})
				i++
			}
			b.now += int64(time.Millisecond)
			live := b.live[i/each%len(b.live)]
			b.say(uint8(live[0]), live[1])
			if n := b.table.Len(); n > floodMax {
				b.Fatalf("%d flows in a table of %d", n, floodMax)
			}
		}
	}
	for i < n {
		b.tried++
		if b.shake(b.next, func() { flood(10) }) {
			b.served++
		}
		b.next = max(20000, (b.next+1)%60000)
		flood(10)
	}
	b.balance()
}

// strangers are floods: where each comes in, and its i-th packet.
func strangers(b *bystanders) []struct {
	name, from string
	many       bool // whether it has more sources than the table can tell apart from hosts that come
	next       func(i int) []byte
} {
	r := rand.New(rand.NewPCG(8, 8))
	own := addr("203.0.113.1")
	inside := func() tuple.Addr {
		return tuple.AddrFrom4([4]byte{10, 9, 0, byte(5 + r.IntN(200))}) // on the link of guest
	}
	outside := func() tuple.Addr {
		return tuple.AddrFrom4([4]byte{198, 18, byte(r.Uint32()), byte(r.Uint32())})
	}
	any16 := func() uint16 { return uint16(8192 + r.IntN(50000)) }
	syn := func(src, dst tuple.Addr, sport, dport uint16) []byte {
		h := binary.BigEndian.AppendUint32(ports16(sport, dport), r.Uint32())
		return packetOf(src, dst, tuple.TCP, 64, 0, append(h, 0, 0, 0, 0, 0x50, packet.SYN, 0xff, 0xff, 0, 0, 0, 0))
	}
	datagram := func(src, dst tuple.Addr, sport, dport uint16, payload string) []byte {
		return packetOf(src, dst, tuple.UDP, 64, uint16(r.Uint32()), append(append(ports16(sport, dport), 0, 0, 0, 0), payload...))
	}
	return []struct {
		name, from string
		many       bool
		next       func(i int) []byte
	}{
		{"SYN, inside", "guest", true, func(int) []byte { return syn(inside(), outside(), any16(), any16()) }},
		{"UDP, inside", "guest", true, func(int) []byte { return datagram(inside(), outside(), any16(), any16(), "") }},
		{"ICMP, inside", "guest", true, func(int) []byte {
			return packetOf(inside(), outside(), tuple.ICMP, 64, 0, []byte{8, 0, 0, 0, byte(r.Uint32()), byte(r.Uint32()), 0, 1})
		}},
		{"SYN, outside, at a forwarded port", "wan", true, func(int) []byte { return syn(outside(), own, any16(), 443) }},
		{"UDP, outside, at ports at random", "wan", false, func(int) []byte { return datagram(outside(), own, any16(), any16(), "") }},
		{"ICMP, outside", "wan", false, func(int) []byte {
			return packetOf(outside(), own, tuple.ICMP, 64, 0, []byte{8, 0, 0, 0, byte(r.Uint32()), byte(r.Uint32()), 0, 1})
		}},
		{"fragments whose others never come", "guest", true, func(i int) []byte {
			ip := datagram(inside(), outside(), any16(), any16(), string(pattern(64)))
			binary.BigEndian.PutUint16(ip[6:], []uint16{0x2000, 0x2009, 9}[i%3])
			ip[10], ip[11] = 0, 0
			binary.BigEndian.PutUint16(ip[10:], ^sum(0, ip[:20]))
			return ip
		}},
		{"announcements of one client", "guest", false, func(i int) []byte {
			return datagram(addr("10.9.0.5"), bystanderPeer, uint16(20000+i%50), 5060, invite("10.9.0.5", i, 10000+2*(i%20000)))
		}},
		{"answers that nobody asked for", "wan", false, func(int) []byte {
			h := binary.BigEndian.AppendUint32(ports16(any16(), any16()), r.Uint32())
			return packetOf(outside(), own, tuple.TCP, 64, 0, append(h, 0, 0, 0, 1, 0x50, packet.SYN|packet.ACK, 0xff, 0xff, 0, 0, 0, 0))
		}},
		{"one client, a new flow each packet", "guest", false, func(i int) []byte {
			return datagram(addr("10.9.0.5"), tuple.AddrFrom4([4]byte{198, 18, 0, byte(i / 50000)}), uint16(10000+i%50000), 9, "")
		}},
		{"tuples that meet in one place of the table, by one who knows its key", "guest", false, func(int) []byte {
			for {
				k := tuple.Tuple{Src: inside(), Dst: outside(), SrcPort: any16(), DstPort: any16(), Proto: tuple.UDP, Family: tuple.IPv4}
				if b.table.Home(&k) < 8 {
					return datagram(k.Src, k.Dst, k.SrcPort, k.DstPort, "")
				}
			}
		}},
	}
}

// TestOthersKeepWhatTheyHaveInAFlood: whatever somebody floods the gateway with, packets of
// flows that live arrive, others connect, the table keeps to its bound, and as soon as the
// flood is over whoever comes is served.
//
// Profile rfc has one exception, as it ends no live flow (RFC 6888 REQ-11): when very many
// sources have filled the table, who comes then is refused, until their flows are over.
func TestOthersKeepWhatTheyHaveInAFlood(t *testing.T) {
	n := 100_000
	if testing.Short() {
		n = 10_000
	}
	for _, profile := range []conntrack.Profile{conntrack.Linux, conntrack.RFC} {
		for i, f := range strangers(nil) {
			t.Run(map[conntrack.Profile]string{conntrack.Linux: "linux, ", conntrack.RFC: "rfc, "}[profile]+f.name, func(t *testing.T) {
				b := floodLab(t, profile)
				b.endure(f.from, n, strangers(b)[i].next)
				s := b.e.Stats()
				filled := profile == conntrack.RFC && f.many && s.Dropped[TableFull]+s.Dropped[ClientFull] > 0
				if b.came != b.sent {
					t.Errorf("%d of %d packets of flows that live arrived; dropped %v", b.came, b.sent, reasonsOf(&s))
				}
				if !filled && b.served*100 < b.tried*95 {
					t.Errorf("%d of %d new connections were served; dropped %v", b.served, b.tried, reasonsOf(&s))
				}
				if filled {
					b.advance(10 * time.Minute)
					for _, p := range b.ports {
						p.TakeFrames()
					}
				}
				for port := range uint16(20) {
					if !b.shake(60001+port, func() {}) {
						s := b.e.Stats()
						t.Fatalf("connection %d after the flood is not served; dropped %v", port, reasonsOf(&s))
					}
				}
			})
		}
	}
}

func reasonsOf(s *Stats) map[string]uint64 {
	m := map[string]uint64{}
	for r, n := range s.Dropped {
		if n > 0 {
			m[Reason(r).String()] = n
		}
	}
	return m
}
