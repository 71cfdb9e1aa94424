package dataplane

import (
	"fmt"
	"net/netip"
	"testing"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// balance spreads what comes to a port of the gateway over two inside hosts.
func balance(by nat.BalanceBy, hosts ...string) func(s *rules.Spec) {
	b := &nat.Balance{By: by}
	for i, h := range hosts {
		b.Backends = append(b.Backends, nat.Backend{Addr: addr(h), Port: 8080, Weight: uint16(i + 1)})
	}
	return func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Dnat] = []rules.RuleSpec{{
			If:   rules.Conditions{InArea: oneOf("wan"), Local: oneOf(rules.ToLocal), Proto: oneOf(tuple.UDP)},
			Then: rules.ActDnat, Dest: nat.Destination{Balance: b},
		}}
	}
}

func TestBackendsTakeTurns(t *testing.T) {
	l := newLab(t, labConfig{rules: balance(nat.RoundRobin, "10.0.0.5", "10.0.0.6")})
	for i, want := range []string{"10.0.0.5", "10.0.0.6", "10.0.0.6", "10.0.0.5", "10.0.0.6", "10.0.0.6"} {
		l.send("wan", udp(fmt.Sprintf("198.51.100.7:%d", 1000+i), "203.0.113.1:80"))
		l.want("lan", fmt.Sprintf("udp 198.51.100.7:%d > %s:8080 ttl 63 len 0", 1000+i, want))
		l.send("lan", udp(want+":8080", fmt.Sprintf("198.51.100.7:%d", 1000+i)))
		l.want("wan", fmt.Sprintf("udp 203.0.113.1:80 > 198.51.100.7:%d ttl 63 len 0", 1000+i))
	}
	l.wantDrops()
}

// A client keeps its backend over flows and over a reload that takes another
// one out; a flow keeps it even when its own one goes.
func TestAClientKeepsItsBackend(t *testing.T) {
	l := newLab(t, labConfig{rules: balance(nat.ByClient, "10.0.0.5", "10.0.0.6", "10.0.0.7")})
	ask := func(client, port int) string {
		l.send("wan", udp(fmt.Sprintf("198.51.100.%d:%d", client, port), "203.0.113.1:80"))
		return netip.AddrFrom4([4]byte(ipOf(l.take("lan"), packet.LinkEthernet)[16:20])).String()
	}
	got := map[int]string{}
	for client := 1; client <= 20; client++ {
		got[client] = ask(client, 1)
		for port := 2; port < 5; port++ {
			if again := ask(client, port); again != got[client] {
				t.Fatalf("client %d moved from %s to %s", client, got[client], again)
			}
		}
	}
	spec := balance(nat.ByClient, "10.0.0.5", "10.0.0.6", "10.0.0.7")
	l.reload(func(s *rules.Spec) {
		spec(s)
		b := *s.Lists[rules.Dnat][0].Dest.Balance
		b.Backends = b.Backends[1:]
		s.Lists[rules.Dnat][0].Dest.Balance = &b
	})
	moved := 0
	for client := 1; client <= 20; client++ {
		if now := ask(client, 9); got[client] == "10.0.0.5" {
			moved++
		} else if now != got[client] {
			t.Errorf("client %d moved from %s to %s, which has nothing to do with it", client, got[client], now)
		}
		if now := ask(client, 1); now != got[client] {
			t.Errorf("a flow of client %d moved from %s to %s", client, got[client], now)
		}
	}
	if moved == 0 || moved == 20 {
		t.Errorf("%d of 20 clients were with the host that was taken out", moved)
	}
	l.wantDrops()
}

func TestPrefixTranslationRefusesWhatHasNoOtherAddress(t *testing.T) {
	l := newLab(t, labConfig{rules: func(s *rules.Spec) {
		s.Lists[rules.Snat] = []rules.RuleSpec{{
			If: rules.Conditions{OutArea: oneOf("wan")}, Then: rules.ActNPTv6,
			Src: nat.Source{Addrs: []nat.AddrRange{network("2001:db8:2::/64")}, Fit: nat.Neutral, From: network("2001:db8:1::/64")},
		}}
	}})
	all := "2001:db8:1:0:ffff:ffff:ffff:ffff"
	l.resolve(lanID, all)
	l.send("lan", udp("["+all+"]:1", "[2001:db8:77::7]:53"))
	l.want("lan", "icmpv6 2001:db8:1::1 > "+all+" 1/3 [udp ["+all+"]:1 > [2001:db8:77::7]:53 ttl 64 len 0]")
	l.wantDrops(NoMapping)
	l.wantFlows()
}
