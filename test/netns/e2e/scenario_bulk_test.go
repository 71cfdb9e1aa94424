//go:build netns

package e2e

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// longEnv asks for transfers of a size that takes a while.
const longEnv = "CULVERT_LONG"

// bulkSize is how much is moved each way over each family.
func bulkSize() int64 {
	if os.Getenv(longEnv) == "1" {
		return 1 << 30
	}
	return 256 << 20
}

const bulkLimit = 5 * time.Minute // for one way

// drivers of an interface in bulk labs: a veth pair or, opened by the gateway in the
// host's own namespace, a TUN, which may be one without offloads.
const (
	veth     = "veth"
	tun      = "tun"
	plainTUN = "tun, offload = false"
)

// tunConfig has the gateway open the interface of a host.
func tunConfig(name, host, area, driver, more string) string {
	text := fmt.Sprintf("\n[[interface]]\nname = %q\narea = %q\ndriver = \"tun\"\nnetns = \"${ns:%s}\"\n%s", name, area, host, more)
	if driver == plainTUN {
		text += "offload = false\n"
	}
	return text
}

const tunInside = `addresses = ["10.1.0.1/24", "fd00:1::1/64"]
peer_addresses = ["10.1.0.11/24", "fd00:1::11/64"]
peer_routes = ["0.0.0.0/0", "::/0"]
`

const tunOutside = `addresses = ["198.51.100.1/24", "2001:db8:b::1/64"]
peer_addresses = ["198.51.100.9/24", "2001:db8:b::9/64"]
`

const bulkConfig = `
[[snat]]
out_area = "wan"
action = "masquerade"
`

// bulkTopology has nothing in it but the two ends: client -- gateway -- server.
func bulkTopology(kind netns.Kind, inside, outside string) netns.Topology {
	plain := setup{}
	t := netns.Topology{
		Prefix: "cve2e",
		Hosts:  []string{"client", "gateway", "server"},
		Gateway: &netns.GatewaySpec{Host: "gateway", Kind: kind, Ruleset: plain.ruleset(), Config: bulkConfig,
			// A kernel that would forward too, if it heard of anything.
			Sysctls: map[string]string{"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}},
	}
	wire := func(ifname, area string, gateway, host netns.End) {
		gateway.If, host.If = ifname, "eth0"
		t.Gateway.Config += fmt.Sprintf("\n[[interface]]\nname = %q\narea = %q\n", ifname, area)
		t.Links = append(t.Links, netns.Link{Ends: []netns.End{gateway, host}})
	}
	if outside == veth {
		wire("wan0", "wan", netns.End{Host: "gateway", Addrs: []string{"198.51.100.1/24", "2001:db8:b::1/64"}},
			netns.End{Host: "server", Addrs: []string{"198.51.100.9/24", "2001:db8:b::9/64"}})
	} else {
		t.Gateway.Config += tunConfig("wan0", "server", "wan", outside, tunOutside)
	}
	if inside == veth {
		wire("lan0", "lan", netns.End{Host: "gateway", Addrs: []string{"10.1.0.1/24", "fd00:1::1/64"}},
			netns.End{Host: "client", Addrs: []string{"10.1.0.11/24", "fd00:1::11/64"}, Via: []string{"10.1.0.1", "fd00:1::1"}})
	} else {
		t.Gateway.Config += tunConfig("eth0", "client", "lan", inside, tunInside)
	}
	return t
}

// TestBulk moves a lot both ways with the offloads that interfaces have by
// default, compares the sums, and watches that nobody else answers: the kernel in
// the gateway's namespace hears of nothing.
func TestBulk(t *testing.T) {
	for _, kind := range netns.Kinds() {
		drivers := []string{veth, tun}
		if kind == netns.Kernel {
			drivers = []string{veth}
		}
		for _, driver := range drivers {
			t.Run(fmt.Sprintf("gateway=%v/%s", kind, driver), func(t *testing.T) {
				bulk(t, netns.ForTest(t, bulkTopology(kind, driver, veth)))
			})
		}
	}
}

func bulk(t *testing.T, lab *netns.Lab) {
	client, server, gw := lab.Host("client"), lab.Host("server"), lab.Gateway()
	watches := map[string]*watch{"client": newWatch(t, client, "eth0"), "server": newWatch(t, server, "eth0")}
	before := kernelCounters(t, gw.Host)
	for _, f := range families {
		service := at(f.server, 7050)
		serveTCP(t, server, service, bulkService)
		c := dial(t, client, at(f.first, 0), service)
		for _, way := range []byte{upload, download} {
			start := time.Now()
			if err := transfer(c, way, bulkSize(), bulkLimit); err != nil {
				t.Errorf("%s: %v", f.name, err)
			}
			t.Logf("%s %c: %d MB in %v", f.name, way, bulkSize()>>20, time.Since(start).Round(time.Millisecond))
		}
	}
	for name, w := range watches {
		n := w.close(t)
		if n.resets+n.errors > 0 {
			t.Errorf("the %s got %d RSTs and %d ICMP errors, want none", name, n.resets, n.errors)
		}
		if n.syns != len(families) {
			t.Errorf("the %s got %d SYNs, want one for each of the %d connections", name, n.syns, len(families))
		}
	}
	if gw.Kind() == netns.Kernel {
		return
	}
	after := kernelCounters(t, gw.Host)
	for name, n := range after {
		if n != before[name] {
			t.Errorf("the kernel of the gateway's namespace took part: %s was %d and is %d", name, before[name], n)
		}
	}
}

// kernelCounters are those of a namespace that move when its kernel hears or
// says something.
func kernelCounters(t *testing.T, host *netns.Host) map[string]int {
	t.Helper()
	all := map[string]int{}
	text, err := host.Exec(t.Context(), "cat", "/proc/net/snmp")
	must(t, err)
	var names []string
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if names == nil {
			names = words
			continue
		}
		for i, name := range names[1:] {
			switch counter := strings.TrimSuffix(names[0], ":") + name; counter {
			case "IpInReceives", "IpOutRequests", "IpForwDatagrams", "IcmpOutMsgs", "TcpInSegs", "TcpOutSegs", "TcpOutRsts", "UdpInDatagrams", "UdpNoPorts":
				n, err := strconv.Atoi(words[i+1])
				must(t, err)
				all[counter] = n
			}
		}
		names = nil
	}
	text, err = host.Exec(t.Context(), "cat", "/proc/net/snmp6")
	must(t, err)
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		switch words[0] {
		case "Ip6InDelivers", "Ip6OutForwDatagrams", "Icmp6OutDestUnreachs", "Icmp6OutTimeExcds", "Icmp6OutPktTooBigs":
			n, err := strconv.Atoi(words[1])
			must(t, err)
			all[words[0]] = n
		}
	}
	return all
}

// watch counts the few frames to a host that say what went wrong: it is a packet
// socket with a filter, since a capture of everything would be what is measured.
type watch struct {
	fd int
	l3 int // where the IP header is
}

type watched struct{ syns, resets, errors int }

// Offsets and values of headers.
const (
	ethernet = 14
	tcpFlags = 13
	flagSYN  = 0x02
	flagRST  = 0x04
)

func newWatch(t *testing.T, host *netns.Host, ifname string) *watch {
	t.Helper()
	link, err := host.Netlink().LinkByName(ifname)
	must(t, err)
	w := &watch{}
	if len(link.Attrs().HardwareAddr) > 0 {
		w.l3 = ethernet
	}
	must(t, host.Do(func() error {
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		filter, err := w.filter()
		if err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptSockFprog(w.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
			unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: link.Attrs().Index}),
		)
	}))
	return w
}

func bigEndian(v uint16) uint16 { return v<<8 | v>>8 }

// filter takes TCP segments with SYN or RST, and ICMP, to this host.
func (w *watch) filter() ([]unix.SockFilter, error) {
	l3 := uint32(w.l3)
	const pktType = 0xfffff004 // SKF_AD_OFF + SKF_AD_PKTTYPE
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: pktType, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 16},
		bpf.LoadAbsolute{Off: l3, Size: 1},
		bpf.ALUOpConstant{Op: bpf.ALUOpShiftRight, Val: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 6, SkipTrue: 7},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 4, SkipTrue: 12},
		bpf.LoadAbsolute{Off: l3 + 9, Size: 1}, // protocol
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMP, SkipTrue: 9},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 9},
		bpf.LoadMemShift{Off: l3},
		bpf.LoadIndirect{Off: l3 + tcpFlags, Size: 1},
		bpf.Jump{Skip: 4},
		bpf.LoadAbsolute{Off: l3 + 6, Size: 1}, // next header
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 3},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 3},
		bpf.LoadAbsolute{Off: l3 + 40 + tcpFlags, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: flagSYN | flagRST, SkipTrue: 1},
		bpf.RetConstant{Val: 1 << 16},
		bpf.RetConstant{Val: 0},
	})
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return filter, err
}

// close ends the watch and counts.
func (w *watch) close(t *testing.T) watched {
	t.Helper()
	defer unix.Close(w.fd)
	var n watched
	buf := make([]byte, 1<<16)
	for {
		size, _, err := unix.Recvfrom(w.fd, buf, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return n
		case errors.Is(err, unix.EINTR):
			continue
		}
		must(t, err)
		n.add(buf[w.l3:size])
	}
}

func (n *watched) add(ip []byte) {
	proto, l4 := ip[9], ip[min(len(ip), int(ip[0]&15)*4):]
	if ip[0]>>4 == 6 {
		proto, l4 = ip[6], ip[40:]
	}
	switch {
	case proto == unix.IPPROTO_ICMP, proto == unix.IPPROTO_ICMPV6 && l4[0] < 128: // RFC 4443: errors
		n.errors++
	case proto == unix.IPPROTO_TCP && l4[tcpFlags]&flagRST != 0:
		n.resets++
	case proto == unix.IPPROTO_TCP:
		n.syns++
	}
}
