package ports

import (
	"fmt"
	"testing"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// eachPromise runs a test for promises of each kind, to one host and to anybody, and flows
// from inside of each kind that leave from the promised port.
func eachPromise(t *testing.T, test func(t *testing.T, s *Set, p *promiseCase)) {
	every := []nat.Behaviour{nat.EndpointIndependent, nat.AddressDependent, nat.AddressAndPortDependent}
	all := []Terms{{}}
	for _, m := range every {
		for _, f := range every {
			all = append(all, Terms{Mapping: m, Filtering: f})
		}
	}
	for _, promised := range []nat.Behaviour{nat.Linux, nat.EndpointIndependent} {
		for _, terms := range all {
			for i := range 8 {
				p := &promiseCase{promise: Terms{Mapping: promised, Quota: uint32(i & 1)}, terms: terms}
				p.terms.Quota = uint32(i >> 1 & 1)
				p.flow = Flow{Proto: tuple.UDP, Inside: at("10.0.0.1:1000"), External: at("203.0.113.1:1000"), Remote: at("198.51.100.1:80")}
				if p.to = p.flow; i>>2 != 0 {
					p.to.Remote = Endpoint{}
				}
				t.Run(fmt.Sprintf("promise %d/%d.%d/case %d", promised, terms.Mapping, terms.Filtering, i), func(t *testing.T) {
					s := newSet(t, 64)
					if out, _, first := s.Promise(&p.to, p.held(), &p.promise, p.fits(), 1); out != Granted || !first {
						t.Fatalf("the promise is %v, made for the first time: %v", out, first)
					}
					test(t, s, p)
					if n := s.Len(); n != 0 {
						t.Errorf("%d leases of no flow", n)
					}
				})
			}
		}
	}
}

// promiseCase is a promise and a flow from inside that leaves from the promised port.
type promiseCase struct {
	promise, terms Terms
	to, flow       Flow
}

func (p *promiseCase) held() Use  { return p.promise.Announced(Mixed) }
func (p *promiseCase) fits() Fits { return Fits{Source: newWorld(1).source} }

// keeping returns what the flow takes.
func (p *promiseCase) keeping(t *testing.T, s *Set) Use {
	t.Helper()
	own := p.terms.Outbound(Mixed)
	use, ok := s.Keeping(&p.flow, own, &p.terms)
	if !ok || use == own || use.Inbound() {
		t.Fatalf("from its own port a flow takes %d instead of %d, %v", use, own, ok)
	}
	return use
}

// TestFlowsFromInsideKeepPromises: a promise lasts as long as a flow that leaves from the
// promised port, and nobody else has the port meanwhile.
func TestFlowsFromInsideKeepPromises(t *testing.T) {
	eachPromise(t, func(t *testing.T, s *Set, p *promiseCase) {
		if got, ok := s.PromisedAt(&p.flow, p.fits()); !ok || got != p.flow.External {
			t.Errorf("promised is %v, %v; want %v", got, ok, p.flow.External)
		}
		use := p.keeping(t, s)
		if out, at := s.Would(&p.flow, use, &p.terms, p.fits(), 2); out != Granted {
			t.Errorf("it would take its leases: %v %v", out, at)
		}
		if out, at := s.Take(&p.flow, use, &p.terms, p.fits(), 2); out != Granted {
			t.Fatalf("it takes its leases: %v %v", out, at)
		}
		s.Release(&p.to, p.held(), 3)
		other := p.flow
		other.Inside = at("10.0.0.2:1000")
		if _, ok := s.Keeping(&other, p.terms.Outbound(Mixed), &p.terms); ok {
			t.Error("another socket's flow gets the port")
		}
		if out, _, first := s.Promise(&p.to, p.held(), &p.promise, p.fits(), 4); out != Granted || first {
			t.Errorf("promised again it is %v, for the first time: %v", out, first)
		}
		s.Release(&p.flow, use, 5)
		s.Release(&p.to, p.held(), 6)
	})
}

// TestPromiseThatEndsIsNotTakenAnew: between a look at a promise and its leases it may end.
func TestPromiseThatEndsIsNotTakenAnew(t *testing.T) {
	eachPromise(t, func(t *testing.T, s *Set, p *promiseCase) {
		use := p.keeping(t, s)
		s.Release(&p.to, p.held(), 2)
		if out, _ := s.Would(&p.flow, use, &p.terms, p.fits(), 3); out != Busy {
			t.Errorf("it would take its leases: %v", out)
		}
		if out, _ := s.Take(&p.flow, use, &p.terms, p.fits(), 3); out != Busy {
			t.Errorf("it takes its leases: %v", out)
		}
	})
}
