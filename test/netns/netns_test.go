//go:build netns

package netns_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/culvert/test/netns"
	"github.com/google/gopacket/layers"
)

// client 10.9.1.2 -- gateway -- 203.0.113.9 server; the server has no way back
// to the client but through the translation.
func routed(kind netns.Kind) netns.Topology {
	return netns.Topology{
		Prefix: "cvself",
		Links: []netns.Link{
			{Ends: []netns.End{
				{Host: "client", If: "eth0", Addrs: []string{"10.9.1.2/24", "fd09:1::2/64"}, Via: []string{"10.9.1.1", "fd09:1::1"}},
				{Host: "gateway", If: "lan0", Addrs: []string{"10.9.1.1/24", "fd09:1::1/64"}},
			}},
			{Ends: []netns.End{
				{Host: "gateway", If: "wan0", Addrs: []string{"203.0.113.1/24", "2001:db8:9::1/64"}},
				{Host: "server", If: "eth0", Addrs: []string{"203.0.113.9/24", "2001:db8:9::9/64"}, Routes: []netns.Route{{To: "fd09:1::/64", Via: "2001:db8:9::1"}}},
			}},
		},
		Gateway: &netns.GatewaySpec{
			Host: "gateway",
			Kind: kind,
			Config: `
[[interface]]
name = "lan0"
area = "lan"

[[interface]]
name = "wan0"
area = "wan"

[[snat]]
out_area = "wan"
family = "ipv4"
action = "masquerade"
`,
			Ruleset: `
table ip nat {
	chain postrouting {
		type nat hook postrouting priority srcnat
		oifname "wan0" masquerade
	}
}
table ip6 filter {
	chain forward {
		type filter hook forward priority filter
		ct state established,related,new accept
	}
}`,
		},
	}
}

// echoOnce answers one connection with what it receives.
func echoOnce(ln net.Listener) {
	c, err := ln.Accept()
	if err != nil {
		return
	}
	defer c.Close()
	_, _ = io.Copy(c, c)
}

// exchange sends text from the client to an echo server and returns the answer.
func exchange(t *testing.T, lab *netns.Lab, address, text string) string {
	t.Helper()
	ln, err := lab.Host("server").Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go echoOnce(ln)
	c, err := lab.Host("client").Dial(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

// eachKind runs a test with the kernel as the gateway and then with culvert.
func eachKind(t *testing.T, test func(t *testing.T, lab *netns.Lab)) {
	for _, kind := range netns.Kinds() {
		t.Run("gateway="+kind.String(), func(t *testing.T) { test(t, netns.ForTest(t, routed(kind))) })
	}
}

func TestGatewayForwards(t *testing.T) {
	eachKind(t, func(t *testing.T, lab *netns.Lab) {
		capture, err := lab.Host("server").Capture("eth0")
		if err != nil {
			t.Fatal(err)
		}
		for _, address := range []string{"203.0.113.9:7777", "[2001:db8:9::9]:7777"} {
			if got := exchange(t, lab, address, "through the wall"); got != "through the wall" {
				t.Errorf("answer from %s = %q", address, got)
			}
		}
		flow, err := lab.Gateway().WaitFlow(t.Context(), func(f netns.Flow) bool {
			return f.Proto == "tcp" && f.Reply.Dst.Addr().String() == "203.0.113.1"
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := flow.Orig.Src.Addr().String(); got != "10.9.1.2" {
			t.Errorf("the masqueraded flow comes from %s, want 10.9.1.2", got)
		}
		syn, err := capture.Wait(t.Context(), func(f netns.Frame) bool { return f.TCP() != nil && f.TCP().SYN && !f.Outgoing })
		if err != nil {
			t.Fatal(err)
		}
		if ip := syn.NetworkLayer().(*layers.IPv4); ip.SrcIP.String() != "203.0.113.1" {
			t.Errorf("the server sees %s, want the gateway", ip.SrcIP)
		}
		if err := capture.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestEventsAreSeen(t *testing.T) {
	eachKind(t, func(t *testing.T, lab *netns.Lab) {
		events, err := lab.Gateway().Events("-p", "tcp")
		if err != nil {
			t.Fatal(err)
		}
		// The listener needs a moment to listen: connect until it has heard one.
		const new = "[NEW] tcp      6 120 SYN_SENT src=10.9.1.2"
		for range 1000 {
			exchange(t, lab, "203.0.113.9:7777", "hello")
			if strings.Contains(events.Output(), new) {
				break
			}
		}
		if err := events.WaitOutput(t.Context(), new); err != nil {
			t.Error(err)
		}
	})
}

// Other rules for routed: nobody comes in or out.
const (
	closedRuleset = `
table inet filter {
	chain forward {
		type filter hook forward priority filter
		reject with icmpx admin-prohibited
	}
}`
	closedConfig = `
[[interface]]
name = "lan0"
area = "lan"

[[interface]]
name = "wan0"
area = "wan"

[[filter]]
action = "reject"
`
)

func TestReloadReplacesTheRules(t *testing.T) {
	eachKind(t, func(t *testing.T, lab *netns.Lab) {
		text := closedConfig
		if lab.Gateway().Kind() == netns.Kernel {
			text = closedRuleset
		}
		if err := lab.Gateway().Reload(t.Context(), text); err != nil {
			t.Fatal(err)
		}
		for _, address := range []string{"203.0.113.9:7", "[2001:db8:9::9]:7"} {
			if c, err := lab.Host("client").Dial(t.Context(), "tcp", address); err == nil {
				c.Close()
				t.Errorf("a connection to %s passed a gateway that rejects everything", address)
			}
		}
	})
}

func TestGatewayStopsAndStarts(t *testing.T) {
	eachKind(t, func(t *testing.T, lab *netns.Lab) {
		if err := lab.Gateway().Stop(); err != nil {
			t.Fatal(err)
		}
		if err := lab.Gateway().Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := exchange(t, lab, "203.0.113.9:7777", "again"); got != "again" {
			t.Errorf("answer after a restart = %q", got)
		}
	})
}

func TestSwitchJoinsMoreThanTwoHosts(t *testing.T) {
	lab := netns.ForTest(t, netns.Topology{Prefix: "cvself", Links: []netns.Link{{Ends: []netns.End{
		{Host: "a", If: "eth0", Addrs: []string{"10.9.2.1/24"}},
		{Host: "b", If: "eth0", Addrs: []string{"10.9.2.2/24"}},
		{Host: "c", If: "eth0", Addrs: []string{"10.9.2.3/24"}},
	}}}})
	for _, from := range []string{"a", "b"} {
		if _, err := lab.Host(from).Exec(t.Context(), "ping", "-c1", "-W5", "10.9.2.3"); err != nil {
			t.Errorf("%s does not reach c: %v", from, err)
		}
	}
}

func TestLinkHasItsMTUQueuesAndMAC(t *testing.T) {
	lab := netns.ForTest(t, netns.Topology{Prefix: "cvself", Links: []netns.Link{{
		MTU: 1400, Queues: 2,
		Ends: []netns.End{{Host: "a", If: "eth0", MAC: "02:00:00:00:00:0a"}, {Host: "b", If: "eth0", MAC: "02:00:00:00:00:0b"}},
	}}})
	for host, mac := range map[string]string{"a": "02:00:00:00:00:0a", "b": "02:00:00:00:00:0b"} {
		link, err := lab.Host(host).Netlink().LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		got := link.Attrs()
		if got.MTU != 1400 || got.NumRxQueues != 2 || got.HardwareAddr.String() != mac {
			t.Errorf("%s: mtu %d, queues %d, mac %s; want 1400, 2, %s", host, got.MTU, got.NumRxQueues, got.HardwareAddr, mac)
		}
	}
}

func TestCommandsSeeTheirHost(t *testing.T) {
	lab := netns.ForTest(t, routed(netns.Kernel))
	out, err := lab.Host("client").Exec(t.Context(), "ls", "/sys/class/net")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "eth0") || strings.Contains(out, "lan0") {
		t.Errorf("the client's /sys/class/net has %q", out)
	}
	var exit *exec.ExitError
	if _, err := lab.Host("client").Exec(t.Context(), "sh", "-c", "echo broken >&2; exit 3"); !errors.As(err, &exit) || exit.ExitCode() != 3 || !strings.Contains(err.Error(), "broken") {
		t.Errorf("a command that fails returns %v, want exit status 3 and its stderr", err)
	}
	p, err := lab.Host("client").Start("sh", "-c", "echo up; exec sleep 1000")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.WaitOutput(t.Context(), "up"); err != nil {
		t.Error(err)
	}
	if err := p.WaitOutput(t.Context(), "up"); err != nil {
		t.Errorf("output that is there already: %v", err)
	}
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
}

func TestCaptureCloseHasEverythingThatPassed(t *testing.T) {
	lab := netns.ForTest(t, routed(netns.Kernel))
	const datagrams = 500
	capture, err := lab.Host("server").Capture("eth0")
	if err != nil {
		t.Fatal(err)
	}
	sink, err := lab.Host("server").ListenPacket("udp", "203.0.113.9:9")
	if err != nil {
		t.Fatal(err)
	}
	defer sink.Close()
	c, err := lab.Host("client").Dial(t.Context(), "udp", "203.0.113.9:9")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 16)
	for range datagrams {
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := sink.ReadFrom(buf); err != nil {
			t.Fatal(err)
		}
	}
	if err := capture.Close(); err != nil {
		t.Fatal(err)
	}
	got := capture.Count(func(f netns.Frame) bool { return f.UDP() != nil && f.UDP().DstPort == 9 })
	if got != datagrams {
		t.Errorf("captured %d datagrams, want %d", got, datagrams)
	}
}

func TestDoPassesErrorsAndPanics(t *testing.T) {
	lab := netns.ForTest(t, routed(netns.Kernel))
	want := errors.New("mine")
	if err := lab.Host("client").Do(func() error { return want }); !errors.Is(err, want) {
		t.Errorf("Do = %v, want %v", err, want)
	}
	defer func() {
		if got := recover(); got != "loud" {
			t.Errorf("recovered %v, want the panic of the function", got)
		}
	}()
	_ = lab.Host("client").Do(func() error { panic("loud") })
}

// traces lists what a lab could leave on the machine.
func traces(t *testing.T, prefix string) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"/run/netns/" + prefix + "-*", filepath.Join(os.TempDir(), prefix+"-*")} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

func TestCloseLeavesNothing(t *testing.T) {
	topology := routed(netns.Kernel)
	topology.Prefix = "cvclose"
	lab, err := netns.Build(t.Context(), topology)
	if err != nil {
		t.Fatal(err)
	}
	p, err := lab.Host("client").Start("sh", "-c", "echo up; sleep 1000 & exec setsid sleep 1000")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.WaitOutput(t.Context(), "up"); err != nil {
		t.Fatal(err)
	}
	forgotten, err := lab.Host("server").Listen("tcp", ":80")
	if err != nil {
		t.Fatal(err)
	}
	defer forgotten.Close()
	if err := lab.Close(); err != nil {
		t.Error(err)
	}
	if left := traces(t, "cvclose"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := lab.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	topology := routed(netns.Kernel)
	topology.Prefix = "cvfail"
	topology.Gateway.Ruleset = "this is no ruleset"
	if _, err := netns.Build(t.Context(), topology); err == nil || !strings.Contains(err.Error(), "nft") {
		t.Errorf("Build = %v, want nft's complaint", err)
	}
	if left := traces(t, "cvfail"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestPanicLeavesNothing runs a test that panics while it has a lab, in a process
// of its own.
func TestPanicLeavesNothing(t *testing.T) {
	const prefix, env = "cvpanic", "NETNS_TEST_PANICS"
	if os.Getenv(env) != "" {
		topology := routed(netns.Kernel)
		topology.Prefix = prefix
		lab := netns.ForTest(t, topology)
		if _, err := lab.Host("client").Start("sleep", "1000"); err != nil {
			t.Fatal(err)
		}
		fmt.Println("the lab has", len(traces(t, prefix)), "traces")
		panic("with a lab")
	}
	victim := exec.CommandContext(t.Context(), os.Args[0], "-test.run", "^TestPanicLeavesNothing$")
	victim.Env = append(os.Environ(), env+"=1")
	out, err := victim.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "panic: with a lab") {
		t.Fatalf("the test ended with %v, want its panic\n%s", err, out)
	}
	if !strings.Contains(string(out), "the lab has ") || strings.Contains(string(out), "the lab has 0 ") {
		t.Fatalf("the lab left no traces while it was up: the test tests nothing\n%s", out)
	}
	if left := traces(t, prefix); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestKilledRunIsSwept kills a process that has a lab and expects that its
// commands die with it and that the next Build removes the rest.
func TestKilledRunIsSwept(t *testing.T) {
	const prefix, env = "cvkilled", "NETNS_TEST_VICTIM"
	if os.Getenv(env) != "" {
		topology := routed(netns.Kernel)
		topology.Prefix = prefix
		lab := netns.ForTest(t, topology)
		p, err := lab.Host("client").Start("sleep", "1000")
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("victim %d\n", p.Pid())
		select {} // until killed
	}
	victim := exec.Command(os.Args[0], "-test.run", "^TestKilledRunIsSwept$")
	victim.Env = append(os.Environ(), env+"=1")
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscanf(out, "victim %d\n", &pid); err != nil {
		t.Fatalf("the victim did not start its lab: %v", err)
	}
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait()
	if len(traces(t, prefix)) == 0 {
		t.Fatal("a killed run left nothing: the test tests nothing")
	}
	if err := netns.Sweep(prefix); err != nil {
		t.Fatal(err)
	}
	if left := traces(t, prefix); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		if err != nil || string(comm) != "sleep\n" {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("sleep (pid %d) outlived the process that started it", pid)
		}
	}
}
