// Package nat decides what a flow is translated to. It is tuple arithmetic: it
// sees no packet, keeps no state, reads no clock, and takes randomness as an
// argument, so the same seed always gives the same answer.
//
// # Theory of operation
//
// A flow's first packet meets two translations. [Destination.Apply] gives it a
// new destination before it is routed; there is one answer and it can not be
// refused. [Source.Search] then names, one by one and best first, the sources
// that it could leave with. Whether a candidate is free is not known here: the
// caller turns it into the reply tuple (tuple.Inverse) and tries to claim that
// in the connection table; when it is taken, it asks the Search for the next.
// [NullSearch] is for flows that no rule translates: they keep their source
// unless two of them would answer to the same reply tuple.
//
//	s := source.Search(t, egressAddr, rnd)
//	for cand, why, ok := s.Next(); ok; cand, why, ok = s.Next() {
//		reply, _ := cand.Inverse()
//		if table.Claim(t, reply) {
//			return why
//		}
//	}
//	// every port of every address is taken
//
// # Order of the candidates
//
// For one address:
//
//  1. the port that the packet has, if the rule allows it (not with Random);
//  2. ports of the same class and parity (profile rfc, RFC 4787 REQ-3a, REQ-4);
//  3. ports of the same class;
//  4. what the rule allows beside that.
//
// Each group starts at a random port (RFC 6056) and goes up linearly, around the
// end. No port is offered twice for one address, and all that a rule allows are
// offered before Next reports false: the last free port is found, and a refusal
// means exhaustion. A pool goes on with its next address then; the first one is
// chosen by a hash of source and destination, or of the source alone
// ([Persistent], RFC 4787 REQ-2), so that a client sees the same address again.
//
// Without a port range in the rule the classes are netfilter's: a source port
// below 512 stays in 1-511, one below 1024 in 600-1023, all others in
// 1024-65535. The low classes give way to 1024-65535 before a flow is refused
// (netfilter drops it); the high one never takes a low port, so one address
// carries 64,512 flows to one destination. Profile rfc has two classes, 1-1023
// and 1024-65535. ICMP identifiers have no class. A range in a rule counts for
// ICMP identifiers too, as in netfilter, so that gateways that share an address
// by ports can share it for ping.
//
// Protocols without ports (and GRE without call ids) have one candidate for each
// address.
//
// # Destination
//
// A destination rule has an address, a range or a pool (one is chosen by hash, as
// above), none (the port alone changes), or redirects to the gateway itself. A
// port range keeps a port that lies in it and else takes its first, or a random
// one, as netfilter does; with Shift the distance to the first port of the
// matched range is kept.
//
// # Flows that belong to another one
//
// A flow that was announced (FTP's data connection) is translated as the flow
// that announced it, its master: [Inherit]. It reaches whom the master's packets
// in the same direction reach, and appears as these do; rules are not asked, so
// none can send it elsewhere. That is netfilter's "nat-follow-master", but for one
// thing: a source that is not the master's keeps to the rules, instead of being
// given the address of the master's peer.
package nat
