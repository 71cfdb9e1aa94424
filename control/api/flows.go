package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/ctfmt"
)

// pieceSize is how many bytes are collected before they go to the socket.
const pieceSize = 64 << 10

// lines collects flows or events in one form and sends them together.
type lines struct {
	view
	w   http.ResponseWriter
	buf bytes.Buffer
	enc *json.Encoder // into buf

	ended bool // the flows that are listed have ended
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
		l.encode(l.flowFrom(f))
		return
	case FormXML:
		l.buf.Write(ctfmt.AppendXML(b, f, l.options))
	case FormSave:
		if l.ended {
			l.buf.Write(ctfmt.AppendEventSave(b, &conntrack.Event{Type: conntrack.EventDestroy, Flow: *f}, l.options))
		} else {
			l.buf.Write(ctfmt.AppendSave(b, f))
		}
	default:
		l.buf.Write(ctfmt.AppendList(b, f, l.options))
	}
	l.buf.WriteByte('\n')
}

// flowFrom is flowFrom with what the view wants besides.
func (l *lines) flowFrom(f *conntrack.Flow) *Flow {
	out := flowFrom(f)
	if l.why != nil {
		why := l.why(f)
		out.Why = &why
	}
	return out
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

// view returns how the request wants its lines.
func (s *Server) view(r *http.Request) (view, error) {
	return s.viewOf(r, r.URL.Query())
}

// viewOf is view without the parameters that are not in q.
func (s *Server) viewOf(r *http.Request, q url.Values) (view, error) {
	v, err := parseFormat(q)
	v.options.Accounting, v.options.PortID = s.backend.Accounting(), uint32(os.Getpid())
	if v.options.Why != nil {
		v.why = s.backend.Why
		v.options.Why = func(b []byte, f *conntrack.Flow) []byte {
			why := v.why(f)
			return why.appendTo(b)
		}
	}
	if err == nil && v.form == FormSave && strings.HasPrefix(r.URL.Path, "/v1/expectations") {
		err = fmt.Errorf("%w: format: expectations are not saved: use json, text or xml", errBadRequest)
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
	s.list(out, table.DumpFrom)
	return nil
}

// zeroFlows lists the table, and the counters begin anew.
func (s *Server) zeroFlows(w http.ResponseWriter, r *http.Request) error {
	v, err := s.view(r)
	if err != nil {
		return err
	}
	s.list(newLines(w, v), func(at uint32, f func(*conntrack.Flow) bool) uint32 {
		return s.backend.Table().ZeroFrom(at, v.wants, f)
	})
	return nil
}

// list writes the flows that a walk in pieces calls with.
func (s *Server) list(out *lines, walk func(uint32, func(*conntrack.Flow) bool) uint32) {
	for at, more := uint32(0), true; more; more = at != 0 {
		// Lines are collected while the table is walked, and written between
		// two walks: a reader that does not read must not hold up the table.
		at = walk(at, func(f *conntrack.Flow) bool {
			if out.wants(f) {
				out.flow(f)
			}
			return out.buf.Len() < pieceSize
		})
		if out.send() != nil {
			return // the reader is gone
		}
	}
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
	out.ended = true
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
