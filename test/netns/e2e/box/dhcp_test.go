//go:build netns

package box

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"example.com/culvert/test/netns"
)

// leaseScript is what DHCP clients run in place of their own, which would edit
// files of the machine. dhclient says what happened in $reason, udhcpc in $1.
const leaseScript = `#!/bin/sh
if [ -n "$reason" ]; then
	case "$reason" in
	BOUND|RENEW|REBIND|REBOOT) ip=$new_ip_address router=$new_routers ;;
	EXPIRE|FAIL|RELEASE|STOP) ip= ;;
	*) exit 0 ;;
	esac
else
	case "$1" in
	bound|renew) ;;
	deconfig) ip= ;;
	*) exit 0 ;;
	esac
fi
have=$(ip -4 -o address show dev "$interface" | sed 's/.*inet \([^/]*\).*/\1/')
[ "$have" = "$ip" ] && exit 0
ip -4 address flush dev "$interface"
[ -n "$ip" ] || exit 0
ip address add "$ip/24" dev "$interface"
for r in $router; do ip route replace default via "$r"; done
`

// dhclientConf makes dhclient quick.
const dhclientConf = `
initial-interval 1;
backoff-cutoff 1;
retry 1;
reboot 1;
select-timeout 0;
`

// lease starts a DHCP client on an interface of a host.
func lease(t *testing.T, lab *netns.Lab, h *netns.Host, ifname, client string) *netns.Process {
	t.Helper()
	script := writeFile(t, lab, "lease-script", leaseScript, 0o755)
	base := filepath.Join(lab.Dir(), h.Name()+"-"+client)
	var args []string
	switch client {
	case "dhclient":
		conf := writeFile(t, lab, "dhclient.conf", dhclientConf, 0o644)
		args = []string{"dhclient", "-4", "-d", "-sf", script, "-cf", conf, "-lf", base + ".leases", "-pf", base + ".pid", ifname}
	case "udhcpc":
		args = []string{"udhcpc", "-f", "-i", ifname, "-s", script, "-t", "20", "-T", "1", "-A", "1"}
	}
	p, err := h.Start(args...)
	must(t, err)
	return p
}

// dnsmasq starts a server of DHCP and DNS on an interface of a host, that leases
// the addresses from first to last and names the router.
func dnsmasq(t *testing.T, lab *netns.Lab, h *netns.Host, ifname, first, last, router string, options ...string) *netns.Process {
	t.Helper()
	p, err := h.Start(append([]string{"dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-hosts", "--no-resolv",
		"--user=root", "--log-facility=-", "--log-dhcp", "--log-queries", "--no-ping", "--dhcp-authoritative", "--pid-file",
		"--interface=" + ifname, "--except-interface=lo", "--bind-interfaces",
		"--dhcp-leasefile=" + filepath.Join(lab.Dir(), h.Name()+"-"+first+".leases"),
		fmt.Sprintf("--dhcp-range=%s,%s,255.255.255.0,1h", first, last), "--dhcp-option=option:router," + router,
		"--address=/box.example.org/" + router}, options...)...)
	must(t, err)
	must(t, p.WaitOutput(t.Context(), "DHCP, IP range"))
	return p
}

// leased waits for an address of a range on an interface.
func leased(t *testing.T, h *netns.Host, ifname, prefix string) netip.Addr {
	t.Helper()
	var got netip.Addr
	eventually(t, fmt.Sprintf("%s has a leased address on %s", h.Name(), ifname), func() bool {
		out, err := h.Exec(t.Context(), "ip", "-4", "-o", "address", "show", "dev", ifname)
		must(t, err)
		for word := range strings.FieldsSeq(out) {
			if p, err := netip.ParsePrefix(word); err == nil && strings.HasPrefix(word, prefix) {
				got = p.Addr()
			}
		}
		return got.IsValid()
	})
	return got
}

// unaddressed takes the IPv4 addresses and routes of an end away: DHCP gives them.
func unaddressed(topology netns.Topology, host string) netns.Topology {
	for i := range topology.Links {
		for j := range topology.Links[i].Ends {
			if e := &topology.Links[i].Ends[j]; e.Host == host && e.If != "lan0" {
				e.Addrs, e.Via = nil, nil
			}
		}
	}
	return topology
}

func TestInsideGetsItsLeaseAndNamesFromTheBox(t *testing.T) {
	for _, client := range []string{"dhclient", "udhcpc"} {
		t.Run(client, func(t *testing.T) {
			eachGateway(t, unaddressed(boxTopology(boxConfig+withKernel), "client"), func(t *testing.T, lab *netns.Lab) {
				inside := lab.Host("client")
				serveHTTP(t, lab.Host("server"), ":80")
				served := dnsmasq(t, lab, lab.Host("gateway"), "lan0", "10.0.0.100", "10.0.0.110", "10.0.0.1")
				lease(t, lab, inside, "eth0", client)
				a := leased(t, inside, "eth0", "10.0.0.1")

				if got := exec(t, inside, "dig", "+short", "+time=5", "@10.0.0.1", "box.example.org"); got != "10.0.0.1" {
					t.Errorf("box.example.org is %q, want 10.0.0.1\n%s", got, served.Output())
				}
				if got := exec(t, inside, "dig", "+short", "+tcp", "@10.0.0.1", "box.example.org"); got != "10.0.0.1" {
					t.Errorf("over TCP box.example.org is %q, want 10.0.0.1\n%s", got, served.Output())
				}
				exec(t, inside, "ping", "-c", "1", "-W", "5", "10.0.0.1")
				exec(t, inside, "ping", "-c", "1", "-W", "5", "203.0.113.9")
				seenAs(t, inside, "http://203.0.113.9/", "203.0.113.1")
				_, err := lab.Gateway().WaitFlow(t.Context(), func(f netns.Flow) bool { return f.Orig.Src.Addr() == a && f.Orig.Dst.Port() == 80 })
				must(t, err)
			})
		})
	}
}

// The provider's DHCP server leases, renews, and in the end has another address.
func TestOutsideAddressComesByDHCP(t *testing.T) {
	for _, client := range []string{"dhclient", "udhcpc"} {
		t.Run(client, func(t *testing.T) {
			eachGateway(t, unaddressed(boxTopology(boxConfig+withKernel), "gateway"), func(t *testing.T, lab *netns.Lab) {
				gw, inside, provider := lab.Gateway(), lab.Host("client"), lab.Host("server")
				serveHTTP(t, provider, "203.0.113.9:80")
				echo(t, provider, "203.0.113.9:7")
				// dhclient renews at T1 by itself, udhcpc when it is told to.
				server := dnsmasq(t, lab, provider, "eth0", "203.0.113.100", "203.0.113.100", "203.0.113.9", "--dhcp-option-force=option:T1,3")
				dhcp := lease(t, lab, gw.Host, "wan0", client)
				if got := leased(t, gw.Host, "wan0", "203.0.113.").String(); got != "203.0.113.100" {
					t.Fatalf("the box has %s, want the only address of the range", got)
				}
				eventually(t, "the gateway has the leased address and its router", func() bool {
					out := interfaces(t, lab)
					return strings.Contains(out, "203.0.113.100/24") && strings.Contains(out, "203.0.113.9")
				})
				seenAs(t, inside, "http://203.0.113.9/", "203.0.113.100")
				events, err := gw.Events()
				must(t, err)
				// The kernel tells only of flows that began while somebody listened.
				eventually(t, "events are seen", func() bool {
					exec(t, inside, "ping", "-c", "1", "-W", "5", "203.0.113.9")
					return events.Output() != ""
				})
				old := dial(t, inside, "", "203.0.113.9:7")
				alive(t, old)

				if client == "udhcpc" {
					must(t, dhcp.Signal(syscall.SIGUSR1))
				}
				eventually(t, "the lease is renewed", func() bool { return strings.Count(server.Output(), "DHCPACK(eth0) 203.0.113.100") >= 2 })
				alive(t, old)

				must(t, server.Stop())
				dnsmasq(t, lab, provider, "eth0", "203.0.113.200", "203.0.113.200", "203.0.113.9", "--dhcp-option-force=option:T1,3")
				if client == "udhcpc" {
					must(t, dhcp.Signal(syscall.SIGUSR1))
				}
				eventually(t, "the box has the new address\n"+dhcp.Output(), func() bool {
					return leased(t, gw.Host, "wan0", "203.0.113.").String() == "203.0.113.200"
				})
				eventually(t, "the flow of the old address has ended", func() bool {
					return destroyed(events.Output(), "dport=7 src=203.0.113.9 dst=203.0.113.100") && len(flowsOf(t, lab, "203.0.113.100")) == 0
				})
				eventually(t, "new flows have the new address", func() bool {
					got, err := fetch(t.Context(), inside, "http://203.0.113.9/")
					return err == nil && got == "203.0.113.200"
				})
			})
		})
	}
}

// interfaces says which addresses and routers the gateway has.
func interfaces(t *testing.T, lab *netns.Lab) string {
	t.Helper()
	if lab.Gateway().Kind() == netns.Culvert {
		return ctl(t, lab, "status")
	}
	h := lab.Host("gateway")
	return exec(t, h, "ip", "-o", "address") + "\n" + exec(t, h, "ip", "route") + "\n" + exec(t, h, "ip", "-6", "route")
}

// destroyed reports whether the events have a DESTROY with a word.
func destroyed(events, word string) bool {
	for line := range strings.Lines(events) {
		if strings.Contains(line, "[DESTROY]") && strings.Contains(line, word) {
			return true
		}
	}
	return false
}

// flowsOf lists the flows that are translated to an address.
func flowsOf(t *testing.T, lab *netns.Lab, address string) []netns.Flow {
	t.Helper()
	var of []netns.Flow
	flows, err := lab.Gateway().Flows(context.WithoutCancel(t.Context()))
	must(t, err)
	for _, f := range flows {
		if f.Reply.Dst.Addr() == netip.MustParseAddr(address) {
			of = append(of, f)
		}
	}
	return of
}
