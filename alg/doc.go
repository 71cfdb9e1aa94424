// Package alg is what a helper is written against: a small parser that reads the
// payload of a flow, says which bytes to replace, and announces the flows that the
// payload speaks of. Helpers know no tables, no packets and no checksums.
//
// # The helpers there are
//
//	name       usual port      announces                 at a time, and waits
//	ftp        tcp 21          data connections          1, 5 min
//	irc        tcp 6667        DCC chats and files       8, 5 min
//	netbios-ns udp 137         answers to a broadcast    1 a question, 3 s
//	pptp       tcp 1723        GRE of a call, both ways  1 call, 5 min
//	sip        udp, tcp 5060   media; signalling         see package sip
//	snmp       udp 161         answers to a broadcast    1 a question, 30 s
//	snmp_trap  udp 162         nothing: the agent's address in a trap
//	tftp       udp 69          transfers                 1, 5 min
//
// Every one is bounded by 64 announcements a second of a flow and 256 of all flows of a
// client, by a quarter of the expectation table and of the memory for a client, and by
// the size of its messages (Spec.Limit); [helpers] has other numbers. A client is who
// began the flow: in IPv6 his /64. netbios-ns and snmp read what the gateway's own box asks.
// What more a rule may allow is in Options (helper_options): foreign addresses, ports
// below 1024, media and signalling from anybody.
//
// # Writing a helper
//
// A helper is a package below this one with a type that implements Helper, and
// one line in package registry. Package example is one, whole, in less than a
// hundred lines; start from a copy of it.
//
//	type Helper struct{}
//
//	func (Helper) Spec() alg.Spec { return alg.Spec{Name: "ftp", Protos: []uint8{tuple.TCP}, ...} }
//	func (Helper) New(*alg.Flow) alg.Parser { return &parser{} }
//
//	func (p *parser) Inspect(c *alg.Context, b []byte) alg.Edit {
//		line, n, st := alg.Line(b, maxLine)
//		...
//		return alg.Edit{Done: n, Replace: p.announce(c, line)}
//	}
//
// New is called when a flow gets the helper. The parser lives as long as the flow
// does; one goroutine at a time calls it, for both directions. It should be small,
// and hold no bytes of its own: what it needs again it leaves unsettled.
//
// # What a parser sees
//
// Of TCP, the bytes of each direction in their order, every byte from the first one
// on, however they were cut into segments, lost, repeated or exchanged on the way.
// b begins with the first byte that is not settled. Edit.Done says how many more
// are; they are never shown again. What is left is shown again, with what follows,
// as soon as there is more. Edit.Rest says what happens to it meanwhile:
//
//	Pass   it is forwarded as it came. Nothing in it can be replaced any more.
//	Hold   it waits here until it is settled. The sender is told that it has arrived,
//	       so that one who sends his next piece only then (Nagle) does.
//	Leave  the helper is done with the flow: nothing is shown any more, in neither
//	       direction, everything is forwarded, earlier edits stay in force.
//
// Hold only what may become something to replace: "PO" at the start of a line, not
// "US". Pass is right for everything that is only watched. What is held at the end
// of the stream, or beyond Spec.Limit bytes, is forwarded as it came; then, and when
// a flow was picked up in its middle, Context.Gap tells the parser that it has lost
// its place. A parser must then wait for a place where a command certainly starts.
//
// Of UDP, b is the payload of one datagram. All of it is settled by one call.
//
// The call for a direction is never made twice for the same bytes: a retransmission
// gets the same replacements without asking the parser, for as long as the receiver
// may still need it.
//
// # Replacing
//
// Edit.Replace lists ranges of b[:Done] and the bytes that take their place, in
// order and without overlap. Lengths may differ: sequence numbers, acknowledgements
// (selective ones too), lengths, checksums and oversized segments are the engine's
// business. Ranges that were passed before, and so are beyond reach, are refused as
// a whole with the edit they are in: the announcements of that call are taken back.
//
// What a parser cannot read it leaves as it is, and says so in Edit.Unread: operators
// see the number for each helper.
//
// # Announcing
//
// Context.Announce says that a flow is about to come. To is where it goes, in the
// words of who sent the payload: for PORT 10,0,0,5,156,65 it is 10.0.0.5:40001. It
// returns what has to be written instead, so that the other side comes to the right
// place: the external address and a free port there, or To itself when nothing is
// translated. The flow that comes gets the inverse translation, the mark of its
// master, and the helper that Child names.
//
// Several flows at once (RTP and RTCP, the channels of an H.245 command) are one
// call: their external ports keep the distances of their own ones, and the first
// one's parity. Either all are announced or none.
//
//	ext, err := c.Announce(
//		alg.Expectation{Class: rtp, Proto: tuple.UDP, To: media},
//		alg.Expectation{Class: rtcp, Proto: tuple.UDP, To: next(media)})
//
// A socket that is announced again while it is expected keeps its external port. One
// whose flow has come is not expected any more: a parser that wants the port again, as
// a call that is changed does, names it in Expectation.Seen. What the socket itself sends
// to the same host first leaves from that port, too, and keeps it while its flow lives.
//
// A flow that goes the other way, from who sent the payload to who receives it, is
// announced with Way: Outbound.
//
// For GRE of PPTP, ports are call ids, and a packet names only that of its receiver. So
// a call takes two announcements, one by each side. The first one, without From,
// takes an id that the other side can be told; the second one, whose From is that id,
// makes both directions known, and packets are accepted.
//
// What is refused (errors ErrForeign, ErrPort, ErrLimit, ErrQuota, ErrNoPort) is refused for
// good: a helper leaves the bytes as they are and goes on. It needs not check
// addresses itself: who may be announced is decided at one place, so that no helper
// can be talked into opening a port for somebody else (RFC 2577). It must see
// to one thing: that a command is one, at a place of the protocol where commands
// start, and only once for each.
//
// # Addresses in text
//
// Context.Self, SelfSeen, Peer and PeerSelf are the ends of the flow as each side
// sees them: a SIP helper replaces Self by SelfSeen in what a phone says about itself,
// and SelfSeen of the other direction, which is PeerSelf's other name, in what is
// said to it. Context.SeenAs answers for sockets that were announced or have a mapping, and
// for external ones in front of a neighbour of the receiver.
//
// # Reloads
//
// A flow whose helper the rules no longer give it goes on without one, and with other
// options if they give the same helper others (on_change says otherwise). What it has
// announced and has not begun is not expected any more. Flows that helpers have announced
// keep what they have, and live flows get no helper that they did not begin with.
//
// # Upgrades
//
// Another process goes on with the flow: with bytes that wait and edits in flight, and with
// what the parser knows, which is in its exported fields, as encoding/json sees them. A
// parser that is no pointer knows nothing. One that cannot be read there has a Gap in both
// directions.
//
// # Harm
//
// Inspect gets at most Spec.Limit bytes, and time proportional to it. A parser that
// panics, or returns an edit that cannot be, loses its flow: the helper is taken away,
// a counter rises, and the flow goes on with the edits made so far. All memory for
// unsettled bytes is bounded, for a flow and in all; a flow that finds none is
// treated as if it had no helper, which is counted, too: a stream from then on, since its
// middle says nothing of what it is; datagrams until there is memory again.
//
// # Testing one
//
// Package algtest runs a transcript through a helper as the engine does, cut
// wherever a test likes. Each helper runs its transcripts split at every byte: the
// result must not depend on it. Command "culvert alg replay" runs one over a capture of
// the real thing, and prints what it would do.
package alg
