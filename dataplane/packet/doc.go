// Package packet is one frame: what it says and how to change it.
//
// A Packet lies in the memory of the port that received it and is changed in
// place. The order of a walk:
//
//  1. Parse checks lengths and checksums and finds the tuple. What is wrong with
//     a frame is a Fault.
//  2. TCPOptions gives, on demand, what only some flows need.
//  3. Translate (or the Delta of a flow, worked out once, or TranslateError for
//     ICMP errors), DecrementTTL and ClampMSS change headers. Each changes the
//     checksums in the same step.
//     WithBody puts another payload behind the headers of a TCP or UDP packet; SetSeq,
//     SetAck and SetSACK follow it in the other segments of the flow.
//  4. SetLink makes the frame fit its egress. There, CompleteChecksum and
//     Segmenter do what an egress without offloads does not, and Fragmenter cuts
//     what is too long, or came in fragments and was put together by Join.
//
// TimeExceeded, DestUnreachable, TooBig, Reset and Acknowledge answer a packet; they
// build into a buffer of the caller.
//
// # Checksums
//
// All changes are incremental (RFC 1624): to a sum over the changed words,
// fold(^old + new), which is added to the complement of the field. Three kinds of
// transport checksum come in:
//
//	complete   the rule for all that comes from a wire
//	partial    PartialChecksum: the field holds the uncomplemented sum of the
//	           pseudo-header, the rest is left to the egress (Offload.NeedsCsum).
//	           Addresses change it, ports do not.
//	absent     UDP with zero: stays zero
//
// A complete checksum of zero is written as 0xffff where zero means absent. The
// result is exact: a translation and its inverse give back the same bytes.
//
// When NeedsCsum points behind the transport header, the checksum of a packet
// inside a tunnel is meant; the outer one is complete then and treated so, but for
// a super-packet (tunnel.go), whose segments get new ones. SCTP
// has a CRC32c, which no increment can follow: it is computed anew, and because
// the virtio header cannot ask an egress for it, Parse finishes it at once when
// the sender left it.
//
// # What is not done
//
// Who collects fragments for Join is package frag. A packet of more than 65535
// bytes, headers and fragment header included, is not put together. The IPv6 routing header and
// IPv4 source routes are refused, so that the address in the header is the one
// the checksum and the flow mean. GRE tuples have no ports: a packet of PPTP names
// one of the two call ids only (PPTPCall), so who knows the other sets them.
//
// Nothing here but Join allocates; nothing locks or reads a clock. Functions may run at the same
// time on different Packets.
package packet
