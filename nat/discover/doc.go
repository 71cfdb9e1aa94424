// Package discover finds out how a NAT behaves by sending packets through it.
// It takes the place of the hosts on both sides and reads nothing but packets:
// no configuration, no table, no counter. What it reports can therefore be held
// against what was configured.
//
// # Theory of operation
//
// A [Network] is a NAT with a link on each [Side] and a clock. [Run] plays hosts
// on both links ([Hosts]) and follows the tests of RFC 5780 section 4, of which
// STUN is only the way to learn the mapped address: here the outer host is ours
// and sees it. Each test uses inside ports that no test used before, so that no
// pinhole of an earlier one can be mistaken.
//
//	mapping    one inside endpoint to two addresses and two ports of each; then a
//	           second inside host with the same port, first to another address
//	           than the first host, then to the same: two inside endpoints behind
//	           one external port is overloading, and what is endpoint-independent
//	           only until ports collide is "linux"
//	filtering  packets to a mapping from the other port and the other address
//	hairpin    an inside host to the external endpoint of another, before and
//	           after that one has opened its side
//	ports      which are kept when they are free, what is kept of those that are
//	           not: class, parity, the distance to a neighbour
//	forwards   every port of the external address, and whether inside hosts reach
//	           what is behind the forwarded ones
//	pooling    external addresses that many flows of many hosts show
//	lifetimes  of each kind of flow, by ladders: many flows made at once, one of
//	           them probed at each rung; the gap between the last that lived and
//	           the first that did not is divided by the next ladder
//	refresh    whether a packet of one direction, or an ICMP error, prolongs
//	errors     ICMP errors in both directions with all that is embedded, from the
//	           other end and from a router on the way
//	fragments  in order and out of order, in both directions
//	sizes      packets longer than the path takes, with and without DF
//	tcp        simultaneous open; what an unsolicited SYN gets, and when
//
// A probe refreshes what it probes, so that no flow is probed twice.
//
// # Limits
//
// What depends on the load of a NAT (quotas, refusals) is not looked for. Tests
// wait until the flows of earlier ones have ended; a quota below what one of them
// needs, some fifty flows, still shows as traffic that does not pass. A rule
// that treats the addresses of the played hosts specially shows as it would to
// hosts there.
package discover
