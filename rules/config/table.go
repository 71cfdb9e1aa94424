package config

import "example.com/culvert/conntrack"

// Table returns the settings of the flow table, for conntrack.New. What depends
// on the machine, its workers first of all, is left to the caller.
func (c *Conntrack) Table() conntrack.Config {
	t := &c.Timeouts
	out := conntrack.Config{
		Max:       c.Max,
		Timestamp: c.Timestamp,
		Timeouts: conntrack.Timeouts{
			TCPRetrans: t.TCPRetrans,
			TCPUnacked: t.TCPUnacked,
			UDP:        t.UDP,
			UDPStream:  t.UDPStream,
			GRE:        t.GRE,
			GREStream:  t.GREStream,
			ICMP:       t.ICMP,
			ICMPv6:     t.ICMPv6,
			Generic:    t.Generic,
		},
	}
	tcp := &out.Timeouts.TCP
	tcp[conntrack.SynSent], tcp[conntrack.SynSent2] = t.TCPSynSent, t.TCPSynSent
	tcp[conntrack.SynRecv] = t.TCPSynRecv
	tcp[conntrack.Established] = t.TCPEstablished
	tcp[conntrack.FinWait] = t.TCPFinWait
	tcp[conntrack.CloseWait] = t.TCPCloseWait
	tcp[conntrack.LastAck] = t.TCPLastAck
	tcp[conntrack.TimeWait] = t.TCPTimeWait
	tcp[conntrack.Closed] = t.TCPClose
	if c.Profile == ProfileRFC {
		out.Profile = conntrack.RFC
	}
	if !c.TCPLoose {
		out.Pickup = conntrack.Strict
	}
	if c.TCPLiberal {
		out.Window = conntrack.Liberal
	}
	return out
}
