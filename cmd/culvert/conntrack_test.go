package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"

	"example.com/culvert/control"
	"example.com/culvert/control/logging"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/mem"
	"example.com/culvert/rules/config"
)

// Outside may open nothing on its own; what is related goes to 10.0.0.5.
const relatedOnly = `
gateway.workers = 1
interface = [
  { name = "lan0", area = "lan", addresses = ["10.0.0.1/24"] },
  { name = "wan0", area = "wan", addresses = ["203.0.113.1/24"] },
]
[[dnat]]
in_area = "wan"
action = "dnat"
to = "10.0.0.5"
[[filter]]
in_area = "wan"
state = "new"
action = "drop"
[[snat]]
out_area = "wan"
family = "ipv4"
action = "masquerade"
`

// gateway runs in this process between ports in memory.
type gateway struct {
	*control.Gateway
	lan, wan *mem.Port
	socket   string
}

// runGateway has an outside that needs no neighbours.
func runGateway(t *testing.T) *gateway {
	t.Helper()
	return runGatewayOn(t, packet.LinkIP)
}

// runGatewayWith has more of a configuration.
func runGatewayWith(t *testing.T, more string) *gateway {
	t.Helper()
	return runGatewayOf(t, packet.LinkIP, more)
}

func runGatewayOn(t *testing.T, outside packet.Link) *gateway {
	t.Helper()
	return runGatewayOf(t, outside, "")
}

func runGatewayOf(t *testing.T, outside packet.Link, more string) *gateway {
	t.Helper()
	cfg, err := config.Parse("test.toml", []byte(more+relatedOnly))
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{lan: memPort(t, "lan0", packet.LinkIP), wan: memPort(t, "wan0", outside), socket: filepath.Join(t.TempDir(), "culvert.sock")}
	g.Gateway, err = control.New(cfg, control.Options{
		Log: slog.New(slog.DiscardHandler), Logs: logging.New(io.Discard, control.LogSettings(&cfg.Log), logging.Fixed{}), Socket: g.socket,
		Ports: map[string]port.Port{"lan0": g.lan, "wan0": g.wan},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return g
}

func memPort(t *testing.T, name string, link packet.Link) *mem.Port {
	t.Helper()
	p, err := mem.New(name, mem.Options{Link: link})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// pass sends a UDP packet into a port and waits until it has been forwarded or
// dropped. It reports whether it came out at the other one.
func (g *gateway) pass(t *testing.T, into, outof *mem.Port, src string, sport uint16, dst string, dport uint16) bool {
	t.Helper()
	before := g.Status()
	send(t, into, src, sport, dst, dport)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(10 * time.Second); ; {
		if len(outof.Take()) > 0 {
			return true
		}
		if g.Status().Dropped > before.Dropped {
			return false
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("the packet was neither forwarded nor dropped")
		}
	}
}

// send sends a UDP packet into a port without neighbours.
func send(t *testing.T, into *mem.Port, src string, sport uint16, dst string, dport uint16) {
	t.Helper()
	ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: net.ParseIP(src).To4(), DstIP: net.ParseIP(dst).To4()}
	udp := &layers.UDP{SrcPort: layers.UDPPort(sport), DstPort: layers.UDPPort(dport)}
	if err := udp.SetNetworkLayerForChecksum(ip); err != nil {
		t.Fatal(err)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, udp, gopacket.Payload("x")); err != nil {
		t.Fatal(err)
	}
	if st := into.Inject(buf.Bytes(), packet.Offload{}); st != port.Sent {
		t.Fatalf("the packet was not taken: %v", st)
	}
}

// conntrack runs the command on the gateway.
func (g *gateway) conntrack(t *testing.T, line string) (stdout, stderr string, code int) {
	t.Helper()
	return culvert(t, append(append([]string{"conntrack"}, strings.Fields(line)...), "--socket", g.socket)...)
}

const (
	createExpect = "-I expect -s 10.0.0.5 -d 203.0.113.9 -p udp --sport 40000 --dport 53 -t 300 " +
		"--tuple-src 203.0.113.9 --tuple-dst 203.0.113.1 --tuple-port-src 0 --tuple-port-dst 5000 " +
		"--mask-src 255.255.255.255 --mask-dst 255.255.255.255 --mask-port-src 0 --mask-port-dst 65535"
	namedExpect = " expect -s 203.0.113.9 -d 203.0.113.1 -p udp --sport 0 --dport 5000 --reply-port-src 0 --reply-port-dst 0"
	expectLine  = "NNN proto=17 src=203.0.113.9 dst=203.0.113.1 sport=0 dport=5000 " +
		"mask-src=255.255.255.255 mask-dst=255.255.255.255 sport=0 dport=65535 " +
		"master-src=10.0.0.5 master-dst=203.0.113.9 sport=40000 dport=53 USERSPACE class=0\n"
)

// seconds are the timeouts at the beginning of lines, which depend on when they
// are looked at.
var seconds = regexp.MustCompile(`(?m)^(udp      17 )?[0-9]{2,3} `)

func TestExpectationsInTheWordsOfConntrack(t *testing.T) {
	g := runGateway(t)
	if !g.pass(t, g.lan, g.wan, "10.0.0.5", 40000, "203.0.113.9", 53) {
		t.Fatal("the master does not get out")
	}
	said := func(text string) string { return conntrackName + ": " + text + "\n" }
	for _, tt := range []struct {
		claim, line, stdout, stderr string
		code                        int
	}{
		{"an empty list", "-L expect", "", said("0 expectations have been shown."), exitDone},
		{"no number is zero", "-C expect", "0\n", "", exitDone},
		{"one is made without a word", createExpect, "", "", exitDone},
		{"by a part of the table's name it is listed", "-L exp", expectLine, said("1 expectations have been shown."), exitDone},
		{"it is not of the other family", "-L expect -f ipv6", "", said("0 expectations have been shown."), exitDone},
		{"it is counted", "-C e", "1\n", "", exitDone},
		{"it is shown by its tuple", "-G" + namedExpect, expectLine, said("1 expectations have been shown."), exitDone},
		{"it is ended by its tuple", "-D" + namedExpect, "", said("1 expectations have been shown."), exitDone},
		{"it cannot be ended twice", "-D" + namedExpect, "",
			said("Operation failed: No such file or directory"), exitFailed},
		{"none without a master", strings.Replace(createExpect, "40000", "40001", 1), "", said("Operation failed: master conntrack not found"), exitFailed},
		{"the table is emptied", "-F expect", "", said("expectation table has been emptied."), exitDone},
		{"the flow is confirmed", "-L unconf", "", said("0 flow entries have been shown."), exitDone},
		{"a mask widens an address", "-L -s 10.0.0.9 --mask-src 255.255.255.0 -p udp", "udp      17 NNN src=10.0.0.5 dst=203.0.113.9 sport=40000 dport=53 [UNREPLIED] " +
			"src=203.0.113.9 dst=203.0.113.1 sport=53 dport=40000 mark=0 use=1\n", said("1 flow entries have been shown."), exitDone},
		{"and lives", "-L dying", "", said("0 flow entries have been shown."), exitDone},
		{"in its table", "-L conn", "udp      17 NNN src=10.0.0.5 dst=203.0.113.9 sport=40000 dport=53 [UNREPLIED] " +
			"src=203.0.113.9 dst=203.0.113.1 sport=53 dport=40000 mark=0 use=1\n", said("1 flow entries have been shown."), exitDone},
	} {
		stdout, stderr, code := g.conntrack(t, tt.line)
		stdout = seconds.ReplaceAllString(stdout, "${1}NNN ")
		if stdout != tt.stdout || stderr != tt.stderr || code != tt.code {
			t.Errorf("%s: %s\ngot  status %d, %q, %q\nwant status %d, %q, %q", tt.claim, tt.line, code, stdout, stderr, tt.code, tt.stdout, tt.stderr)
		}
	}
}

func TestFlowIsUnconfirmedWhileItsNeighbourIsAskedFor(t *testing.T) {
	g := runGatewayOn(t, packet.LinkEthernet)
	send(t, g.lan, "10.0.0.5", 40000, "203.0.113.9", 53)
	ask := cameOut(t, g.wan, func(arp *layers.ARP) bool { return net.IP(arp.DstProtAddress).Equal(net.IPv4(203, 0, 113, 9)) })
	const line = "udp      17 NNN src=10.0.0.5 dst=203.0.113.9 sport=40000 dport=53 [UNREPLIED] " +
		"src=203.0.113.9 dst=203.0.113.1 sport=53 dport=40000 mark=0 use=1\n"
	want := func(when, unconfirmed, confirmed string) {
		t.Helper()
		for table, want := range map[string]string{"unconfirmed": unconfirmed, "conntrack": confirmed} {
			if got, _, _ := g.conntrack(t, "-L "+table); seconds.ReplaceAllString(got, "${1}NNN ") != want {
				t.Errorf("%s the table %s has %q, want %q", when, table, got, want)
			}
		}
	}
	want("before the answer", line, "")
	answer(t, g.wan, ask)
	cameOut(t, g.wan, func(udp *layers.UDP) bool { return udp.DstPort == 53 })
	want("after it", "", line)
}

// printed takes frames from an Ethernet port until one has the layer that is meant,
// and returns that.
func cameOut[L gopacket.Layer](t *testing.T, p *mem.Port, meant func(L) bool) L {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(10 * time.Second); ; {
		for _, f := range p.Take() {
			for _, l := range gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default).Layers() {
				if l, ok := l.(L); ok && meant(l) {
					return l
				}
			}
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("it did not come out")
		}
	}
}

// answer answers an ARP question.
func answer(t *testing.T, p *mem.Port, ask *layers.ARP) {
	t.Helper()
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{},
		&layers.Ethernet{SrcMAC: mac, DstMAC: ask.SourceHwAddress, EthernetType: layers.EthernetTypeARP},
		&layers.ARP{AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
			Operation: layers.ARPReply, SourceHwAddress: mac, SourceProtAddress: ask.DstProtAddress,
			DstHwAddress: ask.SourceHwAddress, DstProtAddress: ask.SourceProtAddress}); err != nil {
		t.Fatal(err)
	}
	if st := p.Inject(buf.Bytes(), packet.Offload{}); st != port.Sent {
		t.Fatalf("the answer was not taken: %v", st)
	}
}

func TestExpectationMadeByCommandAdmitsItsFlow(t *testing.T) {
	g := runGateway(t)
	if !g.pass(t, g.lan, g.wan, "10.0.0.5", 40000, "203.0.113.9", 53) {
		t.Fatal("the master does not get out")
	}
	if g.pass(t, g.wan, g.lan, "203.0.113.9", 6000, "203.0.113.1", 5000) {
		t.Error("a flow gets in that nobody announced")
	}
	if _, stderr, code := g.conntrack(t, createExpect); code != exitDone {
		t.Fatalf("status %d, %s", code, stderr)
	}
	if !g.pass(t, g.wan, g.lan, "203.0.113.9", 6000, "203.0.113.1", 5000) {
		t.Error("the announced flow does not get in")
	}
	stdout, _, _ := g.conntrack(t, "-L -o json")
	if !strings.Contains(stdout, `"status":["EXPECTED","CONFIRMED","DST_NAT"`) {
		t.Errorf("flows %s, want one that is EXPECTED", stdout)
	}
	if n, _, _ := g.conntrack(t, "-C expect"); n != "0\n" {
		t.Errorf("%s expectations are left, want none", n)
	}
	if g.pass(t, g.wan, g.lan, "203.0.113.9", 6001, "203.0.113.1", 5000) {
		t.Error("one expectation admits two flows")
	}
}

func TestEventsOfExpectationsAreWatched(t *testing.T) {
	g := runGateway(t)
	if !g.pass(t, g.lan, g.wan, "10.0.0.5", 40000, "203.0.113.9", 53) {
		t.Fatal("the master does not get out")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out, in := io.Pipe()
	var stderr bytes.Buffer
	code := make(chan int, 1)
	go func() {
		code <- execute(ctx, []string{"conntrack", "-E", "expect", "--socket", g.socket}, in, &stderr)
		in.Close()
	}()
	// The stream may begin after the first expectations: make some until one is told.
	made := make(chan struct{})
	go func() {
		defer close(made)
		for ctx.Err() == nil {
			g.conntrack(t, createExpect)
			g.conntrack(t, "-F expect")
		}
	}()
	buf := make([]byte, 4096)
	n, err := out.Read(buf)
	first, _, _ := strings.Cut(string(buf[:n]), "\n")
	if err != nil || !strings.Contains(first, "proto=17 src=203.0.113.9 dst=203.0.113.1") ||
		!strings.HasPrefix(first, "    [NEW] ") && !strings.HasPrefix(first, "[DESTROY] ") {
		t.Errorf("first event %q, %v", first, err)
	}
	cancel()
	<-made
	go func() { _, _ = io.Copy(io.Discard, out) }()
	if c := <-code; c != exitDone || !strings.HasSuffix(stderr.String(), " expectation events have been shown.\n") {
		t.Errorf("status %d, stderr %q", c, stderr.String())
	}
}

func TestConntrackTellsIllegalOptions(t *testing.T) {
	for _, tt := range []struct{ claim, line, want string }{
		{"dying is only listed", "-F dying", "Can't do that command with tables `dying' and `unconfirmed'"},
		{"unconfirmed is only listed", "-E u", "Can't do that command with tables `dying' and `unconfirmed'"},
		{"two commands", "-L -D", "Invalid commands combination"},
		{"an unknown table", "-L nat", "unknown type `nat'"},
		{"an option that belongs elsewhere", "-L expect -p udp", "Illegal option `--protonum' with this command"},
		{"by its longer name, too", "-C --orig-src 10.0.0.5", "Illegal option `--src' with this command"},
		{"counting takes none", "-C -f ipv4", "Illegal option `--family' with this command"},
		{"events of expectations take no mask", "-E expect -e NEW", "Illegal option `--event-mask' with this command"},
		{"a missing option", "-D expect -s 10.0.0.5 -p udp", "You need to supply the `--dst' option for this command"},
		{"a missing timeout", strings.Replace(createExpect, "-t 300", "", 1), "You need to supply the `--timeout' option for this command"},
		{"no time", strings.Replace(createExpect, "-t 300", "-t 0", 1), "timeout 0: give at least a second"},
		{"an option of other commands", "-D -p sctp --orig-vtag 5", "Illegal option `--orig-vtag' with this command"},
		{"why in another form", "-L -o why,xml", "option `-o why' is for flows as text or json"},
		{"a mask alone", "-L --mask-dst 255.0.0.0", "Can't use --mask-dst without --dst"},
		{"no address", "-D expect -s 10.0.0 -d 10.0.0.1 -p udp", "Invalid IP address `10.0.0'"},
		{"two families", "-D expect -s 10.0.0.5 -d fd00::1 -p udp", "mismatched address family"},
		{"a mask of another family", strings.Replace(strings.Replace(createExpect, "--mask-src 255.255.255.255", "--mask-src ffff::", 1), "--mask-dst 255.255.255.255", "--mask-dst ffff::", 1),
			"mismatched address family"},
	} {
		stdout, stderr, code := culvert(t, append([]string{"conntrack"}, strings.Fields(tt.line)...)...)
		if want := conntrackName + ": " + tt.want + "\n" + conntrackHint + "\n"; code != exitMisused || stdout != "" || stderr != want {
			t.Errorf("%s: status %d, stdout %q, stderr %q; want status %d, %q", tt.claim, code, stdout, stderr, exitMisused, want)
		}
	}
}

func TestFlowsAreChangedByCommand(t *testing.T) {
	g := runGateway(t)
	if !g.pass(t, g.lan, g.wan, "10.0.0.5", 40000, "203.0.113.9", 53) {
		t.Fatal("the flow does not get out")
	}
	const line = "udp      17 NNN src=10.0.0.5 dst=203.0.113.9 sport=40000 dport=53 [UNREPLIED] src=203.0.113.9 dst=203.0.113.1 sport=53 dport=40000 "
	said := func(text string) string { return conntrackName + ": " + text + " flow entries have been updated.\n" }
	for _, tt := range []struct {
		claim, line, stdout, stderr string
		code                        int
	}{
		{"its mark", "-U -p udp -m 21", line + "mark=21 use=1\n", said("1"), exitDone},
		{"nothing that is so already", "-U -p udp -m 21", "", said("0"), exitFailed},
		{"a part of its mark", "-U -s 10.0.0.5 -m 2/0xf", line + "mark=18 use=1\n", said("1"), exitDone},
		{"its timeout", "-U -p udp -t 99", line + "mark=18 use=1\n", said("1"), exitDone},
		{"its status", "-U -u ASSURED", line + "[ASSURED] mark=18 use=1\n", said("1"), exitDone},
		{"no other flow", "-U -s 10.0.0.6 -m 1", "", said("0"), exitFailed},
		{"it is saved", "-U -m 0 -o save", "-A -t NN -u ASSURED -s 10.0.0.5 -d 203.0.113.9 -r 203.0.113.9 -n 203.0.113.1 -p udp --sport 40000 --dport 53 --reply-port-src 53 --reply-port-dst 40000\n", said("1"), exitDone},
	} {
		stdout, stderr, code := g.conntrack(t, tt.line)
		stdout = seconds.ReplaceAllString(stdout, "${1}NNN ")
		stdout = regexp.MustCompile(`-t [0-9]+`).ReplaceAllString(stdout, "-t NN")
		if stdout != tt.stdout || stderr != tt.stderr || code != tt.code {
			t.Errorf("%s: %s\ngot  status %d, %q, %q\nwant status %d, %q, %q", tt.claim, tt.line, code, stdout, stderr, tt.code, tt.stdout, tt.stderr)
		}
	}
}
