package api

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"example.com/culvert/alg/report"
	"example.com/culvert/control/pcapng"
)

// WatchRequest asks to see packets.
type WatchRequest struct {
	Match string // see ParseMatch
	Rate  int    // most packets in a second; 0: no limit
	Snap  int    // bytes of a frame that are kept, for a capture
	Walks int    // room for packets that are not read yet, of each worker; 0: the default

	Count    int           // end after so many; 0: never
	Duration time.Duration // end after so long; 0: never
}

// Watching is what a backend shows of packets. Only one goroutine may read.
type Watching interface {
	// Ready has an element when there may be something to read.
	Ready() <-chan struct{}
	// Read calls f for what there is until f returns false, with the frames of the
	// packet if the request has a Snap. What f gets is valid until it returns.
	Read(f func(*TracedPacket, []CapturedFrame) bool)
	// Lost returns how many packets found no room since they were not read in time,
	// and how many were beyond the rate.
	Lost() (unread, beyond uint64)
	Close()
}

// TracedPacket is what became of a packet.
type TracedPacket struct {
	Time    time.Time   `json:"time"`             // of the batch that it was in
	Worker  int         `json:"worker"`           // -1: none
	Packet  string      `json:"packet,omitempty"` // as it came
	In      string      `json:"in,omitempty"`     // interface; none: the gateway made it
	Steps   []Explained `json:"steps"`
	Verdict string      `json:"verdict,omitempty"` // forwarded, delivered, dropped, rejected, kept
	Reason  string      `json:"reason,omitempty"`  // why it, or a part of it, was dropped; see Counter
	Advice  string      `json:"advice,omitempty"`
	Count   uint64      `json:"count,omitempty"` // packets, if they are not told one by one
	Out     string      `json:"out,omitempty"`   // interface it left by
	Leaves  string      `json:"leaves_as,omitempty"`
	Flow    uint32      `json:"flow,omitempty"`          // id
	Of      string      `json:"flow_original,omitempty"` // original direction of its flow
	Helper  *HelperWork `json:"helper,omitempty"`        // what the helper of its flow did
	Missed  *Missed     `json:"missed,omitempty"`        // nothing else is set: packets are not told
}

// HelperWork is what a helper did with a packet.
type HelperWork = report.Work

// Missed is how many packets were not told since the last time.
type Missed struct {
	Unread uint64 `json:"unread,omitempty"`      // their reader was too slow
	Beyond uint64 `json:"beyond_rate,omitempty"` // more came in a second than were asked for
}

// CapturedFrame is a frame of a TracedPacket: as it came in, or as it went out.
type CapturedFrame struct {
	Interface string
	Out       bool
	Link      pcapng.LinkType
	Data      []byte
	Length    int
	Note      string // what the bytes do not tell; "": nothing
}

// Bounds of a WatchRequest.
const (
	defaultTraceRate = 1000
	defaultSnap      = 256 << 10
	maxWalks         = 1 << 16
)

var (
	paramMatch    = param{name: "match", doc: "Only packets that have all that this says: " + MatchSyntax, gist: ""}
	paramCount    = param{name: "count", doc: "End after so many packets", gist: 0}
	paramDuration = param{name: "duration", doc: "End after so long: 10s, 2m", gist: ""}
	paramRate     = param{name: "rate", doc: "Most packets in a second, the others are counted; 0 for no limit", gist: 0}
	paramWalks    = param{name: "buffer", doc: "Room for packets of each worker that are not read yet", gist: 0}
	paramSnap     = param{name: "snaplen", doc: "Most bytes of each frame", gist: 0}
)

// query is q as parameters of a request; parseWatch reads them.
func (q *WatchRequest) query() url.Values {
	v := url.Values{}
	set := func(key string, n int) {
		if n != 0 {
			v.Set(key, strconv.Itoa(n))
		}
	}
	if q.Match != "" {
		v.Set("match", q.Match)
	}
	v.Set("rate", strconv.Itoa(q.Rate))
	set("snaplen", q.Snap)
	set("buffer", q.Walks)
	set("count", q.Count)
	if q.Duration != 0 {
		v.Set("duration", q.Duration.String())
	}
	return v
}

func parseWatch(v url.Values) (q WatchRequest, err error) {
	q.Match, q.Snap, q.Rate = v.Get("match"), defaultSnap, defaultTraceRate
	if _, err := ParseMatch(q.Match); err != nil {
		return q, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	for _, n := range []struct {
		name       string
		to         *int
		least, top int
	}{{"rate", &q.Rate, 0, 1 << 30}, {"snaplen", &q.Snap, 64, defaultSnap}, {"buffer", &q.Walks, 1, maxWalks}, {"count", &q.Count, 1, 1 << 30}} {
		text := v.Get(n.name)
		if text == "" {
			continue
		}
		if *n.to, err = strconv.Atoi(text); err != nil || *n.to < n.least || *n.to > n.top {
			return q, fmt.Errorf("%w: %s %q: want a number from %d to %d", errBadRequest, n.name, text, n.least, n.top)
		}
	}
	if text := v.Get("duration"); text != "" {
		if q.Duration, err = time.ParseDuration(text); err != nil || q.Duration <= 0 {
			return q, fmt.Errorf("%w: duration %q: want one such as 10s or 2m", errBadRequest, text)
		}
	}
	return q, nil
}

// trace streams what becomes of packets.
func (s *Server) trace(w http.ResponseWriter, r *http.Request) error {
	q, err := parseWatch(r.URL.Query())
	if err != nil {
		return err
	}
	q.Snap = 0
	seen, err := s.backend.Watch(q)
	if err != nil {
		return err
	}
	defer seen.Close()
	out := newLines(w, view{form: FormJSON})
	watch(r, w, seen, &q, watcher{
		packet: func(p *TracedPacket, _ []CapturedFrame) error { out.encode(p); return nil },
		missed: func(m Missed) error {
			out.encode(&TracedPacket{Time: time.Now(), Steps: []Explained{}, Missed: &m})
			return nil
		},
		send: out.send,
	})
	return nil
}

// watcher is what becomes of what is seen.
type watcher struct {
	packet func(*TracedPacket, []CapturedFrame) error
	missed func(Missed) error
	send   func() error // what was collected
}

// watch shows packets until there were as many, or for as long, as asked for, the
// reader goes, or the server ends. The answer's header goes out at once: who has seen
// it sees every later packet.
func watch(r *http.Request, w http.ResponseWriter, seen Watching, q *WatchRequest, to watcher) {
	control := http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if to.send() != nil || control.Flush() != nil {
		return // the reader is gone
	}
	// A reader that does not read must not hold up the server's end.
	defer context.AfterFunc(r.Context(), func() { _ = control.SetWriteDeadline(time.Now()) })()
	var over <-chan time.Time
	if q.Duration > 0 {
		t := time.NewTimer(q.Duration)
		defer t.Stop()
		over = t.C
	}
	var told Missed
	for n, last := 0, false; !last; {
		select {
		case <-seen.Ready():
		case <-over:
			last = true
		case <-r.Context().Done():
			return
		}
		var err error
		seen.Read(func(p *TracedPacket, frames []CapturedFrame) bool {
			if err = to.packet(p, frames); err == nil {
				n++
			}
			last = last || n == q.Count && n > 0
			return err == nil && (q.Count == 0 || n < q.Count)
		})
		unread, beyond := seen.Lost()
		if m := (Missed{unread - told.Unread, beyond - told.Beyond}); err == nil && m != (Missed{}) {
			err, told = to.missed(m), Missed{unread, beyond}
		}
		if err != nil || to.send() != nil || control.Flush() != nil {
			return // the reader is gone
		}
	}
}
