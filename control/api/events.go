package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/ctfmt"
	"example.com/culvert/control/journal"
)

// About says whose events a stream has.
type About string

// What a stream of events is about. The empty name stands for AboutFlows.
const (
	AboutFlows        About = "flows"
	AboutExpectations About = "expectations"
	AboutAll          About = "all"
)

// headerEvents is the header of a stream of events that says where it begins.
const headerEvents = "Events-Cursor"

// Lines of a text stream that are no events. No event begins like them.
const (
	MissedPrefix    = "# missed "   // and how many events
	RestartedPrefix = "# restarted" // the gateway began anew here
)

// mask returns the kinds of events of what a stream is about, among those whose types
// are in of.
func (a About) mask(of conntrack.EventMask) (mask conntrack.EventMask, err error) {
	if a == "" {
		a = AboutFlows
	}
	if a != AboutFlows && a != AboutExpectations && a != AboutAll {
		return 0, fmt.Errorf("unknown word %q; use %s, %s or %s", a, AboutFlows, AboutExpectations, AboutAll)
	}
	for k := range conntrack.NumKinds {
		if (k < conntrack.ExpectNew && a != AboutExpectations || k >= conntrack.ExpectNew && a != AboutFlows) &&
			of&(1<<k.Type()) != 0 {
			mask |= 1 << k
		}
	}
	return mask, nil
}

// stream is a stream of events on its way to one reader.
type stream struct {
	*lines
	r       *http.Request
	reader  *journal.Reader
	control *http.ResponseController
	cursors bool // lines have them
}

func (s *Server) events(w http.ResponseWriter, r *http.Request) error {
	return s.follow(w, r, About(r.URL.Query().Get("about")))
}

func (s *Server) expectEvents(w http.ResponseWriter, r *http.Request) error {
	return s.follow(w, r, AboutExpectations)
}

// follow streams events until they end, the reader goes or the server ends. The
// answer's header goes out at once: who has seen it sees every later event.
func (s *Server) follow(w http.ResponseWriter, r *http.Request, about About) error {
	q := r.URL.Query()
	from, list := q.Get("cursor"), false
	if text := q.Get("snapshot"); text != "" {
		var err error
		if list, err = strconv.ParseBool(text); err != nil {
			return fmt.Errorf("%w: snapshot %q: want true or false", errBadRequest, text)
		}
	}
	q.Del("cursor")
	v, err := s.viewOf(r, q)
	if err != nil {
		return err
	}
	if v.mask, err = about.mask(v.mask); err != nil {
		return fmt.Errorf("%w: about: %w", errBadRequest, err)
	}
	if v.mask&conntrack.ExpectEvents != 0 {
		if err := v.ofExpectations(); err != nil {
			return fmt.Errorf("%w: %w", errBadRequest, err)
		}
	}
	if list && from != "" {
		return fmt.Errorf("%w: a snapshot begins anew: leave cursor out", errBadRequest)
	}
	reader, err := s.openEvents(from)
	if err != nil {
		return err
	}
	defer reader.Close()
	st := &stream{lines: newLines(w, v), r: r, reader: reader, control: http.NewResponseController(w), cursors: !list}
	if !list {
		w.Header().Set(headerEvents, reader.Cursor().String())
	}
	w.WriteHeader(http.StatusOK)
	if st.control.Flush() != nil {
		return nil // the reader is gone
	}
	// A reader that does not read must not hold up the server's end.
	defer context.AfterFunc(r.Context(), func() { _ = st.control.SetWriteDeadline(time.Now()) })()
	if !list || st.list(s.backend.Table(), s.backend.Events()) {
		st.tail()
	}
	return nil
}

// openEvents returns a reader from a cursor, or of what comes now.
func (s *Server) openEvents(from string) (*journal.Reader, error) {
	events := s.backend.Events()
	if events == nil {
		return nil, ErrNotRunning
	}
	if from == "" {
		return events.Tail(), nil
	}
	cursor, err := journal.ParseCursor(from)
	if err != nil {
		return nil, fmt.Errorf("%w: cursor: %w", errBadRequest, err)
	}
	reader, err := events.From(cursor)
	if errors.Is(err, journal.ErrCursor) {
		return nil, fmt.Errorf("%w: cursor %s: %w", errBadRequest, from, err)
	}
	if expired, ok := errors.AsType[*journal.ExpiredError](err); ok {
		return nil, fmt.Errorf("%w: %w", ErrGone, expired)
	}
	return reader, err
}

// flush sends what was collected, and reports whether the reader is still there.
func (st *stream) flush() bool {
	return st.send() == nil && st.control.Flush() == nil
}

// list writes what there is, and then the events since it began that this does not
// show. It reports whether the reader is still there.
func (st *stream) list(table *conntrack.Table, events *journal.Recorder) bool {
	cut := table.NewCut()
	if st.mask&conntrack.AllEvents != 0 {
		for at, more := uint32(0), true; more; more = at != 0 {
			at = cut.Flows(at, func(f *conntrack.Flow) bool {
				if st.wants(f) {
					st.listed(f)
				}
				return st.buf.Len() < pieceSize
			})
			if st.send() != nil {
				return false
			}
		}
	}
	if st.mask&conntrack.ExpectEvents != 0 {
		cut.Expects(func(x *conntrack.Expect) { // few: all lines are collected first
			if st.wantsExpect(x) {
				st.listedExpect(x)
			}
		})
	}
	select {
	case <-cut.Settled():
	case <-st.r.Context().Done():
		return false
	}
	var e journal.Entry
	for end := events.End(); st.reader.Cursor().Counts != end.Counts && st.reader.Next(&e); {
		if e.Missed != (conntrack.Counts{}) {
			cut.Missed()
		}
		if e.Missed != (conntrack.Counts{}) || cut.Wanted(&e.Record) {
			st.entry(&e)
		}
		if st.buf.Len() >= pieceSize && st.send() != nil {
			return false
		}
	}
	st.cursors = true
	if at := st.reader.Cursor(); st.form == FormJSON {
		st.encode(Event{Seq: at.Seq(), Type: EventReady, Cursor: at.String()})
	}
	return st.flush()
}

// tail writes what comes.
func (st *stream) tail() {
	var e journal.Entry
	for {
		for st.buf.Len() < pieceSize && st.reader.Next(&e) {
			st.entry(&e)
		}
		if st.buf.Len() > 0 {
			if !st.flush() {
				return
			}
			continue
		}
		if st.reader.Wait(st.r.Context()) != nil {
			return
		}
	}
}

// listed appends a flow that is there already.
func (st *stream) listed(f *conntrack.Flow) {
	if st.form == FormJSON {
		st.encode(Event{Type: EventListed, Flow: st.flowFrom(f)})
		return
	}
	st.flow(f)
}

func (st *stream) listedExpect(x *conntrack.Expect) {
	if st.form == FormJSON {
		st.encode(Event{Type: EventListed, Expect: expectationFrom(x)})
		return
	}
	st.expectation(x)
}

// entry appends what the reader came upon, if the request wants it.
func (st *stream) entry(e *journal.Entry) {
	r := &e.Record
	switch {
	case e.Restart != journal.NoRestart:
		st.restarted(e)
	case e.Missed != conntrack.Counts{}:
		st.missed(e)
	case st.mask&(1<<r.Kind) == 0:
	case r.Kind >= conntrack.ExpectNew:
		if st.wantsExpect(&r.Expect.Expect) {
			st.expectEvent(e)
		}
	case st.wants(&r.Event.Flow):
		st.event(e)
	}
}

func (st *stream) event(e *journal.Entry) {
	x := &e.Record.Event
	if st.form == FormJSON {
		st.encode(Event{Seq: e.Record.Seq, Type: x.Type.String(), Time: x.Time, Cause: x.Cause.String(), Commanded: x.Commanded, Flow: st.flowFrom(&x.Flow), Cursor: st.cursor(e)})
		return
	}
	switch b := st.buf.AvailableBuffer(); st.form {
	case FormXML:
		st.buf.Write(ctfmt.AppendEventXML(b, x, st.options))
	case FormSave:
		st.buf.Write(ctfmt.AppendEventSave(b, x, st.options))
	default:
		st.buf.Write(ctfmt.AppendEvent(b, x, st.options))
	}
	st.buf.WriteByte('\n')
}

func (st *stream) expectEvent(e *journal.Entry) {
	x := &e.Record.Expect
	if st.form == FormJSON {
		st.encode(Event{Seq: e.Record.Seq, Type: x.Type.String(), Time: x.Time, Expect: expectationFrom(&x.Expect), Cursor: st.cursor(e)})
		return
	}
	if b := st.buf.AvailableBuffer(); st.form == FormXML {
		st.buf.Write(ctfmt.AppendExpectEventXML(b, x, st.options))
	} else {
		st.buf.Write(ctfmt.AppendExpectEvent(b, x, st.options))
	}
	st.buf.WriteByte('\n')
}

// missed tells the reader how many events are missing of those that were asked for.
func (st *stream) missed(e *journal.Entry) {
	n := e.Missed.Of(st.mask)
	if n == 0 {
		return
	}
	if st.form != FormJSON {
		fmt.Fprintf(&st.buf, "%s%d\n", MissedPrefix, n)
		return
	}
	kinds := make(map[string]uint64)
	for k, count := range e.Missed {
		if count > 0 && st.mask&(1<<k) != 0 {
			kinds[conntrack.Kind(k).String()] = count
		}
	}
	st.encode(Event{Seq: e.Cursor.Seq(), Type: EventMissed, Missed: n, Kinds: kinds, Cursor: st.cursor(e)})
}

// restarted tells the reader that all he knows of is gone.
func (st *stream) restarted(e *journal.Entry) {
	if st.form != FormJSON {
		st.buf.WriteString(RestartedPrefix + "\n")
		return
	}
	st.encode(Event{Type: EventRestarted, Torn: e.Restart == journal.Torn, Cursor: st.cursor(e)})
}

// cursor returns the text of where to go on behind e.
func (st *stream) cursor(e *journal.Entry) string {
	if !st.cursors {
		return ""
	}
	return e.Cursor.String()
}
