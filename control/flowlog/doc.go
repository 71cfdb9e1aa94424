// Package flowlog writes a line for what becomes of flows: into a file, or to a syslog
// server.
//
// # Theory of operation
//
// A Logger subscribes to the events of the connection table, with a buffer of its own;
// the data path and other readers never wait for it. It makes lines of what comes, many
// at once, and hands them to its sink. A sink that fails keeps the lines: the Logger
// tries again, first after a second, and meanwhile the buffer fills. What does not fit
// any more is lost, counted by the table exactly, and said in the log itself by a line
// event=lost as soon as lines can be written again. The gateway's own log is told once
// when a sink fails and once when it has recovered.
//
//	table -> subscription -> Logger.run -> lines -> sink
//	blocks, refusals -> Logger.Tell ----^
//
// # Lines
//
// Text is key=value, one line for an event, values with blanks or quotes quoted as in
// Go; JSON is one object a line with the same keys in the same order. Keys are only
// ever added, at the end. Times are UTC with microseconds.
//
//	time=... event=new proto=tcp src=10.0.0.5 sport=40000 dst=198.51.100.7 dport=443
//	    nat_src=203.0.113.1 nat_sport=1025 nat_dst=198.51.100.7 nat_dport=443
//	    rule=internet generation=3 id=2271846331
//	time=... event=destroy ... duration=12.250000 packets=9 bytes=1040 reply_packets=8
//	    reply_bytes=9012 end=closed
//	time=... event=block-allocated client=10.0.0.5 address=203.0.113.1 ports=1024-1535
//	time=... event=refused reason=port-quota client=10.0.0.5 address=203.0.113.1 ...
//	time=... event=lost records=17
//
// src and dst are those of the flow's first packet, nat_src and nat_dst what they became;
// ICMP has type, code, icmp_id and nat_id in place of ports. mark and zone appear when
// they are not zero. rule is the name of the rule that admitted the flow, else its list
// and position; without one the default policy did. end is the cause of conntrack.Cause
// if the gateway ended the flow with notice; else expired, closed for a TCP connection
// that had ended before, or ended: by a command, for its room, or by a new connection on
// the same ports. duration is there if the flow's start is known (conntrack.timestamp, or
// a flow log when the gateway started).
//
// # Files
//
// Lines are appended. A file that would grow beyond its bound is renamed to NAME.1, and
// so on up to NAME.keep; Reopen opens the path anew for whoever rotates by himself. A
// line that only half fits on a full disk is taken back. A device is written to as well,
// without a bound; a FIFO or a directory is refused.
//
// # Syslog
//
// Messages are those of RFC 5424: the line is MSG, the event MSGID; severity is
// informational, warning for losses. They go as datagrams to a Unix socket or by UDP
// (RFC 5426), or by TCP with counted octets (RFC 6587 section 3.4.1). A server that
// closes its stream gets what comes afterwards on the next one; what was on its way at
// that moment is lost, and nobody knows how much: syslog has no acknowledgement.
package flowlog
