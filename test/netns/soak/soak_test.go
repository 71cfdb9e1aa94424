//go:build netns

package soak

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"example.com/culvert/control/api"
	"example.com/culvert/test/netns"
)

// timeEnv says for how long there is traffic, as a duration.
const timeEnv = "SOAK"

// shortly is how long without it: what `make netns` can afford.
const shortly = 40 * time.Second

// Addresses of the network.
var (
	inside  = [...]string{"10.1.0.11", "fd00:1::11"} // of the first host
	other   = [...]string{"10.1.0.12", "fd00:1::12"} // of the second one
	outside = [...]string{"203.0.113.1", "2001:db8:a::1"}
	servers = [...]netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("2001:db8:a::9")}
)

// moved is what the outside IPv4 address is replaced by, and replaces.
const moved = "203.0.113.3"

// config is the gateway's. The table is small and its memory taken at once, so that what
// grows is not the table.
const config = `
[[interface]]
name = "lan0"
area = "lan"

[[interface]]
name = "wan0"
area = "wan"

[conntrack]
max = 20000
reserve = true
timeouts = { tcp_time_wait = "5s", tcp_close = "2s", udp = "5s", udp_stream = "10s", icmp = "3s", icmpv6 = "3s" }

[events]
memory = 2

[log]
level = "warn"

[[filter]]
name = "ftp"
proto = "tcp"
dport = 21
action = "helper"
helper = "ftp"

[[filter]]
name = "sip"
proto = "udp"
dport = 5060
action = "helper"
helper = "sip"

[[snat]]
out_area = "wan"
action = "masquerade"
`

// another is a rule more, for every second reload.
const another = `
[[filter]]
name = "telnet"
in_area = "lan"
proto = "tcp"
dport = 23
action = "reject"
`

// lab is the network with what is known of it.
type lab struct {
	*netns.Lab
	gw            *netns.Gateway
	first, second *netns.Host
	server        *netns.Host
	client        *api.Client

	mu      sync.Mutex // guards what follows
	changed time.Time  // when the outside address began to change last
	settled time.Time  // when that was over; zero: not yet
	strange []string   // what services saw and must not see
}

func build(t *testing.T) *lab {
	t.Helper()
	host := func(name string, own [2]string) netns.End {
		return netns.End{Host: name, If: "eth0", Addrs: []string{own[0] + "/24", own[1] + "/64"}, Via: []string{"10.1.0.1", "fd00:1::1"}}
	}
	l := netns.ForTest(t, netns.Topology{
		Prefix: "cvsoak",
		Links: []netns.Link{
			{Ends: []netns.End{
				host("first", inside),
				host("second", other),
				{Host: "gateway", If: "lan0", Addrs: []string{"10.1.0.1/24", "fd00:1::1/64"}},
			}},
			{Ends: []netns.End{
				{Host: "gateway", If: "wan0", Addrs: []string{outside[0] + "/24", outside[1] + "/64"}},
				{Host: "server", If: "eth0", Addrs: []string{servers[0].String() + "/24", servers[1].String() + "/64"}},
			}},
		},
		Gateway: &netns.GatewaySpec{Host: "gateway", Kind: netns.Culvert, Config: config},
	})
	s := &lab{Lab: l, gw: l.Gateway(), first: l.Host("first"), second: l.Host("second"), server: l.Host("server"),
		client: api.NewClient(l.Gateway().Socket())}
	t.Cleanup(s.client.Close)
	must(t, s.gw.Sysctl("net.ipv4.conf.all.promote_secondaries", "1")) // or the second address goes with the first
	return s
}

// seen notes what a service sees of a user.
func (s *lab) seen(from netip.Addr) {
	switch from = from.Unmap(); from.String() {
	case outside[0], outside[1], moved:
	default:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.strange = append(s.strange, "a service saw "+from.String())
	}
}

// disturbed reports whether the outside address changed while something was done that
// began at a time. A flow that began just before the gateway followed is hit, too.
func (s *lab) disturbed(began time.Time) bool {
	const follow = 2 * time.Second
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.changed.IsZero() && (s.settled.IsZero() || began.Before(s.settled.Add(follow)))
}

// readdress replaces the outside IPv4 address, and waits until the gateway knows.
func (s *lab) readdress(ctx context.Context, from, to string) error {
	s.mu.Lock()
	s.changed, s.settled = time.Now(), time.Time{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.settled = time.Now()
	}()
	link, err := s.gw.Netlink().LinkByName("wan0")
	if err != nil {
		return err
	}
	for _, change := range []struct {
		addr string
		do   func(netlink.Link, *netlink.Addr) error
	}{{to, s.gw.Netlink().AddrAdd}, {from, s.gw.Netlink().AddrDel}} {
		a, err := netlink.ParseAddr(change.addr + "/24")
		if err != nil {
			return err
		}
		if err := change.do(link, a); err != nil {
			return err
		}
	}
	return poll(ctx, "the gateway follows its address", func() (bool, error) {
		st, err := s.client.Status(ctx)
		if err != nil {
			return false, err
		}
		for _, i := range st.Interfaces {
			for _, a := range i.Addresses {
				if strings.HasPrefix(fmt.Sprint(a), from+"/") {
					return false, nil
				}
			}
		}
		return true, nil
	})
}

func TestMixedTrafficLeavesNothingBehind(t *testing.T) {
	lasting := shortly
	if text := os.Getenv(timeEnv); text != "" {
		var err error
		lasting, err = time.ParseDuration(text)
		must(t, err)
	}
	s := build(t)
	uses := s.uses(t)
	events := s.follow(t)
	watch := s.newWatch(t)

	ctx, end := context.WithTimeout(t.Context(), lasting)
	defer end()
	var done sync.WaitGroup
	for _, u := range uses {
		for range u.parallel {
			done.Go(func() { s.drive(ctx, u) })
		}
	}
	done.Go(func() { watch.run(ctx) })
	done.Wait()

	for _, u := range uses {
		u.judge(t)
	}
	for _, what := range s.strange {
		t.Error(what)
	}
	events.judge(t)
	watch.judge(t)
	t.Log(report(lasting, uses, events, watch))
}

func report(lasting time.Duration, uses []*use, events *events, watch *watch) string {
	var b strings.Builder
	fmt.Fprintf(&b, "after %v of traffic:\n%-24s %9s %11s %7s\n", lasting, "use", "done", "interrupted", "failed")
	for _, u := range uses {
		fmt.Fprintf(&b, "%-24s %9d %11d %7d\n", u.name, u.done.Load(), u.interrupted.Load(), u.failed.Load())
	}
	fmt.Fprintf(&b, "events: %d, of flows that began %d\n", events.last, events.begun)
	watch.report(&b)
	return b.String()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// poll waits until cond holds: a minute at most, since other tests may want the same
// processors.
func poll(ctx context.Context, what string, cond func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if ok, err := cond(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("never happened: %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
}
