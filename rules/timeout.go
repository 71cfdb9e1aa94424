package rules

import (
	"strconv"
	"strings"
	"time"

	"example.com/culvert/conntrack"
)

// Timeout is one of the timeouts that files and rules can set.
type Timeout struct {
	Name   string // as files spell it; nf_conntrack_* of Linux calls it Sysctl
	Sysctl string
	fields func(*conntrack.Timeouts) []*time.Duration // of the states that share it
}

// Set makes the timeout d in t.
func (t *Timeout) Set(to *conntrack.Timeouts, d time.Duration) {
	for _, f := range t.fields(to) {
		*f = d
	}
}

// Of returns the timeout in t.
func (t *Timeout) Of(from *conntrack.Timeouts) time.Duration { return *t.fields(from)[0] }

// Timeouts returns all timeouts, in the order that normal forms list them.
func Timeouts() []Timeout { return timeouts }

var timeouts = []Timeout{
	tcpTimeout("syn_sent", conntrack.SynSent, conntrack.SynSent2),
	tcpTimeout("syn_recv", conntrack.SynRecv),
	tcpTimeout("established", conntrack.Established),
	tcpTimeout("fin_wait", conntrack.FinWait),
	tcpTimeout("close_wait", conntrack.CloseWait),
	tcpTimeout("last_ack", conntrack.LastAck),
	tcpTimeout("time_wait", conntrack.TimeWait),
	tcpTimeout("close", conntrack.Closed),
	timeout("tcp_max_retrans", "tcp_timeout_max_retrans", func(t *conntrack.Timeouts) *time.Duration { return &t.TCPRetrans }),
	timeout("tcp_unacknowledged", "tcp_timeout_unacknowledged", func(t *conntrack.Timeouts) *time.Duration { return &t.TCPUnacked }),
	timeout("udp", "udp_timeout", func(t *conntrack.Timeouts) *time.Duration { return &t.UDP }),
	timeout("udp_stream", "udp_timeout_stream", func(t *conntrack.Timeouts) *time.Duration { return &t.UDPStream }),
	timeout("gre", "gre_timeout", func(t *conntrack.Timeouts) *time.Duration { return &t.GRE }),
	timeout("gre_stream", "gre_timeout_stream", func(t *conntrack.Timeouts) *time.Duration { return &t.GREStream }),
	sctpTimeout("closed", func(t *conntrack.SCTPTimeouts) *time.Duration { return &t.Closed }),
	sctpTimeout("cookie_wait", func(t *conntrack.SCTPTimeouts) *time.Duration { return &t.CookieWait }),
	sctpTimeout("cookie_echoed", func(t *conntrack.SCTPTimeouts) *time.Duration { return &t.CookieEchoed }),
	sctpTimeout("established", func(t *conntrack.SCTPTimeouts) *time.Duration { return &t.Established }),
	sctpTimeout("shutdown_sent", func(t *conntrack.SCTPTimeouts) *time.Duration { return &t.ShutdownSent }),
	sctpTimeout("shutdown_recd", func(t *conntrack.SCTPTimeouts) *time.Duration { return &t.ShutdownRecd }),
	sctpTimeout("shutdown_ack_sent", func(t *conntrack.SCTPTimeouts) *time.Duration { return &t.ShutdownAckSent }),
	sctpTimeout("heartbeat_sent", func(t *conntrack.SCTPTimeouts) *time.Duration { return &t.HeartbeatSent }),
	dccpTimeout("request", func(t *conntrack.DCCPTimeouts) *time.Duration { return &t.Request }),
	dccpTimeout("respond", func(t *conntrack.DCCPTimeouts) *time.Duration { return &t.Respond }),
	dccpTimeout("partopen", func(t *conntrack.DCCPTimeouts) *time.Duration { return &t.PartOpen }),
	dccpTimeout("open", func(t *conntrack.DCCPTimeouts) *time.Duration { return &t.Open }),
	dccpTimeout("closereq", func(t *conntrack.DCCPTimeouts) *time.Duration { return &t.CloseReq }),
	dccpTimeout("closing", func(t *conntrack.DCCPTimeouts) *time.Duration { return &t.Closing }),
	dccpTimeout("timewait", func(t *conntrack.DCCPTimeouts) *time.Duration { return &t.TimeWait }),
	timeout("icmp", "icmp_timeout", func(t *conntrack.Timeouts) *time.Duration { return &t.ICMP }),
	timeout("icmpv6", "icmpv6_timeout", func(t *conntrack.Timeouts) *time.Duration { return &t.ICMPv6 }),
	timeout("generic", "generic_timeout", func(t *conntrack.Timeouts) *time.Duration { return &t.Generic }),
}

func timeout(name, sysctl string, field func(*conntrack.Timeouts) *time.Duration) Timeout {
	return Timeout{name, sysctl, func(t *conntrack.Timeouts) []*time.Duration { return []*time.Duration{field(t)} }}
}

func tcpTimeout(name string, states ...conntrack.State) Timeout {
	return Timeout{"tcp_" + name, "tcp_timeout_" + name, func(t *conntrack.Timeouts) (all []*time.Duration) {
		for _, s := range states {
			all = append(all, &t.TCP[s])
		}
		return all
	}}
}

func sctpTimeout(name string, field func(*conntrack.SCTPTimeouts) *time.Duration) Timeout {
	return timeout("sctp_"+name, "sctp_timeout_"+name, func(t *conntrack.Timeouts) *time.Duration { return field(&t.SCTP) })
}

func dccpTimeout(name string, field func(*conntrack.DCCPTimeouts) *time.Duration) Timeout {
	return timeout("dccp_"+name, "dccp_timeout_"+name, func(t *conntrack.Timeouts) *time.Duration { return field(&t.DCCP) })
}

// timeoutsText returns "name=duration,name=duration" of those that are set.
func timeoutsText(t *conntrack.Timeouts) string {
	var words []string
	for i := range timeouts {
		if d := timeouts[i].Of(t); d != 0 {
			words = append(words, timeouts[i].Name+"="+DurationText(d))
		}
	}
	return strings.Join(words, ",")
}

// DurationText returns the shortest form of d that files take: "5d", "2h4m", "30s".
func DurationText(d time.Duration) string {
	const day = 24 * time.Hour
	if d >= day && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	s := d.String()
	if rest, ok := strings.CutSuffix(s, "m0s"); ok {
		s = rest + "m"
	}
	if rest, ok := strings.CutSuffix(s, "h0m"); ok {
		s = rest + "h"
	}
	return s
}
