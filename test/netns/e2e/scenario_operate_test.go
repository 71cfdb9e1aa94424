//go:build netns

package e2e

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/culvert/control/api"
	"example.com/culvert/test/netns"
)

// TestNumbersOfAllViewsAgree: conntrack, status, top and the metrics tell the same of the
// same traffic.
func TestNumbersOfAllViewsAgree(t *testing.T) {
	const flows = 6
	onlyCulvert(t, setup{}, func(t *testing.T, h *house) {
		f := &ipv4
		serveUDP(t, h.server, at(f.server, 5353))
		serveTCP(t, h.server, at(f.server, 8080), greet)
		c := talk(t, h.first, at(f.first, 40000), at(f.server, 8080))
		for n := range uint16(flows - 1) {
			bindUDP(t, h.first, at(f.first, 41000+n)).ask(t, at(f.server, 5353), "x")
		}
		denied(t, h)
		until(t, "the packet that is denied is counted", func() bool {
			return h.metric(t, `culvert_dropped_packets_total{reason="local-denied"}`) == 1
		})

		out, err := h.gw.Ctl(t.Context(), "conntrack", "-C")
		must(t, err)
		if n, err := strconv.Atoi(strings.TrimSpace(out)); err != nil || n != flows {
			t.Errorf("conntrack -C says %q, want %d", out, flows)
		}
		if st := h.status(t); st.Flows != flows || st.Dropped < 1 {
			t.Errorf("status: %d flows, %d dropped, want %d and 1 at least", st.Flows, st.Dropped, flows)
		}
		for _, name := range []string{"culvert_flows", "node_nf_conntrack_entries", "culvert_flows_begun_total"} {
			if n := h.metric(t, name); n != flows {
				t.Errorf("%s is %d, want %d", name, n, flows)
			}
		}
		until(t, "status and metrics count the same packets", func() bool { // TCP may still acknowledge
			return h.metric(t, "culvert_forwarded_packets_total") == int(h.status(t).Forwarded)
		})

		text, err := h.gw.Ctl(t.Context(), "top", "-b", "-n", "2", "--interval", "100ms", "--sort", "total")
		must(t, err)
		if n := strings.Count(text, fmt.Sprintf("\n%d of ", flows)); n != 2 || strings.Count(text, "\n\n") != 3 {
			t.Errorf("top says %d times that there are %d flows, want 2 looks:\n%s", n, flows, text)
		}
		c.say(t, strings.Repeat("bulk", 1000))
		until(t, "top and conntrack count the same bytes", func() bool { // as above
			top, listed := h.topOfTCP(t)
			if top.Flows != flows || top.Matched != 1 || len(top.TopFlows) != 1 || *top.TopFlows[0].Flow.Original.Sport != 40000 {
				t.Fatalf("top of TCP: %+v", top)
			}
			return top.TopFlows[0].Total == listed.Original.Bytes+listed.Reply.Bytes && top.TopFlows[0].Total > 8000
		})
	})
}

// topOfTCP is what top shows of TCP, and the one flow of it that conntrack lists.
func (h *house) topOfTCP(t *testing.T) (top api.Top, listed api.Flow) {
	t.Helper()
	text, err := h.gw.Exec(t.Context(), h.gw.Binary(), "top", "--once", "--interval", "100ms", "-o", "json", "--socket", h.gw.Socket(), "--", "-p", "tcp")
	must(t, err)
	must(t, json.Unmarshal([]byte(text), &top))
	text, err = h.gw.Ctl(t.Context(), "conntrack", "-L", "-p", "tcp", "-o", "json")
	must(t, err)
	must(t, json.Unmarshal([]byte(text), &listed))
	return top, listed
}

// TestEventsGoOnBehindRestarts: with files, a cursor of before leads through an end in
// order and through a crash, and the reader is told of each.
func TestEventsGoOnBehindRestarts(t *testing.T) {
	onlyCulvert(t, setup{config: "[events]\ndirectory = \"" + t.TempDir() + "\"\n"}, func(t *testing.T, h *house) {
		f := &ipv4
		serveUDP(t, h.server, at(f.server, 5353))
		begin := func(port uint16) { bindUDP(t, h.first, at(f.first, port)).ask(t, at(f.server, 5353), "x") }
		begin(41000)
		reader := h.events(t, "--snapshot")
		told(t, reader, api.EventListed, 41000)
		ready := told(t, reader, api.EventReady, 0)
		begin(41001)
		told(t, reader, "NEW", 41001)

		must(t, h.gw.Stop())
		must(t, h.gw.Start(t.Context()))
		begin(41002)
		reader = h.events(t, "--cursor", ready.Cursor)
		told(t, reader, "NEW", 41002)
		wantInOrder(t, reader, "NEW 41001", "RESTARTED", "NEW 41002")

		p := h.gw.Process()
		must(t, p.Signal(unix.SIGKILL))
		<-p.Done()
		must(t, h.gw.Stop())
		must(t, h.gw.Start(t.Context()))
		begin(41003)
		reader = h.events(t, "--cursor", ready.Cursor, "--types", "NEW")
		told(t, reader, "NEW", 41003)
		wantInOrder(t, reader, "NEW 41001", "RESTARTED", "RESTARTED torn", "NEW 41003")
	})
}

// events starts culvert events.
func (h *house) events(t *testing.T, args ...string) *netns.Process {
	t.Helper()
	p, err := h.gw.Host.Start(append([]string{h.gw.Binary(), "events", "-o", "json", "--socket", h.gw.Socket()}, args...)...)
	must(t, err)
	return p
}

// eventsOf are the whole lines that a reader has printed so far.
func eventsOf(t *testing.T, p *netns.Process) (all []api.Event) {
	t.Helper()
	for line := range strings.Lines(p.Output()) {
		if !strings.HasSuffix(line, "\n") || !strings.HasPrefix(line, "{") {
			continue
		}
		var e api.Event
		must(t, json.Unmarshal([]byte(line), &e))
		all = append(all, e)
	}
	return all
}

// told waits until a reader has printed an event, for types of flows that of a source port.
func told(t *testing.T, p *netns.Process, typ string, port uint16) (found api.Event) {
	t.Helper()
	until(t, fmt.Sprintf("%s %d", typ, port), func() bool {
		for _, e := range eventsOf(t, p) {
			if e.Type == typ && (e.Flow == nil || *e.Flow.Original.Sport == port) {
				found = e
				return true
			}
		}
		return false
	})
	return found
}

// wantInOrder wants a reader to have been told of flows and restarts in this order, with
// anything but gaps and lists in between.
func wantInOrder(t *testing.T, p *netns.Process, want ...string) {
	t.Helper()
	var got []string
	for _, e := range eventsOf(t, p) {
		switch e.Type {
		case "NEW":
			got = append(got, fmt.Sprintf("NEW %d", *e.Flow.Original.Sport))
		case api.EventRestarted:
			got = append(got, map[bool]string{false: "RESTARTED", true: "RESTARTED torn"}[e.Torn])
		case api.EventMissed, api.EventListed:
			got = append(got, e.Type)
		}
	}
	rest := want
	for _, s := range got {
		if len(rest) > 0 && s == rest[0] {
			rest = rest[1:]
		} else if s == api.EventMissed || s == api.EventListed {
			t.Errorf("the reader was told %s", s)
		}
	}
	if len(rest) > 0 {
		t.Errorf("told %q, want %q in this order", got, want)
	}
}
