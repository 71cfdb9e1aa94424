package config

import "example.com/culvert/conntrack"

// Table returns the settings of the flow table, for conntrack.New. What depends
// on the machine, its workers first of all, is left to the caller.
func (c *Conntrack) Table() conntrack.Config {
	out := conntrack.Config{
		Max:       c.Max,
		MaxExpect: c.ExpectMax,
		Timestamp: c.Timestamp,
		Shares:    c.Shares,
		Timeouts:  c.Timeouts,
	}
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
