package api

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/ctfmt"
)

const (
	writeBuffer = 64 << 10 // bytes collected before they go to the socket
	eventBuffer = 8192     // events a reader may be behind before it misses some
)

// lines writes flows or events in one form.
type lines struct {
	view
	w   *bufio.Writer
	enc *json.Encoder
	buf []byte
}

func newLines(w http.ResponseWriter, v view) *lines {
	l := &lines{view: v, w: bufio.NewWriterSize(w, writeBuffer)}
	l.enc = json.NewEncoder(l.w)
	l.enc.SetEscapeHTML(false)
	kind := "application/x-ndjson"
	if v.form == FormText {
		kind = "text/plain; charset=utf-8"
	}
	w.Header().Set("Content-Type", kind)
	return l
}

func (l *lines) flow(f *conntrack.Flow) error {
	if l.form == FormJSON {
		return l.enc.Encode(flowFrom(f))
	}
	l.buf = append(ctfmt.AppendList(l.buf[:0], f, l.options), '\n')
	_, err := l.w.Write(l.buf)
	return err
}

func (l *lines) event(e *conntrack.Event) error {
	if l.form == FormJSON {
		return l.enc.Encode(Event{Seq: e.Seq, Type: e.Type.String(), Time: e.Time, Flow: flowFrom(&e.Flow)})
	}
	l.buf = append(ctfmt.AppendEvent(l.buf[:0], e, l.options), '\n')
	_, err := l.w.Write(l.buf)
	return err
}

// missed tells the reader how many events it lost: in text as a line that
// begins with MissedPrefix.
func (l *lines) missed(n uint64) error {
	if l.form == FormJSON {
		return l.enc.Encode(Event{Type: EventMissed, Missed: n})
	}
	_, err := fmt.Fprintf(l.w, "%s%d\n", MissedPrefix, n)
	return err
}

// MissedPrefix begins the line of a text stream that says how many events were
// lost. No event begins like it.
const MissedPrefix = "# missed "

// view returns how the request wants its lines.
func (s *Server) view(r *http.Request) (view, error) {
	v, err := parseFormat(r.URL.Query())
	v.options.Accounting = s.backend.Accounting()
	return v, err
}

func (s *Server) flows(w http.ResponseWriter, r *http.Request) error {
	v, err := s.view(r)
	if err != nil {
		return err
	}
	out := newLines(w, v)
	s.backend.Table().Dump(func(f *conntrack.Flow) bool {
		if v.wants(f) {
			err = out.flow(f)
		}
		return err == nil && r.Context().Err() == nil
	})
	_ = out.w.Flush() // an error means that the reader is gone
	return nil
}

func (s *Server) countFlows(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, Count{Flows: s.backend.Table().Len()})
	return nil
}

func (s *Server) flushFlows(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, Count{Flows: s.backend.Table().Flush()})
	return nil
}

// events streams until the reader goes or the server ends. The answer's header
// goes out at once: who has seen it sees every later event.
func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	v, err := s.view(r)
	if err != nil {
		return err
	}
	sub := s.backend.Table().Subscribe(eventBuffer, v.mask)
	defer sub.Close()
	out, control := newLines(w, v), http.NewResponseController(w)
	w.WriteHeader(http.StatusOK)
	if control.Flush() != nil {
		return nil // the reader is gone
	}
	var told uint64
	for {
		select {
		case e, ok := <-sub.Events():
			if !ok {
				return nil
			}
			if missed := sub.Missed(); missed > told {
				err, told = out.missed(missed-told), missed
			}
			if err == nil && v.wants(&e.Flow) {
				err = out.event(&e)
			}
		case <-r.Context().Done():
			return nil
		}
		if err != nil {
			return nil // the reader is gone
		}
		if len(sub.Events()) > 0 {
			continue // more to write before it goes out
		}
		if out.w.Flush() != nil || control.Flush() != nil {
			return nil
		}
	}
}
