package control

import (
	"runtime"
	"testing"
	"time"

	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack"
	"example.com/culvert/dataplane"
	"example.com/culvert/dataplane/frag"
	"example.com/culvert/rules/config"
)

func TestWorkersArePinnedUnlessThereIsOne(t *testing.T) {
	if cpus := cpusFor(1); cpus != nil {
		t.Errorf("one worker is pinned to %v, want free", cpus)
	}
	if cpus := cpusFor(2); len(cpus) != runtime.NumCPU() {
		t.Errorf("two workers are pinned to %v, want the %d processors this process may use", cpus, runtime.NumCPU())
	}
}

func TestAConfiguredNumberOfWorkersIsTheNumberThatWork(t *testing.T) {
	cfg := config.Defaults()
	if crewOf(cfg) != dataplane.CrewByLoad {
		t.Error("the default number does not follow the load")
	}
	cfg.Gateway.Workers = 2
	if crewOf(cfg) != dataplane.CrewAll {
		t.Error("not all of two configured workers work")
	}
}

// TestBoundsOfHelpersReachTheEngine: each setting of [helpers] is the bound of its name.
func TestBoundsOfHelpersReachTheEngine(t *testing.T) {
	got := helperBounds(&config.Helpers{
		ClientExpectations: 1, ClientPerSecond: 2, FlowPerSecond: 3, LogPerSecond: 4, Memory: 5, Edits: 6, Reorder: 7,
	})
	want := dataplane.HelperBounds{
		ClientExpectations: 1, ClientPerSec: 2, FlowPerSec: 3, LogPerSec: 4, Memory: 5 << 20,
		Stream: stream.Limits{Edits: 6, Late: 7 << 10},
	}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestSettingsOfListenersNeedARestart(t *testing.T) {
	old, next := config.Defaults(), config.Defaults()
	next.API = config.API{Group: "netadmin", Listen: "192.0.2.1:9465", TLSCert: "/x.crt", TLSKey: "/x.key", TokenFile: "/x", MaxConnections: 8}
	want := "api.group, api.listen, api.max_connections changed, which needs a restart"
	if err := needsRestart(old, next); err == nil || err.Error() != want {
		t.Errorf("a listener is added: %v, want %s", err, want)
	}
	old.API = next.API
	old.API.TLSCert, old.API.TLSKey, old.API.TokenFile = "/y.crt", "/y.key", "/y"
	if err := needsRestart(old, next); err != nil {
		t.Errorf("other files of a listener: %v, want none", err)
	}
}

func TestSettingsOfTheTableNeedARestart(t *testing.T) {
	for _, tt := range []struct {
		claim  string
		change func(c *config.Conntrack)
		want   string // the setting that is named; none: it can change at run time
	}{
		{"nothing changed", func(*config.Conntrack) {}, ""},
		{"how flows are printed", func(c *config.Conntrack) { c.Accounting = true }, ""},
		{"the size", func(c *config.Conntrack) { c.Max = 1000 }, "conntrack.max"},
		{"its memory", func(c *config.Conntrack) { c.Reserve = true }, "conntrack.reserve"},
		{"the profile", func(c *config.Conntrack) { c.Profile = config.ProfileRFC }, "conntrack.profile"},
		{"start times", func(c *config.Conntrack) { c.Timestamp = true }, "conntrack.timestamp"},
		{"pickup", func(c *config.Conntrack) { c.TCPLoose = false }, "conntrack.tcp_loose"},
		{"windows", func(c *config.Conntrack) { c.TCPLiberal = true }, "conntrack.tcp_be_liberal"},
		{"old resets", func(c *config.Conntrack) { c.TCPIgnoreInvalidRST = true }, "conntrack.tcp_ignore_invalid_rst"},
		{"retransmissions", func(c *config.Conntrack) { c.TCPMaxRetrans = 1 }, "conntrack.tcp_max_retrans"},
		{"expectations", func(c *config.Conntrack) { c.ExpectMax = 10 }, "conntrack.expect_max"},
		{"shares", func(c *config.Conntrack) { c.Shares.Floor = 10 }, "conntrack.shares"},
		{"timeouts", func(c *config.Conntrack) { c.Timeouts.SCTP = conntrack.SCTPTimeouts{Closed: time.Hour} }, "conntrack.timeouts"},
	} {
		old, next := config.Defaults(), config.Defaults()
		tt.change(&next.Conntrack)
		switch err := needsRestart(old, next); {
		case tt.want == "" && err != nil:
			t.Errorf("%s: %v, want no error", tt.claim, err)
		case tt.want != "" && (err == nil || err.Error() != tt.want+" changed, which needs a restart"):
			t.Errorf("%s: %v, want it to name %s", tt.claim, err, tt.want)
		}
	}
}

func TestLimitsOfTheFileHold(t *testing.T) {
	b := newBench(t, masquerading+"\n[limits]\nwaiting_packets = 100\nrequested_ports = 7\nfragments = 160\nfragment_memory = 2\n", Options{}, "lan0", "wan0")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	const big = 16 // frames beyond the slot size, of each worker
	for _, q := range b.Queues() {
		if want := b.Engine().Workers() * (100 + big); q.Name == dataplane.QueueNeighbour && q.Room != want {
			t.Errorf("room for %d packets of neighbours, want %d", q.Room, want)
		}
	}
	if got := pcpTerms(&b.cfg.PCP, &b.cfg.Limits).MaxRecords; got != 7 {
		t.Errorf("%d requested ports, want 7", got)
	}
	if got, want := fragmentBounds(&b.cfg.Limits), (frag.Config{Datagrams: 160, DatagramsPerSource: 10, Bytes: 2 << 20}); got != want {
		t.Errorf("fragments %+v, want %+v", got, want)
	}
	next := *b.cfg
	next.Limits.EventRing++
	if err := needsRestart(b.cfg, &next); err == nil || err.Error() != "limits changed, which needs a restart" {
		t.Errorf("other limits: %v, want a refusal", err)
	}
}
