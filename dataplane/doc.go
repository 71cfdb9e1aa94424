// Package dataplane moves packets between ports: it is the gateway without its
// configuration, its sockets and its user interface.
//
// # The walk of a packet
//
// Each Worker owns one queue of every port and runs on one thread. It takes a
// batch of at most 64 packets, and each of them meets, in this order:
//
//	receive   pipeline.go  parse; ARP and neighbour discovery to the host stack;
//	                       multicast; martians; fragments follow their first one,
//	                       or go on as one packet (fragment.go)
//	lookup    pipeline.go  the whole batch at once, so that cache misses overlap
//	express   express.go   a plain packet of an established flow, as nearly all are:
//	                       all that follows in one go
//	known     pipeline.go  any other packet of a flow: track, next hop, size, helper
//	                       (help.go), translate
//	admit     admit.go     a first packet: expectation; destination NAT, route,
//	          decide.go    filter, source NAT; bind: which port, and what
//	          lease.go     is taken for it; then as known
//	errors    icmp.go      an ICMP error: the flow of its embedded packet
//	transmit  pipeline.go  on the egress port, or local.go to the gateway itself
//	(explain  explain.go   the same walk for a packet that somebody asks about)
//	(request  requested.go the same for a port that a host asks for)
//
// A packet that goes no further has a Reason (reason.go), and its sender is told
// where RFCs 792, 1812, 4443 and 5508 ask for it (icmp.go), within a rate. A
// packet whose next hop has no link-layer address yet waits (pending.go).
//
// # What changes at run time
//
// Everything a reload may change (rules, routes, ports, addresses) is one
// immutable view, read once a batch. Apply publishes a new one and returns when
// every worker has finished its last batch under the old one: after that new
// packets meet the new rules, and ports that were taken out can be closed.
//
// Live flows stay what they were decided to be. Ruleset, taken before Apply, and
// Settle after it find those that the new rules would treat otherwise, and keep, end
// or forget them as their rules say; Foresee only says which (change.go).
//
// # What a flow caches
//
// For each direction a flow's record keeps a route.Hint: the slot of the
// neighbour it leaves to, with a generation. A change of the neighbour makes the hint
// miss, and the packet is routed anew. So does applying a State, unless nothing differs
// that the way depends on (view.leadsAs): a reload of rules costs packets nothing. The reverse
// path is checked (RFC 3704) whenever a hint is made, and for packets that come in
// by another port than the one the flow's other direction leaves by.
//
// A filter verdict holds for the flow, unless the rules look at what differs from
// packet to packet. Then the entry is marked and every packet of it meets the
// filter; and under such rules the first packet of each direction does after any
// change of the hint, so that flows older than the rules meet them, too.
//
// # Several ways out
//
// A flow keeps the way that it took first (way.go): a hint that is no longer valid
// still names the next hop. Only new flows see better routes, weights, and uplinks
// that come back. Answers leave by the port that the question came in by, what the
// gateway itself sends by the port whose address it has. A flow that is translated
// to an address of an uplink ends with notice when that uplink no longer leads to
// its other end (Engine.EndStranded); others move.
//
// # Entries of packets that have not left
//
// A new entry is unconfirmed until a packet of its flow has left. Only the packet
// that claimed it may take it back (Worker.claimed), and that right waits with
// the packet when it waits for a neighbour. Whoever remembers an entry beyond a
// batch keeps its generation, which changes when the slot is free.
//
// # Fragments
//
// A later fragment is treated as the first one of its datagram was, without waiting
// for the rest (package frag). SCTP and flows with a helper are different: the last
// fragment to come takes the walk as the whole datagram, which is checked, tracked
// and translated like any packet, and leaves in pieces no longer than the longest
// that came, with their identification and DF. Pieces longer than the egress's MTU
// are told as packets are. The other fragments count as Stats.Joined.
//
// # Flows that end with notice
//
// When the gateway loses an address or a way out, or a reload says so, flows that
// depend on it end at once (ending.go): their hosts inside get a RST, an ABORT or an
// ICMP error, the DESTROY event names the cause, and nothing more leaves with the
// old address. netfilter deletes such flows silently, and their hosts wait for
// timers of their own. Engine.End selects, workers tell and end.
//
// # Helpers
//
// A flow gets a helper from the rule or the expectation that admits it (alg.go). Its
// first payload makes a session (package alg/stream), which reads every later one just
// before it leaves: a packet that is refused or waits was not seen by it. What a
// segment becomes is built anew, as a super-packet where one no longer fits, and then
// translated and sent like any other. Its acknowledgements are brought to the numbers
// of who gets them before it is tracked.
//
// What a parser announces becomes expectations (herald.go) that carry where the flow
// goes. The external port that was told is not given to other flows with that peer, and
// is that of flows which the inside socket begins with it.
// Sessions are in maps with a lock each, which is not held while packets are sent; what
// they return is in memory of the worker. What they keep is bounded, in all and for each
// client; flows
// without helper pay a test of their status.
//
// Packets of PPTP name one call id of two. The other one is known from the
// announcement of the call (calls.go), and set where packets are parsed.
//
// # Local traffic
//
// Port 0 is the gateway's own stack (package host). Packets to the gateway's
// addresses are "routed" there, and what it sends comes in there, so that both
// are tracked and translated like everything else. A port may also have a Box: a
// TAP to the kernel of the gateway's namespace. Then what no in-process service
// takes goes to that kernel, and what it sends on the interface enters as area
// host. A connection stays with the one of the two where it began, and so do the
// answers to what the kernel asked, while services come and go; other datagrams, and
// packets without an entry, go by who has the port at the moment.
//
// # Who watches
//
// Engine.Trace shows what becomes of packets (trace.go). Without a Trace a worker looks
// once a batch whether there is one. With one it takes packets one by one, through
// senders that tell what they send (traced.go), so that the walk itself has lines for
// it only where packets seldom come: drops, first packets, waiting, helpers. What was
// noted goes into a ring of the worker (tracering.go) when the filter wants it
// (tracefilter.go); the reader puts it into words (tracetext.go). Tests run with a Trace
// on every lab, which has to tell what the counters say.
//
// # Who works
//
// Any worker may get any packet: they share the table. But both directions of a flow
// meet on one where ports can be steered (package port/steer), and with CrewByLoad only
// as many workers get packets as are needed (crew.go): one, and another one while those
// who work are saturated, or lose packets, and there is processor time for it, if more gets
// done then. While all of them work each has a processor of its own. A
// trial lasts four looks, 0.4 s; after one that did not pay the next is 5 s away, then
// 10, up to 5 minutes. With little to do for a second one leaves. Who has no packets
// sleeps. When the number changes, packets of flows that move may overtake those that
// wait in the old queue, once: at most as many as its ring has slots. None is lost.
//
// # Waiting
//
// A worker waits in one of three regimes (wait.go). It sleeps in ppoll when idle. After a
// packet it spins for 15 us, up to 50 where packets are found to come that soon, unless
// somebody took the processor from it. Under load it naps, up to 250 us; and at rates
// that may be questions and answers as well as a stream, where a nap of 40 us that was
// tried gathered four packets.
package dataplane
