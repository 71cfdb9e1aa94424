package dataplane

import (
	"net/netip"
	"slices"
	"testing"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/dataplane/route"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// TestReloadHasFlowsChooseNextHopsAnewIfTheyMayDiffer: and else they keep them.
func TestReloadHasFlowsChooseNextHopsAnewIfTheyMayDiffer(t *testing.T) {
	port := func(st *State, id uint16) *PortConfig {
		return &st.Ports[slices.IndexFunc(st.Ports, func(p PortConfig) bool { return p.ID == id })]
	}
	for _, tt := range []struct {
		change string
		rules  func(*rules.Spec)
		edit   func(l *lab, st *State)
		keep   bool
	}{
		{"none", nil, func(*lab, *State) {}, true},
		{"rules about flows", deny(rules.Conditions{DstPort: oneOf(nat.PortRange{First: 99, Last: 99})}), func(*lab, *State) {}, true},
		{"a table of the same routes", nil, func(l *lab, st *State) { st.Routes = l.routes(st) }, true},
		{"an MTU", nil, func(_ *lab, st *State) { port(st, wanID).MTU = 1400 }, true},
		{"rules about packets", deny(rules.Conditions{TTL: oneOf(rules.ByteRange{First: 0, Last: 1})}), func(*lab, *State) {}, false},
		{"a route", nil, func(l *lab, st *State) {
			l.cfg.routes = []route.Route{{Prefix: netip.MustParsePrefix("0.0.0.0/0"), Port: wanID, Gateway: netip.MustParseAddr("203.0.113.253")}}
			st.Routes = l.routes(st)
		}, false},
		{"an address", nil, func(_ *lab, st *State) {
			p := port(st, guestID)
			p.Addresses = append(p.Addresses, netip.MustParsePrefix("198.51.100.7/32"))
		}, false},
		{"an address that is gone", nil, func(_ *lab, st *State) { st.Gone = []netip.Addr{netip.MustParseAddr("203.0.113.1")} }, false},
		{"an area", nil, func(_ *lab, st *State) { port(st, guestID).Name = "spare" }, false},
		{"the check of reverse paths", nil, func(_ *lab, st *State) { port(st, lanID).RPF = RPFLoose }, false},
		{"another driver", nil, func(l *lab, st *State) { port(st, guestID).Port = l.port("guest", mem.Options{}) }, false},
		{"a port less", nil, func(_ *lab, st *State) {
			st.Ports = slices.DeleteFunc(st.Ports, func(p PortConfig) bool { return p.ID == guestID })
		}, false},
	} {
		t.Run(tt.change, func(t *testing.T) {
			l := newLab(t, labConfig{})
			l.send("lan", udp("10.0.0.5:1", "198.51.100.7:53"))
			l.take("wan")
			l.send("wan", udp("198.51.100.7:53", "203.0.113.1:1"))
			l.take("lan")
			st := l.stateNow()
			tt.edit(l, &st)
			st.Program = l.program(&st, tt.rules)
			l.apply(st)
			l.table.Dump(func(f *conntrack.Flow) bool {
				for d := range f.Hint {
					if _, kept := l.e.neigh.Valid(route.Hint(f.Hint[d])); kept != tt.keep {
						t.Errorf("the next hop in the %v direction is kept: %v, want %v", tuple.Direction(d), kept, tt.keep)
					}
				}
				return true
			})
			if l.table.Len() != 1 {
				t.Errorf("%d flows, want 1", l.table.Len())
			}
		})
	}
}
