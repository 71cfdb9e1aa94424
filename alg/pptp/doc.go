// Package pptp is the helper for PPTP (RFC 2637): it reads the control connection
// for the calls that are set up there, and announces the GRE that carries them.
//
// # Call ids
//
// Each side gives a call a number of its own, and says so once:
//
//	Outgoing-Call-Request   client   its id
//	Outgoing-Call-Reply     server   its id, and that of the client
//	Incoming-Call-Request,  the same with the sides exchanged
//	Incoming-Call-Reply
//
// A packet of the call names only the id of who receives it (RFC 2637 section 4.1).
// Two clients may choose the same number, so the server is told another one: as with
// netfilter the port that the control connection leaves with, which no other
// connection to this server has. Its packets come with that, and get the client's own
// number in its place. For the engine, call ids are ports: the request announces where
// packets of the call come to, and the reply where those of the other side do, and
// from which id. Later messages that name the call by either id (Incoming-Call-Connected,
// Call-Clear-Request, Call-Disconnect-Notify, WAN-Error-Notify, Set-Link-Info) are
// written anew as well.
//
// # What is PPTP
//
// The connection has to begin with Start-Control-Connection-Request by who opened it,
// and a reply that agrees; every message has to have the magic cookie, and the length
// that its type has. With anything else, and with bytes missing, the helper leaves.
// A connection has one call at a time, as with netfilter: the next request forgets the
// one before. A reply counts once, and only for the call that was asked for by the
// other side.
package pptp
