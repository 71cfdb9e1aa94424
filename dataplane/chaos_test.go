package dataplane

import (
	"math/rand/v2"
	"testing"
	"time"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// everything is a ruleset that takes every path through the engine.
func everything(s *rules.Spec) {
	portForward(s)
	s.Lists[rules.Pre] = []rules.RuleSpec{
		{If: rules.Conditions{TTL: oneOf(rules.ByteRange{First: 60, Last: 62})}, Then: rules.ActNoTrack},
		{If: rules.Conditions{TTL: oneOf(rules.ByteRange{First: 63, Last: 63})}, Then: rules.ActZone, Zone: 3},
	}
	s.Lists[rules.Filter] = []rules.RuleSpec{
		{If: rules.Conditions{TTL: oneOf(rules.ByteRange{First: 2, Last: 4})}, Then: rules.ActReject},
		{If: rules.Conditions{State: oneOf(rules.Untracked)}, Then: rules.ActAccept},
	}
}

// TestAnyBytesAreAccountedFor throws packets at the engine that are nearly
// right, in any order, on any port, with neighbours that come, go and never were.
// Nothing may panic, nothing may be lost from the accounts or leave with a sum
// that was not wrong before.
func TestAnyBytesAreAccountedFor(t *testing.T) {
	t.Run("mapping of netfilter", func(t *testing.T) { anyBytes(t, everything) })
	t.Run("endpoint-independent mapping, ports kept", func(t *testing.T) {
		anyBytes(t, func(s *rules.Spec) {
			everything(s)
			for i := range s.Lists[rules.Snat] {
				src := &s.Lists[rules.Snat][i].Src
				src.Mapping, src.Filtering, src.HoldDown, src.PortsPerClient = nat.EndpointIndependent, nat.AddressDependent, time.Second, 3
			}
		})
	})
	t.Run("mapping by address and port, in blocks", func(t *testing.T) {
		anyBytes(t, func(s *rules.Spec) {
			everything(s)
			for i := range s.Lists[rules.Snat] {
				src := &s.Lists[rules.Snat][i].Src
				src.Mapping, src.Filtering, src.BlockSize, src.MaxBlocks = nat.AddressAndPortDependent, nat.EndpointIndependent, 64, 2
			}
		})
	})
}

func anyBytes(t *testing.T, edit func(*rules.Spec)) {
	const packets = 30000
	l := newLab(t, labConfig{rules: edit, ports: func(st *State, o map[string]mem.Options) {
		vlans(st, o)
		o["lan"], o["wan"] = mem.Options{GSO: port.WithGSO}, mem.Options{MTU: 1300}
		o["guest"] = mem.Options{Link: packet.LinkIP, GSO: port.WithGSO}
	}, more: func(st *State, make portMaker) {
		st.Ports[0].Box = make("box", mem.Options{GSO: port.WithGSO})
	}, engine: func(c *Config) { c.Pending = 16 }})
	r := rand.New(rand.NewPCG(3, 4))
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	names := []string{"lan", "lan", "wan", "wan", "guest", "host", "box"}
	inside, outside := []string{"10.0.0.5", "10.0.0.6", "10.9.0.5", "10.7.0.5", "203.0.113.1", "10.0.0.1"}, []string{"198.51.100.7", "203.0.113.99", "10.0.0.99", "203.0.113.1", "10.9.0.5", "10.0.0.255"}
	ports := []string{":40000", ":443", ":53", ":8443", ":5353"}
	build := func() []byte {
		a, b := pick(inside...), pick(outside...)
		if r.IntN(2) == 0 {
			a, b = b, a
		}
		opts := []opt{length([]int{0, 1, 100, 1272, 1280, 1500}[r.IntN(6)]), ttl([]uint8{1, 3, 61, 63, 64}[r.IntN(5)]), flags(uint8(r.IntN(64))), seq(r.Uint32N(3), r.Uint32N(3)), ipID(uint16(r.IntN(4)))}
		if r.IntN(2) == 0 {
			opts = append(opts, dontFragment())
		}
		switch r.IntN(5) {
		case 0:
			return tcp(a+pick(ports...), b+pick(ports...), opts...)
		case 1:
			return ping(a, b, uint16(r.IntN(2)), opts...)
		case 2:
			about := udp(b+pick(ports...), a+pick(ports...))
			return icmpErrorAbout(a, b, uint8(3+8*r.IntN(2)), uint8(r.IntN(5)), 1200, about[:len(about)-r.IntN(8)])
		}
		return udp(a+pick(ports...), b+pick(ports...), opts...)
	}
	for i := range packets {
		name := names[r.IntN(len(names))]
		f := mem.Frame{Data: l.frame(name, build())}
		switch r.IntN(8) {
		case 0: // damage
			for range 1 + r.IntN(3) {
				f.Data[r.IntN(len(f.Data))] ^= 1 << r.IntN(8)
			}
		case 1: // cut
			f.Data = f.Data[:r.IntN(len(f.Data)+1)]
		case 2:
			f.HasVLAN, f.VLAN = true, uint16(6+r.IntN(3))
		case 3:
			f.Offload = packet.Offload{Flags: uint8(r.IntN(4)), GSOType: []uint8{0, 1, 4, 5, 3, 0x81}[r.IntN(6)], HdrLen: uint16(r.IntN(80)),
				GSOSize: uint16(r.IntN(1500)), CsumStart: uint16(20 + r.IntN(60)), CsumOffset: uint16(r.IntN(20))}
		case 4: // right but for the sum, which is partial
			if ip := ipOf(f, l.ports[name].Info().Link); len(ip) > 28 && ip[0] == 0x45 && (ip[9] == 6 || ip[9] == 17) && ip[6]&0x3f == 0 && ip[7] == 0 {
				o := packet.Offload{CsumOffset: map[uint8]uint16{6: 16, 17: 6}[ip[9]]}
				f = partial(l, name, ip, o)
			}
		case 5:
			if ip := ipOf(f, l.ports[name].Info().Link); len(ip) > 400 && ip[6]&0x40 == 0 {
				parts := fragmentsOf(ip, 8*(1+r.IntN(100)))
				f.Data = l.frame(name, parts[r.IntN(len(parts))])
			}
		}
		if st := l.ports[name].InjectFrame(f); st != port.Sent {
			t.Fatal(st)
		}
		if r.IntN(3) == 0 {
			l.now += r.Int64N(int64(300 * time.Millisecond))
			l.step()
			l.balance()
		}
		switch r.IntN(200) {
		case 0:
			l.e.NeighbourFailed(wanID, addr(pick(outside...)))
			l.e.NeighbourFailed(lanID, addr(pick(inside...)))
		case 1:
			l.resolve(wanID, pick("203.0.113.99", "203.0.113.254"))
			l.resolve(lanID, pick("10.0.0.5", "10.0.0.6", "10.0.0.99"))
			l.resolve(extraID, "10.7.0.5")
		case 2:
			l.reload([]func(*rules.Spec){edit, nil, zoneOfLAN}[r.IntN(3)])
		case 3:
			l.table.Flush()
		case 4:
			l.e.expireFragments()
		}
		if i%500 == 0 {
			for _, p := range l.ports {
				p.TakeFrames()
			}
		}
		if t.Failed() {
			t.Fatalf("packet %d", i)
		}
	}
	l.advance(70 * time.Second)
	l.e.expireFragments()
	l.step()
	if n := l.e.Stats().Waiting; n != 0 {
		t.Errorf("%d packets still wait", n)
	}
	for _, p := range l.ports {
		p.TakeFrames()
	}
	s := l.e.Stats()
	if s.Forwarded < packets/20 || s.Delivered < packets/100 || s.Held == 0 || s.Originated == 0 {
		t.Errorf("the mixture is too hostile: forwarded %d, delivered %d, held %d, originated %d of %d: %v", s.Forwarded, s.Delivered, s.Held, s.Originated, packets, s.Dropped)
	}
}
