package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.com/culvert/control/api"
)

func pointer[T any](v T) *T { return &v }

// side is one direction of a flow.
func side(src, dst string) api.Side {
	s, d := netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst)
	return api.Side{Src: s.Addr(), Dst: d.Addr(), Sport: pointer(s.Port()), Dport: pointer(d.Port())}
}

// topOf is a look at a gateway with something in each view.
func topOf(view string) *api.Top {
	t := &api.Top{Time: time.Date(2026, 5, 1, 12, 0, 1, 0, time.UTC), Seconds: 2, View: view, Sort: api.TopOrders(view)[0],
		Flows: 812, Limit: 65536, Matched: 812, Packets: 12345, Up: 150_000, Down: 12_275_000, Begun: 12, Dropped: 3.5}
	switch view {
	case api.ViewFlows:
		t.Matched = 3
		t.TopFlows = []api.FlowRate{
			{Packets: 9000, Up: 100_000, Down: 12_000_000, Total: 3_400_000_000, Flow: &api.Flow{Proto: "tcp", State: "ESTABLISHED",
				Original: side("10.0.0.5:40000", "198.51.100.7:443"), Reply: side("198.51.100.7:443", "203.0.113.1:51712")}},
			{Packets: 2, Up: 60, Down: 0, Total: 600, Flow: &api.Flow{Proto: "udp", Status: []string{"SEEN_REPLY", "ASSURED"},
				Original: side("198.51.100.9:5000", "203.0.113.1:53"), Reply: side("10.0.0.9:5353", "198.51.100.9:5000")}},
			{Flow: &api.Flow{Proto: "icmpv6", Original: api.Side{Src: netip.MustParseAddr("2001:db8::5"), Dst: netip.MustParseAddr("2001:db8:1::1"), Ident: pointer(uint16(7))},
				Reply: api.Side{Src: netip.MustParseAddr("2001:db8:1::1"), Dst: netip.MustParseAddr("2001:db8::5"), Ident: pointer(uint16(7))}}},
		}
	case api.ViewTalkers:
		t.Talkers = []api.Talker{{Client: "10.0.0.5", Flows: 700, Begun: 11, Packets: 12000, Up: 140_000, Down: 12_200_000}, {Client: "2001:db8:0:1::/64", Zone: 7, Flows: 112, Begun: 0.5}}
	case api.ViewRules:
		t.Rules = []api.RuleRate{{Rule: api.Rule{List: "snat", Index: 1, Text: "1 snat out-area wan masquerade", Position: "culvert.toml:9", Hits: 120000}, HitRate: 12, ByteRate: 1440, Flows: 800},
			{Rule: api.Rule{List: "filter", Index: 1, Text: "1 filter accept"}}}
	case api.ViewDrops:
		t.Drops = []api.DropRate{{Counter: api.Counter{Reason: "rule-denied", Step: "rules", Count: 4200, Advice: "your rule; see culvert rules"}, Rate: 3.5}}
	case api.ViewPorts:
		t.Ports = []api.PortUse{{Address: "203.0.113.1", Protocol: "tcp", Used: 52000, Kept: 254, Total: 64512, FullIn: 840}, {Address: "203.0.113.2", Protocol: "udp", Used: 1, Total: 64512}}
	}
	return t
}

// topGateway answers GET /v1/top with a look, again and again, and returns its socket.
func topGateway(t *testing.T) (socket string, asked *atomic.Pointer[string]) {
	t.Helper()
	socket, asked = filepath.Join(t.TempDir(), "c.sock"), new(atomic.Pointer[string])
	l, err := api.Listen(socket, "")
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/top", func(w http.ResponseWriter, r *http.Request) {
		asked.Store(pointer(r.URL.RawQuery))
		view := r.URL.Query().Get("view")
		count := r.URL.Query().Get("count")
		for n := 1; ; n++ {
			if json.NewEncoder(w).Encode(topOf(view)) != nil || strconv.Itoa(n) == count {
				return
			}
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	s := &http.Server{Handler: mux}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return socket, asked
}

func TestTopPrintsEachView(t *testing.T) {
	socket, _ := topGateway(t)
	for _, view := range api.TopViews() {
		for _, form := range []string{"text", "json"} {
			stdout, stderr, code := culvert(t, "top", "--once", "--view", view, "-o", form, "--socket", socket)
			if code != exitDone || stderr != "" {
				t.Errorf("%s: status %d, stderr %q", view, code, stderr)
			}
			goldenFile(t, filepath.Join("testdata", "top", view+"."+form), stdout)
			if form == "json" {
				var got api.Top
				if err := json.Unmarshal([]byte(stdout), &got); err != nil || !reflect.DeepEqual(&got, topOf(view)) {
					t.Errorf("%s: read back as %+v, %v", view, got, err)
				}
			}
		}
	}
}

func TestTopGoesOnForAsLongAsItShould(t *testing.T) {
	socket, _ := topGateway(t)
	stdout, _, code := culvert(t, "top", "-b", "-n", "3", "--view", "ports", "--socket", socket)
	if code != exitDone || strings.Count(stdout, "ports by used") != 3 || strings.Count(stdout, "\n\n12:00:01") != 2 {
		t.Errorf("status %d, %s", code, stdout)
	}
}

func TestTopAsksForWhatItsFlagsSay(t *testing.T) {
	socket, asked := topGateway(t)
	_, stderr, code := culvert(t, "top", "--once", "--view", "talkers", "--sort", "begun", "--rows", "7", "--interval", "500ms", "--socket", socket,
		"--", "-p", "tcp", "--dport", "443", "-s", "10.0.0.0/8")
	want := "count=1&family=ipv4&filter=%7B%22original%22%3A%7B%22src%22%3A%2210.0.0.0%2F8%22%2C%22dport%22%3A443%7D%7D&interval=0.5&proto=6&rows=7&sort=begun&view=talkers"
	if code != exitDone || *asked.Load() != want {
		t.Errorf("status %d, stderr %q, asked\n%s\nwant\n%s", code, stderr, *asked.Load(), want)
	}
}

func TestTopRefusesWhatItCannotDo(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--view", "people"}, "use flows or talkers or rules or drops or ports"},
		{[]string{"--sort", "byets"}, "--sort byets: view flows has bytes, packets, total; did you mean bytes?"},
		{[]string{"--view", "ports", "--sort", "bytes"}, "view ports has used, soon"},
		{[]string{"--rows", "0"}, "want one at least"},
		{[]string{"--count", "-1"}, "want a positive number"},
		{[]string{"--interval", "1ms"}, "want 100ms to 1h"},
		{[]string{"tcp"}, `unexpected argument "tcp"; a filter is of options, after --`},
		{[]string{"--", "-p", "tpc"}, "filter: `tpc' unsupported protocol"},
		{[]string{"--", "-o", "json"}, "filter: give options that select flows alone"},
		{[]string{"--", "-D"}, "filter: Invalid commands combination"},
	} {
		stdout, stderr, code := culvert(t, append([]string{"top"}, tt.args...)...)
		if code != exitMisused || stdout != "" || !strings.Contains(stderr, tt.want) {
			t.Errorf("%q: status %d, stdout %q, stderr %q; want %q", tt.args, code, stdout, stderr, tt.want)
		}
	}
}

// goldenFile compares what a command printed with a file.
func goldenFile(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test ./cmd/culvert -update makes it)", err)
	}
	if !bytes.Equal([]byte(got), want) {
		t.Errorf("%s changed; go test ./cmd/culvert -update accepts it\ngot:\n%s\nwant:\n%s", path, got, want)
	}
}
