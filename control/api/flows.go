package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/ctfmt"
)

const (
	pieceSize   = 64 << 10 // bytes collected before they go to the socket
	eventBuffer = 8192     // events a reader may be behind before it misses some
)

// lines collects flows or events in one form and sends them together.
type lines struct {
	view
	w   http.ResponseWriter
	buf bytes.Buffer
	enc *json.Encoder // into buf
}

func newLines(w http.ResponseWriter, v view) *lines {
	l := &lines{view: v, w: w}
	l.enc = json.NewEncoder(&l.buf)
	l.enc.SetEscapeHTML(false)
	kind := mediaTypeLines
	if v.form != FormJSON {
		kind = mediaTypeText
	}
	w.Header().Set("Content-Type", kind)
	return l
}

func (l *lines) flow(f *conntrack.Flow) {
	switch b := l.buf.AvailableBuffer(); l.form {
	case FormJSON:
		l.encode(flowFrom(f))
		return
	case FormXML:
		l.buf.Write(ctfmt.AppendXML(b, f, l.options))
	case FormSave:
		l.buf.Write(ctfmt.AppendSave(b, f))
	default:
		l.buf.Write(ctfmt.AppendList(b, f, l.options))
	}
	l.buf.WriteByte('\n')
}

func (l *lines) event(e *conntrack.Event) {
	if l.form == FormJSON {
		l.encode(Event{Seq: e.Seq, Type: e.Type.String(), Time: e.Time, Cause: e.Cause.String(), Flow: flowFrom(&e.Flow)})
		return
	}
	l.buf.Write(ctfmt.AppendEvent(l.buf.AvailableBuffer(), e, l.options))
	l.buf.WriteByte('\n')
}

// encode appends v as a line of JSON.
func (l *lines) encode(v any) {
	if err := l.enc.Encode(v); err != nil {
		panic("api: " + err.Error()) // our own types always marshal
	}
}

// send writes what was collected.
func (l *lines) send() error {
	_, err := l.buf.WriteTo(l.w)
	return err
}

// missed tells the reader how many events it lost: in text as a line that
// begins with MissedPrefix.
func (l *lines) missed(n uint64) {
	if l.form == FormJSON {
		l.encode(Event{Type: EventMissed, Missed: n})
		return
	}
	fmt.Fprintf(&l.buf, "%s%d\n", MissedPrefix, n)
}

// MissedPrefix begins the line of a text stream that says how many events were
// lost. No event begins like it.
const MissedPrefix = "# missed "

// view returns how the request wants its lines.
func (s *Server) view(r *http.Request) (view, error) {
	v, err := parseFormat(r.URL.Query())
	v.options.Accounting = s.backend.Accounting()
	if err == nil && (v.form == FormXML || v.form == FormSave) && (r.URL.Path == "/v1/events" || strings.HasPrefix(r.URL.Path, "/v1/expectations")) {
		err = fmt.Errorf("%w: format: use json or text here", errBadRequest)
	}
	return v, err
}

func (s *Server) flows(w http.ResponseWriter, r *http.Request) error {
	v, err := s.view(r)
	if err != nil {
		return err
	}
	out := newLines(w, v)
	table := s.backend.Table()
	if dump := v.table.dump(table); dump != nil {
		dump(func(f *conntrack.Flow) bool { // few: all lines are collected first
			if v.wants(f) {
				out.flow(f)
			}
			return true
		})
		_ = out.send() // an error: the reader is gone
		return nil
	}
	if v.limit > 0 {
		page(out, table)
		return nil
	}
	for at, more := uint32(0), true; more; more = at != 0 {
		// Lines are collected while the table is walked, and written between
		// two walks: a reader that does not read must not hold up the table.
		at = table.DumpFrom(at, func(f *conntrack.Flow) bool {
			if v.wants(f) {
				out.flow(f)
			}
			return out.buf.Len() < pieceSize
		})
		if out.send() != nil {
			return nil // the reader is gone
		}
	}
	return nil
}

// page lists one page of the flows. It is collected first, so that the header can
// say where the next one begins.
func page(out *lines, table *conntrack.Table) {
	n := 0
	next := table.DumpFrom(out.from, func(f *conntrack.Flow) bool {
		if out.wants(f) {
			out.flow(f)
			n++
		}
		return n < out.limit
	})
	if next != 0 {
		out.w.Header().Set(headerCursor, strconv.FormatUint(uint64(next), 10))
	}
	_ = out.send() // an error: the reader is gone
}

func (s *Server) countFlows(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, Count{Flows: s.backend.Table().Len()})
	return nil
}

func (s *Server) flushFlows(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, Count{Flows: s.backend.Table().Flush()})
	return nil
}

// deleteFlows ends the flows that the request wants and lists them.
func (s *Server) deleteFlows(w http.ResponseWriter, r *http.Request) error {
	v, err := s.view(r)
	if err != nil {
		return err
	}
	out, table := newLines(w, v), s.backend.Table()
	for at, more := uint32(0), true; more; more = at != 0 {
		at = table.DeleteFrom(at, v.wants, func(f *conntrack.Flow) bool {
			out.flow(f)
			return out.buf.Len() < pieceSize
		})
		_ = out.send() // without a reader the flows end all the same
	}
	return nil
}

// flow lists the flow that has a tuple.
func (s *Server) flow(w http.ResponseWriter, r *http.Request) error {
	v, err := s.view(r)
	if err != nil {
		return err
	}
	k, err := readTuple(r)
	if err != nil {
		return err
	}
	f, err := s.backend.Table().Get(k)
	if err != nil {
		return err
	}
	out := newLines(w, v)
	if v.wants(&f) {
		out.flow(&f)
	}
	_ = out.send() // an error: the reader is gone
	return nil
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	v, err := s.view(r)
	if err != nil {
		return err
	}
	sub := s.backend.Table().Subscribe(eventBuffer, v.mask)
	defer sub.Close()
	out := newLines(w, v)
	follow(r, out, sub.Events(), sub.Missed, func(e *conntrack.Event) {
		if v.wants(&e.Flow) {
			out.event(e)
		}
	})
	return nil
}

// follow streams events until they end, the reader goes or the server ends. The
// answer's header goes out at once: who has seen it sees every later event.
func follow[E any](r *http.Request, out *lines, events <-chan E, missed func() uint64, write func(*E)) {
	control := http.NewResponseController(out.w)
	out.w.WriteHeader(http.StatusOK)
	if control.Flush() != nil {
		return // the reader is gone
	}
	// A reader that does not read must not hold up the server's end.
	defer context.AfterFunc(r.Context(), func() { _ = control.SetWriteDeadline(time.Now()) })()
	var told uint64
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			if n := missed(); n > told {
				out.missed(n - told)
				told = n
			}
			write(&e)
		case <-r.Context().Done():
			return
		}
		if len(events) > 0 && out.buf.Len() < pieceSize {
			continue // more to collect before it goes out
		}
		if out.send() != nil || control.Flush() != nil {
			return // the reader is gone
		}
	}
}
