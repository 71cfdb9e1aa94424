package api

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/culvert/alg/report"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/control/api/apitest"
	"example.com/culvert/control/journal"
	"example.com/culvert/control/pcapng"
)

// gateway is a Backend whose table is real.
type gateway struct {
	table  *conntrack.Table
	events *journal.Recorder
	ready  atomic.Bool
	added  []InterfaceSpec
	level  string
	reload func(path string) (ReloadResult, error)
	stuck  []string
	server *Server
}

func (g *gateway) Status() Status {
	st := Status{Name: "test", Ready: g.ready.Load(), Waiting: []string{}, Troubles: []string{}, Interfaces: []Interface{}}
	if !st.Ready {
		st.Waiting = append(st.Waiting, "interface wan0 is absent")
	}
	return st
}
func (g *gateway) Stuck(context.Context) []string { return append([]string{}, g.stuck...) }
func (g *gateway) Log() (Log, error) {
	return Log{Format: "text", Levels: []LogLevel{{Component: "api", Level: cmp.Or(g.level, "info")}}}, nil
}

func (g *gateway) SetLog(c LogChange) error {
	if c.Level == "loud" {
		return fmt.Errorf("level: %w", ErrRefused)
	}
	g.level = c.Level
	return nil
}

func (g *gateway) Exports() []Export {
	return []Export{{Kind: ExportIPFIX, To: "udp:192.0.2.10:4739", Working: true, Written: 3, Lost: 2, Queued: 1}}
}

func (g *gateway) PortMappings() []PortMapping {
	return []PortMapping{{Protocol: "udp", Inside: "10.0.0.5:4000"}}
}

func (g *gateway) RuleCounters() []RuleCounter {
	return []RuleCounter{{Name: "web", Packets: 2, Bytes: 80}}
}
func (g *gateway) Rules() []Rule           { return []Rule{{ID: 7, List: "snat", Index: 1, Text: "masquerade"}} }
func (g *gateway) Config() Config          { return Config{File: "/etc/c.toml", Text: "# nothing\n"} }
func (g *gateway) Counters() []Counter     { return []Counter{{Reason: "no-route", Count: 3}} }
func (g *gateway) Helpers() []Helper       { return []Helper{{Name: "sip", Unread: 2}} }
func (g *gateway) Table() *conntrack.Table { return g.table }
func (g *gateway) Accounting() bool        { return false }

func (g *gateway) SnapshotLimit() int64 { return 64 }
func (g *gateway) SaveSnapshot(w io.Writer) error {
	_, err := io.WriteString(w, goodSnapshot)
	return err
}

func (g *gateway) RestoreSnapshot(b []byte) (RestoreResult, error) {
	if string(b) != goodSnapshot {
		return RestoreResult{}, fmt.Errorf("%w: the snapshot is damaged", ErrRefused)
	}
	return RestoreResult{Flows: 2, Torn: 1}, nil
}

// goodSnapshot is what the gateway of tests takes for a snapshot.
const goodSnapshot = "flows"

func (g *gateway) Events() *journal.Recorder { return g.events }
func (g *gateway) Watch(q WatchRequest) (Watching, error) {
	w := &fakeWatching{ready: make(chan struct{}, 1), unread: 7}
	w.ready <- struct{}{}
	for i := range 3 {
		w.packets = append(w.packets, TracedPacket{
			Time: time.Unix(1700000000, int64(i)), Packet: "udp 10.0.0.5:4000 > 198.51.100.7:53", In: "lan0", Out: "wan0",
			Leaves: "udp 203.0.113.1:4000 > 198.51.100.7:53", Verdict: "forwarded", Flow: 9, Of: "udp 10.0.0.5:4000 > 198.51.100.7:53",
			Steps:  []Explained{{Step: "arrive", Text: "on lan0"}, {Step: "filter", Text: "accept", Rules: []RuleRef{{ID: 1, Text: "1 filter accept"}}}},
			Helper: &HelperWork{Changes: []report.Change{{At: 0, Old: "a\n", New: "b\n"}}},
		})
	}
	if q.Match == "dropped" { // one that a port refused later
		w.packets = []TracedPacket{{Worker: 1, Steps: []Explained{}, Verdict: "dropped", Reason: "egress-full", Advice: "wait", Count: 2}}
	}
	return w, nil
}

// fakeWatching has a few packets.
type fakeWatching struct {
	ready   chan struct{}
	packets []TracedPacket
	unread  uint64
	closed  bool
}

func (w *fakeWatching) Ready() <-chan struct{}        { return w.ready }
func (w *fakeWatching) Lost() (unread, beyond uint64) { return w.unread, 0 }
func (w *fakeWatching) Close()                        { w.closed = true }

func (w *fakeWatching) Read(f func(*TracedPacket, []CapturedFrame) bool) {
	frame := CapturedFrame{Interface: "lan0", Link: pcapng.Ethernet, Data: make([]byte, 60), Length: 60}
	left := frame
	left.Interface, left.Out = "wan0", true
	for len(w.packets) > 0 {
		p := w.packets[0]
		w.packets = w.packets[1:]
		if !f(&p, []CapturedFrame{frame, left}) {
			return
		}
	}
}

func (g *gateway) InsertFlow(in *Insertion) error { return g.table.Insert(&in.Insertion) }

func (g *gateway) Why(f *conntrack.Flow) Why {
	return Why{Rule: "the way out", Text: "masquerade", Position: "c.toml:9", Generation: f.Generation, PortChoice: "preserved"}
}

func (g *gateway) Explain(p Probe) (Explanation, error) {
	if p.In == "nope" {
		return Explanation{}, fmt.Errorf("interface %s: %w", p.In, ErrNotFound)
	}
	return Explanation{Packet: p.Tuple.String(), Verdict: "dropped", Reason: "no-route", Steps: []Explained{}}, nil
}

func (g *gateway) Upgrade(_ context.Context, r UpgradeRequest) (UpgradeResult, error) {
	if r.Binary == "/nonexistent" {
		return UpgradeResult{}, fmt.Errorf("upgrade %w and rolled back", ErrRefused)
	}
	return UpgradeResult{Before: "1", After: "2", PID: 4711, Flows: 3}, nil
}

func (g *gateway) ReloadFile(_ context.Context, r ReloadRequest) (ReloadResult, error) {
	return g.reload(r.Config)
}

func (g *gateway) AddInterface(_ context.Context, spec InterfaceSpec) error {
	if slices.ContainsFunc(g.added, func(s InterfaceSpec) bool { return s.Name == spec.Name }) {
		return fmt.Errorf("interface %s %w", spec.Name, ErrExists)
	}
	g.added = append(g.added, spec)
	return nil
}

func (g *gateway) RemoveInterface(_ context.Context, name string) error {
	n := len(g.added)
	g.added = slices.DeleteFunc(g.added, func(s InterfaceSpec) bool { return s.Name == name })
	if len(g.added) == n {
		return fmt.Errorf("interface %s: %w", name, ErrNotFound)
	}
	return nil
}

// flow puts a UDP flow with the given source port into the table.
func (g *gateway) flow(t *testing.T, sport uint16) {
	t.Helper()
	w, now := g.table.Worker(0), conntrack.Now()
	w.Confirm(g.claim(t, sport), now)
	w.Begin(now)
	w.Park()
}

// claim begins a UDP flow whose first packet has not left yet.
func (g *gateway) claim(t *testing.T, sport uint16) conntrack.Ref {
	t.Helper()
	original := tuple.Tuple{
		Src: tuple.AddrFrom(netip.MustParseAddr("10.0.0.5")), Dst: tuple.AddrFrom(netip.MustParseAddr("192.0.2.53")),
		SrcPort: sport, DstPort: 53, Proto: tuple.UDP, Family: tuple.IPv4,
	}
	reply, _ := original.Inverse()
	w, now := g.table.Worker(0), conntrack.Now()
	w.Begin(now)
	ref, claim := w.Claim(&conntrack.Proposal{Original: original, Reply: reply}, now)
	if claim != conntrack.Claimed {
		t.Fatalf("flow was not claimed: %v", claim)
	}
	return ref
}

// serve runs a server for a gateway with an empty table.
func serve(t *testing.T) (*gateway, *Client, string) {
	t.Helper()
	return serveTable(t, conntrack.Config{Max: 1024})
}

// newGateway makes a gateway with an empty table.
func newGateway(t *testing.T, c conntrack.Config) *gateway {
	t.Helper()
	table, err := conntrack.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { table.Close() })
	j, err := journal.New(journal.Options{Memory: 1 << 20, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{table: table, events: journal.Record(table, j, journal.OnDemand, time.Hour)}
	t.Cleanup(func() {
		if err := g.events.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func serveTable(t *testing.T, c conntrack.Config) (*gateway, *Client, string) {
	t.Helper()
	g := newGateway(t, c)
	path := filepath.Join(t.TempDir(), "culvert.sock")
	l, err := Listen(path, "")
	if err != nil {
		t.Fatal(err)
	}
	scrape := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("up 1\n")) })
	s := NewServer(g, slog.New(slog.DiscardHandler), map[string]http.Handler{"GET /metrics": scrape})
	g.server = s
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	client := NewClient(path)
	client.http.Transport = apitest.New(t, openAPIFile, client.http.Transport)
	t.Cleanup(func() {
		client.Close()
		if err := s.Shutdown(context.Background()); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return g, client, path
}

func readLines(t *testing.T, body io.ReadCloser) []string {
	t.Helper()
	defer body.Close()
	all, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(all), "\n"), "\n")
}

func TestFlowsInBothForms(t *testing.T) {
	g, client, _ := serve(t)
	g.flow(t, 40000)
	ctx := t.Context()
	body, err := client.Flows(ctx, Format{Form: FormText})
	if err != nil {
		t.Fatal(err)
	}
	text := readLines(t, body)
	if len(text) != 1 || !strings.HasPrefix(text[0], "udp      17 ") || !strings.Contains(text[0], "src=10.0.0.5 dst=192.0.2.53 sport=40000 dport=53 [UNREPLIED]") {
		t.Errorf("text of one flow: %q", text)
	}
	body, err = client.Flows(ctx, Format{})
	if err != nil {
		t.Fatal(err)
	}
	json := readLines(t, body)
	if len(json) != 1 || !strings.Contains(json[0], `"original":{"src":"10.0.0.5","dst":"192.0.2.53","sport":40000,"dport":53`) {
		t.Errorf("JSON of one flow: %q", json)
	}
}

// TestFlowsAreDyingUntilTheirEndIsTold ends more flows in one batch than there is room
// for events: the rest are in the table of dying ones until the next batch.
func TestFlowsAreDyingUntilTheirEndIsTold(t *testing.T) {
	const flows = 500
	g, client, _ := serveTable(t, conntrack.Config{Max: 1024, EventRing: 4})
	sub := g.table.Subscribe(flows, conntrack.DestroyEvents)
	defer sub.Close()
	for range 300 { // whom to tell takes longer than to end
		defer g.table.Subscribe(1, conntrack.DestroyEvents).Close()
	}
	list := func(table Table) []string {
		t.Helper()
		body, err := client.Flows(t.Context(), Format{Form: FormText, Table: table})
		if err != nil {
			t.Fatal(err)
		}
		lines := readLines(t, body)
		if len(lines) == 1 && lines[0] == "" {
			return nil
		}
		return lines
	}
	w := g.table.Worker(0)
	var refs []conntrack.Ref
	for i := range uint16(flows) {
		refs = append(refs, g.claim(t, 1000+i))
		w.Confirm(refs[i], conntrack.Now())
	}
	for _, ref := range refs {
		w.Kill(ref)
	}
	dying := list(TableDying)
	if len(dying) == 0 || len(dying) >= flows {
		t.Fatalf("%d of %d flows are dying with room for 4 events", len(dying), flows)
	}
	for _, line := range dying {
		if !strings.HasPrefix(line, "udp      17 ") || !strings.Contains(line, "src=10.0.0.5 dst=192.0.2.53 sport=1") {
			t.Errorf("a dying flow is listed as %q", line)
		}
	}
	if rest := list(TableFlows); rest != nil {
		t.Errorf("%d ended flows are in the table", len(rest))
	}
	for range sub.Events() {
		w.Begin(conntrack.Now())
		if len(list(TableDying)) == 0 {
			return
		}
	}
}

func TestFlowsAreFiltered(t *testing.T) {
	g, client, _ := serve(t)
	g.flow(t, 40000)
	for _, tt := range []struct {
		claim  string
		format Format
		want   int
	}{
		{"its protocol is shown", Format{Proto: tuple.UDP}, 1},
		{"another protocol is not", Format{Proto: tuple.TCP}, 0},
		{"its family is shown", Format{Family: tuple.IPv4}, 1},
		{"the other family is not", Format{Family: tuple.IPv6}, 0},
	} {
		body, err := client.Flows(t.Context(), tt.format)
		if err != nil {
			t.Errorf("%s: %v", tt.claim, err)
			continue
		}
		got := 0
		for _, line := range readLines(t, body) {
			if line != "" {
				got++
			}
		}
		if got != tt.want {
			t.Errorf("%s: %d flows, want %d", tt.claim, got, tt.want)
		}
	}
}

func TestCountAndFlush(t *testing.T) {
	g, client, _ := serve(t)
	g.flow(t, 40000)
	g.flow(t, 40001)
	if n, err := client.CountFlows(t.Context()); n != 2 || err != nil {
		t.Errorf("count: %d, %v; want 2", n, err)
	}
	if n, err := client.FlushFlows(t.Context()); n != 2 || err != nil {
		t.Errorf("flush: %d, %v; want 2", n, err)
	}
	if n, err := client.CountFlows(t.Context()); n != 0 || err != nil {
		t.Errorf("count after flush: %d, %v; want 0", n, err)
	}
}

func TestCheckOfALiveTableFindsNothing(t *testing.T) {
	g, client, _ := serve(t)
	g.flow(t, 40000)
	if r, err := client.Check(t.Context()); r.Flows != 1 || len(r.Defects) != 0 || err != nil {
		t.Errorf("check: %+v, %v; want one flow and no defect", r, err)
	}
}

func TestEventsSinceTheAnswerBegan(t *testing.T) {
	g, client, _ := serve(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	body, err := client.Events(ctx, Format{Form: FormText, Events: []string{"NEW"}})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	g.flow(t, 40000)
	line, err := bufio.NewReader(body).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(line, "    [NEW] udp      17 ") {
		t.Errorf("first event is %q", line)
	}
}

func TestShutdownEndsEventStreams(t *testing.T) {
	_, client, _ := serve(t) // its cleanup fails when a stream keeps the server up
	body, err := client.Events(context.Background(), Format{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { body.Close() })
}

func TestWaitReady(t *testing.T) {
	g, client, _ := serve(t)
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := client.WaitReady(short); err == nil || !strings.Contains(err.Error(), "wan0 is absent") {
		t.Errorf("waiting for a gateway that waits: %v, want what it waits for", err)
	}
	g.ready.Store(true)
	if st, err := client.WaitReady(t.Context()); err != nil || !st.Ready {
		t.Errorf("waiting for a ready gateway: %+v, %v", st, err)
	}
}

func TestReadyIsAStatusCode(t *testing.T) {
	g, client, _ := serve(t)
	for _, tt := range []struct {
		ready bool
		want  int
	}{{false, http.StatusServiceUnavailable}, {true, http.StatusOK}} {
		g.ready.Store(tt.ready)
		answer, err := client.http.Get("http://culvert/v1/ready")
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != tt.want {
			t.Errorf("ready %v: status %d, want %d", tt.ready, answer.StatusCode, tt.want)
		}
	}
}

func TestRefusalsKeepTheirKindAndText(t *testing.T) {
	g, client, _ := serve(t)
	g.reload = func(string) (ReloadResult, error) {
		return ReloadResult{}, fmt.Errorf("reload %w, generation 3 stays active: x.toml:4:2: unknown key", ErrRefused)
	}
	spec := InterfaceSpec{Name: "veth7", Area: "guest"}
	for _, tt := range []struct {
		claim string
		call  func() error
		want  error
		text  string
	}{
		{"a refused reload", func() error { _, err := client.Reload(t.Context(), ReloadRequest{}); return err },
			ErrRefused, "reload refused, generation 3 stays active: x.toml:4:2: unknown key"},
		{"an interface is added", func() error { return client.AddInterface(t.Context(), spec) }, nil, ""},
		{"an interface twice", func() error { return client.AddInterface(t.Context(), spec) }, ErrExists, "interface veth7 exists"},
		{"an interface is removed", func() error { return client.RemoveInterface(t.Context(), "veth7") }, nil, ""},
		{"an unknown interface", func() error { return client.RemoveInterface(t.Context(), "veth7") }, ErrNotFound, "interface veth7: not found"},
	} {
		err := tt.call()
		if !errors.Is(err, tt.want) || err != nil && err.Error() != tt.text {
			t.Errorf("%s: %v (%[2]T), want %q", tt.claim, err, tt.text)
		}
	}
}

func TestBadRequests(t *testing.T) {
	_, client, _ := serve(t)
	for _, tt := range []struct{ claim, method, path, body, want string }{
		{"unknown parameter", http.MethodGet, "/v1/flows?colour=red", "", `unknown parameter "colour"`},
		{"unknown table", http.MethodGet, "/v1/flows?table=nat", "", `unknown table "nat"`},
		{"a table of events", http.MethodGet, "/v1/events?table=dying", "", `unknown parameter "table"`},
		{"unknown form", http.MethodGet, "/v1/flows?format=yaml", "", `unknown format "yaml"`},
		{"unknown event", http.MethodGet, "/v1/events?events=OLD", "", `unknown event "OLD"`},
		{"unknown member", http.MethodPost, "/v1/reload", `{"confg":"x"}`, `unknown field "confg"; did you mean config?`},
		{"two values", http.MethodPost, "/v1/reload", `{} {}`, "more than one JSON value"},
		{"interface without area", http.MethodPost, "/v1/interfaces", `{"name":"veth7"}`, "needs a name and an area"},
	} {
		_, err := client.do(t.Context(), tt.method, tt.path, strings.NewReader(tt.body))
		var remote remoteError
		if !errors.As(err, &remote) || remote.status != http.StatusBadRequest || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want a bad request that says %s", tt.claim, err, tt.want)
		}
	}
}

func TestReloadPassesTheFile(t *testing.T) {
	g, client, _ := serve(t)
	g.reload = func(path string) (ReloadResult, error) {
		if path != "/etc/culvert/new.toml" {
			return ReloadResult{}, fmt.Errorf("asked for %q", path)
		}
		return ReloadResult{Generation: 4, Rules: 2, Interfaces: 3, Changes: Changes{Groups: []ChangedFlows{}}}, nil
	}
	got, err := client.Reload(t.Context(), ReloadRequest{Config: "/etc/culvert/new.toml"})
	if want := (ReloadResult{Generation: 4, Rules: 2, Interfaces: 3, Changes: Changes{Groups: []ChangedFlows{}}}); !reflect.DeepEqual(got, want) || err != nil {
		t.Errorf("reload: %+v, %v; want %+v", got, err, want)
	}
}

func TestNoGatewayIsSaidWithItsSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.sock")
	_, err := NewClient(path).Status(t.Context())
	if !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), path) {
		t.Errorf("status of nothing: %v, want %v with %s", err, ErrNotRunning, path)
	}
}

func TestManyFlowsComeWhole(t *testing.T) {
	g, client, _ := serve(t)
	for sport := range uint16(1000) { // more than one piece
		g.flow(t, 1000+sport)
	}
	body, err := client.Flows(t.Context(), Format{Form: FormText})
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for _, line := range readLines(t, body) {
		seen[strings.Fields(line)[5]] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d different source ports are listed, want 1000", len(seen))
	}
}

func TestStalledReadersDoNotHoldUpTheTable(t *testing.T) {
	g, client, _ := serve(t)
	for sport := range uint16(1000) {
		g.flow(t, 1000+sport)
	}
	for range 64 { // none of these is read beyond its header
		body, err := client.Flows(t.Context(), Format{})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { body.Close() })
	}
	if n, err := client.FlushFlows(t.Context()); n != 1000 || err != nil {
		t.Errorf("flush beside stalled readers: %d, %v; want 1000", n, err)
	}
	for sport := range uint16(1000) { // their slots can be used again: the table has 1024
		g.flow(t, 10000+sport)
	}
}
