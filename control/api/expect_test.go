package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// expectation announces a flow to a port by the flow that gateway.flow makes of
// a source port.
func expectation(master, port uint16) Expectation {
	return Expectation{
		Tuple:   Tuple{Proto: "udp", Src: netip.MustParseAddr("192.0.2.53"), Dst: netip.MustParseAddr("10.0.0.5"), Dport: port},
		Master:  Tuple{Proto: "17", Src: netip.MustParseAddr("10.0.0.5"), Dst: netip.MustParseAddr("192.0.2.53"), Sport: master, Dport: 53},
		Timeout: 300,
	}
}

func TestExpectationsInBothForms(t *testing.T) {
	g, client, _ := serve(t)
	g.flow(t, 40000)
	x := expectation(40000, 5000)
	x.Mask.Src, x.Flags, x.Class = netip.MustParseAddr("255.255.255.0"), []string{"PERMANENT"}, 1
	if err := client.CreateExpectation(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		form Form
		want string
	}{
		{FormText, "proto=17 src=192.0.2.53 dst=10.0.0.5 sport=0 dport=5000 mask-src=255.255.255.0 mask-dst=255.255.255.255 sport=0 dport=65535 " +
			"master-src=10.0.0.5 master-dst=192.0.2.53 sport=40000 dport=53 PERMANENT,USERSPACE class=1"},
		{FormJSON, `{"tuple":{"proto":"udp","src":"192.0.2.53","dst":"10.0.0.5","sport":0,"dport":5000},"mask":{"src":"255.255.255.0","sport":0},` +
			`"master":{"proto":"udp","src":"10.0.0.5","dst":"192.0.2.53","sport":40000,"dport":53},"timeout":`},
	} {
		body, err := client.Expectations(t.Context(), Format{Form: tt.form})
		if err != nil {
			t.Fatal(err)
		}
		if got := readLines(t, body); len(got) != 1 || !strings.Contains(got[0], tt.want) {
			t.Errorf("%s: %q, want one line with %s", tt.form, got, tt.want)
		}
	}
}

// TestFiltersOfExpectationsAreNeverIgnored: what expectations have can be asked for, and
// anything else is refused, of lists and of events.
func TestFiltersOfExpectationsAreNeverIgnored(t *testing.T) {
	g, client, _ := serve(t)
	g.flow(t, 40000)
	ctx := t.Context()
	all, err := client.Follow(ctx, Format{Filter: dport(5001)}, Follow{About: AboutAll})
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	for port := range uint16(3) {
		if err := client.CreateExpectation(ctx, expectation(40000, 5000+port)); err != nil {
			t.Fatal(err)
		}
	}
	var first Event
	if err := json.NewDecoder(all).Decode(&first); err != nil || first.Expect == nil || first.Expect.Tuple.Dport != 5001 {
		t.Errorf("the first event is %+v, %v; want that of port 5001", first.Expect, err)
	}
	none, zone := "", uint16(7)
	for _, tt := range []struct {
		claim string
		f     *Filter
		want  int
	}{
		{"no filter", nil, 3},
		{"the port", dport(5002), 1},
		{"without a helper", &Filter{Helper: &none}, 3},
		{"another zone", &Filter{Zone: &zone}, 0},
	} {
		body, err := client.Expectations(ctx, Format{Filter: tt.f})
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(readLines(t, body), "\n"); strings.Count(got, `"tuple"`) != tt.want {
			t.Errorf("%s: %q, want %d", tt.claim, got, tt.want)
		}
	}
	of := Format{Filter: &Filter{State: "ESTABLISHED"}}
	for claim, ask := range map[string]func() (io.ReadCloser, error){
		"list":            func() (io.ReadCloser, error) { return client.Expectations(ctx, of) },
		"events":          func() (io.ReadCloser, error) { return client.ExpectEvents(ctx, of) },
		"events of both":  func() (io.ReadCloser, error) { return client.Follow(ctx, of, Follow{About: AboutAll}) },
		"list and events": func() (io.ReadCloser, error) { return client.Follow(ctx, of, Follow{About: AboutAll, Snapshot: true}) },
	} {
		const want = "bad request: filter: expectations have original, zone and helper alone"
		if body, err := ask(); err == nil || err.Error() != want {
			t.Errorf("%s of a state: %v, want %q", claim, err, want)
			if err == nil {
				body.Close()
			}
		}
	}
	body, err := client.Follow(ctx, of, Follow{})
	if err != nil {
		t.Fatalf("events of flows of a state: %v", err)
	}
	body.Close()
}

// dport is a filter for a destination port.
func dport(port uint16) *Filter { return &Filter{Original: Ends{Dport: &port}} }

func TestExpectationsAreCountedDeletedAndFlushed(t *testing.T) {
	g, client, _ := serve(t)
	g.flow(t, 40000)
	ctx := t.Context()
	for port := range uint16(3) {
		if err := client.CreateExpectation(ctx, expectation(40000, 5000+port)); err != nil {
			t.Fatal(err)
		}
	}
	count := func(want int) {
		t.Helper()
		if n, err := client.CountExpectations(ctx); n != want || err != nil {
			t.Errorf("count: %d, %v; want %d", n, err, want)
		}
	}
	count(3)
	if err := client.DeleteExpectation(ctx, expectation(40000, 5001).Tuple); err != nil {
		t.Errorf("delete: %v", err)
	}
	count(2)
	if n, err := client.FlushExpectations(ctx); n != 2 || err != nil {
		t.Errorf("flush: %d, %v; want 2", n, err)
	}
	count(0)
}

func TestExpectationsAreRefusedWithTheirReason(t *testing.T) {
	g, client, _ := serve(t)
	g.flow(t, 40000)
	g.flow(t, 40001)
	ctx := t.Context()
	if err := client.CreateExpectation(ctx, expectation(40000, 5000)); err != nil {
		t.Fatal(err)
	}
	mixed := expectation(40000, 5001)
	mixed.Tuple.Src = netip.MustParseAddr("2001:db8::1")
	helped, odd, instant, wide := expectation(40000, 5001), expectation(40000, 5001), expectation(40000, 5001), expectation(40000, 5001)
	helped.Helper, odd.Flags, instant.Timeout, wide.Mask.Src = "ftp", []string{"HOT"}, 0, netip.MustParseAddr("ffff::")
	for _, tt := range []struct {
		claim string
		call  func() error
		kind  error
		text  string
	}{
		{"without its master", func() error { return client.CreateExpectation(ctx, expectation(9, 5001)) }, ErrNotFound, "master conntrack not found"},
		{"in the way of another", func() error { return client.CreateExpectation(ctx, expectation(40001, 5000)) }, ErrExists, "another expectation is in the way"},
		{"not there", func() error { return client.DeleteExpectation(ctx, expectation(40000, 5009).Tuple) }, ErrNotFound, "such expectation doesn't exist"},
		{"of two families", func() error { return client.CreateExpectation(ctx, mixed) }, nil, "bad request: tuple: want src and dst, both IPv4 or both IPv6"},
		{"in the name of a helper", func() error { return client.CreateExpectation(ctx, helped) }, nil,
			"bad request: helper: only helpers themselves announce flows in their name: leave it out"},
		{"with an unknown flag", func() error { return client.CreateExpectation(ctx, odd) }, nil, `bad request: unknown flag "HOT"; use PERMANENT or INACTIVE`},
		{"without time", func() error { return client.CreateExpectation(ctx, instant) }, nil, "bad request: timeout: want at least a second"},
		{"with a mask of another family", func() error { return client.CreateExpectation(ctx, wide) }, nil, "bad request: mask: ffff:: is of another family than the tuple"},
	} {
		err := tt.call()
		if err == nil || err.Error() != tt.text || tt.kind != nil && !errors.Is(err, tt.kind) {
			t.Errorf("%s: %v, want %q", tt.claim, err, tt.text)
		}
		var remote remoteError
		if tt.kind == nil && (!errors.As(err, &remote) || remote.status != http.StatusBadRequest) {
			t.Errorf("%s: %v is no bad request", tt.claim, err)
		}
	}
}

func TestEventsOfExpectations(t *testing.T) {
	g, client, _ := serve(t)
	g.flow(t, 40000)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	body, err := client.ExpectEvents(ctx, Format{Form: FormText})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	x := expectation(40000, 5000)
	if err := client.CreateExpectation(ctx, x); err != nil {
		t.Fatal(err)
	}
	if err := client.DeleteExpectation(ctx, x.Tuple); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewScanner(body)
	for _, want := range []string{"    [NEW] ", "[DESTROY] "} {
		if !in.Scan() || !strings.HasPrefix(in.Text(), want) || !strings.Contains(in.Text(), "proto=17 src=192.0.2.53") {
			t.Errorf("event %q, %v; want %q of the expectation", in.Text(), in.Err(), want)
		}
	}
}

func TestFlowsWhoseFirstPacketWaitsHaveATableOfTheirOwn(t *testing.T) {
	g, client, _ := serve(t)
	g.flow(t, 40000)
	g.claim(t, 40001)
	for table, want := range map[Table][]string{
		"":               {"sport=40000"},
		TableFlows:       {"sport=40000"},
		TableUnconfirmed: {"sport=40001"},
		TableDying:       nil,
	} {
		body, err := client.Flows(t.Context(), Format{Form: FormText, Table: table})
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, line := range readLines(t, body) {
			if fields := strings.Fields(line); len(fields) > 5 {
				got = append(got, fields[5])
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("table %q: %q, want %q", table, got, want)
		}
	}
}
