package dataplane

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// requestLab is a lab whose hosts may ask for ports.
func requestLab(t *testing.T, edit func(*rules.Spec)) *lab {
	t.Helper()
	l := newLab(t, labConfig{rules: edit})
	st := l.stateNow()
	st.Requests = TakeRequests
	l.apply(st)
	return l
}

// request asks for a UDP port and returns it to be given back at the end.
func (l *lab) request(inside, suggested string, choice PortChoice) (*RequestedPort, error) {
	l.Helper()
	q := PortRequest{Proto: tuple.UDP, Inside: netip.MustParseAddrPort(inside), Choice: choice}
	if suggested != "" {
		q.Suggested = netip.MustParseAddrPort(suggested)
	}
	return l.e.RequestPort(q)
}

func (l *lab) mustRequest(inside, suggested string) *RequestedPort {
	l.Helper()
	r, err := l.request(inside, suggested, AnyPort)
	if err != nil {
		l.Fatalf("request for %s: %v", inside, err)
	}
	return r
}

func TestRequestedPortLetsStrangersIn(t *testing.T) {
	behaviours := append([]nat.Behaviour{nat.Linux}, behaviours...)
	for _, m := range behaviours {
		for _, f := range behaviours {
			if (m == nat.Linux) != (f == nat.Linux) {
				continue
			}
			for name, fam := range families {
				t.Run(fmt.Sprintf("mapping %d filtering %d %s", m, f, name), func(t *testing.T) {
					l := requestLab(t, translate(m, f, nil))
					say := talkers["udp"]
					want := fam.gateway + ":7000"
					r := l.mustRequest(fam.client+":4000", want)
					if got := r.External().String(); got != want {
						t.Fatalf("got %s, want what was suggested, %s", got, want)
					}
					for _, from := range []string{fam.one + ":53", fam.two + ":99"} {
						if got := l.reached(say, from, want); got != fam.client+":4000" {
							t.Errorf("stranger %s reaches %q", from, got)
						}
					}
					if got := l.external(say, fam.client+":4000", fam.one+":77"); got != want {
						t.Errorf("a flow of the host leaves from %q, want %s", got, want)
					}
					if got := l.external(say, fam.other+":7000", fam.one+":77"); got == want || got == "" {
						t.Errorf("a flow of another host leaves from %q", got)
					}
					l.e.ReturnPort(r)
					l.table.Flush()
					if got := l.reached(say, fam.two+":99", want); got != "" {
						t.Errorf("after its return a stranger reaches %q by the port", got)
					}
					if n := l.e.leases.Len(); n != 0 {
						t.Errorf("%d leases are left", n)
					}
				})
			}
		}
	}
}

func TestReturnedPortIsClosedToStrangersThoughFlowsLiveOn(t *testing.T) {
	for _, m := range []nat.Behaviour{nat.Linux, nat.EndpointIndependent} {
		filter := m
		if m != nat.Linux {
			filter = nat.AddressAndPortDependent
		}
		l := requestLab(t, translate(m, filter, nil))
		say := talkers["udp"]
		r := l.mustRequest("10.0.0.5:4000", "")
		at := r.External().String()
		l.reached(say, "198.51.100.7:53", at)
		l.e.ReturnPort(r)
		if got := l.reached(say, "198.51.100.7:53", at); got != "10.0.0.5:4000" {
			t.Errorf("mapping %d: a packet of a live flow reaches %q", m, got)
		}
		if got := l.reached(say, "198.51.100.8:53", at); got != "" {
			t.Errorf("mapping %d: a stranger reaches %q", m, got)
		}
	}
}

func TestRequestJoinsTheMappingThatTheHostHas(t *testing.T) {
	l := requestLab(t, translate(nat.EndpointIndependent, nat.AddressDependent, nil))
	say := talkers["udp"]
	at := l.external(say, "10.0.0.5:4000", "198.51.100.7:53")
	if got := l.reached(say, "198.51.100.8:53", at); got != "" {
		t.Fatalf("a stranger reaches %q", got)
	}
	r := l.mustRequest("10.0.0.5:4000", "203.0.113.1:7000")
	if got := r.External().String(); got != at {
		t.Errorf("got %s, want the port of the live flow, %s", got, at)
	}
	if got := l.reached(say, "198.51.100.8:53", at); got != "10.0.0.5:4000" {
		t.Errorf("a stranger reaches %q", got)
	}
	l.e.ReturnPort(r)
	if got := l.reached(say, "198.51.100.9:53", at); got != "" {
		t.Errorf("after its return a stranger reaches %q", got)
	}
	if _, err := l.request("10.0.0.5:4000", "203.0.113.1:7000", SuggestedOnly); !errors.Is(err, ErrPortTaken) {
		t.Errorf("another port than the one it has, insisted on: %v", err)
	}
}

func TestRequestedPortIsNobodyElses(t *testing.T) {
	l := requestLab(t, func(s *rules.Spec) {
		translate(nat.EndpointIndependent, nat.EndpointIndependent, func(s *nat.Source) { s.HoldDown = 2 * time.Minute })(s)
		s.Lists[rules.Dnat] = []rules.RuleSpec{{
			If:   rules.Conditions{InArea: oneOf("wan"), DstPort: oneOf(nat.PortRange{First: 7001, Last: 7001})},
			Then: rules.ActDnat, Dest: nat.Destination{Addrs: single("10.0.0.7")},
		}}
	})
	l.host.services[7002] = true
	r := l.mustRequest("10.0.0.5:4000", "203.0.113.1:7000")
	for claim, suggested := range map[string]string{
		"another host's":            "203.0.113.1:7000",
		"a dnat rule's":             "203.0.113.1:7001",
		"a service's":               "203.0.113.1:7002",
		"one of another address":    "203.0.113.9:7003",
		"a port for services, 1023": "203.0.113.1:1023",
	} {
		if other, err := l.request("10.0.0.6:5000", suggested, SuggestedOnly); !errors.Is(err, ErrPortTaken) {
			t.Errorf("%s port was insisted on: %v, %v", claim, other, err)
		}
		other := l.mustRequest("10.0.0.6:5000", suggested)
		if got := other.External().String(); got == suggested {
			t.Errorf("%s port was given: %s", claim, got)
		}
		l.e.ReturnPort(other)
	}
	l.e.ReturnPort(r)
	if other, err := l.request("10.0.0.6:5000", "203.0.113.1:7000", SuggestedOnly); !errors.Is(err, ErrPortTaken) {
		t.Errorf("another client has the port at once: %v, %v", other, err)
	}
	l.advance(121 * time.Second)
	l.e.ReturnPort(l.mustRequest("10.0.0.6:5000", "203.0.113.1:7000"))
}

func TestRequestsKeepToQuotaAndBlocks(t *testing.T) {
	for claim, more := range map[string]func(*nat.Source){
		"quota":  func(s *nat.Source) { s.PortsPerClient = 16 },
		"blocks": func(s *nat.Source) { s.BlockSize, s.MaxBlocks = 16, 1 },
	} {
		l := requestLab(t, translate(nat.Linux, nat.Linux, more))
		var all []*RequestedPort
		var err error
		for port := 4000; ; port++ {
			var r *RequestedPort
			if r, err = l.request(fmt.Sprintf("10.0.0.5:%d", port), "", AnyPort); err != nil {
				break
			}
			all = append(all, r)
		}
		if len(all) != 16 || !errors.Is(err, ErrPortQuota) {
			t.Errorf("%s: %d ports were given, then %v; want 16", claim, len(all), err)
		}
		if got := l.external(talkers["udp"], "10.0.0.5:9000", "198.51.100.7:53"); got != "" {
			t.Errorf("%s: a flow beyond it leaves from %s", claim, got)
		}
		l.e.ReturnPort(l.mustRequest("10.0.0.6:4000", ""))
		for _, r := range all {
			l.e.ReturnPort(r)
		}
		l.ports["lan"].TakeFrames()
		if n := l.e.leases.Len(); n != 0 {
			t.Errorf("%s: %d leases are left", claim, n)
		}
	}
}

func TestRequestsAreForTranslatedHostsOnly(t *testing.T) {
	denied := func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Filter] = []rules.RuleSpec{{If: rules.Conditions{Src: oneOf(network("10.0.0.6/32"))}, Then: rules.ActDrop}}
	}
	l := requestLab(t, denied)
	for _, tt := range []struct {
		claim, inside string
		want          error
	}{
		{"IPv6 that is not translated", "[2001:db8:1::5]:4000", ErrNotTranslated},
		{"a host that a rule keeps inside", "10.0.0.6:4000", ErrNotAllowed},
		{"a host outside", "198.51.100.7:4000", ErrNotAllowed},
		{"the gateway itself", "10.0.0.1:4000", ErrNotAllowed},
	} {
		if _, err := l.request(tt.inside, "", AnyPort); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.claim, err, tt.want)
		}
	}
}

func TestRequestedPortIsKeptWhileARuleWouldGiveIt(t *testing.T) {
	l := requestLab(t, translate(nat.EndpointIndependent, nat.AddressDependent, nil))
	r := l.mustRequest("10.0.0.5:4000", "203.0.113.1:7000")
	before := r.Rule()
	l.reload(translate(nat.EndpointIndependent, nat.AddressDependent, func(s *nat.Source) { s.Ports = nat.PortRange{First: 6000, Last: 8000} }))
	if !l.e.KeepPort(r) || r.Rule() == before {
		t.Error("the port does not follow its rule")
	}
	if got := l.reached(talkers["udp"], "198.51.100.8:53", "203.0.113.1:7000"); got != "10.0.0.5:4000" {
		t.Errorf("after a reload a stranger reaches %q", got)
	}
	l.reload(translate(nat.EndpointIndependent, nat.AddressDependent, func(s *nat.Source) { s.Ports = nat.PortRange{First: 8000, Last: 9000} }))
	if l.e.KeepPort(r) {
		t.Error("a port that no rule gives any more is kept")
	}
	l.e.ReturnPort(r)
}
