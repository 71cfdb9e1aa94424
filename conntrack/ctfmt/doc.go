// Package ctfmt writes flows and events the way conntrack(8) of
// conntrack-tools 1.4.7 does on a current kernel, to the byte.
//
// The order of the fields is that of libnetfilter_conntrack's default output.
// Which fields there are depends on what the kernel would have put into the
// message: a listing has everything; NEW and UPDATE have no counters, and a
// mark only when it is not 0 or has changed; UPDATE has the protocol state only
// when that changed; DESTROY has counters and times, and a timeout only when
// there is some left. Labels are in an UPDATE of them. NEW and UPDATE that somebody
// asked for have mark, labels and state always, and end, like their DESTROY, in the
// process that did it: in every form.
//
// Some of conntrack(8)'s forms have holes, which are kept: XML has no type, code and id
// of ICMP and of no protocol the sequence numbers; what is saved has no mark, labels,
// counters and helper, no zone of expectations, and of flows whose both ends are
// translated the ports are read back by us alone. JSON (package control/api) has all.
package ctfmt
