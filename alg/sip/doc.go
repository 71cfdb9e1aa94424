// Package sip is the helper for SIP (RFC 3261) with SDP (RFC 8866), over UDP and TCP.
//
// # What it rewrites
//
// A message names sockets of both sides. What names the sender, as it knows itself,
// becomes what the receiver sees; what names the receiver, as the sender sees it,
// becomes what the receiver calls itself. Everything else stays:
//
//	Request-URI, Route, Record-Route, From, To, Contact   the sockets of SIP URIs, and maddr
//	Via                                                   sent-by, maddr, received, rport
//	SDP o=, c=, m=, a=rtcp, a=candidate                   addresses and ports of media
//	Content-Length                                        when the body's length changes
//
// Header names may be in full or compact, values folded over lines. Call-ID, tags and
// branches are never touched: they only have to be unique.
//
// The headers of transfers and of registered routes (Refer-To, Referred-By, Path,
// Service-Route) are read as Route is. A description may be a part of a multipart body.
//
// # What it announces
//
// Each medium of a session description that the sender wants to receive on a port of
// its own is announced, in the class of its kind: RTP with the next port for RTCP, or
// the one that a=rtcp names (RFC 3605), or the one port of T.38. The pair keeps its
// distance and parity outside, and its external ports for as long as the call lasts.
// A description of which a medium is refused stays as it is, and announces nothing.
// A socket in a description that the gateway knows by its external name, because the
// other phone is behind it too, is given its inside name, so that both talk directly.
//
// BYE ends what its call has announced, of a forked call that other phones have answered,
// too, what its dialog has; CANCEL and a final answer that refuses end what
// their request and its answers have, so that a call goes on as it was when a change
// of it is refused.
//
// REGISTER announces signalling from the registrar to each Contact that is the phone's
// own, for as long as the registration is asked for and then granted, and lets the flow
// live as long. A registration that is refused, or taken back, ends it.
//
// Media and signalling are expected from the other end of the flow alone, unless the
// rule says AnyMedia or AnySignalling (sip_direct_media=0 and sip_direct_signalling=0
// of netfilter).
//
// # What it takes for SIP
//
// Of TCP, messages with Content-Length one after the other from the first byte on, with
// empty lines between them (RFC 5626 keep-alives). Anything else makes the helper leave
// the flow: a request of another protocol that contains a REGISTER, however it is cut
// into segments, has not begun as SIP does. Of UDP, each datagram is one message from
// its first byte; others pass as they are.
//
// What cannot be read is counted: datagrams that are neither a message nor keep a
// mapping, streams that the helper leaves, and descriptions.
package sip
