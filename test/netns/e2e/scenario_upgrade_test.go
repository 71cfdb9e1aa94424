//go:build netns

package e2e

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/control/api"
	"example.com/culvert/dataplane"
	"example.com/culvert/test/netns"
)

// upgraded has another process go on with the gateway, and stops that one when the test
// ends: the harness knows the first one only.
func (h *house) upgraded(t *testing.T, args ...string) api.UpgradeResult {
	t.Helper()
	out, err := h.gw.Ctl(t.Context(), append([]string{"upgrade", "-o", "json"}, args...)...)
	if err != nil {
		t.Fatalf("upgrade: %v\n%s", err, h.gw.Process().Output())
	}
	var result api.UpgradeResult
	must(t, json.Unmarshal([]byte(out), &result))
	t.Cleanup(func() { endProcess(t, result.PID) })
	if pid := h.status(t).PID; pid != result.PID {
		t.Errorf("process %d answers, want %d", pid, result.PID)
	}
	return result
}

// endProcess ends a gateway that is no child of ours, if it is still there.
func endProcess(t *testing.T, pid int) {
	if unix.Kill(pid, unix.SIGTERM) != nil {
		return
	}
	until(t, "the gateway has ended", func() bool { return errors.Is(unix.Kill(pid, 0), unix.ESRCH) })
}

// stream sends numbered datagrams at a steady rate, and counts those that arrive.
type stream struct {
	sent, came, late atomic.Int64
	stop             context.CancelFunc
	done             chan struct{}
}

// streamUDP begins a stream of so many datagrams a second from a client to a server.
func streamUDP(t *testing.T, h *house, f *family, port uint16, rate int) *stream {
	t.Helper()
	in, err := h.server.ListenPacket("udp", at(f.server, port).String())
	must(t, err)
	must(t, in.(*net.UDPConn).SetReadBuffer(8<<20))
	t.Cleanup(func() { in.Close() })
	out := connectUDP(t, h.first, at(f.first, 0), at(f.server, port))
	ctx, stop := context.WithCancel(t.Context())
	s := &stream{stop: stop, done: make(chan struct{})}
	var from atomic.Value
	go func() {
		var b [64]byte
		next := uint64(0)
		for {
			n, who, err := in.ReadFrom(b[:])
			if err != nil {
				return
			}
			if old := from.Swap(who.String()); old != nil && old != who.String() {
				t.Errorf("the stream comes from %v, came from %v", who, old)
			}
			if n >= 8 {
				if number := binary.BigEndian.Uint64(b[:]); number < next {
					s.late.Add(1)
				} else {
					next = number + 1
				}
			}
			s.came.Add(1)
		}
	}()
	go func() {
		defer close(s.done)
		const piece = time.Millisecond
		began := time.Now()
		for b := [64]byte{}; ctx.Err() == nil; {
			for due := int64(time.Since(began).Seconds() * float64(rate)); s.sent.Load() < due; {
				binary.BigEndian.PutUint64(b[:], uint64(s.sent.Load()))
				if _, err := out.Write(b[:]); err == nil {
					s.sent.Add(1)
				}
			}
			pause(ctx, piece)
		}
	}()
	t.Cleanup(stop)
	return s
}

// pause lets a stream wait for its next datagrams.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// end stops the stream and returns how many datagrams were lost, once all have arrived
// that will.
func (s *stream) end(t *testing.T) (lost int64) {
	t.Helper()
	s.stop()
	<-s.done
	for last := int64(-1); s.came.Load() != last && s.came.Load() < s.sent.Load(); {
		last = s.came.Load()
		pause(t.Context(), 300*time.Millisecond)
	}
	return s.sent.Load() - s.came.Load()
}

// ringLost returns the frames that found no place in a ring, of all interfaces.
func (h *house) ringLost(t *testing.T) (n uint64) {
	t.Helper()
	for _, i := range h.status(t).Interfaces {
		n += i.Counters.RxRingDropped
	}
	return n
}

// upgradeRate is how many datagrams a second the streams here have: what the slowest of
// the machines that run the tests still generates besides.
const upgradeRate = 5000

// TestConnectionsGoOnInAnotherProcess upgrades twice in a row while a file, whose sum is
// checked, comes down and another one goes up, datagrams are sent at a steady rate, and an
// FTP server has announced a data connection that nobody has opened yet. What it announces
// later opens one, too.
func TestConnectionsGoOnInAnotherProcess(t *testing.T) {
	s := ftpThrough
	s.gateway = "metrics = \"127.0.0.1:9465\""
	onlyCulvert(t, s, func(t *testing.T, h *house) {
		serveTCP(t, h.server, at(ipv4.server, 7000), bulkService)
		serveTCP(t, h.server, at(ipv6.server, 7000), bulkService)
		first := h.gw.Process()
		udp := streamUDP(t, h, &ipv4, 7001, upgradeRate)
		const size = 1 << 30
		moved := make(chan error, 2)
		down, up := dial(t, h.first, at(ipv4.first, 0), at(ipv4.server, 7000)), dial(t, h.first, at(ipv6.first, 0), at(ipv6.server, 7000))
		go func() { moved <- transfer(down, download, size, patience*2) }()
		go func() { moved <- transfer(up, upload, size, patience*2) }()

		ftp := newScript(t, ftpSite{client: h.first, server: h.server, on: ipv4.server, to: ipv4.server}, at(ipv4.first, 30100))
		serveTCP(t, h.server, at(ipv4.server, 50000), greet)
		ftp.command(t, "PASV", "PASV")
		ftp.reply(t, "227 Entering Passive Mode (198,51,100,9,195,80).", "227 Entering Passive Mode (198,51,100,9,195,80).")
		until(t, "the stream is under way", func() bool { return udp.came.Load() > upgradeRate/10 })
		before, ids := h.status(t), h.ids(t)

		for n := range 2 {
			r := h.upgraded(t)
			t.Logf("upgrade %d: packets waited %.2f ms, prepared in %.0f ms, %d flows", n+1, r.Pause, r.Prepared, r.Flows)
			if r.Expectations != 1 || r.Lost != 0 || r.Flows < 4 {
				t.Errorf("upgrade %d: %+v", n+1, r)
			}
		}
		if err := first.Wait(t.Context()); err != nil {
			t.Errorf("the first process: %v", err)
		}
		if lost := udp.end(t); lost > upgradeRate*5/1000 || udp.late.Load() > 0 {
			t.Errorf("%d of %d datagrams were lost and %d came late; 5 ms have %d", lost, udp.sent.Load(), udp.late.Load(), upgradeRate*5/1000)
		}
		for range 2 {
			if err := <-moved; err != nil {
				t.Error(err)
			}
		}
		passive := talk(t, h.first, at(ipv4.first, 30101), at(ipv4.server, 50000))
		if passive.seen != at(ipv4.outside, 30101) {
			t.Errorf("the server sees %v", passive.seen)
		}
		h.wantFlow(t, fmt.Sprintf("tcp 6 431999 ESTABLISHED src=%v dst=%v sport=30101 dport=50000 src=%v dst=%v sport=50000 dport=30101 [ASSURED] mark=33 use=1",
			ipv4.first, ipv4.server, ipv4.server, ipv4.outside))
		serveTCP(t, h.server, at(ipv4.server, 50001), greet)
		ftp.command(t, "PASV", "PASV") // is read by a process that has not seen the beginning
		ftp.reply(t, "227 Entering Passive Mode (198,51,100,9,195,81).", "227 Entering Passive Mode (198,51,100,9,195,81).")
		talk(t, h.first, at(ipv4.first, 30102), at(ipv4.server, 50001))
		if out, err := h.conntrack(t, "-L", "-p", "tcp", "--sport", "30102"); err != nil || !strings.Contains(out, "mark=33") {
			t.Errorf("the second data connection is not one that was announced: %v\n%s", err, out)
		}
		after := h.status(t)
		if after.Forwarded <= before.Forwarded || after.Generation < before.Generation {
			t.Errorf("counters went from %d packets to %d, the generation from %d to %d", before.Forwarded, after.Forwarded, before.Generation, after.Generation)
		}
		for id := range ids {
			if !h.ids(t)[id] {
				t.Errorf("no flow has the id %s any more", id)
			}
		}
		if lost := h.ringLost(t); lost != 0 {
			t.Errorf("%d frames found no place in a ring", lost)
		}
		metrics, err := h.gw.Exec(t.Context(), "curl", "-s", "http://127.0.0.1:9465/metrics")
		if err != nil || !strings.Contains(metrics, "culvert_upgrades_total{outcome=\"done\"} 2") {
			t.Errorf("the metrics do not tell of two upgrades: %v", err)
		}
	})
}

// TestUpgradeAtASteadyRate upgrades with many idle flows and a fast stream, and accounts
// for each datagram: it arrived, or a reason or a ring counts it. CULVERT_LONG=1 takes the
// numbers that gateways are bought by.
func TestUpgradeAtASteadyRate(t *testing.T) {
	flows, rate := 1000, 20_000
	if os.Getenv("CULVERT_LONG") != "" {
		flows, rate = 100_000, 100_000
	}
	onlyCulvert(t, setup{config: "[conntrack]\nmax = 262144"}, func(t *testing.T, h *house) {
		serveUDP(t, h.server, at(ipv4.server, markerPort))
		sockets := []datagrams{bindUDP(t, h.first, at(ipv4.first, 0)), bindUDP(t, h.first, at(ipv4.first, 0))}
		sockets[0].ask(t, at(ipv4.server, markerPort), "mark") // nobody waits for an address
		until(t, "the flows are there", func() bool {
			for i := range flows {
				_, err := sockets[i%2].WriteToUDPAddrPort([]byte("idle"), at(ipv4.server, uint16(10_000+i/2)))
				must(t, err)
				if i%500 == 0 {
					pause(t.Context(), time.Millisecond)
				}
			}
			return h.status(t).Flows >= flows
		})
		for try := 1; !h.upgradeAtRate(t, uint16(7000+try), flows, rate); try++ {
			if try == steadyTries {
				t.Errorf("each of %d upgrades lost more than what comes in 5 ms", try)
				return
			}
		}
	})
}

// steadyTries is how often a machine that has other things to do may be too slow for the
// stream.
const steadyTries = 3

// upgradeAtRate upgrades while so many datagrams a second are sent, accounts for each, and
// reports whether the gateway has lost no more than comes in 5 ms.
func (h *house) upgradeAtRate(t *testing.T, port uint16, flows, rate int) bool {
	t.Helper()
	first, room := h.lost(t), noRoom(t, h.server) // a stream that begins may be too fast for hosts
	udp := streamUDP(t, h, &ipv4, port, rate)
	until(t, "the stream is under way", func() bool { return udp.came.Load() > int64(rate)/5 })
	before := h.lost(t)
	sent, began := udp.sent.Load(), time.Now()
	r := h.upgraded(t)
	pace := float64(udp.sent.Load()-sent) / time.Since(began).Seconds()
	pause(t.Context(), time.Second/5)
	lost := udp.end(t)
	t.Logf("%d flows, %.0f datagrams a second: packets waited %.2f ms, prepared in %.0f ms; %d of %d datagrams lost", r.Flows, pace, r.Pause, r.Prepared, lost, udp.sent.Load())
	if r.Lost != 0 || r.Flows < flows {
		t.Errorf("%d flows are taken over, %d lost; want %d", r.Flows, r.Lost, flows)
	}
	after, beyond := h.lost(t), noRoom(t, h.server)-room
	if counted := after - first; lost > counted+beyond {
		t.Errorf("%d datagrams were lost, %d are counted by the gateway and %d by the hosts around it", lost, counted, beyond)
	}
	return after-before <= int64(rate)*5/1000
}

// noRoom returns how many packets the kernels of hosts had no room for, which have to
// take at once what has waited: between two devices, and in the sockets of one host.
func noRoom(t *testing.T, host *netns.Host) (n int64) {
	t.Helper()
	out, err := host.Exec(t.Context(), "cat", "/proc/net/softnet_stat")
	must(t, err)
	for line := range strings.Lines(out) {
		dropped, err := strconv.ParseInt(strings.Fields(line)[1], 16, 64)
		must(t, err)
		n += dropped
	}
	out, err = host.Exec(t.Context(), "cat", "/proc/net/snmp")
	must(t, err)
	var names []string
	for line := range strings.Lines(out) {
		if words := strings.Fields(line); words[0] != "Udp:" {
			continue
		} else if names == nil {
			names = words
		} else {
			full, err := strconv.ParseInt(words[slices.Index(names, "InErrors")], 10, 64)
			must(t, err)
			n += full
		}
	}
	return n
}

// lost returns how many packets the gateway counts as lost, but for what hosts say to all.
func (h *house) lost(t *testing.T) (n int64) {
	t.Helper()
	out, err := h.gw.Ctl(t.Context(), "counters", "-o", "json")
	must(t, err)
	var counters []api.Counter
	must(t, json.Unmarshal([]byte(out), &counters))
	for _, c := range counters {
		if c.Reason != dataplane.Multicast.String() {
			n += int64(c.Count)
		}
	}
	return n + int64(h.ringLost(t))
}

// ids are those of the flows that live long.
func (h *house) ids(t *testing.T) map[string]bool {
	t.Helper()
	out, err := h.conntrack(t, "-L", "-p", "tcp", "-o", "id")
	must(t, err)
	all := make(map[string]bool)
	for line := range strings.Lines(out) {
		if _, id, ok := strings.Cut(line, "id="); ok && strings.Contains(line, "dport=21 ") {
			all[strings.TrimSpace(id)] = true
		}
	}
	return all
}

// TestSignalUpgradesTUNToo is the same without a command, for a TUN interface beside the others.
func TestSignalUpgradesTUNToo(t *testing.T) {
	s := setup{config: `
[[interface]]
name = "tun0"
area = "lan"
driver = "tun"
addresses = ["10.9.0.1/24"]
peer_addresses = ["10.9.0.2/24"]
peer_routes = ["198.51.100.0/24"]
`}
	onlyCulvert(t, s, func(t *testing.T, h *house) {
		serveTCP(t, h.server, at(ipv4.server, 7000), greet)
		tun := talk(t, h.gw.Host, netip.MustParseAddrPort("10.9.0.2:0"), at(ipv4.server, 7000))
		veth := talk(t, h.first, at(ipv4.first, 0), at(ipv4.server, 7000))
		was := h.status(t).PID
		must(t, h.gw.Process().Signal(syscall.SIGUSR2))
		until(t, "another process answers", func() bool {
			st, err := h.tryStatus(t)
			return err == nil && st.PID != was
		})
		pid := h.status(t).PID
		t.Cleanup(func() { endProcess(t, pid) })
		for _, c := range []*conversation{tun, veth} {
			c.say(t, "in another process")
		}
		talk(t, h.gw.Host, netip.MustParseAddrPort("10.9.0.2:0"), at(ipv4.server, 7000))
	})
}

// TestEventsGoOnInAnotherProcess: a reader who comes back with his cursor gets what he has
// not had, in order and with numbers that go on. It was in files, which have one writer.
func TestEventsGoOnInAnotherProcess(t *testing.T) {
	onlyCulvert(t, setup{config: "[events]\ndirectory = \"" + t.TempDir() + "\"\n"}, func(t *testing.T, h *house) {
		f := &ipv4
		serveUDP(t, h.server, at(f.server, 5353))
		begin := func(port uint16) { bindUDP(t, h.first, at(f.first, port)).ask(t, at(f.server, 5353), "x") }
		begin(41000)
		reader := h.events(t, "--snapshot")
		ready := told(t, reader, api.EventReady, 0)
		for n := range uint16(2) {
			begin(41001 + n)
			h.upgraded(t)
		}
		begin(41003)
		reader = h.events(t, "--cursor", ready.Cursor, "--types", "NEW")
		told(t, reader, "NEW", 41003)
		wantInOrder(t, reader, "NEW 41001", "NEW 41002", "NEW 41003")
	})
}

// tryStatus is status while processes change.
func (h *house) tryStatus(t *testing.T) (st api.Status, err error) {
	out, err := h.gw.Ctl(t.Context(), "status", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &st)
	}
	return st, err
}

// TestUpgradeThatFailsDisturbsNobody tries programs that are none, one that ends, one that
// hangs until it is given up, and a configuration that is broken.
func TestUpgradeThatFailsDisturbsNobody(t *testing.T) {
	onlyCulvert(t, setup{}, func(t *testing.T, h *house) {
		serveTCP(t, h.server, at(ipv4.server, 7000), greet)
		c := talk(t, h.first, at(ipv4.first, 0), at(ipv4.server, 7000))
		udp := streamUDP(t, h, &ipv4, 7001, upgradeRate)
		until(t, "the stream is under way", func() bool { return udp.came.Load() > 100 })
		st := h.status(t)
		script := func(name, text string) string {
			path := filepath.Join(h.Dir(), name)
			must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700))
			return path
		}
		failed := func(why string, args ...string) {
			t.Helper()
			_, err := h.gw.Ctl(t.Context(), append([]string{"upgrade"}, args...)...)
			if err == nil || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), "rolled back") {
				t.Errorf("upgrade %s: %v, want an error that says %q", args, err, why)
			}
			c.say(t, "still there")
		}
		failed("no such file", "--binary", "/nonexistent")
		failed("has ended", "--binary", script("crash", "kill -9 $$\n"))
		failed("has ended", "--binary", script("other", "exit 0\n"))
		failed("has ended", "--binary", script("wrapper", "sleep 600 &\nexit 1\n"))
		good, err := os.ReadFile(filepath.Join(h.Dir(), "culvert.toml"))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(h.Dir(), "culvert.toml"), []byte("[gateway\n"), 0o600))
		failed("culvert.toml:1")
		must(t, os.WriteFile(filepath.Join(h.Dir(), "culvert.toml"), []byte(strings.Replace(string(good), "[gateway]", "[gateway]\non_exit = \"hold\"", 1)), 0o600))
		failed("needs a restart")
		if lost := udp.end(t); lost != 0 {
			t.Errorf("%d of %d datagrams were lost", lost, udp.sent.Load())
		}
		if now := h.status(t); now.PID != st.PID || now.Generation != st.Generation {
			t.Errorf("process %d with generation %d answers, want %d and %d", now.PID, now.Generation, st.PID, st.Generation)
		}
	})
}
