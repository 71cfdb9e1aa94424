package dataplane

import (
	"fmt"
	"testing"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// RFC 6888 REQ-4: a client gets as many ports of a protocol as its rule says, and
// what it is refused takes nothing from others.
func TestPortsOfAClientAreLimited(t *testing.T) {
	const limit = 10
	for mapping := nat.Linux; mapping <= nat.AddressAndPortDependent; mapping++ {
		filtering := max(mapping, nat.EndpointIndependent)
		t.Run(fmt.Sprintf("mapping %d", mapping), func(t *testing.T) {
			l := newLab(t, labConfig{rules: translate(mapping, filtering, func(s *nat.Source) { s.PortsPerClient = limit })})
			opens := func(client string) (n int) {
				for i := range 2 * limit {
					if l.external(talkers["udp"], fmt.Sprintf("%s:%d", client, 4000+i), "198.51.100.7:53") != "" {
						n++
					}
				}
				return n
			}
			if n := opens("10.0.0.5"); n != limit {
				t.Errorf("the client has %d ports, want %d", n, limit)
			}
			if n := opens("10.0.0.6"); n != limit {
				t.Errorf("another one has %d, want %d", n, limit)
			}
			if l.external(talkers["tcp"], "10.0.0.5:4000", "198.51.100.7:53") == "" {
				t.Error("the limit holds for all protocols together")
			}
			if got := l.e.Stats().Dropped[PortQuota]; got != 2*limit {
				t.Errorf("%d packets refused for the limit, want %d", got, 2*limit)
			}
		})
	}
}

// RFC 4787 REQ-10, RFC 5382 REQ-6: no flow has a helper that no rule has given it.
func TestFlowsHaveNoHelperWithoutARule(t *testing.T) {
	l := newLab(t, labConfig{rules: masquerade})
	for _, port := range []int{21, 69, 137, 161, 554, 1720, 1723, 5060, 6667} {
		to := fmt.Sprintf("198.51.100.7:%d", port)
		if l.external(talkers["tcp"], "10.0.0.5:4000", to) == "" || l.external(talkers["udp"], "10.0.0.5:4000", to) == "" {
			t.Errorf("no flow to %s", to)
		}
	}
	l.table.Dump(func(f *conntrack.Flow) bool {
		if f.Helper != "" {
			t.Errorf("%v has helper %s", f.Tuple[tuple.Original], f.Helper)
		}
		return true
	})
}
