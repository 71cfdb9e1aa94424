//go:build netns

package wire

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/dataplane/port/afpacket"
	"example.com/culvert/internal/await"
	"example.com/culvert/test/netns"
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

// run builds the binary once for all labs.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "culvert-wire-")
	if err == nil {
		defer os.RemoveAll(dir)
		var binary string
		if binary, err = netns.Binary(context.Background(), dir); err == nil {
			err = os.Setenv(netns.BinaryEnv, binary)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

var (
	client = netip.MustParseAddr("10.1.0.11")
	server = netip.MustParseAddr("198.51.100.9")
)

// The services of flows: all are dropped by the server, but for that of the echo.
const (
	firstService = 10_000
	services     = 4093 // a prime: no port is used twice towards one before 245 M flows
	clientPorts  = 60_000
	echoService  = 7
)

// configOf is a gateway with room for so many flows, whose flows stay.
func configOf(workers, flows int) string {
	return fmt.Sprintf(`
[gateway]
workers = %d
metrics = "127.0.0.1:9464"

[conntrack]
max = %d
timeouts = { udp = "1h", udp_stream = "1h" }

[[interface]]
name = "lan0"
area = "lan"

[[interface]]
name = "wan0"
area = "wan"

[[snat]]
out_area = "wan"
action = "masquerade"
`, workers, max(1000, flows+flows/8))
}

const ruleset = `
table ip nat {
	chain post {
		type nat hook postrouting priority srcnat
		oifname "wan0" masquerade
	}
}
`

// sink has the server count and drop what the generator sends.
const sink = `
table ip sink {
	chain pre {
		type filter hook prerouting priority raw
		udp dport 10000-14999 drop
	}
}
`

// bed is a client, a gateway and a server.
type bed struct {
	testing.TB
	lab *netns.Lab
	gw  *netns.Gateway
	out *afpacket.Port
}

// newBed starts a gateway: Culvert with a configuration, or the kernel.
func newBed(t testing.TB, kind netns.Kind, config string) *bed {
	t.Helper()
	lab := netns.ForTest(t, netns.Topology{
		Prefix: "cvwire",
		Log:    func(string, ...any) {},
		Links: []netns.Link{
			{Queues: 2, Ends: []netns.End{
				{Host: "client", If: "eth0", Addrs: []string{"10.1.0.11/24"}, Via: []string{"10.1.0.1"}},
				{Host: "gateway", If: "lan0", Addrs: []string{"10.1.0.1/24"}}}},
			{Queues: 2, Ends: []netns.End{
				{Host: "gateway", If: "wan0", Addrs: []string{"198.51.100.1/24"}},
				{Host: "server", If: "eth0", Addrs: []string{"198.51.100.9/24"}}}},
		},
		Gateway: &netns.GatewaySpec{Host: "gateway", Kind: kind, Config: config, Ruleset: ruleset,
			Sysctls: map[string]string{"net.netfilter.nf_conntrack_udp_timeout": "3600"}},
	})
	b := &bed{TB: t, lab: lab, gw: lab.Gateway()}
	_, err := lab.Host("server").ExecInput(t.Context(), sink, "nft", "-f", "-")
	b.must(err)
	b.out, err = afpacket.Open(afpacket.Config{Ifname: "eth0", Netns: lab.Host("client").Namespace()})
	b.must(err)
	t.Cleanup(func() { b.must(b.out.Close()) })
	return b
}

func (b *bed) must(err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

// flows returns how many the gateway has.
func (b *bed) flows() int {
	path := []string{"cat", "/proc/sys/net/netfilter/nf_conntrack_count"}
	var out string
	var err error
	if b.gw.Kind() == netns.Culvert {
		out, err = b.gw.Ctl(b.Context(), "conntrack", "-C")
	} else {
		out, err = b.gw.Exec(b.Context(), path...)
	}
	b.must(err)
	n, err := strconv.Atoi(strings.TrimSpace(out))
	b.must(err)
	return n
}

// fits reports whether the kernel has room for so many flows: its limit is one of the
// whole machine, and not ours to change.
func fits(t testing.TB, kind netns.Kind, flows int) bool {
	if kind == netns.Culvert {
		return true
	}
	text, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_max")
	if err != nil {
		t.Fatal(err)
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return flows < most*9/10
}

// arrived returns how many frames the server's interface has received.
func (b *bed) arrived() uint64 {
	link, err := b.lab.Host("server").Netlink().LinkByName("eth0")
	b.must(err)
	return link.Attrs().Statistics.RxPackets
}

// generator sends packets of flows from to to in turns, from a thread of its own.
type generator struct {
	b        *bed
	sender   port.Sender
	pkts     [64]packet.Packet
	from, to int
	at       int
	sent     atomic.Uint64
	refused  uint64
}

const frameBytes = 60

func (b *bed) generator(from, to int) *generator {
	b.Helper()
	sender, err := b.out.NewSender()
	b.must(err)
	g := &generator{b: b, sender: sender, from: from, to: to, at: from}
	b.Cleanup(func() {
		if c, ok := sender.(port.Closer); ok {
			b.must(c.Close())
		}
	})
	mac := b.mac("gateway", "lan0")
	memory := make([]byte, len(g.pkts)*(packet.Headroom+frameBytes))
	for i := range g.pkts {
		mem := memory[i*(packet.Headroom+frameBytes):][:packet.Headroom+frameBytes]
		f := mem[packet.Headroom:]
		copy(f, mac)
		copy(f[6:], []byte{2, 0, 0, 0, 0, 5, 8, 0, 0x45, 0, 0, frameBytes - 14, 0, 0, 0x40, 0, 64, unix.IPPROTO_UDP})
		copy(f[26:], client.AsSlice())
		copy(f[30:], server.AsSlice())
		sum := uint32(0)
		for j := 14; j < 34; j += 2 {
			sum += uint32(binary.BigEndian.Uint16(f[j:]))
		}
		sum = sum>>16 + sum&0xffff
		binary.BigEndian.PutUint16(f[24:], ^uint16(sum>>16+sum))
		binary.BigEndian.PutUint16(f[38:], frameBytes-34) // no checksum: 0
		g.pkts[i] = packet.Packet{Mem: mem, Off: packet.Headroom, End: len(mem)}
	}
	return g
}

func (b *bed) mac(host, ifname string) net.HardwareAddr {
	b.Helper()
	link, err := b.lab.Host(host).Netlink().LinkByName(ifname)
	b.must(err)
	return link.Attrs().HardwareAddr
}

// burst sends n packets, at most 64, of the next flows.
func (g *generator) burst(n int) {
	for i := range n {
		f := g.pkts[i].Mem[packet.Headroom:]
		binary.BigEndian.PutUint16(f[34:], uint16(1024+g.at%clientPorts))
		binary.BigEndian.PutUint16(f[36:], uint16(firstService+g.at%services))
		if g.at++; g.at == g.to {
			g.at = g.from
		}
		g.sender.Send(&g.pkts[i])
	}
	for _, n := range g.sender.Flush() {
		g.refused += uint64(n)
	}
	g.sent.Add(uint64(n))
}

// start sends at a rate in packets a second, 0 as fast as possible, until stopped.
func (g *generator) start(rate int) (stop func()) {
	var running sync.WaitGroup
	var end atomic.Bool
	running.Go(func() {
		runtime.LockOSThread() // the thread ends with the goroutine
		_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)
		burst := 64
		if rate > 0 {
			burst = min(64, max(1, rate/20_000)) // every 50 us
		}
		for next := time.Now(); !end.Load(); {
			g.burst(burst)
			if rate == 0 {
				continue
			}
			next = next.Add(time.Duration(burst) * time.Second / time.Duration(rate))
			if wait := time.Until(next); wait > 0 {
				ts := unix.NsecToTimespec(int64(wait))
				_ = unix.Nanosleep(&ts, nil)
			}
		}
	})
	return func() {
		end.Store(true)
		running.Wait()
	}
}

// fill has n flows begin, and waits until all have.
func (b *bed) fill(n int) {
	b.Helper()
	g := b.generator(0, n)
	for try := 0; try < 20 && b.flows() < n; try++ {
		before := g.sent.Load()
		stop := g.start(400_000)
		await.Until(b, "flows were offered", func() bool { return g.sent.Load()-before >= uint64(n) })
		stop()
	}
	if have := b.flows(); have < n {
		b.Fatalf("%d flows began, want %d", have, n)
	}
}

// rate loads the gateway from n threads for a while and returns what arrived, in
// packets a second, and what did not, as a share of what was sent.
func (b *bed) rate(lasts time.Duration, generators ...*generator) (pps, lost float64) {
	for _, g := range generators {
		defer g.start(0)()
	}
	sent := func() (n uint64) {
		for _, g := range generators {
			n += g.sent.Load()
		}
		return n
	}
	settled := sent() + 200_000
	await.Until(b, "the generator runs", func() bool { return sent() > settled })
	from, began, offered := b.arrived(), time.Now(), sent()
	<-time.After(lasts)
	arrived, offered := b.arrived()-from, sent()-offered
	return float64(arrived) / time.Since(began).Seconds(), max(0, 1-float64(arrived)/float64(offered))
}

// neighbours makes the gateway learn the server before anything is measured.
func (b *bed) neighbours() {
	b.Helper()
	g := b.generator(0, 1)
	from := b.arrived()
	await.Until(b, "the first packet arrives", func() bool {
		g.burst(1)
		return b.arrived() > from+2 // the neighbour solicitation is one
	})
}

// process is the gateway's, of Culvert.
func (b *bed) process() string { return fmt.Sprintf("/proc/%d/", b.gw.Process().Pid()) }

// resident is what it has of the machine's memory, in bytes.
func (b *bed) resident() int {
	text, err := os.ReadFile(b.process() + "status")
	b.must(err)
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	b.must(err)
	return n << 10
}

// busy is the time that its threads had of the processors.
func (b *bed) busy() time.Duration {
	text, err := os.ReadFile(b.process() + "stat")
	b.must(err)
	_, rest, _ := strings.Cut(string(text), ") ")
	words := strings.Fields(rest)
	user, err := strconv.Atoi(words[11])
	b.must(err)
	system, err := strconv.Atoi(words[12])
	b.must(err)
	return time.Duration(user+system) * time.Second / 100 // USER_HZ
}
