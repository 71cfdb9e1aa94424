package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// follow opens a stream of events as JSON.
func follow(t *testing.T, client *Client, f Format, where Follow) (*json.Decoder, func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	body, err := client.Follow(ctx, f, where)
	if err != nil {
		cancel()
		t.Fatalf("%+v: %v", where, err)
	}
	end := sync.OnceFunc(func() {
		cancel()
		body.Close()
	})
	t.Cleanup(end)
	return json.NewDecoder(body), end
}

func next(t *testing.T, in *json.Decoder) (e Event) {
	t.Helper()
	if err := in.Decode(&e); err != nil {
		t.Fatalf("next event: %v", err)
	}
	return e
}

func TestReaderComesBackWithItsCursor(t *testing.T) {
	g, client, _ := serve(t)
	in, leave := follow(t, client, Format{}, Follow{})
	g.flow(t, 40000)
	first := next(t, in)
	leave()
	g.flow(t, 40001)
	g.flow(t, 40002)
	in, _ = follow(t, client, Format{}, Follow{Cursor: first.Cursor})
	for i, sport := range []uint16{40001, 40002} {
		if e := next(t, in); e.Seq != first.Seq+1+uint64(i) || e.Type != "NEW" || *e.Flow.Original.Sport != sport {
			t.Errorf("event %d: %+v of port %d, want NEW of %d", i, e, *e.Flow.Original.Sport, sport)
		}
	}
}

func TestStreamSaysWhereItBegins(t *testing.T) {
	g, client, _ := serve(t)
	answer, err := client.http.Get("http://culvert/v1/events")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	g.flow(t, 40000)
	in, _ := follow(t, client, Format{}, Follow{Cursor: answer.Header.Get(headerEvents)})
	if e := next(t, in); e.Seq != 1 || e.Type != "NEW" {
		t.Errorf("from the header of a stream without events: %+v", e)
	}
}

func TestSnapshotAndWhatFollows(t *testing.T) {
	g, client, _ := serve(t)
	for sport := range uint16(500) {
		g.flow(t, 40000+sport)
	}
	in, _ := follow(t, client, Format{}, Follow{Snapshot: true, About: AboutAll})
	listed := map[uint32]bool{}
	e := next(t, in)
	for ; e.Type == EventListed; e = next(t, in) {
		if e.Cursor != "" {
			t.Fatalf("a cursor within the list: %+v", e)
		}
		listed[e.Flow.ID] = true
	}
	if e.Type != EventReady || e.Cursor == "" || len(listed) != 500 {
		t.Fatalf("%d flows are listed, and then comes %+v", len(listed), e)
	}
	x := expectation(40000, 5000)
	if err := client.CreateExpectation(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	if err := client.DeleteExpectation(t.Context(), x.Tuple); err != nil {
		t.Fatal(err)
	}
	g.table.Flush()
	for _, want := range []string{"NEW", "DESTROY"} {
		if e := next(t, in); e.Type != want || e.Expect == nil || e.Expect.Tuple.Dport != 5000 {
			t.Errorf("%+v, want %s of the expectation", e, want)
		}
	}
	for len(listed) > 0 {
		e := next(t, in)
		if e.Type != "DESTROY" || e.Flow == nil || !listed[e.Flow.ID] {
			t.Fatalf("%+v of %+v, want DESTROY of a flow that is listed", e, e.Flow)
		}
		delete(listed, e.Flow.ID)
	}
}

func TestEventsThatCannotBe(t *testing.T) {
	g, client, _ := serve(t)
	g.flow(t, 40000)
	old := g.events.End()
	old.Instance++
	future := g.events.End()
	future.Counts[0] = 1000
	for _, tt := range []struct {
		claim  string
		where  Follow
		status int
	}{
		{"of a journal that has ended", Follow{Cursor: old.String()}, http.StatusGone},
		{"that was never given", Follow{Cursor: future.String()}, http.StatusBadRequest},
		{"that is none", Follow{Cursor: "yesterday"}, http.StatusBadRequest},
		{"with a snapshot", Follow{Cursor: old.String(), Snapshot: true}, http.StatusBadRequest},
		{"about nothing", Follow{About: "rules"}, http.StatusBadRequest},
	} {
		_, err := client.Follow(t.Context(), Format{}, tt.where)
		if remote, ok := errors.AsType[remoteError](err); !ok || remote.status != tt.status {
			t.Errorf("cursor %s: %v, want status %d", tt.claim, err, tt.status)
		}
		if gone := tt.status == http.StatusGone; errors.Is(err, ErrGone) != gone {
			t.Errorf("cursor %s: %v is ErrGone: %v", tt.claim, err, !gone)
		}
	}
}

// TestStalledReaderGetsOrMissesEveryEvent: what a reader gets, and what the stream says
// it missed, is what happened, kind by kind, with a reader that does not read while two
// hundred thousand events happen.
func TestStalledReaderGetsOrMissesEveryEvent(t *testing.T) {
	flows, updates := 1000, 200
	if testing.Short() {
		updates = 40
	}
	g, client, _ := serveTable(t, conntrack.Config{Max: 4096})
	in, _ := follow(t, client, Format{}, Follow{About: AboutAll})
	w, now := g.table.Worker(0), conntrack.Now()
	w.Begin(now)
	refs := make([]conntrack.Ref, flows)
	for i := range refs {
		refs[i] = g.claim(t, uint16(1000+i))
		w.Confirm(refs[i], now)
	}
	began := time.Now()
	pace := time.NewTicker(5 * time.Millisecond) // for a thousand events: 200000 a second
	defer pace.Stop()
	for mark := range uint32(updates) {
		<-pace.C
		for _, r := range refs {
			w.ChangeMark(r, mark+1, 0xffffffff, now)
		}
	}
	took := time.Since(began)
	for _, r := range refs {
		w.Kill(r)
	}
	for dying := true; dying; { // all are told, or lost
		w.Begin(now)
		dying = false
		g.table.DumpDying(func(*conntrack.Flow) bool { dying = true; return false })
	}
	g.table.Settle()
	want := map[string]uint64{"NEW": uint64(flows), "UPDATE": uint64(flows * updates), "DESTROY": uint64(flows)}
	name := map[string]string{"new": "NEW", "update": "UPDATE", "destroy": "DESTROY"}
	got, missed, last := map[string]uint64{}, uint64(0), uint64(0)
	for sum := uint64(0); sum < uint64(flows*(updates+2)); {
		e := next(t, in)
		switch e.Type {
		case EventMissed:
			n := uint64(0)
			for kind, count := range e.Kinds {
				got[name[kind]] += count
				n += count
			}
			if n != e.Missed {
				t.Fatalf("missed %d, by kind %v", e.Missed, e.Kinds)
			}
			missed += n
			sum += n
			last += n
		default:
			got[e.Type]++
			sum++
			last++
		}
		if e.Seq != last {
			t.Fatalf("event %d after %d", e.Seq, last)
		}
	}
	for typ, n := range want {
		if got[typ] != n {
			t.Errorf("%s: got or missed %d of %d", typ, got[typ], n)
		}
	}
	if missed == 0 {
		t.Error("nothing was missed: the reader did not stall")
	}
	t.Logf("%d events at %.0f a second, %d missed; rings lost %v", last, float64(flows*updates)/took.Seconds(), missed, g.table.LostEvents())
}

// TestManyReadersComeAndGo: each of many readers that leave in the middle and come back
// gets every event once.
func TestManyReadersComeAndGo(t *testing.T) {
	const readers, flows = 20, 200
	g, client, _ := serve(t)
	start := g.events.Tail()
	defer start.Close()
	from := start.Cursor().String()
	var running sync.WaitGroup
	for i := range readers {
		running.Go(func() {
			cursor, seen := from, uint64(0)
			for seen < flows {
				ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
				body, err := client.Follow(ctx, Format{}, Follow{Cursor: cursor})
				if err != nil {
					t.Errorf("reader %d: %v", i, err)
					cancel()
					return
				}
				in := json.NewDecoder(body)
				for n := 0; n < 17+i && seen < flows; n++ {
					var e Event
					if err := in.Decode(&e); err != nil || e.Seq != seen+1 {
						t.Errorf("reader %d: event %d after %d, %v", i, e.Seq, seen, err)
						cancel()
						return
					}
					cursor, seen = e.Cursor, e.Seq
				}
				cancel()
				_, _ = io.Copy(io.Discard, body)
				body.Close()
			}
		})
	}
	for sport := range uint16(flows) {
		g.flow(t, 1000+sport)
	}
	running.Wait()
}

func TestEventsAreChosenByTypeAndFilter(t *testing.T) {
	g, client, _ := serve(t)
	sport := uint16(40001)
	in, _ := follow(t, client, Format{Events: []string{"DESTROY"}, Proto: tuple.UDP, Filter: &Filter{Original: Ends{Sport: &sport}}}, Follow{})
	for i := range uint16(3) {
		g.flow(t, 40000+i)
	}
	g.table.Flush()
	if e := next(t, in); e.Type != "DESTROY" || *e.Flow.Original.Sport != sport {
		t.Errorf("%+v of port %d", e, *e.Flow.Original.Sport)
	}
}
