//go:build netns

package demo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// demoTime is enough for a demo on a busy machine.
const demoTime = 3 * time.Minute

// steps times families.
const stepsInAll = 10 * 2

// buffer may be read while a process writes to it.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// start runs the demo as a user does.
func start(t *testing.T, args ...string) (*exec.Cmd, *buffer) {
	t.Helper()
	binary, err := netns.Binary(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), demoTime)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, binary, append([]string{"demo"}, args...)...)
	out := &buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd, out
}

// leftovers lists what the demo with this pid left on the machine.
func leftovers(t *testing.T, pid int) []string {
	t.Helper()
	var all []string
	for _, dir := range []string{"/run/netns", os.TempDir()} {
		found, err := filepath.Glob(filepath.Join(dir, fmt.Sprintf("culvert-demo-%d-*", pid)))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, found...)
	}
	return all
}

func TestEveryStepPasses(t *testing.T) {
	for _, args := range [][]string{
		{"--gateway", "kernel"},
		{"--driver", "af_packet"},
		{"--driver", "tun"},
	} {
		t.Run(strings.Join(args, " "), func(t *testing.T) {
			cmd, out := start(t, args...)
			if err := cmd.Wait(); err != nil {
				t.Errorf("exit: %v", err)
			}
			text := out.String()
			if good, bad := strings.Count(text, "✓"), strings.Count(text, "✗"); good != stepsInAll || bad != 0 {
				t.Errorf("%d steps passed and %d failed, want %d and 0", good, bad, stepsInAll)
			}
			if left := leftovers(t, cmd.Process.Pid); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
			if t.Failed() {
				t.Log(text)
			}
		})
	}
}

// waitFor waits until the demo has written text.
func waitFor(t *testing.T, out *buffer, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), demoTime)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(out.String(), text) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("no %q in:\n%s", text, out)
		}
	}
}

func TestInterruptedDemoLeavesNothing(t *testing.T) {
	for _, tt := range []struct {
		name, at string
		signal   syscall.Signal
	}{
		{"Ctrl-C while the network is built", "A client, a gateway and a server", unix.SIGINT},
		{"Ctrl-C between the steps", "✓ ping", unix.SIGINT},
		{"SIGTERM in the bulk transfer", "✓ redirect", unix.SIGTERM},
		{"the terminal is closed", "✓ DNS", unix.SIGHUP},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd, out := start(t)
			waitFor(t, out, tt.at)
			if err := cmd.Process.Signal(tt.signal); err != nil {
				t.Fatal(err)
			}
			var exit *exec.ExitError
			if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("exit: %v, want status 1\n%s", err, out)
			}
			if left := leftovers(t, cmd.Process.Pid); len(left) > 0 {
				t.Errorf("left behind: %v\n%s", left, out)
			}
		})
	}
}

// gatewayOf returns the process of a demo's gateway.
func gatewayOf(t *testing.T, demo int) int {
	t.Helper()
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", demo))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		pids, _ := os.ReadFile(path) // the thread may have ended
		for word := range strings.FieldsSeq(string(pids)) {
			line, _ := os.ReadFile("/proc/" + word + "/cmdline") // the process as well
			if !bytes.Contains(line, []byte("\x00demo\x00gateway\x00")) {
				continue
			}
			pid, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatalf("the demo, process %d, has no gateway", demo)
	return 0
}

// TestFailureIsToldAndLeavesNothing takes the gateway away in the middle.
func TestFailureIsToldAndLeavesNothing(t *testing.T) {
	cmd, out := start(t)
	waitFor(t, out, "✓ ping")
	if err := unix.Kill(gatewayOf(t, cmd.Process.Pid), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("exit: %v, want status 1\n%s", err, out)
	}
	if text := out.String(); !strings.Contains(text, "✗") || !strings.Contains(text, "the gateway has ended (signal: killed)") {
		t.Errorf("neither a failed step nor its reason is told:\n%s", text)
	}
	if left := leftovers(t, cmd.Process.Pid); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestHeldDemoCanBeLookedAt(t *testing.T) {
	cmd, out := start(t, "--hold")
	waitFor(t, out, "Everything stays up")
	waitFor(t, out, "counters --all --socket")
	var listing string
	for line := range strings.Lines(out.String()) {
		if strings.Contains(line, " conntrack -L --socket") {
			listing = strings.TrimSpace(line)
		}
	}
	flows, err := exec.CommandContext(t.Context(), "sh", "-c", listing).Output()
	if err != nil || !bytes.Contains(flows, []byte("src=10.77.0.2")) {
		t.Errorf("%q printed %q, %v, want flows of the client", listing, flows, err)
	}
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("Ctrl-C ends a held demo whose steps passed with %v, want no error\n%s", err, out)
	}
	if left := leftovers(t, cmd.Process.Pid); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestKilledDemoIsCleanedUpByTheNext(t *testing.T) {
	cmd, out := start(t)
	waitFor(t, out, "✓ ping")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	if len(leftovers(t, cmd.Process.Pid)) == 0 {
		t.Fatal("a killed demo left nothing: the test tests nothing")
	}
	next, nextOut := start(t)
	waitFor(t, nextOut, "Namespaces:")
	if left := leftovers(t, cmd.Process.Pid); len(left) > 0 {
		t.Errorf("the next demo left %v", left)
	}
	if err := next.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = next.Wait()
}
