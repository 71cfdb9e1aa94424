// Package ctfmt writes flows and events the way conntrack(8) of
// conntrack-tools 1.4.7 does on a current kernel, to the byte.
//
// The order of the fields is that of libnetfilter_conntrack's default output.
// Which fields there are depends on what the kernel would have put into the
// message: a listing has everything; NEW and UPDATE have no counters, and a
// mark only when it is not 0 or has changed; UPDATE has the protocol state only
// when that changed; DESTROY has counters and times, and a timeout only when
// there is some left.
package ctfmt
