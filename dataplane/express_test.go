package dataplane

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port/mem"
)

// conversation makes packets of some flows of TCP and UDP, of which most belong to what
// was said before.
type conversation struct {
	r     *rand.Rand
	flows [12]struct {
		up       bool
		seq, ack uint32 // next of the host inside, and of the one outside
	}
}

// next returns a packet and the port where it comes in.
func (c *conversation) next() (at string, ip []byte) {
	n := c.r.IntN(len(c.flows))
	f := &c.flows[n]
	in, out, ext := fmt.Sprintf("10.0.0.5:%d", 4000+n), "198.51.100.7:80", fmt.Sprintf("203.0.113.1:%d", 4000+n)
	size := []int{0, 1, 100, 1400, 1460, 1500}[c.r.IntN(6)]
	opts := []opt{length(size), ttl([]uint8{64, 64, 64, 64, 2, 1, 0}[c.r.IntN(7)])}
	if c.r.IntN(3) == 0 {
		opts = append(opts, dontFragment())
	}
	reply := c.r.IntN(2) == 0
	if n%2 == 0 {
		if reply {
			return "wan", udp(out, ext, opts...)
		}
		return "lan", udp(in, out, opts...)
	}
	switch {
	case !f.up && !reply:
		f.seq = c.r.Uint32()
		return "lan", tcp(in, out, flags(packet.SYN), seq(f.seq, 0))
	case !f.up:
		f.up, f.ack = true, c.r.Uint32()
		f.seq, f.ack = f.seq+1, f.ack+1
		return "wan", tcp(out, ext, flags(packet.SYN|packet.ACK), seq(f.ack-1, f.seq))
	}
	bits := []uint8{packet.ACK, packet.ACK, packet.ACK | packet.PSH, packet.ACK, packet.ACK | packet.URG, packet.FIN | packet.ACK, packet.RST}
	flag := bits[c.r.IntN(len(bits))]
	if flag&(packet.FIN|packet.RST) != 0 && c.r.IntN(10) != 0 {
		flag = packet.ACK
	}
	off := uint32(0)
	if c.r.IntN(10) == 0 {
		off = c.r.Uint32N(200_000) - 100_000
	}
	f.up = flag&packet.RST == 0
	if reply {
		f.ack += uint32(size)
		return "wan", tcp(out, ext, append(opts, flags(flag), seq(f.ack-uint32(size)+off, f.seq))...)
	}
	f.seq += uint32(size)
	return "lan", tcp(in, out, append(opts, flags(flag), seq(f.seq-uint32(size)+off, f.ack))...)
}

// TestExpressIsTheSameWalk: whoever may take it goes, counts and leaves as without it.
func TestExpressIsTheSameWalk(t *testing.T) {
	express, plain := newLab(t, labConfig{rules: masquerade}), newLab(t, labConfig{rules: masquerade})
	if !express.e.view.Load().express {
		t.Fatal("masquerading alone keeps packets from the express walk")
	}
	plain.e.view.Load().express = false
	labs := []*lab{express, plain}
	talk := conversation{r: rand.New(rand.NewPCG(11, 11))}
	for n := range 6000 {
		at, ip := talk.next()
		var left [2][]mem.Frame
		for i, l := range labs {
			l.send(at, slices.Clone(ip))
			for _, name := range []string{"lan", "wan"} {
				left[i] = append(left[i], l.ports[name].TakeFrames()...)
			}
			if n%50 == 0 {
				l.advance(300 * time.Millisecond)
			}
		}
		if !reflect.DeepEqual(left[0], left[1]) {
			t.Fatalf("packet %d at %s left as\n\t%+v, want\n\t%+v", n, at, left[0], left[1])
		}
		if n%200 != 0 {
			continue
		}
		if got, want := express.e.Stats(), plain.e.Stats(); !reflect.DeepEqual(got, want) {
			t.Fatalf("after packet %d the counters are\n\t%+v, want\n\t%+v", n, got, want)
		}
		if got, want := everyFlow(express), everyFlow(plain); !slices.Equal(got, want) {
			t.Fatalf("after packet %d the flows are\n\t%q, want\n\t%q", n, got, want)
		}
	}
	if n := express.e.Stats().Forwarded; n < 2000 {
		t.Errorf("only %d packets were forwarded", n)
	}
}

// everyFlow returns the flows of a lab with all that is known of them.
func everyFlow(l *lab) (all []string) {
	l.table.Dump(func(f *conntrack.Flow) bool {
		c := *f
		clear(c.Hint[:]) // neighbours are known in any order
		all = append(all, fmt.Sprintf("%+v", c))
		return true
	})
	slices.Sort(all)
	return all
}

// TestBatchLeavesByTheExitOfEachPacket: what comes in together goes to hosts of a link and
// of a VLAN on it in turns, and a packet for neither walk is between them.
func TestBatchLeavesByTheExitOfEachPacket(t *testing.T) {
	l := newLab(t, labConfig{ports: vlans})
	l.resolve(extraID, "10.7.0.5")
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.inject("lan", mem.Frame{Data: l.frame("lan", udp("10.7.0.5:2", "198.51.100.7:53")), HasVLAN: true, VLAN: 7})
	l.step()
	l.ports["wan"].Take()
	for range 2 { // the second time all but one take the express walk
		var want []string
		for n := range 12 {
			to, left := "203.0.113.1:1", "udp 198.51.100.7:53 > 10.0.0.5:1 ttl 63 len 0"
			switch {
			case n == 5:
				to, left = "203.0.113.1:3", "" // nobody's
			case n%3 != 0:
				to, left = "203.0.113.1:2", "udp 198.51.100.7:53 > 10.7.0.5:2 ttl 63 len 0 vlan 7"
			}
			l.inject("wan", mem.Frame{Data: l.frame("wan", udp("198.51.100.7:53", to))})
			if left != "" {
				want = append(want, left)
			}
		}
		l.step()
		l.want("lan", want...)
	}
	if got, want := l.e.Stats().Forwarded, uint64(2+2*11); got != want {
		t.Errorf("forwarded %d packets, want %d", got, want)
	}
}

// TestWhatIsForTheGatewayLeavesByNoExit: a datagram of a flow to the gateway's own stack
// is delivered, whatever has taken the express walk before.
func TestWhatIsForTheGatewayLeavesByNoExit(t *testing.T) {
	l := newLab(t, labConfig{rules: masquerade})
	l.host.services[53] = true
	for range 2 {
		l.send("lan", udp("10.0.0.6:9", "10.0.0.1:53"))
		l.ports["host"].TakeFrames()
		l.send("host", udp("10.0.0.1:53", "10.0.0.6:9"))
		l.send("lan", udp("10.0.0.5:1", "198.51.100.7:80"))
		l.send("wan", udp("198.51.100.7:80", "203.0.113.1:1"))
		l.ports["wan"].TakeFrames()
		l.ports["lan"].TakeFrames()
		l.advance(3 * time.Second)
	}
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:80"))
	l.ports["wan"].TakeFrames()

	l.send("lan", udp("10.0.0.6:9", "10.0.0.1:53", ttl(64)))
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:80"))
	l.want("wan", "udp 203.0.113.1:1 > 198.51.100.7:80 ttl 63 len 0")
	l.want("host", "udp 10.0.0.6:9 > 10.0.0.1:53 ttl 64 len 0")
}
