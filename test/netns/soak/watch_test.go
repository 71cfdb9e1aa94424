//go:build netns

package soak

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/culvert/control/api"
)

// events reads the stream of all events and keeps its books.
type events struct {
	s    *lab
	body io.Closer

	mu    sync.Mutex        // guards what follows
	live  map[uint32]string // the flow as its first event has it, by id
	known map[uint32]string // those of mark and all that began since; nil before it
	last  uint64            // number of the last event
	begun int
	wrong []string
}

func (s *lab) follow(t *testing.T) *events {
	t.Helper()
	body, err := s.client.Follow(t.Context(), api.Format{Form: api.FormJSON}, api.Follow{About: api.AboutAll, Snapshot: true})
	must(t, err)
	t.Cleanup(func() { body.Close() })
	e := &events{s: s, body: body, live: make(map[uint32]string)}
	go func() {
		for lines := bufio.NewReaderSize(body, 64<<10); ; {
			line, err := lines.ReadBytes('\n')
			if err != nil { // by whoever closes it, or too early
				e.mu.Lock()
				e.wrong = append(e.wrong, fmt.Sprintf("the stream ended after event %d: %v", e.last, err))
				e.mu.Unlock()
				return
			}
			e.add(line)
		}
	}()
	return e
}

func (e *events) add(line []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var x api.Event
	if err := json.Unmarshal(line, &x); err != nil {
		e.wrong = append(e.wrong, err.Error())
		return
	}
	if x.Seq != 0 && e.last != 0 && x.Seq != e.last+1 {
		e.wrong = append(e.wrong, fmt.Sprintf("event %d came after %d", x.Seq, e.last))
	}
	e.last = max(e.last, x.Seq)
	switch {
	case x.Type == api.EventMissed || x.Type == api.EventRestarted:
		e.wrong = append(e.wrong, strings.TrimSpace(string(line)))
	case x.Flow == nil:
	case x.Type == "NEW" || x.Type == api.EventListed:
		if e.live[x.Flow.ID] != "" {
			e.wrong = append(e.wrong, fmt.Sprintf("flow %d began twice", x.Flow.ID))
		}
		e.live[x.Flow.ID] = strings.TrimSpace(string(line))
		if e.known != nil {
			e.known[x.Flow.ID] = e.live[x.Flow.ID]
		}
		e.begun++
	case x.Type == "DESTROY":
		if e.live[x.Flow.ID] == "" {
			e.wrong = append(e.wrong, fmt.Sprintf("flow %d ended without having begun", x.Flow.ID))
		}
		delete(e.live, x.Flow.ID)
	}
}

// judge compares the flows that have begun and not ended with those that are listed: a
// flow that is not listed any more may have its end told a moment later, and one that
// is listed may have ended when the books are looked at.
func (e *events) judge(t *testing.T) {
	before := e.mark()
	listed, err := e.s.listed(t.Context())
	must(t, err)
	over := without(before, listed)
	for _, want := range []struct {
		what string
		odd  func() map[uint32]string
	}{
		{"a flow that is listed has begun", func() map[uint32]string { return without(listed, e.since()) }},
		{"a flow that is not listed ends", func() map[uint32]string { return within(over, e.now()) }},
	} {
		var odd map[uint32]string
		err := poll(t.Context(), want.what, func() (bool, error) {
			odd = want.odd()
			return len(odd) == 0, nil
		})
		if err != nil {
			t.Errorf("%v: %d flows, such as %s", err, len(odd), slices.Collect(maps.Values(odd))[0])
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.begun == 0 {
		t.Error("no flow began")
	}
	for _, what := range e.wrong[:min(len(e.wrong), 10)] {
		t.Errorf("events: %s", what)
	}
}

// now returns the flows that have begun and not ended.
func (e *events) now() map[uint32]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.live)
}

// mark returns now, and has since go on from there.
func (e *events) mark() map[uint32]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.known = maps.Clone(e.live)
	return maps.Clone(e.live)
}

// since returns the flows that had begun and not ended at mark, and those that began
// after it: none that is listed after mark is missing in the end.
func (e *events) since() map[uint32]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return maps.Clone(e.known)
}

// without and within return those of flows that others lack, and that others have.
func without(flows, others map[uint32]string) map[uint32]string {
	out := maps.Clone(flows)
	maps.DeleteFunc(out, func(id uint32, _ string) bool { return others[id] != "" })
	return out
}

func within(flows, others map[uint32]string) map[uint32]string {
	return without(flows, without(flows, others))
}

// listed returns the flows in the table, by their ids.
func (s *lab) listed(ctx context.Context) (map[uint32]string, error) {
	body, err := s.client.Flows(ctx, api.Format{Form: api.FormJSON})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	all := make(map[uint32]string)
	for lines := json.NewDecoder(body); ; {
		var f api.Flow
		if err := lines.Decode(&f); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all[f.ID] = fmt.Sprintf("%s %v %v", f.Proto, f.Original, f.Reply)
	}
}

// sample is what the gateway's process takes at a time.
type sample struct {
	rss, heap       float64 // bytes; heap: of objects, those not yet collected included
	goroutines, fds int
}

// watch looks at the gateway while traffic runs.
type watch struct {
	s       *lab
	scrape  http.Client
	before  sample
	after   sample
	samples []sample
	checks  int
	wrong   []string
}

func (s *lab) newWatch(t *testing.T) *watch {
	t.Helper()
	w := &watch{s: s, scrape: http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", s.gw.Socket())
		},
	}}}
	var err error
	w.before, err = w.sample(t.Context())
	must(t, err)
	return w
}

// sample reads metrics and what the kernel says of the process.
func (w *watch) sample(ctx context.Context) (x sample, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://culvert/metrics", nil)
	if err != nil {
		return x, err
	}
	answer, err := w.scrape.Do(req)
	if err != nil {
		return x, err
	}
	defer answer.Body.Close()
	values := make(map[string]float64)
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if name, value, ok := strings.Cut(lines.Text(), " "); ok {
			if n, err := strconv.ParseFloat(value, 64); err == nil {
				values[name] = n
			}
		}
	}
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.s.gw.Process().Pid()))
	if err != nil {
		return x, err
	}
	x = sample{rss: values["process_resident_memory_bytes"], heap: values["go_memstats_heap_alloc_bytes"],
		goroutines: int(values["go_goroutines"]), fds: len(open)}
	if x.rss == 0 || x.heap == 0 || x.goroutines == 0 {
		return x, fmt.Errorf("the gateway does not say what it takes: %+v", x)
	}
	return x, nil
}

// run samples and checks until ctx ends.
func (w *watch) run(ctx context.Context) {
	for tick := time.NewTicker(time.Second); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		x, err := w.sample(ctx)
		if err == nil {
			w.samples = append(w.samples, x)
			err = w.check(ctx)
		}
		if err != nil && ctx.Err() == nil {
			w.wrong = append(w.wrong, err.Error())
		}
	}
}

// check asks the gateway for defects.
func (w *watch) check(ctx context.Context) error {
	result, err := w.s.client.Check(ctx)
	if err != nil {
		return err
	}
	if len(result.Defects) > 0 {
		return fmt.Errorf("defects of the table: %v", result.Defects)
	}
	counters, err := w.s.client.Counters(ctx)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(counters, func(c api.Counter) bool { return c.Reason == "internal" }); i >= 0 && counters[i].Count != 0 {
		return fmt.Errorf("%d packets were dropped for a defect", counters[i].Count)
	}
	w.checks++
	return nil
}

// Growth that is none: the collector's pace, and pages it has not given back.
const (
	slackHeap = 8 << 20
	slackRSS  = 24 << 20
)

func (w *watch) judge(t *testing.T) {
	for _, what := range w.wrong[:min(len(w.wrong), 10)] {
		t.Error(what)
	}
	if w.checks == 0 {
		t.Error("nothing was checked")
	}
	if n := len(w.samples); n < 8 {
		t.Errorf("%d samples are too few to see growth", n)
	} else {
		second, last := w.samples[n/4:n/2], w.samples[n*3/4:]
		if was, is := least(second, heap), least(last, heap); is > was*1.25+slackHeap {
			t.Errorf("the heap grew from %.1f to %.1f MiB", was/(1<<20), is/(1<<20))
		}
		if was, is := least(second, rss), least(last, rss); is > was*1.1+slackRSS {
			t.Errorf("the process grew from %.1f to %.1f MiB", was/(1<<20), is/(1<<20))
		}
	}
	w.s.client.Close() // or its idle connections count
	err := poll(t.Context(), "what served the traffic is gone", func() (ok bool, err error) {
		w.after, err = w.sample(t.Context())
		return w.after.goroutines <= w.before.goroutines && w.after.fds <= w.before.fds, err
	})
	if err != nil {
		t.Errorf("%v: %d goroutines and %d file descriptors before, %d and %d after",
			err, w.before.goroutines, w.before.fds, w.after.goroutines, w.after.fds)
	}
}

func heap(x sample) float64 { return x.heap }
func rss(x sample) float64  { return x.rss }

// least is the smallest of some samples: of a heap what a collection leaves.
func least(of []sample, what func(sample) float64) float64 {
	low := what(of[0])
	for _, x := range of {
		low = min(low, what(x))
	}
	return low
}

func (w *watch) report(b *strings.Builder) {
	fmt.Fprintf(b, "checks of the table: %d\n", w.checks)
	line := func(when string, x sample) {
		fmt.Fprintf(b, "%-8s heap %6.1f MiB, process %6.1f MiB, %d goroutines, %d file descriptors\n",
			when, x.heap/(1<<20), x.rss/(1<<20), x.goroutines, x.fds)
	}
	line("before", w.before)
	for i := 1; i < 5 && len(w.samples) >= 8; i++ {
		quarter := w.samples[len(w.samples)*(i-1)/4 : len(w.samples)*i/4]
		x := quarter[len(quarter)-1]
		x.heap, x.rss = least(quarter, heap), least(quarter, rss)
		line(fmt.Sprintf("quarter %d", i), x)
	}
	line("after", w.after)
}
