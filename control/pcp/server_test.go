package pcp

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane"
)

// fakeGate gives nobody a port: requests that reach it show as its error.
type fakeGate struct {
	err     error
	keep    bool
	area    string
	asked   []dataplane.PortRequest
	returns int
}

func (g *fakeGate) AreaTowards(netip.Addr) string { return g.area }
func (g *fakeGate) ExternalAddress(netip.Addr) (netip.Addr, error) {
	return netip.MustParseAddr("203.0.113.1"), g.err
}
func (g *fakeGate) RequestPort(q dataplane.PortRequest) (*dataplane.RequestedPort, error) {
	g.asked = append(g.asked, q)
	if g.err != nil {
		return nil, g.err
	}
	return new(dataplane.RequestedPort), nil
}
func (g *fakeGate) KeepPort(*dataplane.RequestedPort) bool { return g.keep }
func (g *fakeGate) ReturnPort(*dataplane.RequestedPort)    { g.returns++ }

var (
	start  = time.Unix(1000, 0)
	client = netip.MustParseAddr("10.0.0.5")
)

func newServer(t testing.TB) (*Server, *fakeGate) {
	g := &fakeGate{area: "lan", keep: true}
	return NewServer(g, slog.New(slog.DiscardHandler), Terms{Areas: []string{"lan"}, LifetimeMax: time.Hour, MaxPerClient: 2}, start), g
}

// mapRequest makes a MAP request for UDP.
func mapRequest(inside uint16, lifetime time.Duration, nonce byte, options ...byte) []byte {
	b := make([]byte, headerSize+mapSize)
	b[0], b[1] = version, opMap
	binary.BigEndian.PutUint32(b[4:], uint32(lifetime/time.Second))
	a := client.As16()
	copy(b[8:], a[:])
	b[24], b[36] = nonce, tuple.UDP
	binary.BigEndian.PutUint16(b[40:], inside)
	binary.BigEndian.PutUint16(b[42:], 7000)
	a = netip.IPv4Unspecified().As16()
	copy(b[44:], a[:])
	return append(b, options...)
}

// answer is what a test looks at in a response.
type answer struct {
	result   Result
	lifetime time.Duration
	epoch    uint32
}

func (s *Server) ask(t testing.TB, b []byte, now time.Time) answer {
	t.Helper()
	out := s.Handle(b, client, now)
	if len(out) < headerSize || len(out)%4 != 0 || len(out) > maxMessage || out[0] != version || out[1]&isResponse == 0 {
		t.Fatalf("no proper response: %x", out)
	}
	return answer{Result(out[3]), time.Duration(binary.BigEndian.Uint32(out[4:])) * time.Second, binary.BigEndian.Uint32(out[8:])}
}

func edit(b []byte, at int, v ...byte) []byte {
	copy(b[at:], v)
	return b
}

func TestRequestsThatAreRefused(t *testing.T) {
	for _, tt := range []struct {
		claim string
		b     []byte
		want  Result
	}{
		{"a version of the future", edit(mapRequest(4000, time.Hour, 1), 0, 3), UnsuppVersion},
		{"PEER", edit(mapRequest(4000, time.Hour, 1), 1, 2), UnsuppOpcode},
		{"a header cut short", mapRequest(4000, time.Hour, 1)[:20], MalformedRequest},
		{"a MAP cut short", mapRequest(4000, time.Hour, 1)[:56], MalformedRequest},
		{"an odd length", mapRequest(4000, time.Hour, 1, 0), MalformedRequest},
		{"too long a message", mapRequest(4000, time.Hour, 1, make([]byte, 1044)...), MalformedRequest},
		{"an option cut short", mapRequest(4000, time.Hour, 1, 200, 0, 0, 4), MalformedOption},
		{"PREFER_FAILURE with data", mapRequest(4000, time.Hour, 1, 2, 0, 0, 4, 0, 0, 0, 0), MalformedOption},
		{"PREFER_FAILURE twice", mapRequest(4000, time.Hour, 1, 2, 0, 0, 0, 2, 0, 0, 0), MalformedOption},
		{"THIRD_PARTY", mapRequest(4000, time.Hour, 1, append([]byte{1, 0, 0, 16}, make([]byte, 16)...)...), UnsuppOption},
		{"FILTER", mapRequest(4000, time.Hour, 1, append([]byte{3, 0, 0, 20}, make([]byte, 20)...)...), UnsuppOption},
		{"another address than the packet's", edit(mapRequest(4000, time.Hour, 1), 23, 6), AddressMismatch},
		{"a port of every protocol", edit(mapRequest(4000, time.Hour, 1), 36, 0), MalformedRequest},
		{"all ports", mapRequest(0, time.Hour, 1), UnsuppProtocol},
		{"ICMP", edit(mapRequest(4000, time.Hour, 1), 36, 1), UnsuppProtocol},
	} {
		s, g := newServer(t)
		if got := s.ask(t, tt.b, start); got.result != tt.want || got.lifetime != tt.want.errorLifetime() || len(g.asked) != 0 {
			t.Errorf("%s: %v for %v, %d ports asked for; want %v", tt.claim, got.result, got.lifetime, len(g.asked), tt.want)
		}
		if _, results := s.Stats(); results[tt.want] != 1 {
			t.Errorf("%s: not counted", tt.claim)
		}
	}
}

func TestAnswersOfTheDataPathAreResults(t *testing.T) {
	for err, want := range map[error]Result{
		dataplane.ErrNotTranslated: NotAuthorized, dataplane.ErrNotAllowed: NotAuthorized, dataplane.ErrNoNetwork: NetworkFailure,
		dataplane.ErrPortTaken: CannotProvideExternal, dataplane.ErrPortQuota: UserExQuota, dataplane.ErrNoPort: NoResources,
	} {
		s, g := newServer(t)
		g.err = err
		if got := s.ask(t, mapRequest(4000, time.Hour, 1), start); got.result != want {
			t.Errorf("%v: %v, want %v", err, got.result, want)
		}
	}
	s, g := newServer(t)
	g.area = "guest"
	if got := s.ask(t, mapRequest(4000, time.Hour, 1), start); got.result != NotAuthorized {
		t.Errorf("a host of another area: %v", got.result)
	}
}

func TestNobodyIsAnsweredWhoDidNotAsk(t *testing.T) {
	s, _ := newServer(t)
	for _, b := range [][]byte{nil, {2}, {2, isResponse | opMap, 0, 0}, {0, isResponse | pmpUDP, 0, 0}} {
		if out := s.Handle(b, client, start); out != nil {
			t.Errorf("%x is answered with %x", b, out)
		}
	}
}

func TestRecordLivesAsLongAsItIsRenewed(t *testing.T) {
	s, g := newServer(t)
	for _, tt := range []struct{ asked, want time.Duration }{{time.Second, lifetimeMin}, {10 * time.Minute, 10 * time.Minute}, {48 * time.Hour, time.Hour}} {
		if got := s.ask(t, mapRequest(4000, tt.asked, 1), start.Add(time.Minute)); got != (answer{Success, tt.want, 60}) {
			t.Errorf("asked for %v: %+v, want %v", tt.asked, got, tt.want)
		}
	}
	if len(g.asked) != 1 || g.asked[0].Inside != netip.AddrPortFrom(client, 4000) || g.asked[0].Suggested.Port() != 7000 {
		t.Errorf("asked the data path %+v, want once", g.asked)
	}
	s.Expire(start.Add(time.Minute + time.Hour - 1))
	if g.returns != 0 {
		t.Error("returned before its time")
	}
	s.Expire(start.Add(time.Minute + time.Hour))
	if n, _ := s.Stats(); g.returns != 1 || n != 0 {
		t.Errorf("returned %d times, %d records", g.returns, n)
	}
}

func TestRecordIsItsMakersOnly(t *testing.T) {
	s, g := newServer(t)
	s.ask(t, mapRequest(4000, time.Hour, 1), start)
	for claim, b := range map[string][]byte{"renewal": mapRequest(4000, time.Hour, 2), "deletion": mapRequest(4000, 0, 2)} {
		if got := s.ask(t, b, start); got.result != NotAuthorized {
			t.Errorf("%s with another nonce: %v", claim, got.result)
		}
	}
	pmp := []byte{0, pmpUDP, 0, 0, 4000 >> 8, 4000 & 0xff, 0, 0, 0, 0, 0, 0}
	if out := s.Handle(pmp, client, start); out[3] != 2 {
		t.Errorf("deletion by NAT-PMP: %x, want not authorized", out)
	}
	if got := s.ask(t, mapRequest(4000, 0, 1), start); got.result != Success || got.lifetime != 0 || g.returns != 1 {
		t.Errorf("deletion by its maker: %+v, returned %d times", got, g.returns)
	}
	if got := s.ask(t, mapRequest(4000, 0, 1), start); got.result != Success {
		t.Errorf("deletion of what is gone: %v", got.result)
	}
}

func TestClientHasABoundedNumberOfRecords(t *testing.T) {
	s, _ := newServer(t)
	for port, want := range []Result{Success, Success, UserExQuota} {
		if got := s.ask(t, mapRequest(uint16(4000+port), time.Hour, 1), start); got.result != want {
			t.Errorf("record %d: %v, want %v", port+1, got.result, want)
		}
	}
	s.ask(t, mapRequest(4000, 0, 1), start)
	if got := s.ask(t, mapRequest(4009, time.Hour, 1), start); got.result != Success {
		t.Errorf("after a deletion: %v", got.result)
	}
}

func TestEpochBeginsAnewWhenRecordsAreLost(t *testing.T) {
	s, g := newServer(t)
	s.ask(t, mapRequest(4000, time.Hour, 1), start)
	later := start.Add(time.Minute)
	s.Renew(s.terms, later)
	announce := mapRequest(0, 0, 0)[:headerSize]
	announce[1] = opAnnounce
	if got := s.ask(t, announce, later); got != (answer{Success, 0, 60}) {
		t.Errorf("nothing was lost: %+v", got)
	}
	g.keep = false
	s.Renew(s.terms, later)
	if got := s.ask(t, announce, later); got != (answer{Success, 0, 0}) || g.returns != 1 {
		t.Errorf("after a loss: %+v, returned %d times", got, g.returns)
	}
	s.Close()
	if out := s.Handle(announce, client, later); out != nil {
		t.Errorf("a closed server answers %x", out)
	}
}

func TestPMP(t *testing.T) {
	s, g := newServer(t)
	now := start.Add(258 * time.Second)
	for _, tt := range []struct{ claim, ask, want string }{
		{"external address", "0000", "00800000 00000102 cb007101"},
		{"UDP", "00010000 0fa01b58 00000e10", "00810000 00000102 0fa00000 00000e10"},
		{"TCP", "00020000 0fa01b58 00000e10", "00820000 00000102 0fa00000 00000e10"},
		{"one too many", "00020000 0fa11b58 00000e10", "00820004 00000102 0fa10000 00000000"},
		{"deletion", "00010000 0fa00000 00000000", "00810000 00000102 0fa00000 00000000"},
		{"deletion of all", "00020000 00000000 00000000", "00820000 00000102 00000000 00000000"},
		{"an opcode it does not have", "0003", "00830005 00000102"},
	} {
		ask, _ := hex.DecodeString(strings.ReplaceAll(tt.ask, " ", ""))
		want, _ := hex.DecodeString(strings.ReplaceAll(tt.want, " ", ""))
		if got := s.Handle(ask, client, now); !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %x", tt.claim, got, want)
		}
	}
	if n, _ := s.Stats(); n != 0 || g.returns != 2 {
		t.Errorf("%d records are left, %d returned", n, g.returns)
	}
}

// deaf is a socket that gives a request twice and can not send.
type deaf struct {
	net.PacketConn
	reads, writes int
}

func (d *deaf) ReadFrom(b []byte) (int, net.Addr, error) {
	if d.reads++; d.reads > 2 {
		return 0, nil, net.ErrClosed
	}
	return copy(b, mapRequest(4000, time.Hour, 1)), net.UDPAddrFromAddrPort(netip.AddrPortFrom(client, 5350)), nil
}

func (d *deaf) WriteTo([]byte, net.Addr) (int, error) {
	d.writes++
	return 0, errors.New("no buffer space")
}

func TestAnswerThatIsNotSentDoesNotEndTheService(t *testing.T) {
	s, _ := newServer(t)
	d := new(deaf)
	if err := s.Serve(d); !errors.Is(err, net.ErrClosed) || d.writes != 2 {
		t.Errorf("ended with %v after %d answers, want both and the end of the socket", err, d.writes)
	}
}

// FuzzHandle checks that whatever is sent is answered properly or not at all.
func FuzzHandle(f *testing.F) {
	f.Add(mapRequest(4000, time.Hour, 1, 2, 0, 0, 0))
	f.Add(mapRequest(4000, 0, 1))
	f.Add([]byte{0, pmpTCP, 0, 0, 15, 160, 27, 88, 0, 0, 14, 16})
	f.Add([]byte{3, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, _ := newServer(t)
		asked := bytes.Clone(b)
		out := s.Handle(b, client, start)
		switch {
		case !bytes.Equal(asked, b):
			t.Error("the request was changed")
		case out == nil:
		case len(out) > maxMessage || len(out) < 8 || out[1] != asked[1]|isResponse:
			t.Errorf("answer %x to %x", out, asked)
		}
	})
}

func TestAllClientsTogetherHaveABoundedNumberOfRecords(t *testing.T) {
	s, _ := newServer(t)
	s.terms.MaxRecords = 1
	for port, want := range []Result{Success, NoResources} {
		if got := s.ask(t, mapRequest(uint16(4000+port), time.Hour, byte(port)), start); got.result != want {
			t.Errorf("record %d of 1: %v, want %v", port+1, got.result, want)
		}
	}
	if _, results := s.Stats(); results[NoResources] != 1 {
		t.Errorf("%d refusals counted, want 1", results[NoResources])
	}
}
