package dataplane

import (
	"testing"

	"example.com/culvert/alg"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/rules"
)

const synAck = packet.SYN | packet.ACK

// TestAnswersInAHostsNameHaveItsNumbers: what the gateway says for the client after its
// numbers were moved has those that the server knows, or that one takes it for data beyond
// what it has.
func TestAnswersInAHostsNameHaveItsNumbers(t *testing.T) {
	low := rules.Conditions{InArea: oneOf("wan"), TTL: oneOf(rules.ByteRange{First: 2, Last: 9})}
	l := parrotLab(t, labConfig{rules: func(s *rules.Spec) {
		masquerade(s)
		s.Lists[rules.Filter] = []rules.RuleSpec{{If: low, Then: rules.ActReject, Reject: rules.WithReset}}
	}}, alg.Options{})
	l.talkTCP()
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 155), body("half ")))
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 155 ack 506 ttl 64 len 0")
	l.want("lan", "tcp "+parrotTo+" > "+parrotIn+" A seq 501 ack 106 ttl 63 len 0")
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(506, 155), ttl(5)))
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" R seq 155 ack 0 ttl 64 len 0")
	l.wantDrops(RuleRejected)

	l.settle(func(s *rules.Spec) { // the helper goes, the numbers stay moved
		masquerade(s)
		s.Lists[rules.Filter] = []rules.RuleSpec{{If: low, Then: rules.ActReject, Reject: rules.WithReset}}
	})
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(506, 155), ttl(5)))
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" R seq 155 ack 0 ttl 64 len 0")
	l.wantDrops(RuleRejected)
}

// TestLateSYNsLeaveTheNumbersOfAConnectionAlone: a copy of the SYN, or of the answer to
// it, that the network delivers late begins nothing.
func TestLateSYNsLeaveTheNumbersOfAConnectionAlone(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	l.talkTCP()
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 155)))
	l.want("lan", "tcp "+parrotTo+" > "+parrotIn+" A seq 501 ack 106 ttl 63 len 0")
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(501, 155), body("#\n")))
	l.want("lan", "tcp "+parrotTo+" > "+parrotIn+" A seq 501 ack 106 ttl 63 len 1")
	l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(106, 502)))
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 155 ack 503 ttl 63 len 0")

	l.send("wan", tcp(parrotTo, parrotOn, flags(synAck), seq(500, 101)))
	l.want("lan", "tcp "+parrotTo+" > "+parrotIn+" SA seq 500 ack 101 ttl 63 len 0")
	l.send("lan", tcp(parrotIn, parrotTo, seq(100, 0)))
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" S seq 100 ack 0 ttl 63 len 0")

	l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(106, 502), body("xy\n")))
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 155 ack 503 ttl 63 len 3")
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(503, 158), body("z\n")))
	l.want("lan", "tcp "+parrotTo+" > "+parrotIn+" A seq 502 ack 109 ttl 63 len 2")
}

// TestConnectionThatBeginsAnewIsReadFromItsStart: a client that has lost its connection
// opens another one from the same port, which its server accepts. Nothing of the first one
// counts: neither its numbers nor what was said.
func TestConnectionThatBeginsAnewIsReadFromItsStart(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	l.talkTCP()
	l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(106, 501), body("half of a li")))
	l.ports["wan"].TakeFrames()
	l.ports["lan"].TakeFrames()

	l.send("lan", tcp(parrotIn, parrotTo, seq(9000, 0)))
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" S seq 9000 ack 0 ttl 63 len 0")
	l.send("wan", tcp(parrotTo, parrotOn, flags(synAck), seq(7000, 9001)))
	l.want("lan", "tcp "+parrotTo+" > "+parrotIn+" SA seq 7000 ack 9001 ttl 63 len 0")
	l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(9001, 7001)))
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 9001 ack 7001 ttl 63 len 0")
	l.send("lan", tcp(parrotIn, parrotTo, flags(ackFlag), seq(9001, 7001), body("a#b\n")))
	l.want("wan", "tcp "+parrotOn+" > "+parrotTo+" A seq 9001 ack 7001 ttl 63 len 3")
	l.send("wan", tcp(parrotTo, parrotOn, flags(ackFlag), seq(7001, 9004)))
	l.want("lan", "tcp "+parrotTo+" > "+parrotIn+" A seq 7001 ack 9005 ttl 63 len 0")
}

// TestCommandsOfAnOldConnectionDoNotVouchForANewOne: what was a session of FTP is a POST
// now, from the same port.
func TestCommandsOfAnOldConnectionDoNotVouchForANewOne(t *testing.T) {
	l := phonesLab(t)
	const client, to, seen = "10.0.0.5:40000", "198.51.100.7:21", "203.0.113.1:40000"
	l.send("lan", tcp(client, to, seq(100, 0)))
	l.send("wan", tcp(to, seen, flags(synAck), seq(500, 101)))
	l.send("wan", tcp(to, seen, flags(ackFlag), seq(501, 101), body("220 ready\r\n")))
	l.send("lan", tcp(client, to, flags(ackFlag), seq(101, 512), body("USER ftp\r\n")))
	l.send("lan", tcp(client, to, seq(9000, 0)))
	l.send("wan", tcp(to, seen, flags(synAck), seq(7000, 9001)))
	l.send("lan", tcp(client, to, flags(ackFlag), seq(9001, 7001), body("PORT 10,0,0,5,23,112\r\n")))
	if n := l.table.ExpectLen(); n != 0 {
		t.Errorf("%d flows are expected of a connection whose server did not greet", n)
	}
	l.ports["wan"].TakeFrames()
	l.ports["lan"].TakeFrames()
}

// TestFlowThatFoundNoMemoryIsNotReadFromItsMiddle: somebody fills the memory of helpers,
// has a browser post a form, and gives the memory back before a segment with a command.
func TestFlowThatFoundNoMemoryIsNotReadFromItsMiddle(t *testing.T) {
	l := phonesLab(t)
	const client, to, seen = "10.0.0.5:40000", "198.51.100.7:21", "203.0.113.1:40000"
	all := l.stateNow().Helpers
	l.send("lan", tcp(client, to, seq(100, 0)))
	l.send("wan", tcp(to, seen, flags(synAck), seq(500, 101)))
	l.bound(HelperBounds{Memory: 1})
	const posted = "POST / HTTP/1.1\r\n"
	l.send("lan", tcp(client, to, flags(ackFlag), seq(101, 501), body(posted)))
	l.bound(all)
	l.send("wan", tcp(to, seen, flags(ackFlag), seq(501, uint32(101+len(posted))), body("220 ready\r\n")))
	l.send("lan", tcp(client, to, flags(ackFlag), seq(uint32(101+len(posted)), 512), body("PORT 10,0,0,5,23,112\r\n")))
	if n := l.table.ExpectLen(); n != 0 {
		t.Errorf("%d flows are expected", n)
	}
	l.ports["wan"].TakeFrames()
	l.ports["lan"].TakeFrames()
}

// TestSuperPacketThatAHelperTakesApartIsDeliveredOnce: what is counted is the packet that
// came, not the datagrams that a service of the gateway gets of it.
func TestSuperPacketThatAHelperTakesApartIsDeliveredOnce(t *testing.T) {
	l := parrotLab(t, labConfig{}, alg.Options{})
	l.send("host", udp("203.0.113.1:40000", "198.51.100.7:5000"))
	l.take("wan")
	before := l.e.Stats()
	ip := udp("198.51.100.7:5000", "203.0.113.1:40000", length(3000))
	l.inject("wan", partial(l, "wan", ip, packet.Offload{GSOType: packet.GSOUDPL4, GSOSize: 1000, HdrLen: 28, CsumOffset: 6}))
	l.step()
	if n := len(l.ports["host"].TakeFrames()); n != 3 {
		t.Errorf("the service got %d datagrams, want 3", n)
	}
	if s := l.e.Stats(); s.Delivered != before.Delivered+1 || s.Forwarded != before.Forwarded {
		t.Errorf("%d packets counted as delivered and %d as forwarded, want 1 and none", s.Delivered-before.Delivered, s.Forwarded-before.Forwarded)
	}
}
