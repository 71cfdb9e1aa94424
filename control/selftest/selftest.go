package selftest

import (
	"errors"
	"fmt"
	"net/netip"

	"example.com/culvert/dataplane/vnet"
	"example.com/culvert/nat/discover"
	"example.com/culvert/rules/config"
)

// Options choose what is looked at.
type Options struct {
	Inside  string // interface, empty: the first of an inside area
	Outside string // interface, empty: the first of an outside area
	Scope   discover.Scope
}

// Result is what was found out about the way between two interfaces.
type Result struct {
	Inside   string             `json:"inside"`
	Outside  string             `json:"outside"`
	Invented []string           `json:"invented_addresses,omitempty"` // of interfaces whose own were not known
	Reports  []*discover.Report `json:"reports"`                      // for each family of addresses
}

// Errors of Run.
var (
	ErrNoPair = errors.New("no pair of an inside and an outside interface")
	ErrRoom   = errors.New("no room for the hosts of the test")
)

// Run builds the gateway of cfg in memory and finds out how it behaves. cfg stays as it is.
func Run(cfg *config.Config, opts Options) (*Result, error) {
	c := *cfg
	c.Conntrack.Max = 0 // behaviour is looked at, not exhaustion
	var r Result
	c.Interfaces, r.Invented = inMemory(cfg)
	in, err := choose(&c, opts.Inside, discover.Inside)
	if err != nil {
		return nil, err
	}
	out, err := choose(&c, opts.Outside, discover.Outside)
	if err != nil {
		return nil, err
	}
	r.Inside, r.Outside = in.Name, out.Name
	for _, f := range []family{ipv4, ipv6} {
		report, err := run(&c, in, out, f, opts.Scope)
		if err != nil {
			return nil, err
		}
		if report != nil {
			r.Reports = append(r.Reports, report)
		}
	}
	if len(r.Reports) == 0 {
		return nil, fmt.Errorf("%w with addresses of the same family: %s and %s", ErrNoPair, in.Name, out.Name)
	}
	return &r, nil
}

// family of addresses.
type family uint8

const (
	ipv4 family = iota
	ipv6
)

func (f family) has(a netip.Addr) bool { return a.Is4() == (f == ipv4) }

// run looks at one family, nil when the interfaces do not both have addresses of it.
func run(c *config.Config, in, out *config.Interface, f family, scope discover.Scope) (report *discover.Report, err error) {
	hosts, err := hostsFor(c, in, out, f)
	if err != nil || hosts == nil {
		return nil, err
	}
	net, err := vnet.Open(c)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.File, err)
	}
	defer func() { err = errors.Join(err, net.Close()) }()
	return discover.Run(newLinks(net, c, in, out), *hosts, scope)
}
