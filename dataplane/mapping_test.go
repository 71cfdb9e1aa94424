package dataplane

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// behaviours in the order of RFC 4787: how much of the destination matters.
var behaviours = []nat.Behaviour{nat.EndpointIndependent, nat.AddressDependent, nat.AddressAndPortDependent}

// translate makes a rule that masquerades both families under mapping and filtering.
func translate(m, f nat.Behaviour, more func(*nat.Source)) func(*rules.Spec) {
	return func(s *rules.Spec) {
		masquerade(s)
		r := &s.Lists[rules.Snat][0]
		r.If.Family = 0
		r.Src.Mapping, r.Src.Filtering = m, f
		if more != nil {
			more(&r.Src)
		}
	}
}

// family is one of the two address families of a lab.
type family struct{ client, other, gateway, one, two string }

var families = map[string]family{
	"ipv4": {"10.0.0.5", "10.0.0.6", "203.0.113.1", "198.51.100.7", "198.51.100.8"},
	"ipv6": {"[2001:db8:1::5]", "[2001:db8:1::6]", "[2001:db8:2::1]", "[2001:db8:77::7]", "[2001:db8:77::8]"},
}

// talker sends first packets of a protocol.
type talker func(from, to string) []byte

var talkers = map[string]talker{
	"udp": func(from, to string) []byte { return udp(from, to) },
	"tcp": func(from, to string) []byte { return tcp(from, to, seq(1, 0)) },
}

// external sends a first packet from inside and returns the endpoint it appears
// from, "" if it does not leave.
func (l *lab) external(say talker, from, to string) string {
	l.Helper()
	l.send("lan", say(from, to))
	sent := l.ports["wan"].TakeFrames()
	if len(sent) != 1 {
		l.ports["lan"].TakeFrames()
		return ""
	}
	words := strings.Fields(describe(sent[0], packet.LinkEthernet))
	if words[3] != to {
		l.Errorf("%s went to %s", to, words[3])
	}
	return words[1]
}

// reached sends a first packet from outside and returns whom it reaches, "" if
// nobody.
func (l *lab) reached(say talker, from, to string) string {
	l.Helper()
	l.send("wan", say(from, to))
	l.ports["wan"].TakeFrames()
	sent := l.ports["lan"].TakeFrames()
	if len(sent) == 0 {
		return ""
	}
	words := strings.Fields(describe(sent[0], packet.LinkEthernet))
	if words[1] != from {
		l.Errorf("a packet of %s arrives from %s", from, words[1])
	}
	return words[3]
}

// TestMappingAndFiltering observes all nine combinations from both sides, as a
// test program for NATs does.
func TestMappingAndFiltering(t *testing.T) {
	for _, m := range behaviours {
		for _, f := range behaviours {
			for famName, fam := range families {
				for proto, say := range talkers {
					t.Run(fmt.Sprintf("mapping %d filtering %d %s %s", m, f, famName, proto), func(t *testing.T) {
						l := newLab(t, labConfig{rules: translate(m, f, nil)})
						socket := fam.client + ":4000"
						first := l.external(say, socket, fam.one+":53")
						if first != fam.gateway+":4000" {
							t.Fatalf("first flow leaves from %q, want the port kept", first)
						}
						port := l.external(say, socket, fam.one+":54")
						host := l.external(say, socket, fam.two+":53")
						if same := port == first; same != (m <= nat.AddressDependent) {
							t.Errorf("another port of the host: from %s after %s", port, first)
						}
						if same := host == first; same != (m == nat.EndpointIndependent) {
							t.Errorf("another host: from %s after %s", host, first)
						}
						if l.external(say, socket, fam.one+":54") != port && m != nat.AddressAndPortDependent {
							t.Error("the mapping is not kept")
						}
						// Nobody has sent to these.
						if got := l.reached(say, fam.one+":99", first); got != map[bool]string{true: socket}[f <= nat.AddressDependent] {
							t.Errorf("another port of the host reaches %q", got)
						}
						stranger := "198.51.100.9:53"
						if famName == "ipv6" {
							stranger = "[2001:db8:77::9]:53"
						}
						if got := l.reached(say, stranger, first); got != map[bool]string{true: socket}[f == nat.EndpointIndependent] {
							t.Errorf("a stranger reaches %q", got)
						}
						if got := l.reached(say, fam.one+":53", fam.gateway+":4999"); got != "" {
							t.Errorf("a port of nobody reaches %q", got)
						}
						// Another inside host has a port of its own.
						other := l.external(say, fam.other+":4000", fam.one+":53")
						if other == "" || other == first {
							t.Errorf("two inside hosts from %s to one destination", other)
						}
					})
				}
			}
		}
	}
}

func TestPacketsFromOutsideMakeNoMapping(t *testing.T) {
	for _, f := range behaviours {
		l := newLab(t, labConfig{rules: translate(nat.EndpointIndependent, f, nil)})
		for port := range 2000 {
			l.send("wan", udp("198.51.100.7:53", fmt.Sprintf("203.0.113.1:%d", 1+port*32)))
		}
		if n := l.e.leases.Len(); n != 0 || l.table.Len() != 0 {
			t.Errorf("%d leases, %d flows after packets from outside", n, l.table.Len())
		}
		l.ports["wan"].TakeFrames()
	}
}

func TestMappingEndsWithItsLastFlow(t *testing.T) {
	l := newLab(t, labConfig{rules: translate(nat.EndpointIndependent, nat.EndpointIndependent, nil)})
	l.external(talkers["udp"], "10.0.0.5:4000", "198.51.100.7:53")
	l.reached(talkers["udp"], "198.51.100.8:53", "203.0.113.1:4000")
	l.table.DeleteIf(func(f *conntrack.Flow) bool { return f.Tuple[0].Dst == addr("198.51.100.7") })
	if got := l.reached(talkers["udp"], "198.51.100.9:53", "203.0.113.1:4000"); got != "10.0.0.5:4000" {
		t.Errorf("while a flow from outside lives, a stranger reaches %q", got)
	}
	l.table.Flush()
	if n := l.e.leases.Len(); n != 0 {
		t.Errorf("%d leases without flows", n)
	}
	if got := l.reached(talkers["udp"], "198.51.100.9:53", "203.0.113.1:4000"); got != "" {
		t.Errorf("after the last flow a stranger reaches %q", got)
	}
}

func TestPortIsKeptForItsClient(t *testing.T) {
	hold := func(s *nat.Source) {
		s.HoldDown = 120 * time.Second
		s.Ports = nat.PortRange{First: 5000, Last: 5000}
	}
	say := talkers["udp"]
	l := newLab(t, labConfig{rules: translate(nat.EndpointIndependent, nat.AddressDependent, hold)})
	if got := l.external(say, "10.0.0.5:4000", "198.51.100.7:53"); got != "203.0.113.1:5000" {
		t.Fatalf("left from %q", got)
	}
	if got := l.external(say, "10.0.0.6:4000", "198.51.100.8:53"); got != "" {
		t.Errorf("a port is two sockets': %s", got)
	}
	l.wantDrops(PortsExhausted)
	l.table.Flush()
	if got := l.external(say, "10.0.0.6:4000", "198.51.100.8:53"); got != "" {
		t.Errorf("another client has the port at once: %s", got)
	}
	if got := l.external(say, "10.0.0.5:4001", "198.51.100.8:53"); got != "203.0.113.1:5000" {
		t.Errorf("the client does not get its port back: %q", got)
	}
	l.table.Flush()
	l.advance(119 * time.Second)
	if got := l.external(say, "10.0.0.6:4000", "198.51.100.8:53"); got != "" {
		t.Errorf("another client has the port after 119 s: %s", got)
	}
	l.advance(2 * time.Second)
	if got := l.external(say, "10.0.0.6:4000", "198.51.100.8:53"); got != "203.0.113.1:5000" {
		t.Errorf("nobody has the port after 121 s: %q", got)
	}
	l.ports["lan"].TakeFrames()
}

func TestOwnServicesWinOverMappings(t *testing.T) {
	l := newLab(t, labConfig{rules: translate(nat.EndpointIndependent, nat.EndpointIndependent, nil)})
	l.external(talkers["udp"], "10.0.0.5:4000", "198.51.100.7:53")
	l.host.services[4000] = true
	if got := l.reached(talkers["udp"], "198.51.100.8:53", "203.0.113.1:4000"); got != "" {
		t.Errorf("a packet for the gateway's own service reaches %q", got)
	}
	l.wantDrops(LocalDenied) // outside has no local services
}

func TestLinuxMappingKeepsAMovedPort(t *testing.T) {
	l := newLab(t, labConfig{})
	say := talkers["udp"]
	l.external(say, "10.0.0.5:4000", "198.51.100.7:53")
	moved := l.external(say, "10.0.0.6:4000", "198.51.100.7:53")
	if moved == "203.0.113.1:4000" || moved == "" {
		t.Fatalf("second flow from %q", moved)
	}
	if got := l.external(say, "10.0.0.6:4000", "198.51.100.8:53"); got != moved {
		t.Errorf("next flow of the socket from %s, want %s again", got, moved)
	}
	if l.e.leases.Len() != 1 {
		t.Errorf("%d leases, want one hint", l.e.leases.Len())
	}
	l.table.Flush()
	if l.e.leases.Len() != 0 {
		t.Errorf("%d leases without flows", l.e.leases.Len())
	}
}

func TestLinuxFlowsAndOwnersDoNotMeet(t *testing.T) {
	mixed := func(s *rules.Spec) {
		translate(nat.EndpointIndependent, nat.EndpointIndependent, nil)(s)
		linux := s.Lists[rules.Snat][0]
		linux.If.Src = oneOf(nat.AddrRange{First: addr("10.0.0.6"), Last: addr("10.0.0.6")})
		linux.Src.Mapping, linux.Src.Filtering = nat.Linux, nat.Linux
		s.Lists[rules.Snat] = append([]rules.RuleSpec{linux}, s.Lists[rules.Snat]...)
	}
	l := newLab(t, labConfig{rules: mixed})
	say := talkers["udp"]
	l.external(say, "10.0.0.6:4000", "198.51.100.7:53")
	if got := l.external(say, "10.0.0.5:4000", "198.51.100.8:53"); got == "203.0.113.1:4000" || got == "" {
		t.Errorf("an owner has the port of a linux flow: %q", got)
	}
	l.external(say, "10.0.0.5:4001", "198.51.100.8:53")
	if got := l.external(say, "10.0.0.6:4001", "198.51.100.9:53"); got == "203.0.113.1:4001" || got == "" {
		t.Errorf("a linux flow has an owner's port: %q", got)
	}
}

// A map and a netmap say where a flow goes, the rule around them how it is mapped.
func TestMappingsOfMapsAndNetmaps(t *testing.T) {
	m, err := nat.NewMap([]nat.Entry[nat.Source]{
		{Addrs: network("10.0.0.4/30"), Ports: nat.AnyPort, To: nat.Source{Addrs: single("203.0.113.9")}},
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, src := range map[string]nat.Source{
		"map":    {Map: m},
		"netmap": {Addrs: []nat.AddrRange{network("203.0.113.8/30")}, Fit: nat.KeepBits},
	} {
		l := newLab(t, labConfig{rules: func(s *rules.Spec) {
			src.Mapping, src.Filtering = nat.EndpointIndependent, nat.AddressDependent
			s.Lists[rules.Snat] = []rules.RuleSpec{{
				If: rules.Conditions{OutArea: oneOf("wan"), Src: oneOf(network("10.0.0.4/30"))}, Then: rules.ActSnat, Src: src,
			}}
		}})
		say := talkers["udp"]
		one := l.external(say, "10.0.0.5:4000", "198.51.100.7:53")
		if two := l.external(say, "10.0.0.5:4000", "198.51.100.8:53"); one != "203.0.113.9:4000" || two != one {
			t.Errorf("%s: one socket appears as %s and %s", name, one, two)
		}
		if got := l.reached(say, "198.51.100.8:99", one); got != "10.0.0.5:4000" {
			t.Errorf("%s: a host that was sent to reaches %q", name, got)
		}
		if got := l.reached(say, "198.51.100.9:99", one); got != "" {
			t.Errorf("%s: a stranger reaches %q", name, got)
		}
	}
}

func TestPortsOfAMapAreCountedByItsEntries(t *testing.T) {
	m, err := nat.NewMap([]nat.Entry[nat.Source]{
		{Addrs: network("10.0.0.4/30"), Ports: nat.AnyPort, To: nat.Source{Addrs: single("203.0.113.9"), Ports: nat.PortRange{First: 4000, Last: 4099}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		s.Lists[rules.Snat] = []rules.RuleSpec{{
			If: rules.Conditions{OutArea: oneOf("wan"), Src: oneOf(network("10.0.0.4/30"))}, Then: rules.ActSnat, Src: nat.Source{Map: m},
		}}
	}})
	l.external(talkers["udp"], "10.0.0.5:4000", "198.51.100.7:53")
	all := l.e.PortUse()
	if len(all) != 1 || all[0].Addr != addr("203.0.113.9") || all[0].Used != 1 || all[0].Total != 100 {
		t.Errorf("use of ports: %+v", all)
	}
}

// TestMappingFollowsAnAddressThatChanges gives the outside port another address:
// new flows of a mapped socket appear from that, all from one port of it, and ports
// of the old one end with the flows that have them.
func TestMappingFollowsAnAddressThatChanges(t *testing.T) {
	for _, m := range behaviours {
		l := newLab(t, labConfig{rules: translate(m, nat.EndpointIndependent, func(s *nat.Source) { s.HoldDown = time.Minute })})
		say := talkers["udp"]
		if got := l.external(say, "10.0.0.5:4000", "198.51.100.7:53"); got != "203.0.113.1:4000" {
			t.Fatalf("left from %q", got)
		}
		st := l.stateNow()
		for i := range st.Ports {
			if st.Ports[i].ID == wanID {
				st.Ports[i].Addresses = prefixes("203.0.113.77/24")
			}
		}
		l.apply(st)
		first := l.external(say, "10.0.0.5:4000", "198.51.100.8:53")
		if !strings.HasPrefix(first, "203.0.113.77:") {
			t.Errorf("mapping %d: after the change a flow leaves from %q", m, first)
		}
		if again := l.external(say, "10.0.0.5:4000", "198.51.100.9:53"); (again == first) != (m == nat.EndpointIndependent) {
			t.Errorf("mapping %d: flows to two hosts from %s and %s", m, first, again)
		}
		l.table.DeleteIf(func(f *conntrack.Flow) bool { return f.Tuple[1].Dst == addr("203.0.113.1") })
		for _, sp := range l.e.leases.Spaces() {
			if used, kept := sp.Used(); sp.Addr == addr("203.0.113.1") && used != kept {
				t.Errorf("mapping %d: %d ports of the old address are used, %d kept", m, used, kept)
			}
		}
	}
}

// TestReloadKeepsMappings changes the rule under live flows: a mapping lives on as
// long as the new rule allows its port, and lets in what it did.
func TestReloadKeepsMappings(t *testing.T) {
	say := talkers["udp"]
	l := newLab(t, labConfig{rules: translate(nat.EndpointIndependent, nat.EndpointIndependent, nil)})
	l.external(say, "10.0.0.5:4000", "198.51.100.7:53")
	l.reload(translate(nat.EndpointIndependent, nat.EndpointIndependent, func(s *nat.Source) { s.PortsPerClient = 7 }))
	if got := l.external(say, "10.0.0.5:4000", "198.51.100.8:53"); got != "203.0.113.1:4000" {
		t.Errorf("after a change that leaves the port alone a flow leaves from %q", got)
	}
	l.reload(translate(nat.EndpointIndependent, nat.EndpointIndependent, func(s *nat.Source) { s.Ports = nat.PortRange{First: 5000, Last: 5999} }))
	moved := l.external(say, "10.0.0.5:4000", "198.51.100.9:53")
	if !strings.HasPrefix(moved, "203.0.113.1:5") {
		t.Errorf("the rule gives ports from 5000 on, and a flow leaves from %q", moved)
	}
	l.reload(masquerade)
	if got := l.reached(say, "198.51.100.77:53", moved); got != "10.0.0.5:4000" {
		t.Errorf("under rules without mappings a live one leads to %q", got)
	}
	l.table.Flush()
	if n := l.e.leases.Len(); n != 0 {
		t.Errorf("%d leases without flows", n)
	}
}

// TestFlowsFromOutsideCountForTheClient lets strangers in by endpoint-independent
// filtering: they count for the rule and under the quota of the client they reach.
func TestFlowsFromOutsideCountForTheClient(t *testing.T) {
	say := talkers["udp"]
	l := newLab(t, labConfig{rules: translate(nat.EndpointIndependent, nat.EndpointIndependent, func(s *nat.Source) { s.PortsPerClient = 3 })})
	l.external(say, "10.0.0.5:4000", "198.51.100.7:53")
	for i, want := range []string{"10.0.0.5:4000", "10.0.0.5:4000", "", ""} {
		if got := l.reached(say, fmt.Sprintf("198.51.100.%d:53", 10+i), "203.0.113.1:4000"); got != want {
			t.Errorf("stranger %d reaches %q, want %q", i, got, want)
		}
	}
	l.wantDrops(PortQuota, PortQuota)
	if hits := l.e.RuleHits()[0].Hits; hits < 3 {
		t.Errorf("the rule counts %d packets, want its flow and those let in", hits)
	}
	l.table.DeleteIf(func(f *conntrack.Flow) bool { return f.Tuple[0].Src == addr("198.51.100.10") })
	if got := l.reached(say, "198.51.100.30:53", "203.0.113.1:4000"); got != "10.0.0.5:4000" {
		t.Errorf("after one of them has ended the next stranger reaches %q", got)
	}
}

// TestQueriesKeepTheirIdentifier maps ICMP identifiers by the inside endpoint
// (RFC 5508 REQ-1a), and lets no query in by a mapping.
func TestQueriesKeepTheirIdentifier(t *testing.T) {
	l := newLab(t, labConfig{rules: translate(nat.EndpointIndependent, nat.EndpointIndependent, nil)})
	l.send("lan", ping("10.0.0.5", "198.51.100.7", 7))
	l.want("wan", "icmp 203.0.113.1 > 198.51.100.7 echo id 7 ttl 63")
	l.send("lan", ping("10.0.0.6", "198.51.100.8", 7))
	words := strings.Fields(describe(l.take("wan"), packet.LinkEthernet))
	moved := words[6]
	if moved == "7" {
		t.Error("two hosts have one identifier")
	}
	l.send("lan", ping("10.0.0.6", "198.51.100.9", 7))
	l.want("wan", "icmp 203.0.113.1 > 198.51.100.9 echo id "+moved+" ttl 63")
	l.send("wan", ping("198.51.100.77", "203.0.113.1", 7))
	l.wantDrops(LocalDenied)
}
