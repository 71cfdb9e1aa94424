//go:build netns

package e2e

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.com/culvert/test/netns"
)

func TestTerminationReleasesTheInterfaces(t *testing.T) {
	onlyCulvert(t, setup{}, func(t *testing.T, h *house) {
		serveTCP(t, h.server, at(ipv4.server, 7040), greet)
		talk(t, h.first, at(ipv4.first, 0), at(ipv4.server, 7040))
		p := h.gw.Process()
		must(t, p.Signal(syscall.SIGTERM))
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := p.Wait(ctx); err != nil {
			t.Fatalf("after SIGTERM: %v, want exit status 0\n%s", err, p.Output())
		}
		if _, err := os.Stat(h.gw.Socket()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the control socket is still there: %v", err)
		}
		for _, f := range families {
			openPing(t, h.first, f, f.first).ping(t, f.inside, 6, 1) // the kernel's interface again
		}
	})
}

func TestHangupReloads(t *testing.T) {
	onlyCulvert(t, setup{}, func(t *testing.T, h *house) {
		gate := at(ipv4.server, 7021)
		serveTCP(t, h.server, gate, greet)
		talk(t, h.first, at(ipv4.first, 0), gate)
		before := h.status(t).Generation
		must(t, os.WriteFile(filepath.Join(h.Dir(), "culvert.toml"), []byte(closed.toml()), 0o600))
		must(t, h.gw.Process().Signal(syscall.SIGHUP))
		until(t, "a new generation", func() bool { return h.status(t).Generation > before })
		refusedTCP(t, h.first, ipv4.first, gate)
	})
}

// TestServiceManagerIsTold plays the service manager.
func TestServiceManagerIsTold(t *testing.T) {
	for _, kind := range netns.Kinds() {
		if kind != netns.Culvert {
			continue
		}
		path := filepath.Join(t.TempDir(), "notify")
		manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
		must(t, err)
		defer manager.Close()
		told := func(word string) {
			t.Helper()
			must(t, manager.SetReadDeadline(time.Now().Add(patience)))
			buf := make([]byte, 4096)
			for {
				n, err := manager.Read(buf)
				if err != nil {
					t.Fatalf("the service manager was not told %s: %v", word, err)
				}
				for line := range strings.Lines(string(buf[:n])) {
					if strings.TrimSpace(line) == word {
						return
					}
				}
			}
		}
		s := setup{command: []string{"env", "NOTIFY_SOCKET=" + path, os.Getenv(netns.BinaryEnv), "run"}}
		h := s.build(t, kind)
		told("READY=1")
		must(t, h.gw.Reload(t.Context(), closed.toml()))
		told("RELOADING=1")
		told("READY=1")
		must(t, h.gw.Stop())
		told("STOPPING=1")
	}
}

// TestStatusWaits asks before there is a gateway.
func TestStatusWaits(t *testing.T) {
	s := setup{}
	topology := s.topology(netns.Culvert)
	topology.Gateway = nil
	lab := netns.ForTest(t, topology)
	file, socket := filepath.Join(lab.Dir(), "waiting.toml"), filepath.Join(lab.Dir(), "waiting.sock")
	must(t, os.WriteFile(file, []byte(s.toml()), 0o600))
	binary := os.Getenv(netns.BinaryEnv)
	gateway := lab.Host("gateway")
	var exit *exec.ExitError
	if out, err := gateway.Exec(t.Context(), binary, "status", "--wait", "50ms", "--socket", socket); !errors.As(err, &exit) {
		t.Errorf("status of no gateway: %v, want an exit status other than 0\n%s", err, out)
	}
	waiter, err := gateway.Start(binary, "status", "--wait", patience.String(), "--socket", socket)
	must(t, err)
	p, err := gateway.Start(binary, "run", "-c", file, "--socket", socket)
	must(t, err)
	if err := waiter.Wait(t.Context()); err != nil || !strings.Contains(waiter.Output(), "ready") {
		t.Errorf("status --wait: %v\n%s%s", err, waiter.Output(), p.Output())
	}
	must(t, p.Stop())
	if err := p.Wait(t.Context()); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}

// probes is how many packets of each family die at the gateway.
const probes = 40

func TestErrorRateIsLimited(t *testing.T) {
	for _, tt := range []struct {
		name     string
		key      string
		run      func(*testing.T, setup, func(*testing.T, *house))
		min, max int
	}{
		{"without a limit each packet is answered", "icmp_rate = 0", eachGateway, 2 * probes, 2 * probes},
		{"with a limit few are", "icmp_rate = 5", onlyCulvert, 5, probes},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.run(t, setup{gateway: tt.key}, func(t *testing.T, h *house) {
				wire := capture(t, h.first, "eth0")
				for _, f := range families {
					serveUDP(t, h.server, at(f.server, markerPort))
					d := bindUDP(t, h.first, at(f.first, 0))
					d.ttl(t, 1)
					for i := range probes {
						_, err := d.WriteToUDPAddrPort([]byte("too short a life"), at(f.server, uint16(33434+i)))
						must(t, err)
					}
					bindUDP(t, h.first, at(f.first, 0)).ask(t, at(f.server, markerPort), "mark")
				}
				must(t, wire.Close())
				n := wire.Count(func(g netns.Frame) bool { return !g.Outgoing && isTraffic(g) && g.UDP() == nil })
				if n < tt.min || n > tt.max {
					t.Errorf("%d of %d packets are answered by an error, want %d to %d", n, 2*probes, tt.min, tt.max)
				}
			})
		})
	}
}
