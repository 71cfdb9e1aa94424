package nat

import (
	"math"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

func TestDestination(t *testing.T) {
	local := addr("192.168.1.1")
	pool := []AddrRange{{addr("10.0.0.9"), addr("10.0.0.9")}}
	for _, tt := range []struct {
		claim string
		d     Destination
		proto uint8
		dport uint16
		want  string
		port  uint16
		why   Choice
	}{
		{"an address alone keeps the port", Destination{Addrs: pool}, tuple.TCP, 443, "10.0.0.9", 443, Preserved},
		{"one port replaces any", Destination{Addrs: pool, Ports: PortRange{8443, 8443}}, tuple.TCP, 443, "10.0.0.9", 8443, Fixed},
		{"a port inside the range stays", Destination{Addrs: pool, Ports: PortRange{400, 500}}, tuple.TCP, 443, "10.0.0.9", 443, Preserved},
		{"a port outside the range becomes its first", Destination{Addrs: pool, Ports: PortRange{500, 600}}, tuple.TCP, 443, "10.0.0.9", 500, Fixed},
		{"shift keeps the distance", Destination{Addrs: pool, Ports: PortRange{6000, 6010}, Base: 5000, Flags: Shift}, tuple.UDP, 5004, "10.0.0.9", 6004, Shifted},
		{"a port alone keeps the address", Destination{Ports: PortRange{53, 53}}, tuple.UDP, 5353, "198.51.100.7", 53, Fixed},
		{"redirect goes to the gateway", Destination{Redirect: ToLocal, Ports: PortRange{3128, 3128}}, tuple.TCP, 80, "192.168.1.1", 3128, Fixed},
		{"redirect without ports keeps the port", Destination{Redirect: ToLocal}, tuple.TCP, 80, "192.168.1.1", 80, Preserved},
		{"ping keeps type and code", Destination{Addrs: pool, Ports: PortRange{1, 1}}, tuple.ICMP, 8 << 8, "10.0.0.9", 8 << 8, AddressOnly},
	} {
		from := flow(tt.proto, "192.0.2.5", 40000)
		from.DstPort = tt.dport
		got, why := tt.d.Apply(from, local, 1, 0)
		if got.Dst != addr(tt.want) || got.DstPort != tt.port || why != tt.why {
			t.Errorf("%s: %v (%v), want %s port %d (%v)", tt.claim, got, why, tt.want, tt.port, tt.why)
		}
		got.Dst, got.DstPort = from.Dst, from.DstPort
		if got != from {
			t.Errorf("%s: more than the destination changed: %v", tt.claim, got)
		}
	}
}

func TestRandomPortsStayInRange(t *testing.T) {
	d := Destination{Ports: PortRange{8000, 8003}, Flags: Random}
	seen := map[uint16]bool{}
	for i := range 200 {
		got, why := d.Apply(flow(tuple.TCP, "192.0.2.5", 40000), tuple.Addr{}, uint64(i), 0)
		if !d.Ports.Contains(got.DstPort) || why != RandomPort {
			t.Fatalf("port %d (%v)", got.DstPort, why)
		}
		seen[got.DstPort] = true
	}
	if len(seen) != 4 {
		t.Errorf("%d of 4 ports were used", len(seen))
	}
}

func TestAddrRangeSize(t *testing.T) {
	for _, tt := range []struct {
		first, last string
		want        uint64
	}{
		{"10.0.0.1", "10.0.0.1", 1},
		{"10.0.0.0", "10.0.1.255", 512},
		{"0.0.0.0", "255.255.255.255", 1 << 32},
		{"2001:db8::", "2001:db8::ffff", 65536},
		{"2001:db8::ffff:ffff:ffff:ffff", "2001:db8:0:1::", 2},
		{"::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 1 << 32},
	} {
		r := AddrRange{addr(tt.first), addr(tt.last)}
		if got := r.Size(); got != tt.want {
			t.Errorf("%v has %d addresses, want %d", r, got, tt.want)
		}
		if tt.want < 1<<32 && r.at(tt.want-1) != r.Last {
			t.Errorf("%v: address %d is %v", r, tt.want-1, r.at(tt.want-1))
		}
	}
}

func TestPickCoversItsRange(t *testing.T) {
	if pick(0, 10) != 0 || pick(math.MaxUint64, 10) != 9 {
		t.Errorf("pick gives %d to %d of 10", pick(0, 10), pick(math.MaxUint64, 10))
	}
}

func TestChoicesHaveNames(t *testing.T) {
	seen := map[string]bool{}
	for c := range numChoices {
		if s := c.String(); s == "" || seen[s] {
			t.Errorf("choice %d is called %q", c, s)
		} else {
			seen[s] = true
		}
	}
}

func TestDestinationAllowsWhatItGivesAndNothingElse(t *testing.T) {
	pool := []AddrRange{{First: addr("10.0.0.16"), Last: addr("10.0.0.19")}}
	for claim, d := range map[string]*Destination{
		"an address and a port":    {Addrs: []AddrRange{{addr("10.0.0.6"), addr("10.0.0.6")}}, Ports: PortRange{80, 80}},
		"a pool, port kept":        {Addrs: pool},
		"a random port of a range": {Addrs: pool, Ports: PortRange{8000, 8009}, Flags: Random},
		"a shifted range":          {Addrs: pool, Ports: PortRange{9000, 9100}, Flags: Shift, Base: 400},
		"a redirect":               {Redirect: ToLocal, Ports: PortRange{3128, 3128}},
		"nothing but a port":       {Ports: PortRange{53, 53}},
		"balanced over hosts":      {Balance: &Balance{Backends: []Backend{{Addr: addr("10.0.0.6"), Port: 81, Weight: 1}, {Addr: addr("10.0.0.7"), Weight: 1}}}},
	} {
		local := addr("192.0.2.1")
		for i := range 200 {
			in := tuple.Tuple{Src: addr("198.51.100.7"), Dst: addr("203.0.113.1"), SrcPort: uint16(1000 + i), DstPort: uint16(400 + i%100), Proto: tuple.TCP, Family: tuple.IPv4}
			out, _ := d.Apply(in, local, uint64(i)*0x9e3779b97f4a7c15, uint64(i))
			if !d.Allows(&in, out.Dst, out.DstPort, local) {
				t.Fatalf("%s: %v became %v, which it is said not to allow", claim, in, out)
			}
			if d.Allows(&in, addr("10.0.0.99"), out.DstPort, local) || d.Allows(&in, out.Dst, 7, local) {
				t.Fatalf("%s: allows what it never gives", claim)
			}
		}
	}
}
