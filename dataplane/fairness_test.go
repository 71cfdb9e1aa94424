package dataplane

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port/mem"
)

// scan has a host behind guest send one packet each to n addresses, from the i-th on.
func (l *lab) scan(from, format string, i, n int) {
	l.Helper()
	for k := range n {
		l.send("guest", udp(from, fmt.Sprintf(format, (i+k)>>8, (i+k)&0xff)))
	}
}

// silence has neighbours of wan that do not answer fail after three seconds, as
// the own stack does.
type silence struct {
	l     *lab
	since map[string]int64
	seen  int
}

func (s *silence) pass() {
	for _, a := range s.l.host.asked[s.seen:] {
		if _, open := s.since[a]; !open {
			s.since[a] = s.l.now
		}
	}
	s.seen = len(s.l.host.asked)
	for a, at := range s.since {
		if s.l.now-at >= int64(3*time.Second) {
			delete(s.since, a)
			s.l.e.NeighbourFailed(wanID, addr(a))
		}
	}
	s.l.step()
}

// TestScanDoesNotDelayOthers: while one client scans, another one's packets to
// neighbours that are not yet known all arrive as soon as these answer.
func TestScanDoesNotDelayOthers(t *testing.T) {
	for _, tt := range []struct{ claim, scanner, target string }{
		{"an IPv4 prefix is scanned", "10.9.0.5:1", "203.0.%d.%d:9"},
		{"an IPv6 prefix is scanned", "[2001:db8:9::5]:1", "[2001:db8:2::%x:%x]:9"},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			l := newLab(t, labConfig{
				engine: func(c *Config) { c.ICMPRate = 100 },
				ports: func(st *State, _ map[string]mem.Options) {
					st.Ports[1].Addresses = prefixes("203.0.113.1/16", "2001:db8:2::1/64")
				},
			})
			quiet := &silence{l: l, since: map[string]int64{}}
			errors := 0
			for i := range 100 { // 10 s
				l.scan(tt.scanner, tt.target, 0x8000+i*100, 100)
				peer := fmt.Sprintf("203.0.113.%d", 100+i)
				for k := range 3 {
					l.send("lan", udp(fmt.Sprintf("10.0.0.5:%d", 1000+k), peer+":53"))
				}
				l.resolve(wanID, peer)
				l.step()
				l.want("wan", fmt.Sprintf("udp 203.0.113.1:1000 > %s:53 ttl 63 len 0", peer),
					fmt.Sprintf("udp 203.0.113.1:1001 > %s:53 ttl 63 len 0", peer),
					fmt.Sprintf("udp 203.0.113.1:1002 > %s:53 ttl 63 len 0", peer))
				errors += len(l.ports["guest"].TakeFrames())
				l.now += int64(100 * time.Millisecond)
				quiet.pass()
				errors += len(l.ports["guest"].TakeFrames())
			}
			l.advance(6 * time.Second)
			l.ports["guest"].TakeFrames()
			s := l.e.Stats()
			if s.Dropped[NeighboursFull] == 0 || s.Dropped[NeighbourFailed] == 0 {
				t.Errorf("dropped %d as %v and %d as %v, want both to say what happens",
					s.Dropped[NeighboursFull], NeighboursFull, s.Dropped[NeighbourFailed], NeighbourFailed)
			}
			if errors == 0 || errors > 11*100 {
				t.Errorf("the scanner was told %d times in 10 s, want some, and at most 100 a second", errors)
			}
			if max := 10*500 + 500 + 100; len(l.host.asked) > max {
				t.Errorf("%d questions in 10 s, want at most %d", len(l.host.asked), max)
			}
			l.last = s
		})
	}
}

func TestWaitingPacketsAreShared(t *testing.T) {
	l := newLab(t, labConfig{cold: true, engine: func(c *Config) { c.Pending = 8 }})
	for i := range 8 {
		l.send("guest", udp("10.9.0.5:1", fmt.Sprintf("203.0.113.%d:9", 100+i)))
	}
	l.wantDrops()
	for i := range 6 {
		l.send("lan", udp("10.0.0.5:1", fmt.Sprintf("203.0.113.%d:53", 200+i)))
	}
	// Four each: the oldest of the scanner went, then the client's own.
	l.wantDrops(NeighbourQueue, NeighbourQueue, NeighbourQueue, NeighbourQueue, NeighbourQueue, NeighbourQueue)
	l.wantWaiting(8)
	for i := range 8 {
		l.resolve(wanID, fmt.Sprintf("203.0.113.%d", 100+i))
		l.resolve(wanID, fmt.Sprintf("203.0.113.%d", 200+i))
	}
	l.step()
	l.want("wan",
		"udp 203.0.113.1:1 > 203.0.113.104:9 ttl 63 len 0", "udp 203.0.113.1:1 > 203.0.113.105:9 ttl 63 len 0",
		"udp 203.0.113.1:1 > 203.0.113.106:9 ttl 63 len 0", "udp 203.0.113.1:1 > 203.0.113.107:9 ttl 63 len 0",
		"udp 203.0.113.1:1 > 203.0.113.202:53 ttl 63 len 0", "udp 203.0.113.1:1 > 203.0.113.203:53 ttl 63 len 0",
		"udp 203.0.113.1:1 > 203.0.113.204:53 ttl 63 len 0", "udp 203.0.113.1:1 > 203.0.113.205:53 ttl 63 len 0")
}

func TestOneNeighboursQueueIsShared(t *testing.T) {
	l := coldLab(t)
	for i := range 2 * pendingPerNeighbour {
		l.send("guest", udp(fmt.Sprintf("10.9.0.5:%d", 1+i), "198.51.100.7:9"))
	}
	l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
	l.wantWaiting(pendingPerNeighbour)
	l.resolve(wanID, "203.0.113.254")
	l.step()
	frames := l.ports["wan"].TakeFrames()
	modest := 0
	for _, f := range frames {
		if strings.Contains(describe(f, packet.LinkEthernet), "> 198.51.100.7:53") {
			modest++
		}
	}
	if len(frames) != pendingPerNeighbour || modest != 1 {
		t.Errorf("%d packets left, %d of the modest client; want %d and 1", len(frames), modest, pendingPerNeighbour)
	}
	if n := l.table.Len(); n != pendingPerNeighbour {
		t.Errorf("%d entries, want %d: those of refused packets are gone", n, pendingPerNeighbour)
	}
	l.last = l.e.Stats()
}

// TestPacketsOfAQuestionThatWasGivenUpAskAnew: who shares a question with a heavy
// asker does not lose its packets when that question gives way.
func TestPacketsOfAQuestionThatWasGivenUpAskAnew(t *testing.T) {
	l := newLab(t, labConfig{cold: true, engine: func(c *Config) { c.Neighbours = 3 }})
	l.send("guest", udp("10.9.0.5:1", "203.0.113.99:9"))
	l.send("lan", udp("10.0.0.6:1", "203.0.113.99:53")) // joins
	l.send("guest", udp("10.9.0.5:1", "203.0.113.101:9"))
	l.send("guest", udp("10.9.0.5:1", "203.0.113.102:9"))
	l.wantWaiting(4)
	// This one takes the place of the first question, whose packets ask anew: the
	// scanner's in vain, the other takes the place of its second one.
	l.send("lan", udp("10.0.0.5:1", "203.0.113.7:53"))
	l.wantDrops(NeighboursFull, NeighboursFull)
	l.wantWaiting(3)
	l.resolve(wanID, "203.0.113.99")
	l.resolve(wanID, "203.0.113.7")
	l.step()
	l.want("wan", "udp 203.0.113.1:1 > 203.0.113.99:53 ttl 63 len 0", "udp 203.0.113.1:1 > 203.0.113.7:53 ttl 63 len 0")
	l.wantDrops()
	l.advance(6 * time.Second)
	l.ports["guest"].TakeFrames()
	l.wantDrops(NeighbourFailed)
}

func TestAskers(t *testing.T) {
	l := newLab(t, labConfig{})
	askerOf := func(port uint16, name string, ip []byte) uint64 {
		p := &packet.Packet{Mem: l.frame(name, ip), In: port, Link: packet.LinkEthernet}
		p.End = len(p.Mem)
		if f := packet.Parse(p); f != packet.OK {
			t.Fatalf("fault %v", f)
		}
		l.w.v = l.e.view.Load()
		return uint64(l.w.asker(p))
	}
	for _, tt := range []struct {
		claim      string
		port       uint16
		name, a, b string
		same       bool
	}{
		{"two hosts on the link", lanID, "lan", "10.0.0.5:1", "10.0.0.6:1", false},
		{"two addresses far away", wanID, "wan", "198.51.100.7:1", "198.51.100.8:1", false},
		{"two ports of one address", wanID, "wan", "198.51.100.7:1", "198.51.100.7:2", true},
	} {
		x, y := askerOf(tt.port, tt.name, udp(tt.a, "203.0.113.7:9")), askerOf(tt.port, tt.name, udp(tt.b, "203.0.113.7:9"))
		if (x == y) != tt.same {
			t.Errorf("%s: one asker %v, want %v", tt.claim, x == y, tt.same)
		}
	}
	one := l.frame("lan", udp("10.0.0.5:1", "203.0.113.7:9"))
	spoofed := ethernet(l.ports["lan"].Info().MAC, [6]byte(one[6:12]), udp("10.0.0.77:1", "203.0.113.7:9"))
	p := &packet.Packet{Mem: spoofed, End: len(spoofed), In: lanID, Link: packet.LinkEthernet}
	packet.Parse(p)
	if uint64(l.w.asker(p)) != askerOf(lanID, "lan", udp("10.0.0.5:1", "203.0.113.7:9")) {
		t.Error("a host on the link that makes up source addresses is more than one asker")
	}
}
