package dataplane

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
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
	live       [][2]uint16 // protocol and port of flows that live
	sent, came int         // packets of these
	known, new shakes      // connections of hosts that have flows that live, and of others
	next       uint16      // port of the next one
}

// shakes counts new connections.
type shakes struct{ tried, served int }

const (
	bystanderPort = 7777 // of all that bystanders talk to
	floodMax      = 1 << 12
)

// bystanderAt returns whose connection has a port, and whether that is a host with flows that
// live. Half of those are of four hosts, the others of one with IPv6; of new ones, one in four
// is of each of these, and two of a hundred other hosts.
func bystanderAt(port uint16) (a tuple.Addr, known bool) {
	switch {
	case port < 20000 && port >= 1010, port >= 20000 && port%4 == 3:
		return addr("2001:db8:1::6"), true
	case port < 20000:
		return tuple.AddrFrom4([4]byte{10, 0, 0, byte(6 + port/2%4)}), true
	case port%4 == 0:
		return tuple.AddrFrom4([4]byte{10, 0, 0, byte(6 + port/4%4)}), true
	}
	return tuple.AddrFrom4([4]byte{10, 0, 0, byte(100 + port%100)}), false
}

// bystanderPeer returns whom a bystander talks to, and who the gateway is there.
func bystanderPeer(a tuple.Addr) (peer, own tuple.Addr) {
	if a.Is4() {
		return addr("198.51.100.7"), addr("203.0.113.1")
	}
	return addr("2001:db8:77::7"), a
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
	for i := range byte(250) { // they answer as soon as they are asked for
		a := tuple.AddrFrom4([4]byte{10, 0, 0, 5 + i})
		l.host.answers[a.Netip().String()] = macOf(a)
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
	src, _ := bystanderAt(port)
	dst, own := bystanderPeer(src)
	if !in {
		h, src, dst = ports16(bystanderPort, port), dst, own
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
			y, ok := layoutOf(ip)
			if name != to || !ok || y.end < y.l4+8 || y.proto != tuple.TCP && y.proto != tuple.UDP {
				continue
			}
			mine, peer := binary.BigEndian.Uint16(ip[y.l4:]), binary.BigEndian.Uint16(ip[y.l4+2:])
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
		c := &b.new
		if _, known := bystanderAt(b.next); known {
			c = &b.known
		}
		c.tried++
		if b.shake(b.next, func() { flood(10) }) {
			c.served++
		}
		b.next = max(20000, (b.next+1)%60000)
		flood(10)
	}
	b.balance()
}

// strangers are floods: where each comes in, and its i-th packet.
func strangers(b *bystanders) []struct {
	name, from string
	many       bool // whether it has more sources than the table can tell apart
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
	random6 := func(base string, from int) tuple.Addr {
		a := addr(base)
		for ; from < len(a); from++ {
			a[from] = byte(r.Uint32())
		}
		return a
	}
	inside6 := func() tuple.Addr { return random6("2001:db8:9::", 8) }
	outside6 := func() tuple.Addr { return random6("2001:db8:f::", 5) }
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
		{"SYN, inside, IPv6, of one network", "guest", false, func(int) []byte { return syn(inside6(), outside6(), any16(), any16()) }},
		{"UDP, inside, IPv6, of one network", "guest", false, func(int) []byte { return datagram(inside6(), outside6(), any16(), any16(), "") }},
		{"UDP, inside, IPv6, a network each packet", "guest", true, func(int) []byte {
			return datagram(random6("2001:db8:a::", 5), outside6(), any16(), any16(), "")
		}},
		{"IPv6, inside, neighbours at random on the outside link", "guest", false, func(int) []byte {
			return datagram(inside6(), random6("2001:db8:2::", 8), any16(), any16(), "")
		}},
		{"IPv6, outside, hosts at random of the inside", "wan", false, func(int) []byte {
			return datagram(outside6(), random6("2001:db8:1::", 8), any16(), any16(), "")
		}},
		{"fragments of IPv6 whose others never come", "guest", false, func(i int) []byte {
			ip := datagram(inside6(), outside6(), any16(), any16(), string(pattern(64)))
			at := []byte{0, 1, 0, 0x49, 0, 0x48}[i%3*2:]
			h := binary.BigEndian.AppendUint32([]byte{tuple.UDP, 0, at[0], at[1]}, r.Uint32())
			ip[6] = 44
			return seal(slices.Insert(ip, 40, h...))
		}},
		{"SYN, inside", "guest", false, func(int) []byte { return syn(inside(), outside(), any16(), any16()) }},
		{"UDP, inside", "guest", false, func(int) []byte { return datagram(inside(), outside(), any16(), any16(), "") }},
		{"ICMP, inside", "guest", false, func(int) []byte {
			return packetOf(inside(), outside(), tuple.ICMP, 64, 0, []byte{8, 0, 0, 0, byte(r.Uint32()), byte(r.Uint32()), 0, 1})
		}},
		{"SYN, outside, at a forwarded port", "wan", true, func(int) []byte { return syn(outside(), own, any16(), 443) }},
		{"UDP, outside, at ports at random", "wan", false, func(int) []byte { return datagram(outside(), own, any16(), any16(), "") }},
		{"ICMP, outside", "wan", false, func(int) []byte {
			return packetOf(outside(), own, tuple.ICMP, 64, 0, []byte{8, 0, 0, 0, byte(r.Uint32()), byte(r.Uint32()), 0, 1})
		}},
		{"fragments whose others never come", "guest", false, func(i int) []byte {
			ip := datagram(inside(), outside(), any16(), any16(), string(pattern(64)))
			binary.BigEndian.PutUint16(ip[6:], []uint16{0x2000, 0x2009, 9}[i%3])
			ip[10], ip[11] = 0, 0
			binary.BigEndian.PutUint16(ip[10:], ^sum(0, ip[:20]))
			return ip
		}},
		{"announcements of one client", "guest", false, func(i int) []byte {
			return datagram(addr("10.9.0.5"), addr("198.51.100.7"), uint16(20000+i%50), 5060, invite("10.9.0.5", i, 10000+2*(i%20000)))
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
// Profile rfc has one exception, as it ends no live flow (RFC 6888 REQ-11): when more
// sources than can be told apart have taken what anybody may have, hosts without a flow
// that was answered are refused, until those are over.
func TestOthersKeepWhatTheyHaveInAFlood(t *testing.T) {
	n := 50_000
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
				if k := b.known; k.served*100 < k.tried*95 {
					t.Errorf("%d of %d new connections of hosts that have others were served; dropped %v", k.served, k.tried, reasonsOf(&s))
				}
				if b.came != b.sent {
					t.Errorf("%d of %d packets of flows that live arrived; dropped %v", b.came, b.sent, reasonsOf(&s))
				}
				if !filled && b.new.served*100 < b.new.tried*95 {
					t.Errorf("%d of %d new connections of other hosts were served; dropped %v", b.new.served, b.new.tried, reasonsOf(&s))
				}
				if filled {
					b.advance(10 * time.Minute)
					for _, p := range b.ports {
						p.TakeFrames()
					}
				}
				var after shakes
				for ; after.tried < 20; after.tried++ {
					if b.shake(60001+uint16(after.tried), func() {}) {
						after.served++
					}
				}
				if after.served < after.tried-1 { // one may be of those that meet where the table is full
					s := b.e.Stats()
					t.Errorf("%d of %d new connections after the flood were served; dropped %v", after.served, after.tried, reasonsOf(&s))
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
