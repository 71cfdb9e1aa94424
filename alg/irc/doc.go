// Package irc is the helper for the direct connections that IRC clients offer each
// other through their server (DCC).
//
//	PRIVMSG bob :^ADCC SEND file 167772165 4000 12345^A      client: connect to me there
//	PRIVMSG bob :^ADCC CHAT chat 167772165 4001^A
//	:bob!u@h PRIVMSG alice :^ADCC RESUME file 61000 800^A    server: begin at byte 800 on that port
//	PRIVMSG bob :^ADCC ACCEPT file 4000 800^A                client: as you like
//
// An offer is announced, to be taken up by anybody: the server does not say where its
// other clients are. Address and port are rewritten to those that can be reached from
// outside, and so is the port by which both sides name an offer afterwards. An offer
// with port 0 means that the other side shall listen (passive DCC): nothing is to be
// done. Addresses are written as a decimal number (IPv4) or as text (IPv6).
//
// # What is IRC
//
// A session begins with a command that registers a client (RFC 2812 section 3.1), and
// each line is an optional set of tags, an optional prefix and a command. Whatever
// else either side sends, TLS for instance, makes the helper leave the flow; so do
// missing bytes. An offer counts only as the whole text of a message, where netfilter
// looks for it anywhere in a packet.
package irc
