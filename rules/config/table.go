package config

import (
	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack"
)

// Table returns the settings of the flow table, for conntrack.New. What depends
// on the machine, its workers first of all, is left to the caller.
func (c *Conntrack) Table() conntrack.Config {
	out := conntrack.Config{
		Max:       c.Limit(),
		Reserve:   c.Reserve,
		MaxExpect: c.ExpectMax,
		Timestamp: c.Timestamp,

		IgnoreInvalidRST: c.TCPIgnoreInvalidRST,
		TCPMaxRetrans:    c.TCPMaxRetrans,

		Shares:   c.Shares,
		Timeouts: c.Timeouts,
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

// Limit returns the largest number of flows: Max, or by the memory of the machine
// what netfilter takes there.
func (c *Conntrack) Limit() int {
	if c.Max != 0 {
		return c.Max
	}
	var si unix.Sysinfo_t
	if unix.Sysinfo(&si) != nil {
		return smallLimit
	}
	return limitFor(si.Totalram * uint64(si.Unit))
}

// Limits of netfilter (nf_conntrack-sysctl): 1/16384 of memory in bytes, and
// fixed ones for larger machines.
const (
	leastLimit  = 1024
	smallLimit  = 65536  // more than 1 GiB
	commonLimit = 262144 // more than 4 GiB
)

func limitFor(memory uint64) int {
	switch {
	case memory > 4<<30:
		return commonLimit
	case memory > 1<<30:
		return smallLimit
	}
	return max(leastLimit, int(memory/16384))
}
