package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"example.com/culvert/conntrack"
)

// Backend is what the server asks of a gateway. Its methods are safe for
// concurrent use. Errors wrap ErrRefused, ErrNotFound or ErrExists where these
// say what went wrong.
type Backend interface {
	Status() Status
	Rules() []Rule
	RuleCounters() []RuleCounter
	Config() Config
	Counters() []Counter
	PortMappings() []PortMapping
	Table() *conntrack.Table
	Accounting() bool // packet and byte counters are printed
	Explain(p Probe) (Explanation, error)
	ReloadFile(ctx context.Context, r ReloadRequest) (ReloadResult, error)
	AddInterface(ctx context.Context, spec InterfaceSpec) error
	RemoveInterface(ctx context.Context, name string) error
}

// Errors by what the caller can do about them.
var (
	ErrNotRunning = errors.New("not running")
	ErrRefused    = errors.New("refused")   // change what you asked for
	ErrNotFound   = errors.New("not found") // it is not there
	ErrExists     = errors.New("exists")    // it is there already
)

// maxBody bounds the body of a request, bytes.
const maxBody = 1 << 20

// Server serves the API of one gateway.
type Server struct {
	backend Backend
	log     *slog.Logger
	http    http.Server
	cancel  context.CancelFunc // ends the event streams

	mu     sync.Mutex            // guards silent
	silent map[net.Conn]struct{} // connections that have not asked anything yet
}

// NewServer returns a server for backend. More holds further handlers by
// pattern, "GET /metrics" for one; it may be nil.
func NewServer(backend Backend, log *slog.Logger, more map[string]http.Handler) *Server {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{backend: backend, log: log, cancel: cancel, silent: make(map[net.Conn]struct{})}
	mux := http.NewServeMux()
	for pattern, handle := range map[string]func(http.ResponseWriter, *http.Request) error{
		"GET /v1/status":               answer(backend.Status),
		"GET /v1/ready":                s.ready,
		"GET /v1/flows":                s.flows,
		"GET /v1/flows/count":          s.countFlows,
		"DELETE /v1/flows":             s.flushFlows,
		"POST /v1/flows/delete":        s.deleteFlows,
		"POST /v1/flows/update":        s.updateFlows,
		"POST /v1/flows/get":           s.flow,
		"GET /v1/events":               s.events,
		"GET /v1/expectations":         s.expectations,
		"POST /v1/expectations":        s.createExpectation,
		"DELETE /v1/expectations":      s.flushExpectations,
		"POST /v1/expectations/delete": s.deleteExpectation,
		"GET /v1/expectations/count":   s.countExpectations,
		"GET /v1/expectations/events":  s.expectEvents,
		"GET /v1/rules":                answer(backend.Rules),
		"GET /v1/rules/counters":       answer(backend.RuleCounters),
		"GET /v1/config":               answer(backend.Config),
		"GET /v1/counters":             answer(backend.Counters),
		"GET /v1/ports/requested":      answer(backend.PortMappings),
		"GET /v1/explain":              s.explain,
		"GET /v1/check":                s.check,
		"GET /v1/interfaces":           s.interfaces,
		"POST /v1/interfaces":          s.addInterface,
		"DELETE /v1/interfaces/{name}": s.removeInterface,
		"POST /v1/reload":              s.reload,
	} {
		mux.Handle(pattern, s.handler(handle))
	}
	for pattern, h := range more {
		mux.Handle(pattern, h)
	}
	s.http = http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnState:         s.connState,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	return s
}

// Serve answers on l until Shutdown, which is no error.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}

// connState keeps account of the connections that have not asked anything yet.
func (s *Server) connState(c net.Conn, st http.ConnState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if st == http.StateNew {
		s.silent[c] = struct{}{}
	} else {
		delete(s.silent, c)
	}
}

// Shutdown closes the listeners, ends the event streams and waits for the other
// requests until ctx ends. Those that are left, of readers who do not read, are
// cut off, which is no error.
func (s *Server) Shutdown(ctx context.Context) error {
	s.cancel()
	s.mu.Lock()
	for c := range s.silent { // http would give them 5 s to ask
		c.Close()
	}
	s.mu.Unlock()
	err := s.http.Shutdown(ctx)
	if ctx.Err() != nil {
		s.log.Warn("requests were cut off", "reason", ctx.Err())
		return s.http.Close()
	}
	return err
}

// handler turns an error into the status and body of its kind.
func (s *Server) handler(handle func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		err := handle(w, r)
		if err == nil {
			return
		}
		s.log.Debug("request refused", "method", r.Method, "path", r.URL.Path, "error", err)
		writeJSON(w, statusOf(err), failure{Error: err.Error()})
	})
}

func statusOf(err error) int {
	switch {
	case errors.Is(err, ErrNotFound), errors.Is(err, conntrack.ErrNotFound), errors.Is(err, conntrack.ErrExpectMaster), errors.Is(err, conntrack.ErrExpectAbsent):
		return http.StatusNotFound
	case errors.Is(err, ErrExists), errors.Is(err, conntrack.ErrExpectClash):
		return http.StatusConflict
	case errors.Is(err, ErrRefused), errors.Is(err, conntrack.ErrExpectFull):
		return http.StatusUnprocessableEntity
	case errors.Is(err, errBadRequest):
		return http.StatusBadRequest
	}
	return http.StatusInternalServerError
}

var errBadRequest = errors.New("bad request")

// writeJSON ignores write errors: the peer is gone and nobody is left to tell.
func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(body)
}

// readJSON decodes the body strictly; an empty body leaves into as it is.
func readJSON(r *http.Request, into any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil && dec.More() {
		err = errors.New("more than one JSON value")
	}
	if err != nil {
		return fmt.Errorf("%w: body: %w", errBadRequest, err)
	}
	return nil
}

// answer makes the handler of a request that asks for what the backend knows.
func answer[T any](what func() T) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, _ *http.Request) error {
		writeJSON(w, http.StatusOK, what())
		return nil
	}
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) error {
	st, code := s.backend.Status(), http.StatusOK
	if !st.Ready {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, st)
	return nil
}

// check verifies the invariants of the table of flows while it is in use.
func (s *Server) check(w http.ResponseWriter, _ *http.Request) error {
	t := s.backend.Table()
	if t == nil {
		return ErrNotRunning
	}
	result := CheckResult{Defects: []string{}}
	for _, err := range t.Check(t.Now()) {
		result.Defects = append(result.Defects, err.Error())
	}
	result.Flows = t.Len()
	writeJSON(w, http.StatusOK, result)
	return nil
}

func (s *Server) interfaces(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, s.backend.Status().Interfaces)
	return nil
}

func (s *Server) addInterface(w http.ResponseWriter, r *http.Request) error {
	var spec InterfaceSpec
	if err := readJSON(r, &spec); err != nil {
		return err
	}
	if spec.Name == "" || spec.Area == "" {
		return fmt.Errorf("%w: an interface needs a name and an area", errBadRequest)
	}
	if err := s.backend.AddInterface(r.Context(), spec); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) removeInterface(w http.ResponseWriter, r *http.Request) error {
	if err := s.backend.RemoveInterface(r.Context(), r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) reload(w http.ResponseWriter, r *http.Request) error {
	var request ReloadRequest
	if err := readJSON(r, &request); err != nil {
		return err
	}
	result, err := s.backend.ReloadFile(r.Context(), request)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, result)
	return nil
}
