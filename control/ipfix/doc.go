// Package ipfix tells collectors what a NAT does: IPFIX messages (RFC 7011) with
// the events of RFC 8158.
//
// # Theory of operation
//
// What happens is an Event, a plain value. A table (template.go) says for each kind
// of event and address family which information elements its records have, in which
// order and how they are made of an Event; templates and records both come from it, so
// they can not disagree. A Session writes messages: it knows the sequence number of
// one transport session and nothing about sockets. An Exporter has a queue, a
// goroutine and a socket, and opens a Session with every connection.
//
//	Send -> queue -> batch -> Session.Append -> one message, one write
//
// Send never waits. An event that finds the queue full is lost, counted, and counted
// in the sequence number, so that the collector sees the same gap as the counter.
//
// Over UDP the templates come first and again every refresh interval, since nobody
// knows what arrived (RFC 7011 section 8.4). Over TCP they come first on each
// connection; a message whose write failed is written again on the next one, so that
// an outage loses only what the queue can not hold, and may repeat one message. At the
// end all templates are withdrawn over TCP (section 8.1), never over UDP.
//
// # What is told
//
//	natEvent                     when
//	4, 5   session create, delete   a flow whose addresses or ports are translated, IPv4 and IPv6
//	8, 9   BIB create, delete       an endpoint-independent mapping
//	16, 17 port block               a block of ports becomes a client's, or is so no more
//	12     ports exhausted          a flow found no port on an address
//	3      addresses exhausted      and on no other address of the rule's pool
//	13     quota exceeded           table full, too many leases, a client's ports or share, fragments
//	18     threshold reached        see the thresholds of Config in rules/config
//
// RFC 8158 has no numbers for translation from IPv6 to IPv6: it uses those of NAT44,
// with the IPv6 elements. Records of session delete have octets of both directions
// (elements 231 and 232) beside what the RFC demands.
//
// What this package does not do: SCTP, TLS, options templates, NAT64 and address
// binding events, of which the gateway has none.
package ipfix
