package dataplane

import (
	"testing"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/rules"
)

// judging has one filter rule about invalid packets, before what edit adds.
func judging(then rules.Action, more ...func(*rules.Spec)) func(*rules.Spec) {
	return func(s *rules.Spec) {
		s.Lists[rules.Filter] = []rules.RuleSpec{{If: rules.Conditions{State: oneOf(rules.Invalid)}, Then: then}}
		for _, edit := range more {
			edit(s)
		}
	}
}

// hits returns how many packets matched the first filter rule.
func (l *lab) hits() uint64 {
	l.Helper()
	for _, r := range l.w.v.prog.Rules() {
		if r.List == rules.Filter {
			return l.w.v.ledger.Hits(r).Packets
		}
	}
	l.Fatal("there is no filter rule")
	return 0
}

// invalids are packets of every kind that is invalid, each with what it takes
// before it and the Reason to drop it.
var invalids = []struct {
	name   string
	before func(l *lab)
	port   string
	packet func() []byte
	why    Reason
}{
	{"a SYN+ACK of no flow", nil, "lan",
		func() []byte { return tcp("10.0.0.5:40000", "198.51.100.7:80", flags(packet.SYN|packet.ACK)) }, InvalidState},
	{"impossible flags", nil, "lan",
		func() []byte { return tcp("10.0.0.5:40000", "198.51.100.7:80", flags(packet.SYN|packet.FIN)) }, BadTCPFlags},
	{"an echo reply of no flow", nil, "lan",
		func() []byte { return pong("10.0.0.5", "198.51.100.7", 1) }, InvalidNew},
	{"an error about no flow", nil, "lan", func() []byte {
		return icmpErrorAbout("10.0.0.5", "198.51.100.7", 3, 3, 0, udp("198.51.100.7:53", "10.0.0.5:40000"))
	}, ICMPNoFlow},
	{"a RST far outside of its flow's window", establish, "lan",
		func() []byte {
			return tcp("10.0.0.5:40000", "198.51.100.7:80", flags(packet.RST|packet.ACK), seq(1<<30, 1))
		}, InvalidWindow},
}

// establish makes a TCP connection that invalid packets can belong to, whatever the
// lab translates.
func establish(l *lab) {
	l.Helper()
	const client, server = "10.0.0.5:40000", "198.51.100.7:80"
	l.send("lan", tcp(client, server, seq(0, 0)))
	outside := client
	l.table.Dump(func(f *conntrack.Flow) bool {
		outside = f.Tuple[tuple.Reply].Dst.Netip().String() + ":40000"
		return true
	})
	l.send("wan", tcp(server, outside, flags(packet.SYN|packet.ACK), seq(0, 1)))
	l.send("lan", tcp(client, server, flags(packet.ACK), seq(1, 1)))
	for name := range l.ports {
		l.ports[name].TakeFrames()
	}
}

// eachInvalid runs do in a lab of its own for each kind of invalid packet, after the
// packet.
func eachInvalid(t *testing.T, edit func(*rules.Spec), do func(l *lab, name string, why Reason)) {
	for _, tt := range invalids {
		t.Run(tt.name, func(t *testing.T) {
			l := newLab(t, labConfig{rules: edit})
			if tt.before != nil {
				tt.before(l)
			}
			l.last = l.e.Stats()
			l.send(tt.port, tt.packet())
			do(l, tt.name, tt.why)
		})
	}
}

func TestRulesCountInvalidPackets(t *testing.T) {
	eachInvalid(t, judging(rules.ActDrop, masquerade), func(l *lab, _ string, why Reason) {
		l.wantDrops(why) // what is wrong with it says more than "denied"
		if n := l.hits(); n != 1 {
			l.Errorf("the rule counts %d packets, want 1", n)
		}
	})
}

func TestInvalidPacketsAreDroppedWithoutRules(t *testing.T) {
	eachInvalid(t, masquerade, func(l *lab, _ string, why Reason) { l.wantDrops(why) })
}

func TestAcceptingEverythingDoesNotAcceptInvalidPackets(t *testing.T) {
	eachInvalid(t, func(s *rules.Spec) {
		s.Lists[rules.Filter] = []rules.RuleSpec{{Then: rules.ActAccept}}
	}, func(l *lab, _ string, why Reason) { l.wantDrops(why) })
}

func TestInvalidPacketsAreNotAnsweredWithReset(t *testing.T) {
	eachInvalid(t, judging(rules.ActReject, masquerade), func(l *lab, name string, _ Reason) {
		l.wantDrops(RuleRejected)
		if name == "an error about no flow" {
			return // errors are not answered (RFC 1122 section 3.2.2)
		}
		if f := l.take("lan"); f.Data[14+9] != 1 || f.Data[14+20] != 3 || f.Data[14+21] != 13 {
			l.Errorf("the answer has protocol %d, type %d and code %d, want ICMP 3/13", f.Data[14+9], f.Data[14+20], f.Data[14+21])
		}
	})
}

func TestAcceptedInvalidPacketsDoNotShowInsideAddresses(t *testing.T) {
	eachInvalid(t, judging(rules.ActAccept, masquerade), func(l *lab, _ string, _ Reason) {
		l.wantDrops(Untranslated)
		if n := l.hits(); n != 1 {
			l.Errorf("the rule counts %d packets, want 1", n)
		}
	})
}

func TestAcceptedErrorsDoNotShowWhatOtherProtocolsHide(t *testing.T) {
	onlyTCP := func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Snat][0].If.Proto = rules.Match[uint8]{Values: []uint8{tuple.TCP}}
	}
	eachInvalid(t, judging(rules.ActAccept, onlyTCP), func(l *lab, _ string, _ Reason) {
		l.wantDrops(Untranslated)
	})
}

func TestAcceptedInvalidPacketsPassWhereNothingIsTranslated(t *testing.T) {
	eachInvalid(t, judging(rules.ActAccept), func(l *lab, name string, _ Reason) {
		l.wantDrops()
		if f := l.take("wan"); sourceOf(f.Data[14:]) != addr("10.0.0.5") {
			l.Errorf("%s left as %s", name, describe(f, packet.LinkEthernet))
		}
	})
}

func TestAcceptedInvalidPacketsDoNotReachTheGatewayItself(t *testing.T) {
	l := newLab(t, labConfig{rules: judging(rules.ActAccept)})
	l.send("lan", tcp("10.0.0.5:40000", "10.0.0.1:80", flags(packet.SYN|packet.ACK)))
	l.wantDrops(Untranslated)
	l.send("lan", tcp("10.0.0.5:40000", "198.51.100.7:80", flags(packet.SYN|packet.ACK), ttl(1)))
	l.wantDrops(TTLExceeded)
	l.ports["lan"].TakeFrames()
}

func TestSpoofedInvalidPacketsAreNotAnswered(t *testing.T) {
	l := newLab(t, labConfig{rules: judging(rules.ActReject)})
	l.send("lan", tcp("192.0.2.9:40000", "198.51.100.7:80", flags(packet.SYN|packet.ACK)))
	l.wantDrops(InvalidState)
}
