package config

import (
	"fmt"
	"net/netip"
	"strings"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/rules"
)

// Config is a whole configuration: checked, with defaults filled in.
type Config struct {
	File       string // as errors name it; empty for Quick
	Text       string // that was read; for Quick one that means the same
	Gateway    Gateway
	Interfaces []Interface
	Routes     []Route
	Conntrack  Conntrack
	Host       Host
	PCP        PCP
	API        API
	Helpers    Helpers
	Limits     Limits
	Log        Log
	FlowLogs   []FlowLog
	IPFIX      []IPFIX
	Events     Events
	Rules      rules.Spec // areas and the four lists
}

// Gateway has the settings of the process.
type Gateway struct {
	Name     string // tells instances apart in logs, metrics and the socket's default path
	Workers  int    // 0: at most one for each processor, by load
	OnExit   OnExit
	Waiting  Waiting
	ICMPRate int    // own ICMP errors a second, 0: no limit
	Socket   string // control socket, empty: chosen by control
	Metrics  string // host:port of the Prometheus listener, empty: off
}

// OnExit says what becomes of owned interfaces when the process ends, however it ends.
type OnExit uint8

const (
	Release OnExit = iota // the kernel gets them back
	Hold                  // they stay closed for the kernel until a gateway or the user takes them back
)

// Waiting says how workers wait for packets.
type Waiting uint8

const (
	WaitAuto       Waiting = iota // sleep when idle, spin briefly, nap under load
	WaitLatency                   // spin longer, never nap
	WaitThroughput                // nap early, receive in blocks
)

// Interface is a network interface that the gateway owns, or a pattern for many.
type Interface struct {
	Name          string // a trailing * makes it a pattern
	Area          string
	Driver        Driver
	Netns         string // named namespace that it is in, empty: the gateway's own
	Parent        string // VLAN sub-interface of this one, with tag VLAN
	VLAN          uint16
	MTU           int // bytes of the largest IP packet, 0: the interface's own
	AddressFrom   AddressSource
	Addresses     []netip.Prefix // for Static: the gateway's own, with the length of the on-link prefix
	NextHops      []netip.Addr   // default routers, at most one of each family; empty: the kernel's with FromKernel, else none
	Metric        uint32         // of its default routes, lower wins; 0: the kernel's, or 0
	Weight        uint32         // share of the flows among default routes of one metric; 0: shares with none
	Check         Check          // of the routers behind it
	RPF           RPF
	MSSClamp      MSSClamp
	Queues        int            // 0: one for each worker
	Slots         int            // of each queue, 0: 4096
	Offload       Offload        // TUN
	PeerAddresses []netip.Prefix // TUN: what the kernel on the other side of the device gets
	PeerRoutes    []netip.Prefix // TUN: what the kernel on the other side routes into the device
	Source        rules.Location
}

// Pattern reports whether the name stands for any number of interfaces.
func (i *Interface) Pattern() bool { return strings.HasSuffix(i.Name, "*") }

// Driver is how frames get in and out.
type Driver uint8

const (
	AFPacket Driver = iota // an existing Ethernet interface
	TUN                    // a device that the gateway makes
)

// AddressSource says where an interface's addresses come from.
type AddressSource uint8

const (
	FromKernel AddressSource = iota // what the kernel has on it, followed as it changes; routes and next hops too
	Static                          // Interface.Addresses
)

// MSSClamp is the largest MSS option that TCP may have through an interface, in
// bytes, or one of the values below.
type MSSClamp int

const (
	ClampOutside MSSClamp = -iota // what the MTU takes, if the area is outside
	ClampMTU                      // what the MTU takes
	ClampOff
)

// RPF is the reverse-path check of a source address on arrival (RFC 3704).
type RPF uint8

const (
	RPFStrict RPF = iota // the route back must leave by the same interface
	RPFLoose             // there must be a route back
	RPFOff               // no check
)

// Offload says whether a TUN device takes large frames and partial checksums.
type Offload uint8

const (
	OffloadOn Offload = iota
	OffloadOff
)

// Route is a static route beside those of the interfaces.
type Route struct {
	To        netip.Prefix
	Via       netip.Addr      // invalid: on link
	ByNextHop bool            // via the default routers of Interface
	Interface string          // empty: the interface whose prefix holds Via
	From      netip.Prefix    // only for packets from there; invalid: for all
	InArea    string          // only for packets that come in by this area; empty: by any
	Mark      rules.MarkMatch // only for packets with this mark; zero: with any
	Metric    uint32          // lower wins
	Weight    uint32          // share of the flows among routes of one metric; 0: shares with none
	Source    rules.Location
}

// Conntrack has the settings of the connection table.
type Conntrack struct {
	Max        int    // flows, 0: by memory; see Limit
	Reserve    bool   // take the memory of Max flows at once
	State      string // folder for what outlives the process; empty: nothing does
	Profile    Profile
	Accounting bool // print packet and byte counters
	Timestamp  bool // keep and print start times
	TCPLoose   bool // pick up flows in mid-stream
	TCPLiberal bool // do not call segments outside the window invalid

	TCPIgnoreInvalidRST bool // do not call resets behind what is acknowledged invalid
	TCPMaxRetrans       int  // retransmissions until Timeouts.TCPRetrans holds, 0: 3

	ExpectMax int // expectations, 0: the table's default
	Shares    conntrack.Shares
	Timeouts  conntrack.Timeouts // zero: the profile's
}

// Profile is the behaviour of tracking and port choice.
type Profile uint8

const (
	ProfileLinux Profile = iota // netfilter's
	ProfileRFC                  // RFC 4787, 5382, 5508, 7857
)

// Host has the settings of the exception path to the kernel of the gateway's
// own namespace.
type Host struct {
	Enabled bool
}

// Defaults returns a configuration without interfaces and rules.
func Defaults() *Config {
	return &Config{
		Gateway:   Gateway{Name: "culvert", ICMPRate: 1000},
		Conntrack: Conntrack{TCPLoose: true},
		PCP:       defaultPCP,
		API:       defaultAPI,
		Limits:    defaultLimits,
		Log:       defaultLog,
		Events:    defaultEvents,
		Rules:     rules.Spec{Areas: rules.DefaultAreas()},
	}
}

// Quick returns the configuration of "culvert run --lan ... --wan ...": addresses
// and routes of the kernel, IPv4 masqueraded to the outside, and the default
// policy.
func Quick(lan, wan []string) *Config {
	c := Defaults()
	for _, name := range lan {
		c.Interfaces = append(c.Interfaces, Interface{Name: name, Area: "lan"})
	}
	rpf := RPFStrict
	if len(wan) > 1 {
		rpf = RPFLoose // answers may come by another uplink than the one in use
	}
	for _, name := range wan {
		c.Interfaces = append(c.Interfaces, Interface{Name: name, Area: "wan", RPF: rpf})
	}
	c.Rules.Lists[rules.Snat] = []rules.RuleSpec{{
		Comment: "what --lan and --wan mean",
		If: rules.Conditions{
			OutArea: rules.Match[string]{Values: []string{"wan"}},
			Family:  tuple.IPv4,
		},
		Then: rules.ActMasquerade,
	}}
	c.Text = quickText(c)
	return c
}

// quickText writes what Quick makes as a file.
func quickText(c *Config) string {
	rpfs := map[RPF]string{RPFStrict: "strict", RPFLoose: "loose"}
	var b strings.Builder
	for _, i := range c.Interfaces {
		fmt.Fprintf(&b, "[[interface]]\nname = %q\narea = %q\nrpf = %q\n\n", i.Name, i.Area, rpfs[i.RPF])
	}
	for _, r := range c.Rules.Lists[rules.Snat] {
		fmt.Fprintf(&b, "# %s\n[[snat]]\nout_area = \"wan\"\nfamily = \"ipv4\"\naction = \"masquerade\"\n", r.Comment)
	}
	return b.String()
}

// Normal returns the ruleset in normal form, one line for each rule: its
// position in its list, the list, conditions and action.
func (c *Config) Normal() string {
	var b strings.Builder
	for list := range rules.NumLists {
		for i := range c.Rules.Lists[list] {
			r := rules.Rule{Pos: i + 1, List: list, Text: c.Rules.Lists[list][i].Text()}
			b.WriteString(r.String())
			b.WriteByte('\n')
		}
	}
	return b.String()
}
