//go:build netns

package box

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/gopacket/layers"

	"example.com/culvert/test/netns"
)

// bulkBytes go each way in every bulk transfer.
const bulkBytes = 100 << 20

// A daemon on the box, like sshd: a listener of the gateway's kernel.
func TestDaemonOnTheBoxAnswersTheInsideAlone(t *testing.T) {
	topology := boxTopology(boxConfig + withKernel + `
		[[dnat]]
		in_area = "lan"
		proto = "tcp"
		dport = 8022
		action = "redirect"
		ports = 2222
	`)
	topology = withRuleset(topology, ruleset{prerouting: `iifname "lan0" tcp dport 8022 redirect to :2222`})
	eachGateway(t, topology, func(t *testing.T, lab *netns.Lab) {
		client, server := lab.Host("client"), lab.Host("server")
		echo(t, lab.Host("gateway"), "[::]:2222")
		seen := capture(t, server, "eth0")

		for _, at := range []string{"10.0.0.1:2222", "[fd00:a::1]:2222", "203.0.113.1:2222", "[2001:db8::1]:2222"} {
			alive(t, dial(t, client, "", at))
		}
		for _, at := range []string{"203.0.113.9:8022", "[2001:db8::9]:8022"} {
			alive(t, dial(t, client, "", at)) // redirected
		}
		refused(t, client, "10.0.0.1:2223")
		refused(t, client, "[fd00:a::1]:2223")
		for _, at := range []string{"203.0.113.1:2222", "[2001:db8::1]:2222", "203.0.113.1:2223", "[2001:db8::1]:2223"} {
			unheard(t, server, at)
		}
		none(t, seen, "the outside heard of the box", func(f netns.Frame) bool { return received(f) && f.TCP() != nil })
	})
}

func TestBoxGoesOutTrackedAndTranslated(t *testing.T) {
	eachGateway(t, boxTopology(boxConfig+withKernel), func(t *testing.T, lab *netns.Lab) {
		client, box, server := lab.Host("client"), lab.Host("gateway"), lab.Host("server")
		echo(t, server, "[::]:7")
		echo(t, client, "[::]:7")

		for _, tt := range []struct {
			name, from, to string
			seen           netip.Addr // the source that the other side sees
		}{
			{"the box's own address stays, IPv4", "", "203.0.113.9:7", netip.MustParseAddr("203.0.113.1")},
			{"the box's own address stays, IPv6", "", "[2001:db8::9]:7", netip.MustParseAddr("2001:db8::1")},
			{"an inside address of the box is translated, IPv4", "10.0.0.1:0", "203.0.113.9:7", netip.MustParseAddr("203.0.113.1")},
			{"an inside address of the box is translated, IPv6", "[fd00:a::1]:0", "[2001:db8::9]:7", netip.MustParseAddr("2001:db8::1")},
			{"to the inside, IPv4", "", "10.0.0.5:7", netip.MustParseAddr("10.0.0.1")},
			{"to the inside, IPv6", "", "[fd00:a::5]:7", netip.MustParseAddr("fd00:a::1")},
		} {
			t.Run(tt.name, func(t *testing.T) {
				c := dial(t, box, tt.from, tt.to)
				alive(t, c)
				from, to := addrPort(c.LocalAddr()), addrPort(c.RemoteAddr())
				_, err := lab.Gateway().WaitFlow(t.Context(), func(f netns.Flow) bool {
					return f.Orig.Src == from && f.Orig.Dst == to && f.Reply.Dst.Addr() == tt.seen && f.Assured
				})
				must(t, err)
			})
		}
	})
}

func TestBoxAndClientShareAnOutsidePort(t *testing.T) {
	eachGateway(t, boxTopology(boxConfig+withKernel), func(t *testing.T, lab *netns.Lab) {
		echo(t, lab.Host("server"), "[::]:7")
		for _, tt := range []struct{ name, client, box, to string }{
			{"IPv4", "10.0.0.5:40000", "203.0.113.1:40000", "203.0.113.9:7"},
			{"IPv6", "[fd00:a::5]:40000", "[2001:db8::1]:40000", "[2001:db8::9]:7"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				first := dial(t, lab.Host("client"), tt.client, tt.to)
				second := dial(t, lab.Host("gateway"), tt.box, tt.to)
				alive(t, second)
				alive(t, first)
				f, err := lab.Gateway().WaitFlow(t.Context(), func(f netns.Flow) bool { return f.Orig.Src.String() == tt.box })
				must(t, err)
				if f.Reply.Dst.Addr() != f.Orig.Src.Addr() || f.Reply.Dst.Port() == f.Orig.Src.Port() {
					t.Errorf("the box, which came second, is seen as %v; want another port", f.Reply.Dst)
				}
			})
		}
	})
}

func TestBulkTransfersOfTheBox(t *testing.T) {
	eachGateway(t, boxTopology(boxConfig+withKernel), func(t *testing.T, lab *netns.Lab) {
		client, box, server := lab.Host("client"), lab.Host("gateway"), lab.Host("server")
		echo(t, server, "[::]:7")
		echo(t, box, "[::]:7")
		for _, tt := range []struct {
			name string
			from *netns.Host
			to   string
		}{
			{"client to box, IPv4", client, "10.0.0.1:7"},
			{"client to box, IPv6", client, "[fd00:a::1]:7"},
			{"box to server, IPv4", box, "203.0.113.9:7"},
			{"box to server, IPv6", box, "[2001:db8::9]:7"},
		} {
			t.Run(tt.name, func(t *testing.T) { bulk(t, dial(t, tt.from, "", tt.to), bulkBytes) })
		}
	})
}

// Without [host] the kernel of the gateway has addresses, listeners and things to
// say, and nobody hears of it.
func TestKernelIsSilentWithoutHost(t *testing.T) {
	lab := netns.ForTest(t, boxTopology(boxConfig))
	gw, client, server := lab.Gateway(), lab.Host("client"), lab.Host("server")
	must(t, gw.Stop())
	for _, key := range []string{"router_solicitations", "dad_transmits", "accept_dad", "accept_ra"} {
		for _, ifname := range []string{"lan0", "wan0"} {
			must(t, gw.Sysctl("net.ipv6.conf."+ifname+"."+key, "2"))
		}
	}
	echo(t, gw.Host, "[::]:2222")
	must(t, gw.Start(t.Context()))
	inside, outside := capture(t, client, "eth0"), capture(t, server, "eth0")

	exec(t, gw.Host, "ip", "address", "add", "fd00:a::2/64", "dev", "lan0")   // wants DAD and an MLD report
	exec(t, gw.Host, "ip", "address", "add", "2001:db8::2/64", "dev", "wan0") //
	exec(t, gw.Host, "ip", "neighbour", "flush", "all")                       // whoever sends has to ask again
	unheard(t, gw.Host, "203.0.113.9:7")
	unheard(t, gw.Host, "10.0.0.5:7")
	unheard(t, gw.Host, "[fd00:a::5]:7")
	exec(t, client, "ip", "neighbour", "flush", "all")
	refused(t, client, "10.0.0.1:2222") // the gateway's own stack has no listener there
	refused(t, client, "[fd00:a::1]:2222")
	unheard(t, server, "203.0.113.1:2222")
	unheard(t, server, "[2001:db8::1]:2222")
	unheard(t, server, "203.0.113.1:2223")

	kernels := func(f netns.Frame) bool {
		if !received(f) {
			return false
		}
		if f.Layer(layers.LayerTypeICMPv6RouterSolicitation) != nil || f.Layer(layers.LayerTypeMLDv2MulticastListenerReport) != nil ||
			f.Layer(layers.LayerTypeMLDv1MulticastListenerReport) != nil || f.Layer(layers.LayerTypeIGMP) != nil {
			return true
		}
		a := source(f)
		return a.IsValid() && a.IsUnspecified() // duplicate address detection
	}
	none(t, inside, "the inside heard the kernel", kernels)
	none(t, outside, "the outside heard the kernel", func(f netns.Frame) bool { return kernels(f) || f.TCP() != nil && received(f) })

	questions, answers := 0, 0
	for _, f := range inside.Frames() {
		arp, ok := f.Layer(layers.LayerTypeARP).(*layers.ARP)
		switch {
		case !ok:
		case f.Outgoing && arp.Operation == layers.ARPRequest:
			questions++
		case received(f) && arp.Operation == layers.ARPReply:
			answers++
		case received(f) && netip.AddrFrom4([4]byte(arp.DstProtAddress)) != netip.MustParseAddr("10.0.0.5"):
			t.Errorf("somebody asks for an address that the gateway does not need: %v", f)
		}
	}
	if questions == 0 || answers != questions {
		t.Errorf("%d ARP replies to %d requests of the client, want one for each", answers, questions)
	}
	syns := inside.Count(func(f netns.Frame) bool { return received(f) && f.TCP() != nil && !f.TCP().RST })
	if syns > 0 {
		t.Errorf("the inside got %d TCP segments other than resets, want none", syns)
	}
	if n := inside.Count(reset); n != 2 {
		t.Errorf("two refused connections got %d resets", n)
	}
}

// Hosts are told link-local addresses of their resolver and router.
func TestBoxAnswersOnItsLinkLocalAddress(t *testing.T) {
	eachGateway(t, boxTopology(boxConfig+withKernel), func(t *testing.T, lab *netns.Lab) {
		box, client, server := lab.Host("gateway"), lab.Host("client"), lab.Host("server")
		for _, h := range []*netns.Host{box, client, server} {
			echo(t, h, "[::]:7")
		}
		for _, tt := range []struct {
			name     string
			from, to *netns.Host
			out, in  string // interfaces
		}{
			{"inside to box", client, box, "eth0", "lan0"},
			{"box to inside", box, client, "lan0", "eth0"},
			{"box to outside", box, server, "wan0", "eth0"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				to := linkLocalOf(t, tt.to, tt.in) + "%" + tt.out
				exec(t, tt.from, "ping", "-c", "1", "-W", "5", to)
				c, err := tt.from.Dial(t.Context(), "tcp", "["+to+"]:7")
				must(t, err)
				defer c.Close()
				alive(t, c)
			})
		}
		unheard(t, server, "["+linkLocalOf(t, box, "wan0")+"%eth0]:7")
	})
}

// linkLocalOf returns the link-local address of an interface.
func linkLocalOf(t *testing.T, h *netns.Host, ifname string) string {
	t.Helper()
	for word := range strings.FieldsSeq(exec(t, h, "ip", "-6", "-o", "address", "show", "dev", ifname, "scope", "link")) {
		if a, _, ok := strings.Cut(word, "/"); ok && strings.HasPrefix(a, "fe80:") {
			return a
		}
	}
	t.Fatalf("%s has no link-local address on %s", h.Name(), ifname)
	return ""
}

// The TAPs of the kernel path are interfaces, and the kernel greets the neighbours
// on every interface.
func TestFramesOfTheTAPItselfStayInTheBox(t *testing.T) {
	lab := netns.ForTest(t, boxTopology(boxConfig+withKernel))
	box, client := lab.Host("gateway"), lab.Host("client")
	lan, err := box.Netlink().LinkByName("lan0")
	must(t, err)
	seen := capture(t, client, "eth0")
	must(t, box.Sysctl("net.ipv6.conf.all.forwarding", "1")) // joins a group everywhere
	for _, tap := range taps(t, box) {
		exec(t, box, "sh", "-c", "ping -c 1 -W 1 -I "+tap+" 224.0.0.1 || true")
	}
	echo(t, client, "[::]:7")
	alive(t, dial(t, box, "", "10.0.0.5:7")) // comes after what is looked for
	none(t, seen, "the inside got a frame of a stranger", func(f netns.Frame) bool {
		return received(f) && f.LinkLayer().LinkFlow().Src().String() != lan.Attrs().HardwareAddr.String()
	})
}
