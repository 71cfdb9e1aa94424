// Package ports knows which external ports are whose: mappings and what they let
// in, quotas, blocks, and ports that are kept for who had them last.
//
// # What it is beside the connection table
//
// That no tuple is owned twice is the connection table's affair: to claim a tuple
// there is the one act that decides. But most of what RFC 4787 asks of a NAT is
// not about tuples: that all flows of one inside socket appear from one external
// port, that the port is nobody else's, that packets from strangers reach the
// socket or do not. Each of these is a statement about a part of a flow's tuples,
// and holds as long as some flow lives that it is about. So it is a lease: a key
// made of that part, a value, and a count of the flows that hold it.
//
//	owner     external endpoint                  -> inside endpoint, or nobody
//	pin       external endpoint, remote address  -> inside endpoint
//	tie       external endpoint, remote endpoint -> inside endpoint
//	pair      inside endpoint, external endpoint -> remote address, endpoint, or any
//	map       inside endpoint                    -> external endpoint
//	map addr  inside endpoint, remote address    -> external endpoint
//	hint      inside endpoint                    -> external endpoint
//	told      external endpoint, remote address  -> inside endpoint
//	client    inside address (IPv6: its /64)     -> nobody; counts its ports
//	block     external address, block            -> inside address; counts its ports
//	blocks    inside address                     -> blocks that it has
//
// To take a lease is to add it, or to join it when its value is the same; it is
// refused when the value is another one. There are no pointers between flows and
// leases: a flow keeps the number of its combination (Use, six bits), and when it
// ends the same keys are made from its tuples again.
//
// # Mapping and filtering
//
// A flow from inside takes, by its rule's mapping and filtering:
//
//	mapping                     filtering
//	                            independent    by address         by address and port
//	endpoint-independent        owner, map     owner, map, pin    owner, map
//	address-dependent           owner +        share, pin +       share, tie +
//	                            pair, map addr in all three
//	address-and-port-dependent  owner +        share, pin +       share, tie +
//	                            pair in all three
//
// Share is the owner lease with nobody as its value: any number of inside
// endpoints share the port towards different remote ones, and nobody can have it
// alone. Pair makes endpoint-dependent mappings differ for different remote
// endpoints, visibly: an external port that an inside endpoint has for one of them
// is not used for another. Tie says nothing that the connection table does not
// know; it is there to be kept (below).
//
// Under mapping linux a flow has no lease at all, unless rules with other mappings
// exist (share), its client's ports are counted (pair), or its port is not its own
// or comes from a pool (hint): then other flows of the same endpoint try that port
// first, as netfilter does.
//
// # Packets from outside
//
// Inbound asks owner and pin where a packet goes that belongs to no flow. The flow
// that it begins joins the leases that let it in, so the mapping lives as long as
// it does; a packet from outside never makes one.
//
// # Mappings that hosts ask for
//
// A host may ask for a mapping (RFC 6887). It is an owner and a map lease that
// belong to no flow (Open, Shut) and let everybody in; flows join them, those under
// rules with another mapping, too (Explicit). When it is shut its flows keep the
// leases, with the filtering of their rule from then on.
//
// # What helpers announce
//
// A helper that tells a remote host of an external endpoint makes a promise: what comes
// from that host goes to one inside endpoint. Promise takes told for it, and what counts
// the port and leads other flows of the inside endpoint to it (owner and map, or else
// share, pair and hint). No other inside endpoint's flow to that host gets the port
// while somebody holds told: the expectation, then the flow that met it, which takes the
// same. Unlike pin, told lets nobody in.
//
// A flow from inside may be faster than the one that is expected. When its inside endpoint
// was promised a port towards its remote address, it leaves from there (PromisedAt) and
// joins told beside its own leases (Keeping). So a port stays promised as long as any flow
// lives that the promise is about, whoever spoke first.
//
// Who is about to have a port asks Promised after he has claimed it in the connection
// table; who promises one asks the table (Table.Toward) after he has taken told. So one
// of two that want the same sees the other.
//
// # Order
//
// A flow takes the port first and the mapping to it last, and gives back in
// reverse: who finds a mapping can take its port, unless the last flow has ended
// meanwhile, and then he begins again. Each lease is taken under the lock of its
// shard, no two locks are held together. Two packets of one inside endpoint may
// begin a mapping at once; the second one learns of the first one's when it takes
// the map lease (Elsewhere), gives back its own port and takes that.
//
// The filtering and the rule of a port are those of the flow that took it; flows of
// other rules that join do not change them while it lives.
//
// The connection table is asked last. If the tuple is taken there, all leases are
// given back and the next port is tried. When an entry ends, for whatever reason,
// the table says so once (conntrack.Table.OnEnd) and its leases are released.
//
// # Ports that are kept
//
// With a hold-down (120 s in profile rfc, RFC 6888 REQ-8) the owner, pin, tie and
// block leases stay for that long when their last flow ends, for the client that
// had them: he can have them again at once, others can not. Whoever calls Sweep
// ends them. When there is no room for leases otherwise, they end early.
//
// Another process resumes the leases of flows that it takes over (Resume), then keeps
// what was kept (Keep). If this one was killed, Remains finds what was kept in the memory
// that New was given.
//
// # Finding a free port
//
// A Space is the ports of one external address and protocol as a set of bits, kept
// under the same locks as the owner leases, so that it always agrees with them. A
// search walks over what is not in the set; it finds the last free port as fast as
// the first, and knows at once that there is none.
//
// Ports that are shared are free towards some destinations and taken towards
// others. A Crowd is such a set for one external address and one remote endpoint,
// or host for pins. There are as many as two hundred and fifty-six places for
// crowds; one is made when a search has tried several ports in vain, and learns
// from what searches find. It may lack ports that are taken, which costs a try. It
// never keeps one that is free: who adds a port that he found taken looks once more
// whether it still is, and who frees a port removes it from the crowd after that,
// so one of the two sees the other.
//
// # Quotas and blocks
//
// The ports of a client are counted when the lease that makes them his (owner,
// else pair) begins and ends, for each protocol of its own. With blocks
// (RFC 6888 REQ-14) every port lies in a block that is the client's alone: the
// block is his with its first port and stops to be with the last, and each is one
// Event to be kept in a log.
//
// Mappings of inside endpoints, and clients whose ports reach a share of their quota,
// are told by Notices, while somebody wants them (Watch).
package ports
