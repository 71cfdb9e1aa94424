package discover

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func addrs(list ...string) []netip.Addr {
	out := make([]netip.Addr, len(list))
	for i, s := range list {
		out[i] = netip.MustParseAddr(s)
	}
	return out
}

var hosts4 = Hosts{
	Inside:  addrs("10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.8"),
	Outside: addrs("198.51.100.7", "192.0.2.9", "198.51.100.1", "192.0.2.77"),
}

var hosts6 = Hosts{
	Inside:  addrs("2001:db8:1::5", "2001:db8:1::6", "2001:db8:1::7", "2001:db8:1::8"),
	Outside: addrs("2001:db8:f::7", "2001:db8:e::9", "2001:db8:f::1", "2001:db8:e::77"),
}

// good is a model that complies with everything.
func good() behaviour {
	return behaviour{
		pool: addrs("203.0.113.1"), mapping: Endpoint, filtering: Address, hairpin: HairpinExternal, pooling: Paired, class: true, parity: true,
		life: Lifetimes{Opened: Lifetime(300 * time.Second), Answered: Lifetime(301 * time.Second), Lasting: Lifetime(800 * time.Second),
			Closed: Lifetime(240 * time.Second), Reset: Lifetime(244 * time.Second)},
		refresh: Refresh{Outbound: true}, holdDown: 120 * time.Second, mtu: 1500, syn: SYNHeld, synWait: 6 * time.Second,
	}
}

func run(t *testing.T, b behaviour, hosts Hosts, scope Scope) *Report {
	t.Helper()
	r, err := Run(newModel(b), hosts, scope)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Faults) > 0 {
		t.Errorf("faults: %v", r.Faults)
	}
	return r
}

func TestEveryMappingAndFilteringIsRecognised(t *testing.T) {
	for _, mapping := range []Dependence{Endpoint, Address, AddressAndPort, Linux} {
		for _, filtering := range []Dependence{Endpoint, Address, AddressAndPort} {
			for family, hosts := range map[string]Hosts{"ipv4": hosts4, "ipv6": hosts6} {
				t.Run(fmt.Sprintf("%s %s %s", mapping, filtering, family), func(t *testing.T) {
					b := good()
					b.mapping, b.filtering = mapping, filtering
					if family == "ipv6" {
						b.pool = addrs("2001:db8:ff::1")
					}
					r := run(t, b, hosts, Basic)
					if r.Family != family {
						t.Errorf("family %s, want %s", r.Family, family)
					}
					for _, got := range []Transport{r.UDP, r.TCP} {
						if got.Mapping != mapping || got.Filtering != filtering {
							t.Errorf("mapping %s, filtering %s; want %s, %s", got.Mapping, got.Filtering, mapping, filtering)
						}
						if want := mapping == Linux; got.Overload != want {
							t.Errorf("overload %v, want %v", got.Overload, want)
						}
					}
					if filtering != Endpoint && r.Connections.UnsolicitedSYN != SYNHeld {
						t.Errorf("unsolicited SYN %s, want %s", r.Connections.UnsolicitedSYN, SYNHeld)
					}
				})
			}
		}
	}
}

// TestEachSwappedBehaviourIsReported changes one behaviour at a time and wants that
// one to differ in the report.
func TestEachSwappedBehaviourIsReported(t *testing.T) {
	for _, tt := range []struct {
		name string
		swap func(*behaviour)
		seen func(*Report) any
		want any
	}{
		{"no hairpin", func(b *behaviour) { b.hairpin = NoHairpin }, func(r *Report) any { return r.UDP.Hairpin }, NoHairpin},
		{"hairpin with internal source", func(b *behaviour) { b.hairpin = HairpinInternal }, func(r *Report) any { return r.TCP.Hairpin }, HairpinInternal},
		{"hairpin through the filter", func(b *behaviour) { b.hairpin = HairpinOpened }, func(r *Report) any { return r.UDP.Hairpin }, HairpinOpened},
		{"paired pool", func(b *behaviour) { b.pool = addrs("203.0.113.1", "203.0.113.2") }, func(r *Report) any { return r.UDP.Pooling }, Paired},
		{"arbitrary pool", func(b *behaviour) { b.pool, b.pooling = addrs("203.0.113.1", "203.0.113.2"), Arbitrary },
			func(r *Report) any { return r.UDP.Pooling }, Arbitrary},
		{"ports never kept", func(b *behaviour) { b.randomPorts = true }, func(r *Report) any { return r.UDP.Preservation }, Never},
		{"parity not kept", func(b *behaviour) { b.parity = false }, func(r *Report) any { return r.UDP.Parity }, Never},
		{"class not kept", func(b *behaviour) { b.class, b.randomPorts = false, true }, func(r *Report) any { return r.UDP.Class }, Sometimes},
		{"short UDP", func(b *behaviour) { b.life.Answered = Lifetime(30 * time.Second) }, func(r *Report) any { return r.UDP.Lifetimes.Answered }, Lifetime(30 * time.Second)},
		{"long established", func(b *behaviour) { b.life.Lasting = Lifetime(12 * time.Hour) }, func(r *Report) any { return r.TCP.Lifetimes.Lasting }, Lifetime(120 * time.Hour)},
		{"eternal established", func(b *behaviour) { b.life.Lasting = Lifetime(26 * time.Hour) }, func(r *Report) any { return r.TCP.Lifetimes.Lasting }, Forever},
		{"short reset", func(b *behaviour) { b.life.Reset = Lifetime(1 * time.Second) }, func(r *Report) any { return r.TCP.Lifetimes.Reset }, Lifetime(10 * time.Second)},
		{"inbound refresh", func(b *behaviour) { b.refresh.Inbound = true }, func(r *Report) any { return r.UDP.Refresh }, Refresh{Outbound: true, Inbound: true}},
		{"refresh by errors", func(b *behaviour) { b.refresh.Error = true }, func(r *Report) any { return r.UDP.Refresh }, Refresh{Outbound: true, Error: true}},
		{"forwarded ports", func(b *behaviour) { b.forward = web },
			func(r *Report) any { return r.TCP.Forwards }, []Forward{
				{443, 443, netip.MustParseAddrPort("10.0.0.6:8443"), HairpinExternal},
				{6000, 6001, netip.MustParseAddrPort("10.0.0.7:7000"), HairpinExternal},
			}},
		{"forwarded ports without hairpin", func(b *behaviour) { b.forward, b.noForwardHairpin = web, true },
			func(r *Report) any { return len(r.TCP.Forwards) == 2 && r.TCP.Forwards[0].Hairpin == NoHairpin }, true},
		{"no hold-down", func(b *behaviour) { b.holdDown = 0 }, func(r *Report) any { return r.UDP.HoldDown }, Lifetime(0)},
		{"errors lost", func(b *behaviour) { b.loseErrors = true }, func(r *Report) any { return r.UDP.Errors }, Errors{Survives: true}},
		{"errors from routers lost", func(b *behaviour) { b.onlyFromEnd = true }, func(r *Report) any { return len(r.TCP.Errors.FromRouter) }, 0},
		{"errors about nothing", func(b *behaviour) { b.errorsOfOthers = true }, func(r *Report) any { return r.ICMP.Errors.Unrelated }, true},
		{"errors end flows", func(b *behaviour) { b.endOnError = true }, func(r *Report) any { return r.UDP.Errors.Survives }, false},
		{"fragments in order only", func(b *behaviour) { b.inOrderOnly = true }, func(r *Report) any { return r.Fragments }, Fragments{InOrder: [2]bool{true, true}}},
		{"another MTU", func(b *behaviour) { b.mtu = 1492 }, func(r *Report) any { return r.Sizes.MTU }, 1492},
		{"SYN reset", func(b *behaviour) { b.syn = SYNReset }, func(r *Report) any { return r.Connections.UnsolicitedSYN }, SYNReset},
		{"SYN refused at once", func(b *behaviour) { b.syn = SYNAtOnce }, func(r *Report) any { return r.Connections.UnsolicitedSYN }, SYNAtOnce},
		{"SYN refused after 9 s", func(b *behaviour) { b.synWait = 9 * time.Second }, func(r *Report) any { return r.Connections.SYNWait }, Lifetime(9 * time.Second)},
		{"SYN refused although it fits", func(b *behaviour) { b.unforgiving = true }, func(r *Report) any { return r.Connections.SYNForgotten }, false},
		{"SYN ignored", func(b *behaviour) { b.syn = SYNSilent }, func(r *Report) any { return r.Connections.UnsolicitedSYN }, SYNSilent},
	} {
		scope := Times
		if strings.HasPrefix(tt.name, "forwarded") {
			scope = Forwards
			if testing.Short() {
				continue // every port is knocked at, several times
			}
		}
		t.Run(tt.name, func(t *testing.T) {
			if got := tt.seen(run(t, good(), hosts4, scope)); reflect.DeepEqual(got, tt.want) {
				t.Errorf("reported before the swap: %v", got)
			}
			b := good()
			tt.swap(&b)
			if got := tt.seen(run(t, b, hosts4, scope)); !reflect.DeepEqual(got, tt.want) {
				t.Errorf("reported %v, want %v", got, tt.want)
			}
		})
	}
}

func TestSYNRefusedTooSoonIsAgainstItsRequirement(t *testing.T) {
	for wait, want := range map[time.Duration]bool{3 * time.Second: false, 5 * time.Second: false, 6 * time.Second: true} {
		b := good()
		b.synWait = wait
		found := false
		for _, l := range run(t, b, hosts4, Basic).Lines() {
			if l.Test != "unsolicited SYN" {
				continue
			}
			found = true
			if len(l.Verdicts) != 1 || l.Verdicts[0].Complies != want {
				t.Errorf("refused after %v: %s %v, want complies %v", wait, l.Result, l.Verdicts, want)
			}
		}
		if !found {
			t.Error("no line about unsolicited SYNs")
		}
	}
}

// web are forwarded ports of a model.
var web = map[uint16]netip.AddrPort{
	443: netip.MustParseAddrPort("10.0.0.6:8443"), 6000: netip.MustParseAddrPort("10.0.0.7:7000"), 6001: netip.MustParseAddrPort("10.0.0.7:7001"),
}

func TestWhatCompliesHasNoVerdictAgainstIt(t *testing.T) {
	for _, l := range run(t, good(), hosts4, Times).Lines() {
		for _, v := range l.Verdicts {
			if !v.Complies {
				t.Errorf("%s %s: %s: %v", l.Protocol, l.Test, l.Result, v)
			}
		}
	}
}

func TestBrokenPacketsAreFaults(t *testing.T) {
	m := newModel(good())
	r, err := Run(spoiler{m}, hosts4, Basic)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Faults) == 0 || r.UDP.Mapping != NoTraffic {
		t.Errorf("faults %v, mapping %s: wrong checksums were not noticed", r.Faults, r.UDP.Mapping)
	}
}

// spoiler damages the last byte of every packet.
type spoiler struct{ *model }

func (s spoiler) Take(at Side) [][]byte {
	out := s.model.Take(at)
	for _, ip := range out {
		ip[len(ip)-1] ^= 1
	}
	return out
}

func TestTooFewHostsAreRefused(t *testing.T) {
	few := Hosts{Inside: hosts4.Inside[:1], Outside: hosts4.Outside}
	mixed := Hosts{Inside: hosts4.Inside, Outside: slices.Concat(hosts6.Outside)}
	for _, h := range []Hosts{few, mixed} {
		if _, err := Run(newModel(good()), h, Basic); err == nil {
			t.Errorf("%v: accepted", h)
		}
	}
}

func firstOf(list []netip.Addr) netip.AddrPort { return netip.AddrPortFrom(list[0], 4000) }
