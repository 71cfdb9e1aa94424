//go:build netns

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/culvert/test/netns"
)

// stunCase is a translation with what two STUN clients say of it.
type stunCase struct {
	claim   string
	keys    string // of the rule
	mapping string // coturn's words
	filter  string
	client  string // of stun-client, which knows fewer kinds
}

var stunCases = []stunCase{
	{
		"everything endpoint-independent", "mapping = \"endpoint-independent\"\nfiltering = \"endpoint-independent\"",
		"Endpoint Independent Mapping", "Endpoint Independent Filtering", "Independent Mapping, Independent Filter",
	},
	{
		"address-dependent filtering", "mapping = \"endpoint-independent\"\nfiltering = \"address-dependent\"",
		"Endpoint Independent Mapping", "Address Dependent Filtering", "Independent Mapping, Address Dependent Filter",
	},
	{
		"port-dependent filtering", "mapping = \"endpoint-independent\"\nfiltering = \"address-and-port-dependent\"",
		"Endpoint Independent Mapping", "Address and Port Dependent Filtering", "Independent Mapping, Port Dependent Filter",
	},
	{
		"everything address-dependent", "mapping = \"address-dependent\"\nfiltering = \"address-dependent\"",
		"Address Dependent Mapping", "Address Dependent Filtering", "Dependent Mapping",
	},
	{
		"port-dependent mapping, endpoint-independent filtering", "mapping = \"address-and-port-dependent\"\nfiltering = \"endpoint-independent\"",
		"Address and Port Dependent Mapping", "Endpoint Independent Filtering", "Dependent Mapping",
	},
	{
		"everything port-dependent", "mapping = \"address-and-port-dependent\"\nfiltering = \"address-and-port-dependent\"",
		"Address and Port Dependent Mapping", "Address and Port Dependent Filtering", "Dependent Mapping",
	},
	{
		"as netfilter", "mapping = \"linux\"",
		"Endpoint Independent Mapping", "Address and Port Dependent Filtering", "Independent Mapping, Port Dependent Filter",
	},
}

// The STUN server has two addresses (RFC 5780).
const (
	stunServer = "203.0.113.9"
	stunOther  = "203.0.113.10"
)

// stunner returns the inside address that case i has for itself.
func stunner(i int) string { return fmt.Sprintf("10.1.0.%d", 11+i) }

// TestSTUNClientsSayWhatIsConfigured has clients that nobody here wrote find out
// how the gateway translates, each of them by a rule of its own.
func TestSTUNClientsSayWhatIsConfigured(t *testing.T) {
	rules := "[gateway]\nworkers = 1\n\n[[interface]]\nname = \"lan0\"\narea = \"lan\"\n\n[[interface]]\nname = \"wan0\"\narea = \"wan\"\n"
	var clients []string
	for i, c := range stunCases {
		rules += fmt.Sprintf("\n[[snat]]\nsrc = %q\nout_area = \"wan\"\naction = \"masquerade\"\n%s\n", stunner(i), c.keys)
		clients = append(clients, stunner(i)+"/24")
	}
	lab := netns.ForTest(t, netns.Topology{
		Prefix: "cve2e",
		Links: []netns.Link{
			{Ends: []netns.End{
				{Host: "client", If: "eth0", Addrs: clients, Via: []string{"10.1.0.1"}},
				{Host: "gateway", If: "lan0", Addrs: []string{"10.1.0.1/24"}},
			}},
			{Ends: []netns.End{
				{Host: "gateway", If: "wan0", Addrs: []string{"203.0.113.1/24"}},
				{Host: "server", If: "eth0", Addrs: []string{stunServer + "/24", stunOther + "/24"}},
			}},
		},
		Gateway: &netns.GatewaySpec{Host: "gateway", Kind: netns.Culvert, Config: rules},
	})
	serveSTUN(t, lab.Host("server"))
	for i, answers := range askAll(t, lab.Host("client")) {
		c := stunCases[i]
		t.Run(c.claim, func(t *testing.T) {
			for _, want := range []string{c.mapping, c.filter} {
				if !strings.Contains(answers[0], "NAT with "+want+"!") {
					t.Errorf("coturn's client does not say %q:\n%s", want, answers[0])
				}
			}
			if !strings.Contains(answers[1], "Primary: "+c.client) {
				t.Errorf("stun-client does not say %q:\n%s", c.client, answers[1])
			}
		})
	}
}

// askAll runs both clients for every case, all cases at once: each of them waits for
// seconds for what a filter keeps away.
func askAll(t *testing.T, h *netns.Host) [][2]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	said := make([][2]string, len(stunCases))
	failed := make([]error, len(stunCases))
	var all sync.WaitGroup
	for i := range stunCases {
		all.Go(func() {
			said[i][0], failed[i] = h.Exec(ctx, "turnutils_natdiscovery", "-m", "-f", "-L", stunner(i), stunServer)
			if failed[i] == nil {
				said[i][1], failed[i] = h.Exec(ctx, "stun", stunServer, "-i", stunner(i))
			}
			if exit := (*exec.ExitError)(nil); errors.As(failed[i], &exit) {
				failed[i] = nil // a status is a verdict, too
			}
		})
	}
	all.Wait()
	must(t, errors.Join(failed...))
	return said
}

// serveSTUN starts coturn and waits until it answers.
func serveSTUN(t *testing.T, h *netns.Host) {
	t.Helper()
	dir := t.TempDir()
	p, err := h.Start("turnserver", "-n", "--stun-only", "--listening-ip", stunServer, "--listening-ip", stunOther, "--no-tls", "--no-dtls", "--no-cli",
		"--log-file", "stdout", "--pidfile", filepath.Join(dir, "pid"), "--userdb", filepath.Join(dir, "db"))
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := h.Dial(ctx, "udp", netip.AddrPortFrom(netip.MustParseAddr(stunServer), 3478).String())
	must(t, err)
	defer c.Close()
	request := [20]byte{1: 1, 4: 0x21, 5: 0x12, 6: 0xa4, 7: 0x42} // a binding request (RFC 8489 section 5)
	for answer := make([]byte, 512); ctx.Err() == nil; {
		c.Write(request[:]) // nobody listens yet: the read says so
		must(t, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		if _, err := c.Read(answer); err == nil {
			return
		} else if closed := errors.Is(err, net.ErrClosed); closed {
			t.Fatal(err)
		}
	}
	t.Fatalf("coturn does not answer:\n%s", p.Output())
}

// TestSelftestOfARunningGateway takes addresses and routers from the kernel.
func TestSelftestOfARunningGateway(t *testing.T) {
	onlyCulvert(t, setup{config: "mapping = \"endpoint-independent\"\n"}, func(t *testing.T, h *house) {
		before, err := h.gw.Ctl(t.Context(), "conntrack", "-C")
		must(t, err)
		out, err := h.gw.Ctl(t.Context(), "selftest")
		must(t, err)
		for _, want := range []string{"ipv4 from lan0 to wan0\n", "ipv6 from lan0 to wan0\n", "complies with RFC 4787 REQ-1;", "MTU 1500 told"} {
			if !strings.Contains(out, want) {
				t.Errorf("no %q in\n%s", want, out)
			}
		}
		after, err := h.gw.Ctl(t.Context(), "conntrack", "-C")
		must(t, err)
		if strings.TrimSpace(before) != "0" || strings.TrimSpace(after) != "0" {
			t.Errorf("the gateway has %s flows before and %s after: the test is not only in memory", before, after)
		}
	})
}
