package dataplane

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/alg/registry"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// shapes are rulesets for any packets, with the families that have to leave by wan from its
// own address.
var shapes = []struct {
	name   string
	edit   func(*rules.Spec)
	v4, v6 bool
}{
	{"masquerade", masquerade, true, false},
	{"both families, independent of endpoints", translate(nat.EndpointIndependent, nat.AddressDependent, nil), true, true},
	{"blocks of ports", translate(nat.AddressAndPortDependent, nat.AddressAndPortDependent, func(s *nat.Source) {
		s.BlockSize, s.MaxBlocks = 64, 2
	}), true, true},
	{"quotas and hold-down", translate(nat.EndpointIndependent, nat.EndpointIndependent, func(s *nat.Source) {
		s.PortsPerClient, s.HoldDown = 3, time.Second
	}), true, true},
	{"forwarded ports, rejects", func(s *rules.Spec) {
		portForward(s)
		s.Lists[rules.Filter] = []rules.RuleSpec{
			{If: rules.Conditions{TTL: oneOf(rules.ByteRange{First: 2, Last: 2})}, Then: rules.ActReject},
			{If: rules.Conditions{InArea: oneOf("wan"), Proto: oneOf(tuple.UDP), DstPort: oneOf(nat.PortRange{First: 5000, Last: 5000})}, Then: rules.ActAccept},
		}
	}, true, false},
	{"a zone", zoneOfLAN, true, false},
	{"invalid packets pass", judging(rules.ActAccept, portForward), true, false},
}

// anyLab is a lab that a tape plays with: whatever arrives, in whatever order, what leaves
// is judged.
type anyLab struct {
	*lab
	t        *tape
	shape    int
	wild     bool // offloads may say what is not true: then checksums may be what they say
	helpers  bool
	unjudged int // packets that have arrived since the last step
	latest   mem.Frame
	latestAt string

	left   [16]departed // what has left lately
	nleft  int
	asked  map[asked]bool // of the packets that are judged, and of flows that a rule has forwarded: true
	began  int64
	budget struct {
		frames, bytes int    // that may leave
		told          uint64 // Originated, when that was counted
	}
}

// asked is who has sent a packet from outside, and the address that it was for: the answer
// comes from there, whatever address that is.
type asked struct{ by, of tuple.Addr }

// departed is a packet that has left by a port.
type departed struct {
	name string
	ip   []byte
}

const anyICMPRate = 50

func newAnyLab(t *testing.T, from *tape) *anyLab {
	l := &anyLab{t: from, shape: from.n(len(shapes)), asked: map[asked]bool{}}
	l.wild, l.helpers = from.rarely(4), from.rarely(2)
	profile, most := pick(from, conntrack.Linux, conntrack.RFC), pick(from, 1<<10, 64)
	mtu, gso := pick(from, 1500, 1300, 1280), pick(from, port.NoGSO, port.WithGSO)
	cfg := labConfig{rules: shapes[l.shape].edit, ports: func(st *State, o map[string]mem.Options) {
		vlans(st, o)
		o["lan"], o["wan"] = mem.Options{GSO: port.WithGSO}, mem.Options{MTU: mtu, GSO: gso}
		o["guest"] = mem.Options{Link: packet.LinkIP, GSO: port.WithGSO}
	}, table: func(c *conntrack.Config) {
		c.Max, c.Profile = most, profile
	}, engine: func(c *Config) {
		c.Pending, c.ICMPRate, c.Neighbours = 16, anyICMPRate, 64
	}}
	if l.helpers {
		set := registry.New()
		numbers := map[uint16]uint32{}
		for at, name := range map[uint16]string{21: "ftp", 5060: "sip", 6667: "irc", 69: "tftp", 162: "snmp_trap", 1723: "pptp", 161: "snmp", 137: "netbios-ns"} {
			if n, err := set.Number(name, alg.Options{}); err == nil {
				numbers[at] = n
			} else {
				t.Fatal(err)
			}
		}
		more := cfg.table
		cfg.table = func(c *conntrack.Config) { more(c); c.HelperName = set.Name }
		rest := cfg.engine
		cfg.engine = func(c *Config) {
			rest(c)
			c.Helpers, c.Helper = set, func(t tuple.Tuple) uint32 { return numbers[t.DstPort] }
		}
	}
	l.lab = newLab(t, cfg)
	l.began = l.now
	l.resolve(extraID, "10.7.0.5")
	return l
}

// Addresses of packets: of hosts behind a port, of others, and such as nobody may have.
var (
	anyInside  = addrs("10.0.0.5", "10.0.0.6", "2001:db8:1::5", "10.0.0.99", "10.7.0.5", "2001:db8:1::6", "10.0.0.1")
	anyGuest   = addrs("10.9.0.5", "2001:db8:9::5", "10.9.0.77")
	anyOutside = addrs("198.51.100.7", "198.51.100.8", "2001:db8:77::7", "203.0.113.7", "2001:db8:77::8", "203.0.113.99", "2001:db8:2::99")
	anyOwn     = addrs("203.0.113.1", "10.0.0.1", "2001:db8:2::1", "2001:db8:1::1")
	anyOdd     = addrs("127.0.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "10.0.0.255", "240.0.0.1", "::", "::1", "fe80::5", "ff02::1", "::ffff:10.0.0.5", "fd00::5")
)

func addrs(s ...string) (all []tuple.Addr) {
	for _, a := range s {
		all = append(all, addr(a))
	}
	return all
}

// play does what the tape says until it ends.
func (l *anyLab) play() {
	for i := 0; i < 400 && len(*l.t) > 0 && !l.Failed(); i++ {
		switch l.t.n(16) {
		case 0, 1, 2, 3:
			l.fresh()
		case 4, 5, 6, 7, 8:
			l.reply()
		case 9, 10:
			l.complain()
		case 11, 12:
			l.fresh()
		case 13, 14:
			l.pass(time.Duration(l.t.byte()) * []time.Duration{time.Millisecond, 100 * time.Millisecond, 5 * time.Second}[l.t.n(3)])
		default:
			l.disturb()
		}
	}
	l.judge()
	for range 3 {
		l.pass(70 * time.Second)
		l.e.expireFragments()
	}
	l.judge()
	if n := l.e.Stats().Waiting; n != 0 {
		l.Errorf("%d packets still wait", n)
	}
	if s, most := l.e.Stats(), uint64((l.now-l.began)/int64(time.Second)+2)*anyICMPRate; s.Originated > most {
		l.Errorf("the gateway answered %d times, want at most %d", s.Originated, most)
	}
}

// pass lets time pass.
func (l *anyLab) pass(d time.Duration) {
	l.judge()
	l.now += int64(d)
	l.lab.step()
	l.judge()
}

// disturb changes what is around the packets.
func (l *anyLab) disturb() {
	l.judge()
	switch l.t.n(6) {
	case 0:
		l.e.NeighbourFailed(wanID, pick(l.t, anyOutside...))
	case 1:
		l.e.NeighbourFailed(lanID, pick(l.t, anyInside...))
	case 2:
		l.resolve(wanID, pick(l.t, "203.0.113.99", "203.0.113.254", "2001:db8:2::99"))
	case 3:
		l.resolve(lanID, pick(l.t, "10.0.0.99", "10.0.0.5"))
	case 4:
		l.e.expireFragments()
	default:
		if l.t.rarely(2) {
			l.table.Flush()
		} else {
			l.reload(shapes[l.shape].edit)
		}
	}
	l.lab.step()
	l.judge()
}

// playTape plays one tape.
func playTape(t *testing.T, b []byte) {
	from := tape(b)
	newAnyLab(t, &from).play()
}

// random returns a tape of n bytes.
func random(seed uint64, n int) []byte {
	b := make([]byte, n)
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	_, _ = rand.NewChaCha8(key).Read(b) // never fails
	return b
}

// TestWhateverArrivesNothingBadLeaves plays random tapes: packets of all protocols, their
// answers, errors about them, in pieces, damaged, extended and offloaded, as time passes.
// All that leaves is sound, no more than what came, and shows nothing of the inside.
func TestWhateverArrivesNothingBadLeaves(t *testing.T) {
	tapes := 400
	if testing.Short() {
		tapes = 60
	}
	for i := range tapes {
		if !t.Run(fmt.Sprint("tape ", i), func(t *testing.T) { playTape(t, random(uint64(i), 3000)) }) {
			return
		}
	}
}

// FuzzEngine looks for a tape that breaks what TestWhateverArrivesNothingBadLeaves says.
func FuzzEngine(f *testing.F) {
	for i := range 20 {
		f.Add(random(uint64(i), 400))
	}
	f.Fuzz(func(t *testing.T, b []byte) { playTape(t, b[:min(len(b), 4000)]) })
}
