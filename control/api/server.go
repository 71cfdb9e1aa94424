package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/control/journal"
)

// Backend is what the server asks of a gateway. Its methods are safe for
// concurrent use. Errors wrap ErrRefused, ErrNotFound or ErrExists where these
// say what went wrong.
type Backend interface {
	Status() Status
	Stuck(ctx context.Context) []string // what does not go on; not nil
	Rules() []Rule
	RuleCounters() []RuleCounter
	Config() Config
	Counters() []Counter
	Helpers() []Helper
	Log() (Log, error)
	SetLog(change LogChange) error
	Exports() []Export
	PortMappings() []PortMapping
	Table() *conntrack.Table
	Events() *journal.Recorder // nil: not running
	Accounting() bool          // packet and byte counters are printed
	InsertFlow(in *Insertion) error
	Why(f *conntrack.Flow) Why
	Explain(p Probe) (Explanation, error)
	Watch(q WatchRequest) (Watching, error)
	SaveSnapshot(w io.Writer) error
	RestoreSnapshot(b []byte) (RestoreResult, error) // keeps nothing of b
	SnapshotLimit() int64                            // the largest that there can be, bytes
	ReloadFile(ctx context.Context, r ReloadRequest) (ReloadResult, error)
	AddInterface(ctx context.Context, spec InterfaceSpec) error
	RemoveInterface(ctx context.Context, name string) error
	Upgrade(ctx context.Context, r UpgradeRequest) (UpgradeResult, error)
}

// Bounds of a request.
const (
	maxBody    = 1 << 20          // of its body, bytes
	maxHeader  = 16 << 10         // of its first line and header, bytes, which net/http exceeds by 4 KiB
	headerTime = 10 * time.Second // for its first line and header
	bodyTime   = 30 * time.Second // for its body
	idleTime   = 2 * time.Minute  // until the next one on its connection
)

// Server serves the API of one gateway.
type Server struct {
	MaxLocal int // connections to the socket, 0: 256; set it before Serve

	backend Backend
	log     *slog.Logger
	http    http.Server        // of the socket
	remote  http.Server        // of the TCP listener
	cancel  context.CancelFunc // ends the event streams
	tops    chan struct{}      // holds one for each reader of Tops

	gate sync.RWMutex // requests that change something have a part of it, see Hold
	left atomic.Bool  // to another process

	credentials  atomic.Pointer[Credentials] // of the TCP listener
	refused      atomic.Uint64               // connections beyond a bound
	unauthorized atomic.Uint64               // requests without the token

	mu     sync.Mutex            // guards the rest
	silent map[net.Conn]struct{} // connections that have not asked anything yet
	toldAt time.Time             // that requests were unauthorized
}

// NewServer returns a server for backend. More holds handlers of others by their
// patterns in routes, "GET /metrics" for one; it may be nil.
func NewServer(backend Backend, log *slog.Logger, more map[string]http.Handler) *Server {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{backend: backend, log: log, cancel: cancel, tops: make(chan struct{}, topReaders), silent: make(map[net.Conn]struct{})}
	mux := s.mux(more)
	s.http = http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withPeer,
		ConnState:         s.connState,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	s.remote = http.Server{
		Handler:           s.authorized(mux),
		TLSConfig:         s.tlsConfig(),
		ReadHeaderTimeout: headerTime, // and for the handshake
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       s.http.BaseContext,
		ConnState:         s.connState,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug), // what scanners do is not worth more
	}
	return s
}

// Serve answers on l, a unix socket, until Shutdown, which is no error.
func (s *Server) Serve(l net.Listener) error {
	most := cmp.Or(s.MaxLocal, localRoom)
	bound := &bounded{Listener: l, limit: int64(most), refusal: busyAnswer(most), refused: &s.refused}
	if err := s.http.Serve(bound); !errors.Is(err, http.ErrServerClosed) {
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
	err := errors.Join(s.http.Shutdown(ctx), s.remote.Shutdown(ctx))
	if ctx.Err() != nil {
		s.log.Warn("requests were cut off", "reason", ctx.Err())
		return errors.Join(s.http.Close(), s.remote.Close())
	}
	return err
}

// answer makes the handler of a request that asks for what the backend knows.
func answer[T any](what func() T) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, _ *http.Request) error {
		writeJSON(w, http.StatusOK, what())
		return nil
	}
}

// live says whether the gateway can do its work.
func (s *Server) live(w http.ResponseWriter, r *http.Request) error {
	l, code := Liveness{Stuck: s.backend.Stuck(r.Context())}, http.StatusOK
	if l.Live = len(l.Stuck) == 0; !l.Live {
		code = http.StatusServiceUnavailable
	}
	writeJSON(w, code, l)
	return nil
}

func (s *Server) ports(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, append([]PortUse{}, s.backend.Status().Ports...))
	return nil
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
	if err := mayNameFile(r, request.Config); err != nil {
		return err
	}
	result, err := s.backend.ReloadFile(r.Context(), request)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, result)
	return nil
}

func (s *Server) levels(w http.ResponseWriter, _ *http.Request) error {
	l, err := s.backend.Log()
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, l)
	return nil
}

func (s *Server) setLog(w http.ResponseWriter, r *http.Request) error {
	var change LogChange
	if err := readJSON(r, &change); err != nil {
		return err
	}
	if err := s.backend.SetLog(change); err != nil {
		return err
	}
	return s.levels(w, r)
}
