package config

import (
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/rules"
)

// required stands for the default of a key that has none.
const required = "required"

// gatewayKeys describe [gateway].
var gatewayKeys = []key[Gateway]{
	{"name", "string", `"culvert"`, `"edge1"`,
		"Tells instances apart in logs, metrics and the default path of the control socket.",
		func(d *decoder, n *node, v *Gateway) { d.name(n, &v.Name) }},
	{"workers", "integer 0-256", "0", "2",
		"Number of worker threads; several are pinned, each to a processor. 0 means up to one for each processor, and as many at work as the load needs, pinned while all of them are.",
		func(d *decoder, n *node, v *Gateway) { d.integer(n, &v.Workers, 0, 256) }},
	{"on_exit", `"release" or "hold"`, `"release"`, `"hold"`,
		"Whether the kernel gets the interfaces back when the process ends (also when it is killed), or they stay closed until the next start or culvert release.",
		func(d *decoder, n *node, v *Gateway) { word(d, n, &v.OnExit, "release", "hold") }},
	{"waiting", `"auto", "latency" or "throughput"`, `"auto"`, `"latency"`,
		"How workers wait for packets: by load, spinning longer, or napping earlier and receiving in blocks.",
		func(d *decoder, n *node, v *Gateway) { word(d, n, &v.Waiting, "auto", "latency", "throughput") }},
	{"icmp_rate", "integer 0-1000000", "1000", "1000",
		"How many ICMP errors the gateway sends a second at most; 0 means no limit.",
		func(d *decoder, n *node, v *Gateway) { d.integer(n, &v.ICMPRate, 0, 1000000) }},
	{"socket", "path", "", `"/run/culvert/edge1.sock"`,
		"Unix socket of the control interface; --socket and CULVERT_SOCKET win over it.",
		func(d *decoder, n *node, v *Gateway) { d.socket(n, &v.Socket) }},
	{"metrics", "address:port", "", `"127.0.0.1:9464"`,
		"Where Prometheus metrics are served over HTTP; off without this key.",
		func(d *decoder, n *node, v *Gateway) { d.listen(n, &v.Metrics) }},
}

// areaKeys describe [[area]].
var areaKeys = []key[rules.Area]{
	{"name", "string", required, `"dmz"`,
		"Name of the area. lan, wan, guest and host exist by themselves; naming one here changes its properties.",
		func(d *decoder, n *node, v *rules.Area) { d.name(n, &v.Name) }},
	{"local", "boolean", "true for lan and host, else false", "true",
		"Whether the gateway's own services, ping replies and TCP resets answer packets from this area.",
		func(d *decoder, n *node, v *rules.Area) {
			var local bool
			d.boolean(n, &local)
			v.Services = rules.Silent
			if local {
				v.Services = rules.Answered
			}
		}},
	{"outside", "boolean", "true for wan, else false", "true",
		"Whether the default policy takes the area for outside: inside areas may open flows to it, and it to none.",
		func(d *decoder, n *node, v *rules.Area) {
			var outside bool
			d.boolean(n, &outside)
			v.Side = rules.Inside
			if outside {
				v.Side = rules.Outside
			}
		}},
}

// interfaceKeys describe [[interface]].
var interfaceKeys = []key[Interface]{
	{"name", "string", required, `"eth1"`,
		"Name of the interface. A trailing * stands for all interfaces whose name begins so, those that appear later too; one that is named itself does not count.",
		func(d *decoder, n *node, v *Interface) { d.ifname(n, &v.Name) }},
	{"area", "string", required, `"lan"`,
		"Area that the interface belongs to.",
		func(d *decoder, n *node, v *Interface) { d.name(n, &v.Area) }},
	{"driver", `"af_packet" or "tun"`, `"af_packet"`, `"tun"`,
		"How frames get in and out: an existing Ethernet interface, or a TUN device that the gateway makes.",
		func(d *decoder, n *node, v *Interface) { word(d, n, &v.Driver, "af_packet", "tun") }},
	{"netns", "string", "", `"client"`,
		"Named network namespace that the interface is in; without it the gateway's own.",
		func(d *decoder, n *node, v *Interface) { d.name(n, &v.Netns) }},
	{"parent", "string", "", `"eth0"`,
		"Makes this a VLAN sub-interface of another interface in this file.",
		func(d *decoder, n *node, v *Interface) { d.ifname(n, &v.Parent) }},
	{"vlan", "integer 1-4094", "", "10",
		"802.1Q tag of a VLAN sub-interface.",
		func(d *decoder, n *node, v *Interface) {
			var tag int
			d.integer(n, &tag, 1, 4094)
			v.VLAN = uint16(tag)
		}},
	{"mtu", "integer 576-65535", "the interface's own", "1492",
		"Largest IP packet in bytes that leaves by the interface.",
		func(d *decoder, n *node, v *Interface) { d.integer(n, &v.MTU, 576, 65535) }},
	{"addresses", `"kernel" or list of address/length`, `"kernel"; TUN has no default`, `["192.168.1.1/24", "2001:db8:1::1/64"]`,
		"The gateway's own addresses: what the kernel has on the interface (followed as it changes, with routes and next hops), or this list.",
		func(d *decoder, n *node, v *Interface) { d.addresses(n, v) }},
	{"next_hop", "address or list of addresses", "", `["192.0.2.1", "2001:db8::1"]`,
		"Default router reached by this interface, at most one of each family.",
		func(d *decoder, n *node, v *Interface) { list(d, n, &v.NextHops, parseAddr) }},
	{"metric", "integer 0-1000000000", "the kernel's, or 0", "100",
		"Of the default routes by this interface: the lowest wins, the others are used when its router is down.",
		func(d *decoder, n *node, v *Interface) { number(d, n, &v.Metric, 0, 1e9) }},
	{"weight", "integer 1-1000", "", "3",
		"Share of the flows that leave by this interface, among default routes of equal metric with a weight. Without weights the interface that comes first takes all.",
		func(d *decoder, n *node, v *Interface) { number(d, n, &v.Weight, 1, 1000) }},
	{"check", "table", "", "{ ping = \"198.51.100.1\" }",
		"How to find out that the router behind this interface works; see [[interface]] check. While it does not, its routes are not used, and flows that need them end with notice.",
		func(d *decoder, n *node, v *Interface) { d.check(n, &v.Check) }},
	{"rpf", `"strict", "loose" or "off"`, `"strict"`, `"loose"`,
		"Reverse-path check of source addresses that arrive here: a route back leaves by this interface, there is one by any, or no check.",
		func(d *decoder, n *node, v *Interface) { word(d, n, &v.RPF, "strict", "loose", "off") }},
	{"mss_clamp", `"mtu", "off" or integer 200-65495`, `"mtu" in areas outside, else "off"`, "1400",
		"Largest MSS that TCP announces through the interface, in both directions, so that no packet is too long for it: what its MTU and the other interface's take, or at most so many bytes.",
		func(d *decoder, n *node, v *Interface) { d.mssClamp(n, &v.MSSClamp) }},
	{"queues", "integer 0-256", "0", "2",
		"Receive queues; 0 means one for each worker.",
		func(d *decoder, n *node, v *Interface) { d.integer(n, &v.Queues, 0, 256) }},
	{"slots", "integer 64-65536", "4096", "8192",
		"Not for TUN: frames that each receive queue holds while its worker is busy, rounded up to 64; 4.1 KiB each, with what large frames take.",
		func(d *decoder, n *node, v *Interface) { d.integer(n, &v.Slots, 64, 65536) }},
	{"offload", "boolean", "true", "false",
		"TUN only: whether large frames and partial checksums cross the device.",
		func(d *decoder, n *node, v *Interface) {
			on := true
			d.boolean(n, &on)
			v.Offload = OffloadOn
			if !on {
				v.Offload = OffloadOff
			}
		}},
	{"peer_addresses", "address/length or list", "", `["10.0.0.2/24"]`,
		"TUN only: addresses that the kernel on the other side of the device gets on it.",
		func(d *decoder, n *node, v *Interface) { list(d, n, &v.PeerAddresses, parseOwn) }},
	{"peer_routes", "prefix or list", "", `["0.0.0.0/0", "::/0"]`,
		"TUN only: prefixes that the kernel on the other side routes into the device.",
		func(d *decoder, n *node, v *Interface) { list(d, n, &v.PeerRoutes, parsePrefix) }},
}

// routeKeys describe [[route]].
var routeKeys = []key[Route]{
	{"to", "prefix", required, `"10.0.0.0/8"`,
		"Destination prefix. There may be several routes to it: those with from, in_area or mark come before those without, in their order; then the lowest metric; those with a weight share the flows.",
		func(d *decoder, n *node, v *Route) { one(d, n, &v.To, parsePrefix) }},
	{"via", "address or \"next_hop\"", "", `"192.168.1.254"`,
		"Next router, or next_hop for the default routers of the interface. Without it hosts of the prefix are on the link of the interface.",
		func(d *decoder, n *node, v *Route) {
			one(d, n, &v.Via, parseVia)
			v.ByNextHop = n.value == viaNextHop
		}},
	{"interface", "string", "", `"eth1"`,
		"Interface to leave by; with via it may be left out.",
		func(d *decoder, n *node, v *Route) { d.ifname(n, &v.Interface) }},
	{"from", "prefix", "", `"192.168.7.0/24"`,
		"Only packets from these sources take the route; before translation.",
		func(d *decoder, n *node, v *Route) { one(d, n, &v.From, parsePrefix) }},
	{"in_area", "string", "", `"guest"`,
		"Only packets that come in by this area take the route; host is the gateway itself.",
		func(d *decoder, n *node, v *Route) { d.name(n, &v.InArea) }},
	{"mark", "number or number/mask", "", `"0x10/0xf0"`,
		"Only packets with this mark take the route.",
		func(d *decoder, n *node, v *Route) { d.mark(n, &v.Mark) }},
	{"metric", "integer 0-1000000000", "0", "100",
		"The lowest wins, among routes to one prefix for the same packets.",
		func(d *decoder, n *node, v *Route) { number(d, n, &v.Metric, 0, 1e9) }},
	{"weight", "integer 1-1000", "", "3",
		"Share of the flows among routes of equal metric with a weight. Without weights the first one takes all.",
		func(d *decoder, n *node, v *Route) { number(d, n, &v.Weight, 1, 1000) }},
}

// conntrackKeys describe [conntrack].
var conntrackKeys = []key[Conntrack]{
	{"max", "integer 64-100000000", "by memory", "1000000",
		"Largest number of flows; each takes at most 256 bytes when it is in use. By default as netfilter: 262144 with more than 4 GiB of memory, 65536 with more than 1 GiB, else one for each 16 KiB.",
		func(d *decoder, n *node, v *Conntrack) { d.integer(n, &v.Max, 64, 100000000) }},
	{"reserve", "boolean", "false", "true",
		"Whether the memory of max flows is taken at once. Otherwise it comes a little ahead of them, and a burst of new flows may wait for it.",
		func(d *decoder, n *node, v *Conntrack) { d.boolean(n, &v.Reserve) }},
	{"state", "path", "", `"/run/culvert/state"`,
		"Folder in which the flows outlive a gateway that is killed: the next one reads them there. It should be on a tmpfs with room for 200 bytes a flow and 400 for each that has a port of its own; it is this gateway's alone. Off without this key and culvert run --state.",
		func(d *decoder, n *node, v *Conntrack) { d.directory(n, &v.State) }},
	{"profile", `"linux" or "rfc"`, `"linux"`, `"rfc"`,
		"Timeouts, port choice and behaviour when full: netfilter's, or those of RFC 4787, 5382, 5508 and 7857.",
		func(d *decoder, n *node, v *Conntrack) { word(d, n, &v.Profile, "linux", "rfc") }},
	{"acct", "boolean", "false", "true",
		"Whether flow lists show packet and byte counters.",
		func(d *decoder, n *node, v *Conntrack) { d.boolean(n, &v.Accounting) }},
	{"timestamp", "boolean", "false", "true",
		"Whether flows keep and show their start time.",
		func(d *decoder, n *node, v *Conntrack) { d.boolean(n, &v.Timestamp) }},
	{"tcp_loose", "boolean", "true", "false",
		"Whether a TCP connection may be picked up in mid-stream.",
		func(d *decoder, n *node, v *Conntrack) { d.boolean(n, &v.TCPLoose) }},
	{"tcp_be_liberal", "boolean", "false", "true",
		"Whether segments outside the window still belong to their connection.",
		func(d *decoder, n *node, v *Conntrack) { d.boolean(n, &v.TCPLiberal) }},
	{"tcp_ignore_invalid_rst", "boolean", "false", "true",
		"Whether a reset behind what its receiver has acknowledged is judged as others are. Otherwise it is invalid.",
		func(d *decoder, n *node, v *Conntrack) { d.boolean(n, &v.TCPIgnoreInvalidRST) }},
	{"tcp_max_retrans", "integer 1-3", "3", "2",
		"Retransmissions without an answer after which the timeout tcp_max_retrans holds.",
		func(d *decoder, n *node, v *Conntrack) { d.integer(n, &v.TCPMaxRetrans, 1, 3) }},
	{"expect_max", "integer 1-65536", "max/64, 16 to 4096", "1024",
		"Largest number of expectations: flows that helpers have announced.",
		func(d *decoder, n *node, v *Conntrack) { d.integer(n, &v.ExpectMax, 1, 65536) }},
	{"shares", "table", "", "{ floor = 1000 }",
		"See [conntrack.shares].",
		func(d *decoder, n *node, v *Conntrack) {
			table(d, n, "[conntrack.shares]", sharesKeys, &v.Shares)
		}},
	{"timeouts", "table", "", "{ udp = \"30s\" }",
		"See [conntrack.timeouts].",
		func(d *decoder, n *node, v *Conntrack) {
			table(d, n, "[conntrack.timeouts]", timeoutKeys, &v.Timeouts)
		}},
}

// sharesKeys describe [conntrack.shares].
var sharesKeys = []key[conntrack.Shares]{
	{"floor", "integer 1-100000000", "max/64, at least 16", "4096",
		"Flows that a client may always have, whatever its share. In profile rfc the last tenth of the table is for clients with fewer flows that wait for an answer, the fuller it is.",
		func(d *decoder, n *node, v *conntrack.Shares) { d.integer(n, &v.Floor, 1, 100000000) }},
	{"half_open", "integer 1-100000000", "max/4, at least 16", "65536",
		"Flows of all clients together that have seen no lasting answer yet, before they are shared among the clients.",
		func(d *decoder, n *node, v *conntrack.Shares) { d.integer(n, &v.HalfOpen, 1, 100000000) }},
	{"new_per_second", "integer 1-100000000", "max/16, at least 1000", "16384",
		"Flows that all clients together begin in a second, before that is shared among the clients.",
		func(d *decoder, n *node, v *conntrack.Shares) { d.integer(n, &v.Rate, 1, 100000000) }},
}

// timeoutKeys describe [conntrack.timeouts] and the timeouts of a rule.
var timeoutKeys = makeTimeoutKeys()

func makeTimeoutKeys() []key[conntrack.Timeouts] {
	var keys []key[conntrack.Timeouts]
	for _, t := range rules.Timeouts() {
		linux, rfc := rules.DurationText(t.Of(&conntrack.LinuxTimeouts)), rules.DurationText(t.Of(&conntrack.RFCTimeouts))
		def := linux
		if rfc != linux {
			def += "; profile rfc " + rfc
		}
		keys = append(keys, key[conntrack.Timeouts]{t.Name, "duration 1s-100d", def, strconv.Quote(linux),
			"As the sysctl nf_conntrack_" + t.Sysctl + ".",
			func(d *decoder, n *node, v *conntrack.Timeouts) {
				var timeout time.Duration
				d.duration(n, &timeout)
				t.Set(v, timeout)
			}})
	}
	return keys
}

// hostKeys describe [host].
var hostKeys = []key[Host]{
	{"enabled", "boolean", "false", "true",
		"Whether the kernel of the gateway's own namespace takes part: daemons on the box answer on the gateway's addresses, and the box goes out as area host.",
		func(d *decoder, n *node, v *Host) { d.boolean(n, &v.Enabled) }},
}

// one reads a single parsed value.
func one[T any](d *decoder, n *node, v *T, parse func(string) (T, error)) {
	s, ok := d.text(n)
	if !ok {
		return
	}
	x, err := parse(s)
	if err != nil {
		d.errorf(n.at, "%v", err)
		return
	}
	*v = x
}

func (d *decoder) socket(n *node, v *string) {
	s, ok := d.text(n)
	switch {
	case !ok:
	case !filepath.IsAbs(s):
		d.errorf(n.at, "%q is not an absolute path: begin it with /", s)
	case len(s) > 107:
		d.errorf(n.at, "the path has %d bytes, a Unix socket takes at most 107: choose a shorter one", len(s))
	default:
		*v = s
	}
}

func (d *decoder) listen(n *node, v *string) {
	s, ok := d.text(n)
	if !ok {
		return
	}
	host, port, err := net.SplitHostPort(s)
	if err == nil && host != "" {
		_, err = netip.ParseAddr(host)
	}
	if p, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || p == 0 {
		d.errorf(n.at, "%q is not address:port: write it like %s", s, exampleMark)
		return
	}
	*v = s
}

func (d *decoder) addresses(n *node, v *Interface) {
	if s, ok := n.value.(string); ok && n.kind == kindScalar && s == "kernel" {
		v.AddressFrom = FromKernel
		return
	}
	v.AddressFrom = Static
	list(d, n, &v.Addresses, parseOwn)
}
