//go:build netns

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"example.com/culvert/internal/await"
)

// asCulvert makes the test binary run the program instead of the tests.
const asCulvert = "CULVERT_TEST_RUNS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asCulvert) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// process is a culvert in the namespace of the test's thread.
type process struct {
	*exec.Cmd
	stdout string       // file that it prints to
	stderr bytes.Buffer // to be read when it has ended
}

// printed returns what the process has printed so far.
func (p *process) printed(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile(p.stdout)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// launch starts culvert with the given arguments.
func launch(t *testing.T, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "stdout"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	p := &process{Cmd: exec.Command(self, args...), stdout: out.Name()}
	p.Env = append(os.Environ(), asCulvert+"=1")
	p.Stdout, p.Stderr = out, &p.stderr
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.ProcessState == nil {
			_ = p.Process.Kill() // it may have ended meanwhile
			_ = p.Wait()         // the status is Kill's
		}
		if t.Failed() {
			t.Logf("culvert %s:\n%s", strings.Join(args, " "), p.stderr.String())
		}
	})
	return p
}

// end sends sig and returns the exit status, -1 for a death by signal.
func (p *process) end(t *testing.T, sig os.Signal) int {
	t.Helper()
	if err := p.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := p.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return p.ProcessState.ExitCode()
}

// site is a namespace with lan0 and wan0, and a configuration for them.
type site struct {
	config, socket string
}

const siteConfig = `
[gateway]
workers = 1

[[interface]]
name = "lan0"
area = "lan"

[[interface]]
name = "wan0"
area = "wan"
`

const masqueradeRule = `
[[snat]]
out_area = "wan"
family = "ipv4"
action = "masquerade"
`

func newSite(t *testing.T) site {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the namespace ends with the thread
	ns, err := netns.New()
	if err != nil {
		t.Fatalf("new network namespace: %v (run as root)", err)
	}
	t.Cleanup(func() { ns.Close() })
	for name, prefix := range map[string]string{"lan0": "10.0.0.1/24", "wan0": "203.0.113.1/24"} {
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer"}); err != nil {
			t.Fatal(err)
		}
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		addr, err := netlink.ParseAddr(prefix)
		if err != nil {
			t.Fatal(err)
		}
		peer, err := netlink.LinkByName(name + "-peer")
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(netlink.AddrAdd(l, addr), netlink.LinkSetUp(l), netlink.LinkSetUp(peer)); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	s := site{config: filepath.Join(dir, "culvert.toml"), socket: filepath.Join(dir, "culvert.sock")}
	s.write(t, siteConfig)
	return s
}

func (s site) write(t *testing.T, text string) {
	t.Helper()
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// run starts a gateway and waits until it is ready.
func (s site) run(t *testing.T) *process {
	t.Helper()
	p := launch(t, "run", "-c", s.config, "--socket", s.socket)
	s.ask(t, "status", "--wait", "20s")
	return p
}

// ask runs a command that must succeed and returns what it printed.
func (s site) ask(t *testing.T, args ...string) string {
	t.Helper()
	stdout, stderr, code := culvert(t, append(args, "--socket", s.socket)...)
	if code != exitDone {
		t.Fatalf("culvert %v: status %d, stderr %q", args, code, stderr)
	}
	return stdout
}

func TestTermDrainsAndExitsWithZero(t *testing.T) {
	for _, sig := range []os.Signal{unix.SIGTERM, unix.SIGINT} {
		s := newSite(t)
		p := s.run(t)
		if code := p.end(t, sig); code != exitDone {
			t.Errorf("exit status after %v is %d, want 0", sig, code)
		}
		if _, err := os.Stat(s.socket); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("socket after %v: %v, want it gone", sig, err)
		}
	}
}

func TestHangupReloadsAndABrokenFileDoesNot(t *testing.T) {
	s := newSite(t)
	p := s.run(t)
	if rules := s.ask(t, "rules"); strings.Contains(rules, "masquerade") {
		t.Fatalf("rules before the reload: %q", rules)
	}
	s.write(t, siteConfig+masqueradeRule)
	if err := p.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "rule after SIGHUP", func() bool { return strings.Contains(s.ask(t, "rules"), "masquerade") })

	s.write(t, siteConfig+"nonsense = 1\n")
	_, stderr, code := culvert(t, "reload", "--socket", s.socket)
	if code != exitFailed || !strings.HasPrefix(stderr, "culvert: reload refused, generation 2 stays active: "+s.config+":12:1: ") {
		t.Errorf("reload of a broken file: status %d, stderr %q", code, stderr)
	}
	if rules := s.ask(t, "rules"); !strings.Contains(rules, "masquerade") {
		t.Errorf("rules after the refusal: %q", rules)
	}
	s.write(t, siteConfig)
	if got, want := s.ask(t, "reload"), "generation 3: 0 rules, 2 interfaces\n"; got != want {
		t.Errorf("reload says %q, want %q", got, want)
	}
}

func TestStartAfterAKillNeedsNoCleaning(t *testing.T) {
	s := newSite(t)
	s.run(t).end(t, unix.SIGKILL)
	if _, err := os.Stat(s.socket); err != nil {
		t.Fatalf("a killed gateway leaves its socket: %v", err)
	}
	p := s.run(t)
	if code := p.end(t, unix.SIGTERM); code != exitDone {
		t.Errorf("exit status of the second gateway is %d, want 0", code)
	}
}

func TestSecondGatewayIsRefusedAndHarmless(t *testing.T) {
	s := newSite(t)
	s.run(t)
	second := launch(t, "run", "-c", s.config, "--socket", s.socket)
	if err := second.Wait(); err == nil || second.ProcessState.ExitCode() != exitFailed {
		t.Errorf("second gateway on the socket: %v, want exit status %d", err, exitFailed)
	}
	if !strings.Contains(second.stderr.String(), "another gateway answers there; give this one its own with --socket") {
		t.Errorf("second gateway says %q", second.stderr.String())
	}
	s.ask(t, "status")
}

func TestInterruptedEventsEndWithTheFooter(t *testing.T) {
	s := newSite(t)
	s.run(t)
	p := launch(t, "conntrack", "-E", "-e", "NEW", "--socket", s.socket)
	var shown string
	for sport := uint16(40000); shown == ""; sport++ { // until the command is at work
		knock(t, sport)
		waitFor(t, "flow", func() bool { return s.ask(t, "conntrack", "-C") != "0\n" })
		s.ask(t, "conntrack", "-F")
		shown = p.printed(t)
	}
	if !strings.HasPrefix(shown, "    [NEW] udp      17 ") {
		t.Errorf("event %q, want a NEW of UDP", shown)
	}
	if code := p.end(t, unix.SIGINT); code != exitDone {
		t.Errorf("exit status after events is %d, want 0", code)
	}
	n := strings.Count(p.printed(t), "\n")
	if want := fmt.Sprintf("%s: %d flow events have been shown.\n", conntrackName, n); p.stderr.String() != want {
		t.Errorf("footer %q, want %q", p.stderr.String(), want)
	}
}

// knock sends a UDP packet from inside to the gateway.
func knock(t *testing.T, sport uint16) {
	t.Helper()
	lan, err := netlink.LinkByName("lan0")
	if err != nil {
		t.Fatal(err)
	}
	peer, err := netlink.LinkByName("lan0-peer")
	if err != nil {
		t.Fatal(err)
	}
	eth := &layers.Ethernet{DstMAC: lan.Attrs().HardwareAddr, SrcMAC: peer.Attrs().HardwareAddr, EthernetType: layers.EthernetTypeIPv4}
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.IP{10, 0, 0, 5}, DstIP: net.IP{10, 0, 0, 1}}
	udp := &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: 9}
	buf := gopacket.NewSerializeBuffer()
	err = errors.Join(
		udp.SetNetworkLayerForChecksum(ip),
		gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, eth, ip, udp),
	)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, buf.Bytes(), 0, &unix.SockaddrLinklayer{Ifindex: peer.Attrs().Index}); err != nil {
		t.Fatal(err)
	}
}

// waitFor waits for a condition.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	await.Until(t, what, ok)
}
