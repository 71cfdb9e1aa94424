package netns

import (
	"errors"
	"testing"
)

func TestTopologyIsChecked(t *testing.T) {
	a, b := End{Host: "a", If: "eth0"}, End{Host: "b", If: "eth0"}
	with := func(change func(*End)) Link {
		c := b
		change(&c)
		return Link{Ends: []End{a, c}}
	}
	for _, tt := range []struct {
		name string
		in   Topology
	}{
		{"a link needs two ends", Topology{Links: []Link{{Ends: []End{a}}}}},
		{"an end needs a host", Topology{Links: []Link{with(func(e *End) { e.Host = "" })}}},
		{"an interface name has at most 15 bytes", Topology{Links: []Link{with(func(e *End) { e.If = "abcdefghijklmnop" })}}},
		{"an address has a prefix length", Topology{Links: []Link{with(func(e *End) { e.Addrs = []string{"192.0.2.1"} })}}},
		{"a next hop is an address", Topology{Links: []Link{with(func(e *End) { e.Via = []string{"gw"} })}}},
		{"a route goes to a prefix", Topology{Links: []Link{with(func(e *End) { e.Routes = []Route{{To: "default"}} })}}},
		{"a MAC has six bytes in hex", Topology{Links: []Link{with(func(e *End) { e.MAC = "02:00" })}}},
		{"an interface exists once", Topology{Links: []Link{{Ends: []End{a, b}}, {Ends: []End{a, b}}}}},
		{"the gateway is one of the hosts", Topology{Links: []Link{{Ends: []End{a, b}}}, Gateway: &GatewaySpec{Host: "c"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := tt.in.plan(); !errors.Is(err, errTopology) {
				t.Errorf("plan() = %v, want %v", err, errTopology)
			}
		})
	}
	p, err := Topology{Links: []Link{{Ends: []End{a, b}}}}.plan()
	if err != nil || len(p.hosts) != 2 || p.links[0].mtu != defaultMTU || p.links[0].queues != 1 {
		t.Errorf("plan() = %+v, %v, want two hosts, MTU %d, one queue", p, err, defaultMTU)
	}
}

func TestOwnerIsReadFromTheName(t *testing.T) {
	for _, tt := range []struct {
		name string
		pid  int
		ok   bool
	}{
		{"cvlab-12-1-client", 12, true},
		{"cvlab-12-1", 12, true},
		{"cvlab-12", 0, false},
		{"cvlab-x-1-client", 0, false},
		{"cvlab-demo-12-1-client", 0, false}, // another prefix that starts alike
		{"cvlab-0-1-client", 0, false},
		{"other-12-1-client", 0, false},
	} {
		if pid, ok := ownerOf(tt.name, "cvlab"); ok != tt.ok || ok && pid != tt.pid {
			t.Errorf("ownerOf(%q) = %d, %v, want %d, %v", tt.name, pid, ok, tt.pid, tt.ok)
		}
	}
}
