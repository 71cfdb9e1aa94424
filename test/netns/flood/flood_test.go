//go:build netns

package flood

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"example.com/culvert/internal/await"
	"example.com/culvert/test/netns"
)

// longEnv asks for all floods, for as long as it takes to fill tables.
const longEnv = "FLOODS"

// Addresses of the network.
const (
	self     = "10.1.0.11" // of the user
	server   = "203.0.113.9"
	server6  = "2001:db8:203::9"
	flooder1 = "10.65.0.2" // where the sources of floods are behind, inside
	flooder6 = "2001:db8:65::2"
	flooder2 = "192.0.2.2" // and outside
)

// most is how many flows the table of Culvert holds; the kernel's bound belongs to the
// machine and stays as it is.
const most = 131072

// perFlow is what a flow takes at most, in bytes, of the table and of the ports together;
// slack is what else a process may take for a while, most of it of the collector.
const (
	perFlow = 512
	slack   = 64 << 20
)

const config = `
[[interface]]
name = "lan0"
area = "lan"

[[interface]]
name = "flood0"
area = "lan"

[[interface]]
name = "flood1"
area = "wan"

[[interface]]
name = "wan0"
area = "wan"

[conntrack]
max = %d

[[filter]]
name = "sip"
proto = "udp"
dport = 5060
action = "helper"
helper = "sip"

[[dnat]]
in_area = "wan"
proto = "tcp"
dport = %d
action = "dnat"
to = "%s:80"

[[snat]]
out_area = "wan"
action = "masquerade"
`

const ruleset = `
table inet house {
	ct helper sip-udp {
		type "sip" protocol udp
	}
	chain prerouting {
		type nat hook prerouting priority dstnat
		udp dport 5060 ct helper set "sip-udp"
		iifname { "wan0", "flood1" } tcp dport %d dnat ip to %s:80
	}
	chain input {
		type filter hook input priority filter
		policy drop
		ct state established,related accept
		iifname { "lan0", "flood0", "lo" } accept
	}
	chain forward {
		type filter hook forward priority filter
		policy drop
		ct state established,related accept
		ct status dnat accept
		iifname { "lan0", "flood0" } oifname { "wan0", "flood1" } accept
	}
	chain postrouting {
		type nat hook postrouting priority srcnat
		oifname { "wan0", "flood1" } masquerade
	}
}
`

// lab is the network.
type lab struct {
	*netns.Lab
	gw                    *netns.Gateway
	user, flooder, server *netns.Host
}

func build(t *testing.T, kind netns.Kind) *lab {
	t.Helper()
	two := func(gateway, host netns.End) netns.Link {
		gateway.Host = "gateway"
		return netns.Link{Ends: []netns.End{gateway, host}}
	}
	l := netns.ForTest(t, netns.Topology{
		Prefix: "cvflood",
		Log:    func(string, ...any) {},
		Links: []netns.Link{
			two(netns.End{If: "lan0", Addrs: []string{"10.1.0.1/24", "2001:db8:1::1/64"}},
				netns.End{Host: "user", If: "eth0", Addrs: []string{self + "/24", "2001:db8:1::11/64"}, Via: []string{"10.1.0.1", "2001:db8:1::1"}}),
			two(netns.End{If: "flood0", Addrs: []string{"10.65.0.1/24", "2001:db8:65::1/64"},
				Routes: []netns.Route{{To: "10.64.0.0/16", Via: flooder1}, {To: "fd64::/48", Via: flooder6}}},
				netns.End{Host: "flooder", If: "in0", Addrs: []string{flooder1 + "/24", flooder6 + "/64"}}),
			two(netns.End{If: "flood1", Addrs: []string{"192.0.2.1/24"}, Routes: []netns.Route{{To: "198.18.0.0/16", Via: flooder2}}},
				netns.End{Host: "flooder", If: "out0", Addrs: []string{flooder2 + "/24"}}),
			two(netns.End{If: "wan0", Addrs: []string{"203.0.113.1/24", "2001:db8:203::1/64"}, Via: []string{server, server6}},
				netns.End{Host: "server", If: "eth0", Addrs: []string{server + "/24", server6 + "/64"}}),
		},
		Gateway: &netns.GatewaySpec{Host: "gateway", Kind: kind,
			Config: fmt.Sprintf(config, most, forwarded, self), Ruleset: fmt.Sprintf(ruleset, forwarded, self)},
	})
	s := &lab{Lab: l, gw: l.Gateway(), user: l.Host("user"), flooder: l.Host("flooder"), server: l.Host("server")}
	s.serve(t)
	return s
}

// shut has the gateway's end of a link drop all that arrives, before anything sees it, until
// the test ends.
func (s *lab) shut(t *testing.T, name string) {
	t.Helper()
	drop, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "shut", Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}}) // XDP_DROP
	must(t, err)
	t.Cleanup(func() { drop.Close() })
	own, err := s.gw.Netlink().LinkByName(name)
	must(t, err)
	must(t, s.gw.Do(func() error {
		l, err := link.AttachXDP(link.XDPOptions{Program: drop, Interface: own.Attrs().Index})
		if err == nil {
			t.Cleanup(func() { l.Close() })
		}
		return err
	}))
}

// run is a flood through a gateway, or shut out of it.
type run struct {
	got
	sent      int // packets a second
	flows     int // at the end of the flood
	memory    int // bytes that the table took
	recovery  time.Duration
	recovered bool
}

// plan says for how long a run is.
type plan struct {
	rate        int
	last, after time.Duration
}

// do runs a flood in a network of its own.
func (f *flood) do(t *testing.T, kind netns.Kind, p plan, out bool) (r run) {
	t.Helper()
	s := build(t, kind)
	from, in := "in0", "flood0"
	if f.outside {
		from, in = "out0", "flood1"
	}
	if out {
		s.shut(t, in)
	}
	port, err := s.gw.Netlink().LinkByName(in)
	must(t, err)
	ctx, end := context.WithCancel(t.Context())
	var done sync.WaitGroup
	defer done.Wait()
	defer end()
	u := s.use(ctx, t, &done)
	await.Until(t, "the user is served", func() bool {
		m := u.mark()
		return m.bytes > 0 && m.small > 0 && m.fragmented > 0 && len(u.attempts()) > 0
	})
	took := s.memory(t)

	began := u.mark()
	flooding, stop := context.WithTimeout(ctx, p.last)
	defer stop()
	n, err := f.send(flooding, s.flooder, from, port.Attrs().HardwareAddr, p.rate)
	must(t, err)
	ended := u.mark()
	r.flows, r.memory = s.flows(t), s.memory(t)-took
	r.sent = int(float64(n) / ended.at.Sub(began.at).Seconds())

	const fast = 100 * time.Millisecond
	waiting, enough := context.WithTimeout(ctx, p.after)
	defer enough()
	for tick := time.NewTicker(apart); !r.recovered && waiting.Err() == nil; {
		select {
		case <-waiting.Done():
		case <-tick.C:
		}
		r.recovery, r.recovered = u.recovered(ended.at, fast)
	}
	await.Until(t, "the last connection of the flood's time is over", func() bool { return time.Since(ended.at) > patience || u.over(ended) })
	r.got = u.between(began, ended)
	end()
	done.Wait()
	for _, err := range u.wrong {
		t.Errorf("%v: %v", kind, err)
	}
	if kind == netns.Culvert {
		s.sound(t)
	}
	return r
}

// sound expects that Culvert has found no defect in itself.
func (s *lab) sound(t *testing.T) {
	t.Helper()
	out, err := s.gw.Ctl(t.Context(), "counters")
	must(t, err)
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "internal") {
			t.Errorf("the gateway counts defects of its own: %s", line)
		}
	}
	if check, err := s.gw.Ctl(t.Context(), "debug", "check"); err != nil {
		t.Errorf("debug check: %v\n%s", err, check)
	}
}

// flows returns how many flows the gateway holds.
func (s *lab) flows(t *testing.T) int {
	t.Helper()
	ask := s.gw.Ctl
	if s.gw.Kind() == netns.Kernel {
		ask = func(ctx context.Context, args ...string) (string, error) { return s.gw.Exec(ctx, args...) }
	}
	out, err := ask(t.Context(), "conntrack", "-C")
	must(t, err)
	n, err := strconv.Atoi(strings.TrimSpace(out))
	must(t, err)
	return n
}

// memory returns what the gateway takes: the process, or what the kernel's allocator says
// of all flows of the machine.
func (s *lab) memory(t *testing.T) (bytes int) {
	t.Helper()
	if s.gw.Kind() == netns.Kernel {
		var active, all, size int
		line := lineOf(t, "/proc/slabinfo", "nf_conntrack ")
		_, err := fmt.Sscanf(line, "nf_conntrack %d %d %d", &active, &all, &size)
		must(t, err)
		return all * size
	}
	var kb int
	_, err := fmt.Sscanf(lineOf(t, fmt.Sprintf("/proc/%d/status", s.gw.Process().Pid()), "VmHWM:"), "VmHWM: %d kB", &kb)
	must(t, err)
	return kb << 10
}

// lineOf returns the line of a file that begins so.
func lineOf(t *testing.T, path, prefix string) string {
	t.Helper()
	file, err := os.Open(path)
	must(t, err)
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if strings.HasPrefix(lines.Text(), prefix) {
			return lines.Text()
		}
	}
	t.Fatalf("%s has no line %q", path, prefix)
	return ""
}

// TestOthersHardlyNoticeAFlood floods the gateway in every way. A user beside it keeps what
// he has, and gets new connections; the gateway keeps to its bounds and is itself again as
// soon as it is over.
func TestOthersHardlyNoticeAFlood(t *testing.T) {
	long := os.Getenv(longEnv) != ""
	table := []string{fmt.Sprintf("%-48s %-8s %8s | %6s %6s %6s | %6s %9s | %9s %8s | %s", "flood", "gateway", "packets", "bytes", "small", "frags", "new", "median", "flows", "memory", "recovery")}
	for i := range floods {
		f := &floods[i]
		p := plan{rate: 40000, last: 6 * time.Second, after: 5 * time.Second}
		if f.rate != 0 {
			p.rate, p.last = f.rate, f.last
		}
		if !long {
			if i != 1 && i != len(floods)-1 {
				continue
			}
			p.rate, p.last, p.after = 15000, time.Second, 3*time.Second
		}
		t.Run(f.name, func(t *testing.T) {
			for _, kind := range netns.Kinds() {
				t.Run("gateway="+kind.String(), func(t *testing.T) {
					var without, with run
					if !t.Run("shut out", func(t *testing.T) { without = f.do(t, kind, p, true) }) ||
						!t.Run("let in", func(t *testing.T) { with = f.do(t, kind, p, false) }) {
						return
					}
					table = append(table, f.row(kind, &with, &without))
					if kind == netns.Culvert {
						f.judge(t, &with, &without, long)
					}
				})
			}
		})
	}
	t.Logf("\n%s", strings.Join(table, "\n"))
}

// row is a line of the table.
func (f *flood) row(kind netns.Kind, with, without *run) string {
	share := func(what func(*run) float64) string { return fmt.Sprintf("%.1f%%", 100*what(with)/what(without)) }
	recovery := fmt.Sprint(with.recovery.Round(time.Millisecond))
	if !with.recovered {
		recovery = "not seen"
	}
	return fmt.Sprintf("%-48s %-8v %6d/s | %6s %6s %6s | %6s %9v | %9d %4d MiB | %s", f.name, kind, with.sent,
		share(bytesOf), share(smallOf), share(fragmentsOf), share(servedOf), with.median.Round(10*time.Microsecond), with.flows, with.memory>>20, recovery)
}

func bytesOf(r *run) float64     { return r.bytes }
func smallOf(r *run) float64     { return r.small }
func fragmentsOf(r *run) float64 { return r.fragmented }
func servedOf(r *run) float64    { return r.served }

// judge holds a run against the same without the flood. In a short one, which has to share
// the machine with other tests, what takes processor time is not held against it.
func (f *flood) judge(t *testing.T, with, without *run, long bool) {
	t.Helper()
	least := 0.95
	if !long {
		least = 0.5
	}
	for _, what := range []struct {
		name string
		of   func(*run) float64
	}{{"bytes of connections", bytesOf}, {"datagrams", smallOf}, {"datagrams in fragments", fragmentsOf}, {"new connections served at once", servedOf}} {
		if is, was := what.of(with), what.of(without); is < least*was {
			t.Errorf("%s: %.1f, want %.0f %% of the %.1f without the flood", what.name, is, 100*least, was)
		}
	}
	if with.flows > most {
		t.Errorf("%d flows in a table of %d", with.flows, most)
	}
	if limit := most*perFlow + slack; with.memory > limit {
		t.Errorf("the flood took %d MiB, want at most %d", with.memory>>20, limit>>20)
	}
	if !with.recovered {
		t.Error("new connections are not served fast again")
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
