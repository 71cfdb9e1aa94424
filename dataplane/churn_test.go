package dataplane

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/nat/ports"
	"example.com/culvert/rules"
)

// tight returns rules that run out of everything soon: one to three that translate
// by protocol or client, with any terms.
func tight(r *rand.Rand) func(*rules.Spec) {
	one := func(c rules.Conditions) rules.RuleSpec {
		c.OutArea = oneOf("wan")
		src := nat.Source{Ports: nat.PortRange{First: 1024, Last: 1024 + uint16(r.IntN(4))*32 + 31}}
		if src.Mapping = nat.Behaviour(r.IntN(4)); src.Mapping != nat.Linux {
			src.Filtering = behaviours[r.IntN(3)]
			src.HoldDown = time.Duration(r.IntN(3)) * time.Second
		}
		if r.IntN(3) == 0 {
			src.PortsPerClient = uint32(1 + r.IntN(6))
		}
		if r.IntN(3) == 0 {
			src.BlockSize, src.MaxBlocks = []uint16{8, 16, 32}[r.IntN(3)], uint8(1+r.IntN(2))
		}
		if r.IntN(4) == 0 {
			src.Flags = nat.FullyRandom
		}
		if r.IntN(3) == 0 && c.Family == tuple.IPv4 {
			src.Addrs = []nat.AddrRange{{First: addr("203.0.113.1"), Last: addr("203.0.113.2")}}
			return rules.RuleSpec{If: c, Then: rules.ActSnat, Src: src}
		}
		return rules.RuleSpec{If: c, Then: rules.ActMasquerade, Src: src}
	}
	var list []rules.RuleSpec
	if r.IntN(2) == 0 {
		list = append(list, one(rules.Conditions{Family: tuple.IPv4, Proto: oneOf(tuple.TCP)}))
	}
	if r.IntN(2) == 0 {
		list = append(list, one(rules.Conditions{Family: tuple.IPv4, Src: oneOf(nat.AddrRange{First: addr("10.0.0.6"), Last: addr("10.0.0.7")})}))
	}
	list = append(list, one(rules.Conditions{Family: tuple.IPv4}), one(rules.Conditions{Family: tuple.IPv6}))
	return func(s *rules.Spec) { s.Lists[rules.Snat] = list }
}

// TestNothingIsHeldByNobody has flows begin and end in every way under rules that
// change: all that ports are held by agrees with the flows at any time, and when
// all are over every lease, quota, block and set of ports is empty.
func TestNothingIsHeldByNobody(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { churn(t, rand.New(rand.NewPCG(seed, 5))) })
	}
}

func churn(t *testing.T, r *rand.Rand) {
	pick := func(s ...string) string { return s[r.IntN(len(s))] }
	l := newLab(t, labConfig{rules: tight(r), engine: func(c *Config) { c.Pending = 8 }})
	book := blockBook{}
	discard := func() {
		for _, p := range l.ports {
			p.TakeFrames()
		}
		book.read(t, l.e.Blocks())
	}
	for i := range 1500 {
		six := r.IntN(4) == 0
		client, remote, gateway := pick("10.0.0.5", "10.0.0.6", "10.0.0.7", "10.9.0.5"), pick("198.51.100.7", "198.51.100.8", "203.0.113.7", "203.0.113.99"), pick("203.0.113.1", "203.0.113.2")
		if six {
			client, remote, gateway = pick("[2001:db8:1::5]", "[2001:db8:1::6]"), pick("[2001:db8:77::7]", "[2001:db8:2::99]"), "[2001:db8:2::1]"
		}
		in := "lan"
		if client == "10.9.0.5" {
			in = "guest"
		}
		inside, outside := fmt.Sprintf("%s:%d", client, 1020+r.IntN(20)), fmt.Sprintf("%s:%d", remote, 53+r.IntN(2))
		external := fmt.Sprintf("%s:%d", gateway, 1024+r.IntN(48))
		say := talkers[pick("udp", "udp", "tcp")]
		switch op := r.IntN(100); {
		case op < 45:
			l.send(in, say(inside, outside))
		case op < 70:
			l.send("wan", say(outside, external))
		case op < 75 && !six:
			l.send(in, ping(client, remote, uint16(r.IntN(40))))
		case op < 78: // between inside hosts, by a mapping
			l.send(in, say(inside, external))
		case op < 90:
			l.deleteOne(r)
		case op < 92:
			l.e.NeighbourFailed(wanID, addr("203.0.113.99"))
			l.e.NeighbourFailed(wanID, addr("2001:db8:2::99"))
		case op < 93:
			l.resolve(wanID, "203.0.113.99")
		case op < 95:
			before := l.e.Ruleset()
			l.reload(tight(r))
			l.e.Settle(before, 0)
		case op == 95:
			l.table.Flush()
		default:
			l.advance(time.Duration(r.IntN(2000)) * time.Millisecond)
		}
		discard()
		if i%25 == 0 {
			l.collect()
			checkLeases(t, l.e)
			book.check(t)
		}
		if t.Failed() {
			t.Fatalf("step %d", i)
		}
	}
	l.e.NeighbourFailed(wanID, addr("203.0.113.99"))
	l.e.NeighbourFailed(wanID, addr("2001:db8:2::99"))
	l.e.NeighbourFailed(wanID, addr("203.0.113.2"))
	l.step()
	if n := l.e.Stats().Waiting; n != 0 {
		t.Errorf("%d packets wait for nobody", n)
	}
	l.table.Flush()
	for range 400 { // every pass of what is kept ends what is over
		l.now += int64(10 * time.Millisecond)
		l.step()
	}
	discard()
	if n := l.e.leases.Len(); n != 0 {
		t.Errorf("%d leases of no flow", n)
	}
	if n := l.e.leases.Kept(); n != 0 {
		t.Errorf("%d leases are kept for ever", n)
	}
	for _, sp := range l.e.leases.Spaces() {
		if used, kept := sp.Used(); used != 0 || kept != 0 || sp.Alone().Len() != 0 {
			t.Errorf("%v proto %d: %d ports used, %d kept, %d alone, of no flow", sp.Addr, sp.Proto, used, kept, sp.Alone().Len())
		}
		if n := l.e.leases.BlocksOf(ports.Endpoint{Addr: sp.Addr, Zone: sp.Zone}); n != nil && n.Len() != 0 {
			t.Errorf("%v: %d ports in blocks of nobody", sp.Addr, n.Len())
		}
	}
	if len(book) != 0 {
		t.Errorf("blocks that were never released: %v", book)
	}
}

// collect lets time pass until no flow is there whose time is over.
func (l *lab) collect() {
	for {
		alive := 0
		count := func(*conntrack.Flow) bool {
			alive++
			return true
		}
		l.table.Dump(count)
		l.table.DumpUnconfirmed(count)
		if alive == l.table.Len() {
			return
		}
		l.now += int64(10 * time.Millisecond)
		l.step()
	}
}

// hasFlows reports whether the socket that sends packets with tuple k has flows.
func (l *lab) hasFlows(k *tuple.Tuple) (has bool) {
	l.table.Dump(func(f *conntrack.Flow) bool {
		o := &f.Tuple[tuple.Original]
		has = has || o.Src == k.Src && o.SrcPort == k.SrcPort && *o != *k
		return !has
	})
	return has
}

// deleteOne deletes some flow.
func (l *lab) deleteOne(r *rand.Rand) {
	l.Helper()
	var all []tuple.Tuple
	l.table.Dump(func(f *conntrack.Flow) bool {
		all = append(all, f.Tuple[tuple.Original])
		return true
	})
	if len(all) == 0 {
		return
	}
	if err := l.table.Delete(all[r.IntN(len(all))]); err != nil {
		l.Error(err)
	}
}

// blockBook is what somebody who keeps the log of blocks knows: whose a port is.
type blockBook map[ports.Block]tuple.Addr

func (b blockBook) read(t *testing.T, events <-chan ports.Event) {
	t.Helper()
	for {
		select {
		case e := <-events:
			who, has := b[e.Block]
			switch {
			case e.Kind == ports.BlockAllocated && has:
				t.Errorf("%+v is allocated to %v, and was %v's", e.Block, e.Client, who)
			case e.Kind == ports.BlockReleased && (!has || who != e.Client):
				t.Errorf("%+v is released by %v, and was %v's", e.Block, e.Client, who)
			case e.Kind == ports.BlockAllocated:
				b[e.Block] = e.Client
			default:
				delete(b, e.Block)
			}
		default:
			return
		}
	}
}

// check wants no port to be in two blocks.
func (b blockBook) check(t *testing.T) {
	t.Helper()
	type port struct {
		addr tuple.Addr
		port uint16
	}
	whose := map[port]ports.Block{}
	for block := range b {
		for p := block.Ports.First; p <= block.Ports.Last; p++ {
			at := port{block.Addr, p}
			if other, has := whose[at]; has {
				t.Errorf("port %d is in %+v of %v and in %+v of %v", p, block, b[block], other, b[other])
				return
			}
			whose[at] = block
		}
	}
}

// TestExplainAgreesAboutPorts asks before each first packet whether it gets a port,
// and which: at the brim of everything that rules can say about ports. What it can
// not know is chance: a random port, in which address it is if the first has none,
// and whether it is one that the socket has, which costs nothing.
func TestExplainAgreesAboutPorts(t *testing.T) {
	homes := map[string]uint16{"lan": lanID, "guest": guestID, "wan": wanID}
	reasons := map[Reason]int{}
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(seed, 6))
		pick := func(s ...string) string { return s[r.IntN(len(s))] }
		l := newLab(t, labConfig{rules: tight(r)})
		for range 300 {
			in, src, dst := "lan", pick("10.0.0.5", "10.0.0.6", "10.0.0.7"), pick("198.51.100.7", "198.51.100.8")
			sport, dport := uint16(1020+r.IntN(30)), uint16(53+r.IntN(2))
			switch r.IntN(4) {
			case 0:
				in, src = "guest", "10.9.0.5"
			case 1:
				in, src, dst, sport, dport = "wan", dst, pick("203.0.113.1", "203.0.113.2"), dport, uint16(1024+r.IntN(48))
			}
			q := Probe{Tuple: portTuple(tuple.UDP, src, sport, dst, dport), In: homes[in]}
			before := l.e.Stats()
			x := l.explain(q)
			l.send(in, udp(endText(&q.Tuple, q.Tuple.Src, sport), endText(&q.Tuple, q.Tuple.Dst, dport)))
			now := l.e.Stats()
			got := None
			for why := range now.Dropped {
				if now.Dropped[why] != before.Dropped[why] {
					got = Reason(why)
				}
			}
			chance := x.Reason == PortQuota && got == None || x.Reason == None && got == PortQuota
			if reasons[got]++; got != x.Reason && !(chance && l.hasFlows(&q.Tuple)) {
				t.Fatalf("seed %d: %v by %s: %v, explained\n%s", seed, q.Tuple, in, got, told(&x))
			}
			for name, p := range l.ports {
				for _, f := range p.TakeFrames() {
					if got != None || x.Reason != None {
						continue
					}
					want := x.Leaves.String()
					if x.Choice == nat.Class || x.Choice == nat.RandomPort {
						want = strings.TrimRight(strings.Split(want, ":")[0], "12") // either address of a pool
					}
					if text := describe(f, p.Info().Link); name != x.Out || !strings.HasPrefix(text, want) {
						t.Fatalf("seed %d: %v by %s leaves by %s as %s, explained\n%s", seed, q.Tuple, in, name, text, told(&x))
					}
				}
			}
			switch r.IntN(8) {
			case 0, 1:
				l.deleteOne(r)
			case 2:
				l.advance(time.Duration(r.IntN(1000)) * time.Millisecond)
			}
		}
		l.last = l.e.Stats()
	}
	t.Log(reasons)
	for _, why := range []Reason{None, PortsExhausted, PortQuota, PortBlocks} {
		if reasons[why] < 100 {
			t.Errorf("%v came %d times: the test has no force", why, reasons[why])
		}
	}
}
