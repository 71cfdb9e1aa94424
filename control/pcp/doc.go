// Package pcp answers hosts inside that ask for external ports: the Port Control
// Protocol (RFC 6887) and, from the same socket, NAT-PMP (RFC 6886), which older
// clients speak. It is how a subscriber has a say in his mappings (RFC 6888 REQ-9).
//
// # Theory of operation
//
// A Server has one table of records, each a port that the data path holds at a
// host's request (dataplane.RequestedPort) until the record's time is over, the host
// deletes it, or no rule would give it any more. Handle turns a request into its
// answer; it does no I/O and is told the time, Serve puts a socket around it.
//
//	request   wire.go, natpmp.go  read it, or refuse what cannot be read
//	judge     server.go           who asks, from where, within which bounds
//	map       server.go           make, renew or delete a record
//	answer    wire.go, natpmp.go
//
// A record belongs to an inside endpoint and a protocol. Who renews or deletes it
// must know the nonce it was made with (RFC 6887 section 11.3); NAT-PMP has none, so
// its records are its own and PCP's can not be touched by it.
//
// # What is answered
//
// ANNOUNCE and MAP for one port of TCP, UDP, SCTP or DCCP, with PREFER_FAILURE; all of
// NAT-PMP. THIRD_PARTY is refused: nobody has ports of others. FILTER and PEER are not
// known and refused as such. A record lets in everybody; who shall not come in is for
// the filter list. Records are not kept across a restart: the epoch begins anew, by
// which clients see that they have to ask again (RFC 6887 section 8.5). It begins
// anew, too, when a reload or a lost address ends records. Nothing is announced by
// multicast; clients find out when they renew.
package pcp
