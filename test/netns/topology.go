package netns

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// Topology declares a network. It is data: nothing in it is bound to a machine.
type Topology struct {
	// Prefix starts the name of everything that is made. It separates users of
	// this package from each other; the default is "cvlab".
	Prefix string
	// Hosts names hosts that no link ends at: their interfaces come later.
	Hosts []string
	Links []Link
	// Gateway is nil when the lab has only hosts.
	Gateway *GatewaySpec
	// Log is told what is done, one line a call; nil is silence.
	Log func(format string, args ...any)
}

// Link joins the interfaces of two hosts by a veth pair, or of more by a bridge.
type Link struct {
	Ends   []End
	MTU    int // 0 is 1500
	Queues int // receive and transmit queues of each end, 0 is 1
}

// End is the interface of one host on a link. That an end names a host makes it exist.
type End struct {
	Host   string
	If     string   // interface name, unique within its host
	Addrs  []string // prefixes: "192.0.2.1/24", "2001:db8::1/64"
	Via    []string // next hops of default routes through this interface
	Routes []Route
	MAC    string // "" lets the kernel choose
}

// Route is a static route through the end it stands in.
type Route struct {
	To  string // prefix
	Via string // next hop, "" when on link
}

// Kind says which gateway stands in the middle.
type Kind uint8

const (
	Culvert Kind = iota // the culvert binary with GatewaySpec.Config
	Kernel              // the kernel's netfilter with GatewaySpec.Ruleset
)

func (k Kind) String() string {
	switch k {
	case Culvert:
		return "culvert"
	case Kernel:
		return "kernel"
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// GatewaySpec turns one host into the gateway.
type GatewaySpec struct {
	Host string
	Kind Kind
	// Config is the text of culvert.toml. "${ns:NAME}" becomes the namespace of
	// host NAME, "${dir}" the lab's folder.
	Config string
	// Ruleset is the text given to nft -f.
	Ruleset string
	// Sysctls are set in the gateway's namespace: "net.ipv4.ip_forward": "1".
	// Kernel turns forwarding on by itself.
	Sysctls map[string]string
	// Binary is the culvert binary; "" takes the one named by BinaryEnv or builds it.
	Binary string
	// Command starts the Culvert gateway and defaults to Binary with
	// "run". "-c FILE --socket PATH" is appended.
	Command []string
}

// errTopology is wrapped by every complaint about a Topology.
var errTopology = errors.New("bad topology")

// plan is a checked Topology with everything parsed.
type plan struct {
	hosts []string // in order of appearance
	links []linkPlan
}

type linkPlan struct {
	ends   []endPlan
	mtu    int
	queues int
}

type endPlan struct {
	host, ifname string
	mac          net.HardwareAddr
	addrs        []netip.Prefix
	routes       []routePlan
}

type routePlan struct {
	to  netip.Prefix
	via netip.Addr // zero when on link
}

const (
	maxIfName  = 15 // IFNAMSIZ without the terminating zero
	defaultMTU = 1500
)

// plan checks t.
func (t Topology) plan() (*plan, error) {
	p := &plan{}
	known := map[string]bool{}
	taken := map[[2]string]bool{}
	add := func(host string) {
		if !known[host] {
			known[host] = true
			p.hosts = append(p.hosts, host)
		}
	}
	for _, host := range t.Hosts {
		add(host)
	}
	for i, l := range t.Links {
		if len(l.Ends) < 2 {
			return nil, fmt.Errorf("link %d: %w: it has %d ends, give it at least two", i, errTopology, len(l.Ends))
		}
		lp := linkPlan{mtu: l.MTU, queues: max(l.Queues, 1)}
		if lp.mtu == 0 {
			lp.mtu = defaultMTU
		}
		for _, e := range l.Ends {
			ep, err := e.plan()
			if err != nil {
				return nil, fmt.Errorf("link %d: %w", i, err)
			}
			key := [2]string{e.Host, e.If}
			if taken[key] {
				return nil, fmt.Errorf("link %d: %w: host %s has two interfaces %s", i, errTopology, e.Host, e.If)
			}
			taken[key] = true
			add(e.Host)
			lp.ends = append(lp.ends, ep)
		}
		p.links = append(p.links, lp)
	}
	if g := t.Gateway; g != nil && !known[g.Host] {
		return nil, fmt.Errorf("gateway: %w: there is no host %q", errTopology, g.Host)
	}
	return p, nil
}

func (e End) plan() (endPlan, error) {
	ep := endPlan{host: e.Host, ifname: e.If}
	if e.Host == "" || e.If == "" || len(e.If) > maxIfName {
		return ep, fmt.Errorf("%w: end %q/%q: a host and an interface name of at most %d bytes are needed", errTopology, e.Host, e.If, maxIfName)
	}
	fail := func(err error) (endPlan, error) {
		return ep, fmt.Errorf("%w: %s/%s: %w", errTopology, e.Host, e.If, err)
	}
	if e.MAC != "" {
		mac, err := net.ParseMAC(e.MAC)
		if err != nil {
			return fail(err)
		}
		ep.mac = mac
	}
	for _, s := range e.Addrs {
		a, err := netip.ParsePrefix(s)
		if err != nil {
			return fail(err)
		}
		ep.addrs = append(ep.addrs, a)
	}
	for _, s := range e.Via {
		via, err := netip.ParseAddr(s)
		if err != nil {
			return fail(err)
		}
		ep.routes = append(ep.routes, routePlan{to: everything(via), via: via})
	}
	for _, r := range e.Routes {
		to, err := netip.ParsePrefix(r.To)
		if err != nil {
			return fail(err)
		}
		rp := routePlan{to: to}
		if r.Via != "" {
			if rp.via, err = netip.ParseAddr(r.Via); err != nil {
				return fail(err)
			}
		}
		ep.routes = append(ep.routes, rp)
	}
	return ep, nil
}

// everything is the prefix of length zero of a's family.
func everything(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}
