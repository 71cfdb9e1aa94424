// Package ftp is the helper for FTP (RFC 959, RFC 2428): it reads where a data
// connection will go, announces it, and names the addresses and ports that the
// other side can reach.
//
// # Who says where
//
//	PORT 10,0,0,5,156,65            client, active: the server connects to there
//	EPRT |2|2001:db8::5|40001|      the same, either family
//	227 ... (192,0,2,7,195,80)      server, passive, after PASV
//	229 ... (|||50000|)             server, passive, after EPSV: its own address
//
// A command may be cut into segments anywhere: what may become one of these lines is
// held until it is whole (package alg). The data connection may come from any port of
// the other end of the session, and there is one at a time.
//
// # What is FTP
//
// Announcing a port to a stranger opens it, so the parser wants to see a session of
// FTP before it believes a line of it: first a greeting of the server (220, perhaps
// after 120), then commands, each of which starts with letters that are a word of the
// protocol. A request of another protocol that was made to contain a PORT line
// (a browser made to POST to port 21, "NAT slipstreaming") has begun with something
// else, and the helper has left the flow before. It leaves, too, when bytes are
// missing, when either side says what cannot be FTP or a line without end, and when more commands are
// waiting for replies than a client has reason to send.
//
// Replies are matched with commands in order, so that 227 counts only as the answer to
// a PASV that was sent, and once. EPSV ALL (RFC 2428 section 4) ends PORT, EPRT and PASV.
// After AUTH succeeds (RFC 4217) everything is encrypted: the helper leaves.
//
// # Differences from netfilter
//
// Netfilter reads one segment at a time: it drops a command that is cut, and finds
// lines in the middle of other data. Both cannot happen here. Telnet commands before
// ABOR are stepped over. Foreign addresses (loose) and ports below 1024 are refused
// unless the rule allows them.
package ftp
