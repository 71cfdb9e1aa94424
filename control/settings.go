package control

import (
	"fmt"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"example.com/culvert/alg"
	"example.com/culvert/alg/stream"
	"example.com/culvert/control/privilege"
	"example.com/culvert/dataplane"
	"example.com/culvert/dataplane/frag"
	"example.com/culvert/rules/config"
)

// workersOf returns the number of workers: as configured, or the processors.
func workersOf(cfg *config.Config) int {
	if cfg.Gateway.Workers > 0 {
		return cfg.Gateway.Workers
	}
	return runtime.NumCPU()
}

// crewOf returns how many of the workers get packets: all that the configuration asks
// for, and otherwise as many as the load needs.
func crewOf(cfg *config.Config) dataplane.Crew {
	if cfg.Gateway.Workers > 0 {
		return dataplane.CrewAll
	}
	return dataplane.CrewByLoad
}

// cpusFor returns the processors that workers are pinned to, one after the other.
// A single worker goes where there is room, and so do those whose number follows the
// load while not all of them work: many small gateways may share a machine, and pinning all
// of them would put them on one processor, where senders of the machine itself may be at
// work already.
func cpusFor(workers int) (cpus []int) {
	var allowed unix.CPUSet
	if workers < 2 || unix.SchedGetaffinity(0, &allowed) != nil {
		return nil
	}
	for cpu := range len(allowed) * 64 {
		if allowed.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus
}

var waitings = map[config.Waiting]dataplane.Waiting{
	config.WaitAuto:       dataplane.WaitAuto,
	config.WaitLatency:    dataplane.WaitLatency,
	config.WaitThroughput: dataplane.WaitThroughput,
}

func (g *Gateway) engineConfig(workers int, helpers *alg.Set) dataplane.Config {
	rate := g.cfg.Gateway.ICMPRate
	if rate == 0 { // the configuration says 0 for no limit, the engine for its default
		rate = -1
	}
	return dataplane.Config{
		Workers:    workers,
		Crew:       crewOf(g.cfg),
		PinCPUs:    cpusFor(workers),
		Waiting:    waitings[g.cfg.Gateway.Waiting],
		Table:      g.table,
		Memory:     g.keeper.memory(),
		Host:       g.host,
		ICMPRate:   rate,
		Neighbours: g.cfg.Limits.Neighbours,
		Pending:    g.cfg.Limits.WaitingPackets,
		Fragments:  fragmentBounds(&g.cfg.Limits),
		Helpers:    helpers,
		RuleLog:    g.logRule,
	}
}

// sourceShare is the part of the fragments that one source may have: 1/sourceShare.
const sourceShare = 16

func fragmentBounds(l *config.Limits) frag.Config {
	return frag.Config{
		Datagrams:          l.Fragments,
		DatagramsPerSource: max(l.Fragments/sourceShare, 1),
		Bytes:              l.FragmentMemory << 20,
	}
}

// RPF and MSSClamp have the same values in files and in the engine, so that here
// and in dataplane/vnet one converts to the other.
const (
	_ = -uint(config.RPFStrict ^ config.RPF(dataplane.RPFStrict))
	_ = -uint(config.RPFLoose ^ config.RPF(dataplane.RPFLoose))
	_ = -uint(config.RPFOff ^ config.RPF(dataplane.RPFOff))

	_ = -uint(config.ClampOutside ^ config.MSSClamp(dataplane.ClampOutside))
	_ = -uint(config.ClampMTU ^ config.MSSClamp(dataplane.ClampMTU))
	_ = -uint(config.ClampOff ^ config.MSSClamp(dataplane.ClampOff))
)

// helperBounds returns the bounds of helpers. Both sides take zero for the default.
func helperBounds(h *config.Helpers) dataplane.HelperBounds {
	return dataplane.HelperBounds{
		ClientExpectations: h.ClientExpectations,
		ClientPerSec:       h.ClientPerSecond,
		FlowPerSec:         h.FlowPerSecond,
		LogPerSec:          h.LogPerSecond,
		Memory:             int64(h.Memory) << 20,
		Stream:             stream.Limits{Edits: h.Edits, Late: h.Reorder << 10},
	}
}

// hasHelpers reports whether any rule of c attaches a helper.
func hasHelpers(c *config.Config) bool {
	for _, list := range c.Rules.Lists {
		for i := range list {
			if list[i].Helper != "" {
				return true
			}
		}
	}
	return false
}

// needsRestart reports an error that names the settings which differ between old
// and next and cannot change while the gateway runs.
func needsRestart(old, next *config.Config) error {
	var changed []string
	note := func(name string, same bool) {
		if !same {
			changed = append(changed, name)
		}
	}
	note("gateway.name", old.Gateway.Name == next.Gateway.Name)
	note("gateway.workers", workersOf(old) == workersOf(next))
	note("gateway.on_exit", old.Gateway.OnExit == next.Gateway.OnExit)
	note("gateway.waiting", old.Gateway.Waiting == next.Gateway.Waiting)
	note("gateway.icmp_rate", old.Gateway.ICMPRate == next.Gateway.ICMPRate)
	note("gateway.socket", old.Gateway.Socket == next.Gateway.Socket)
	note("gateway.metrics", old.Gateway.Metrics == next.Gateway.Metrics)
	note("api.group", old.API.Group == next.API.Group)
	note("api.listen", old.API.Listen == next.API.Listen)
	note("api.max_connections", old.API.MaxConnections == next.API.MaxConnections)
	note("limits", old.Limits == next.Limits)
	note("events", old.Events == next.Events)
	note("host.enabled", old.Host == next.Host)
	a, b := &old.Conntrack, &next.Conntrack // but acct, which is only how flows are printed
	note("conntrack.max", a.Max == b.Max)
	note("conntrack.reserve", a.Reserve == b.Reserve)
	note("conntrack.state", a.State == b.State)
	note("conntrack.profile", a.Profile == b.Profile)
	note("conntrack.timestamp", a.Timestamp == b.Timestamp)
	note("conntrack.tcp_loose", a.TCPLoose == b.TCPLoose)
	note("conntrack.tcp_be_liberal", a.TCPLiberal == b.TCPLiberal)
	note("conntrack.tcp_ignore_invalid_rst", a.TCPIgnoreInvalidRST == b.TCPIgnoreInvalidRST)
	note("conntrack.tcp_max_retrans", a.TCPMaxRetrans == b.TCPMaxRetrans)
	note("conntrack.expect_max", a.ExpectMax == b.ExpectMax)
	note("conntrack.shares", a.Shares == b.Shares)
	note("conntrack.timeouts", a.Timeouts == b.Timeouts)
	if len(changed) == 0 {
		return nil
	}
	return fmt.Errorf("%s changed, which needs a restart", strings.Join(changed, ", "))
}

// checkPrivileges reports what is missing to own the configured interfaces.
func (g *Gateway) checkPrivileges() error {
	owns := false
	want := []privilege.Capability{privilege.NetAdmin, privilege.NetRaw, privilege.BPF}
	for _, i := range g.cfg.Interfaces {
		if _, provided := g.opts.Ports[i.Name]; !provided {
			owns = true
		}
		if i.Netns != "" {
			want = append(want, privilege.SysAdmin)
		}
	}
	if !owns {
		return nil
	}
	if err := privilege.CheckKernel(); err != nil {
		return err
	}
	return privilege.Check(want...)
}

// absentError says that interfaces are not there.
func absentError(names []string) error {
	return fmt.Errorf("interface %s: %w; correct the name (ip link lists them), or end it with * to wait for it",
		strings.Join(names, ", "), ErrAbsent)
}
