package pcp

import (
	"cmp"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane"
	"example.com/culvert/rules"
)

// Gate is the data path as the server needs it; *dataplane.Engine is one.
type Gate interface {
	AreaTowards(netip.Addr) string
	ExternalAddress(inside netip.Addr) (netip.Addr, error)
	RequestPort(dataplane.PortRequest) (*dataplane.RequestedPort, error)
	KeepPort(*dataplane.RequestedPort) bool
	ReturnPort(*dataplane.RequestedPort)
}

// Terms bound what clients may have.
type Terms struct {
	Areas        []string // that clients live in
	LifetimeMax  time.Duration
	MaxPerClient int
	MaxRecords   int // of all clients; 0: 65536
}

const (
	// lifetimeMin is the shortest life of a record, RFC 6887 section 15: 120 s.
	lifetimeMin    = 2 * time.Minute
	defaultRecords = 1 << 16
)

// Server gives ports to clients. Its methods are safe for concurrent use.
type Server struct {
	gate Gate
	log  *slog.Logger

	mu      sync.Mutex // guards what follows, and serializes requests
	terms   Terms
	began   time.Time // the epoch
	records map[endpoint]*record
	clients map[netip.Addr]int // records of each
	results Results
	closed  bool
}

// endpoint is what a record is about.
type endpoint struct {
	proto  uint8
	inside netip.AddrPort
}

// record is a port that a client has.
type record struct {
	endpoint
	maker maker
	port  *dataplane.RequestedPort
	until time.Time
}

// NewServer makes a server without records; its epoch begins.
func NewServer(gate Gate, log *slog.Logger, terms Terms, now time.Time) *Server {
	return &Server{gate: gate, log: log, terms: terms, began: now, records: make(map[endpoint]*record), clients: make(map[netip.Addr]int)}
}

// Serve answers on conn until that is closed.
func (s *Server) Serve(conn net.PacketConn) error {
	b := make([]byte, maxMessage+1) // one more: too long is seen
	for {
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			return err
		}
		client, err := netip.ParseAddrPort(from.String())
		if err != nil {
			return err
		}
		out := s.Handle(b[:n], client.Addr().Unmap(), time.Now())
		if out == nil {
			continue
		}
		if _, err := conn.WriteTo(out, from); err != nil { // it asks again
			s.log.Debug("answer about a port was not sent", "client", client.String(), "error", err)
		}
	}
}

// Handle returns the answer to a request from a client, nil for none.
func (s *Server) Handle(b []byte, from netip.Addr, now time.Time) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(b) < pmpHeader || b[1]&isResponse != 0 {
		return nil
	}
	var out []byte
	var why Result
	switch {
	case b[0] == 0:
		out, why = s.handlePMP(b, from, now)
	case b[0] != version:
		why = UnsuppVersion
		out = refusal(b, why, s.epoch(now))
	default:
		out, why = s.handle(b, from, now)
	}
	s.results[why]++
	return out
}

// handle answers a PCP request. s.mu must be held, as for all below.
func (s *Server) handle(b []byte, from netip.Addr, now time.Time) ([]byte, Result) {
	q, why := parse(b)
	if why == Success && q.client != from {
		why = AddressMismatch
	}
	if why == Success {
		why = s.authorize(from)
	}
	if why != Success {
		return refusal(b, why, s.epoch(now)), why
	}
	if q.opcode == opAnnounce {
		return header(b, Success, 0, s.epoch(now)), Success
	}
	r, why := s.serveMap(&q, now)
	switch {
	case why != Success:
		return refusal(b, why, s.epoch(now)), why
	case r == nil: // deleted
		return q.grant(b, q.suggested, 0, s.epoch(now)), Success
	}
	return q.grant(b, r.port.External(), r.until.Sub(now), s.epoch(now)), Success
}

// epoch is how long the server has known its records, RFC 6887 section 8.5.
func (s *Server) epoch(now time.Time) uint32 { return seconds(now.Sub(s.began)) }

// authorize reports whether a client may ask.
func (s *Server) authorize(from netip.Addr) Result {
	if !slices.Contains(s.terms.Areas, s.gate.AreaTowards(from)) {
		return NotAuthorized
	}
	return Success
}

// serveMap makes or renews a record, or deletes it and returns none.
func (s *Server) serveMap(q *request, now time.Time) (*record, Result) {
	switch {
	case q.proto == 0 && q.inside != 0:
		return nil, MalformedRequest
	case !tuple.HasPorts(q.proto) || q.inside == 0:
		return nil, UnsuppProtocol
	}
	at := endpoint{q.proto, netip.AddrPortFrom(q.client, q.inside)}
	r := s.records[at]
	if r != nil && !now.Before(r.until) {
		s.end(r, "expired")
		r = nil
	}
	switch {
	case r != nil && r.maker != q.maker:
		return nil, NotAuthorized
	case q.lifetime == 0:
		if r != nil {
			s.end(r, "deleted")
		}
		return nil, Success
	case r != nil && q.preferFailure && !suits(q.suggested, r.port.External()):
		return nil, CannotProvideExternal
	case r == nil:
		var why Result
		if r, why = s.begin(at, q); why != Success {
			return nil, why
		}
	}
	r.until = now.Add(min(max(q.lifetime, lifetimeMin), max(s.terms.LifetimeMax, lifetimeMin)))
	return r, Success
}

// suits reports whether an external endpoint is what was suggested.
func suits(suggested, external netip.AddrPort) bool {
	a, port := suggested.Addr(), suggested.Port()
	return (a.IsUnspecified() || a == external.Addr()) && (port == 0 || port == external.Port())
}

// begin makes a record.
func (s *Server) begin(at endpoint, q *request) (*record, Result) {
	if s.clients[q.client] >= s.terms.MaxPerClient {
		return nil, UserExQuota
	}
	if len(s.records) >= cmp.Or(s.terms.MaxRecords, defaultRecords) {
		return nil, NoResources
	}
	ask := dataplane.PortRequest{Proto: q.proto, Inside: at.inside, Suggested: q.suggested}
	if q.preferFailure {
		ask.Choice = dataplane.SuggestedOnly
	}
	port, err := s.gate.RequestPort(ask)
	if err != nil {
		return nil, resultOf(err)
	}
	r := &record{endpoint: at, maker: q.maker, port: port}
	s.records[at] = r
	s.clients[q.client]++
	s.tell("port mapped", r)
	return r, Success
}

// end takes a record away.
func (s *Server) end(r *record, why string) {
	s.gate.ReturnPort(r.port)
	delete(s.records, r.endpoint)
	if s.clients[r.inside.Addr()]--; s.clients[r.inside.Addr()] == 0 {
		delete(s.clients, r.inside.Addr())
	}
	s.tell("port mapping "+why, r)
}

func (s *Server) tell(what string, r *record) {
	s.log.Info(what, "client", r.inside.String(), "protocol", rules.ProtoName(r.proto), "external", r.port.External().String())
}

// deleteAll ends the records that a client of NAT-PMP has for a protocol.
func (s *Server) deleteAll(q *request) {
	for _, r := range s.records {
		if r.inside.Addr() == q.client && r.proto == q.proto && r.maker == q.maker {
			s.end(r, "deleted")
		}
	}
}

// results by what the data path says.
var resultsOf = []struct {
	err error
	why Result
}{
	{dataplane.ErrNotTranslated, NotAuthorized},
	{dataplane.ErrNotAllowed, NotAuthorized},
	{dataplane.ErrNoNetwork, NetworkFailure},
	{dataplane.ErrPortTaken, CannotProvideExternal},
	{dataplane.ErrPortQuota, UserExQuota},
}

func resultOf(err error) Result {
	for _, r := range resultsOf {
		if errors.Is(err, r.err) {
			return r.why
		}
	}
	if err != nil {
		return NoResources
	}
	return Success
}

// Expire ends the records whose time is over.
func (s *Server) Expire(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.records {
		if !now.Before(r.until) {
			s.end(r, "expired")
		}
	}
}

// Renew gives the server other terms, when the configuration or what the gateway
// works with has changed. Records that nobody would give any more end, and the epoch
// begins anew.
func (s *Server) Renew(terms Terms, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.terms = terms
	if s.closed {
		return
	}
	for _, r := range s.records {
		if s.authorize(r.inside.Addr()) != Success || !s.gate.KeepPort(r.port) {
			s.end(r, "lost")
			s.began = now
		}
	}
}

// Close ends all records; no answer is given any more.
func (s *Server) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.records {
		s.end(r, "ended")
	}
	s.closed = true
}

// Mapping is a record as the outside sees it.
type Mapping struct {
	Proto            uint8
	Inside, External netip.AddrPort
	Until            time.Time
}

// Mappings returns what clients have, by inside endpoint.
func (s *Server) Mappings() []Mapping {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Mapping, 0, len(s.records))
	for _, r := range s.records {
		all = append(all, Mapping{r.proto, r.inside, r.port.External(), r.until})
	}
	slices.SortFunc(all, func(a, b Mapping) int {
		return cmp.Or(a.Inside.Compare(b.Inside), cmp.Compare(a.Proto, b.Proto))
	})
	return all
}

// Results counts requests by Result.
type Results [numResults]uint64

// Stats returns how many records there are, and how many requests ended how.
func (s *Server) Stats() (records int, results Results) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records), s.results
}
