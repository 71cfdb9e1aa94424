package netns

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
)

// Gateway is the host in the middle. Methods are safe for concurrent use.
type Gateway struct {
	*Host
	spec   GatewaySpec
	binary string // Culvert only

	mu   sync.Mutex
	proc *Process // Culvert only, nil when stopped
}

// BinaryEnv names the environment variable with the culvert binary to test.
// Without it the binary is built for each lab.
const BinaryEnv = "CULVERT_BIN"

func (l *Lab) newGateway(spec GatewaySpec) *Gateway {
	return &Gateway{Host: l.Host(spec.Host), spec: spec, binary: spec.Binary}
}

// Kind says what the gateway is.
func (g *Gateway) Kind() Kind { return g.spec.Kind }

// Binary is the culvert binary that runs; a kernel gateway needs none.
func (g *Gateway) Binary() string { return g.binary }

// Socket is the path of Culvert's control socket.
func (g *Gateway) Socket() string { return filepath.Join(g.lab.dir, "culvert.sock") }

// Process is the running Culvert, nil when it is stopped or the kernel is the gateway.
func (g *Gateway) Process() *Process {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.proc
}

// Start makes the gateway work: it returns when packets are forwarded. Build
// has called it; tests call it again after Stop.
func (g *Gateway) Start(ctx context.Context) error {
	for _, key := range slices.Sorted(maps.Keys(g.spec.Sysctls)) {
		if err := g.Sysctl(key, g.spec.Sysctls[key]); err != nil {
			return err
		}
	}
	switch g.spec.Kind {
	case Kernel:
		return g.startKernel(ctx)
	case Culvert:
		return g.startCulvert(ctx)
	}
	return fmt.Errorf("gateway: %w: %v", errTopology, g.spec.Kind)
}

func (g *Gateway) startKernel(ctx context.Context) error {
	for _, key := range []string{"net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"} {
		if err := g.Sysctl(key, "1"); err != nil {
			return err
		}
	}
	return g.load(ctx, g.spec.Ruleset)
}

func (g *Gateway) load(ctx context.Context, ruleset string) error {
	_, err := g.ExecInput(ctx, "flush ruleset\n"+g.lab.Expand(ruleset), "nft", "-f", "-")
	return err
}

func (g *Gateway) configPath() string { return filepath.Join(g.lab.dir, "culvert.toml") }

func (g *Gateway) writeConfig(text string) error {
	return os.WriteFile(g.configPath(), []byte(g.lab.Expand(text)), 0o600)
}

func (g *Gateway) startCulvert(ctx context.Context) error {
	if err := g.writeConfig(g.spec.Config); err != nil {
		return err
	}
	if g.binary == "" {
		var err error
		if g.binary, err = Binary(ctx, g.lab.dir); err != nil {
			return err
		}
	}
	command := g.spec.Command
	if len(command) == 0 {
		command = []string{g.binary, "run"}
	}
	proc, err := g.Host.Start(slices.Concat(command, []string{"-c", g.configPath(), "--socket", g.Socket()})...)
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.proc = proc
	g.mu.Unlock()
	if err := g.waitReady(ctx, proc); err != nil {
		return errors.Join(err, g.Stop())
	}
	return nil
}

// waitReady waits until the gateway says so on its socket, or ends.
func (g *Gateway) waitReady(ctx context.Context, proc *Process) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	ready := make(chan error, 1)
	go func() {
		_, err := g.Ctl(ctx, "status", "--wait", readyTimeout.String())
		ready <- err
	}()
	select {
	case err := <-ready:
		if err != nil {
			return fmt.Errorf("gateway: %w\n%s", err, proc.Output())
		}
		return nil
	case <-proc.Done():
		cancel()
		<-ready
		return fmt.Errorf("gateway ended at once: %w\n%s", proc.Wait(context.Background()), proc.Output())
	}
}

// Binary finds culvert by BinaryEnv, or else builds it into dir.
func Binary(ctx context.Context, dir string) (string, error) {
	if path := os.Getenv(BinaryEnv); path != "" {
		return path, nil
	}
	path := filepath.Join(dir, "culvert")
	build := exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", path, "example.com/culvert/cmd/culvert")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is released: with cgo it could drop no capabilities
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build culvert (or set %s): %w\n%s", BinaryEnv, err, out)
	}
	return path, nil
}

// Ctl runs a culvert subcommand against the gateway's control socket and
// returns its stdout: g.Ctl(ctx, "rules").
func (g *Gateway) Ctl(ctx context.Context, args ...string) (string, error) {
	if g.spec.Kind != Culvert {
		return "", fmt.Errorf("gateway: %s is no culvert gateway", g.spec.Kind)
	}
	return g.Exec(ctx, g.ctl(args...)...)
}

func (g *Gateway) ctl(args ...string) []string {
	return slices.Concat([]string{g.binary}, args, []string{"--socket", g.Socket()})
}

// conntrack is the command line of conntrack(8) or ours, by the gateway's kind.
func (g *Gateway) conntrack(args ...string) []string {
	args = slices.Concat([]string{"conntrack"}, args)
	if g.spec.Kind == Culvert {
		return g.ctl(args...)
	}
	return args
}

// Reload replaces the rules: text is a configuration or a ruleset, by the gateway's kind. When
// it returns, new packets meet the new rules.
func (g *Gateway) Reload(ctx context.Context, text string) error {
	if g.spec.Kind == Kernel {
		return g.load(ctx, text)
	}
	if err := g.writeConfig(text); err != nil {
		return err
	}
	_, err := g.Ctl(ctx, "reload")
	return err
}

// Stop ends a Culvert gateway with SIGTERM and complains when it does not exit
// with 0. A kernel gateway stops forwarding and loses its rules.
func (g *Gateway) Stop() error {
	if g.spec.Kind == Kernel {
		return g.stopKernel()
	}
	g.mu.Lock()
	proc := g.proc
	g.proc = nil
	g.mu.Unlock()
	if proc == nil {
		return nil
	}
	select {
	case <-proc.Done(): // a test ended it and has judged that
		return nil
	default:
	}
	if err := proc.Stop(); err != nil {
		return err
	}
	if err := proc.Wait(context.Background()); err != nil {
		return fmt.Errorf("gateway: %w\n%s", err, proc.Output())
	}
	return nil
}

func (g *Gateway) stopKernel() error {
	ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
	defer cancel()
	return errors.Join(
		g.Sysctl("net.ipv4.ip_forward", "0"),
		g.Sysctl("net.ipv6.conf.all.forwarding", "0"),
		g.load(ctx, ""),
	)
}

// Flows lists the flows of both families. Options are conntrack(8)'s: "-p", "tcp".
func (g *Gateway) Flows(ctx context.Context, options ...string) ([]Flow, error) {
	var text strings.Builder
	for _, family := range []string{"ipv4", "ipv6"} {
		out, err := g.Exec(ctx, g.conntrack(slices.Concat([]string{"-L", "-f", family}, options)...)...)
		if err != nil {
			return nil, err
		}
		text.WriteString(out)
	}
	var flows []Flow
	for line := range strings.Lines(text.String()) {
		f, err := ParseFlow(line)
		if err != nil {
			return nil, err
		}
		flows = append(flows, f)
	}
	return flows, nil
}

// WaitFlow waits for a flow that matches.
func (g *Gateway) WaitFlow(ctx context.Context, match func(Flow) bool) (Flow, error) {
	var found Flow
	var last []Flow
	err := poll(ctx, pollSlowly, func() (bool, error) {
		var err error
		if last, err = g.Flows(ctx); err != nil {
			return false, err
		}
		i := slices.IndexFunc(last, match)
		if i >= 0 {
			found = last[i]
		}
		return i >= 0, nil
	})
	if err != nil {
		lines := make([]string, len(last))
		for i, f := range last {
			lines[i] = f.Line
		}
		return found, fmt.Errorf("no flow matched: %w; the table has:\n%s", err, strings.Join(lines, "\n"))
	}
	return found, nil
}

// Events starts `conntrack -E` with options. Its output grows by one line an
// event; see Process.Output and Process.WaitOutput.
func (g *Gateway) Events(options ...string) (*Process, error) {
	return g.Host.Start(g.conntrack(slices.Concat([]string{"-E"}, options)...)...)
}
