package api

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/ctfmt"
	"example.com/culvert/conntrack/tuple"
)

// Tuple identifies the packets of one direction of a flow.
type Tuple struct {
	Proto string     `json:"proto"` // name or number
	Src   netip.Addr `json:"src"`
	Dst   netip.Addr `json:"dst"`
	Sport uint16     `json:"sport"` // of ICMP the id
	Dport uint16     `json:"dport"` // of ICMP the type and, in the lower byte, the code
	Zone  uint16     `json:"zone,omitempty"`
}

// Mask says which bits of the source of an expected packet matter.
type Mask struct {
	Src   netip.Addr `json:"src,omitzero"` // left out: all
	Sport uint16     `json:"sport"`
}

// Expectation is a flow that was announced and that belongs to another one, its
// master. To create one, Tuple, Master and Timeout are needed.
type Expectation struct {
	Tuple   Tuple    `json:"tuple"`
	Mask    Mask     `json:"mask"`
	Master  Tuple    `json:"master"`  // in either direction
	Timeout float64  `json:"timeout"` // seconds until it ends
	Class   uint8    `json:"class"`
	Flags   []string `json:"flags"` // PERMANENT, INACTIVE, USERSPACE
	Helper  string   `json:"helper,omitempty"`
}

// ExpectCount is the answer of /v1/expectations/count.
type ExpectCount struct {
	Expectations int `json:"expectations"`
}

var expectFlags = []struct {
	name string
	bit  conntrack.ExpectFlags
}{
	{"PERMANENT", conntrack.ExpectPermanent},
	{"INACTIVE", conntrack.ExpectInactive},
	{"USERSPACE", conntrack.ExpectUserspace}, // by itself when one is created
}

func tupleFrom(t *tuple.Tuple) Tuple {
	proto := tuple.ProtoName(t.Proto)
	if proto == "unknown" {
		proto = strconv.Itoa(int(t.Proto))
	}
	return Tuple{Proto: proto, Src: t.Src.Netip(), Dst: t.Dst.Netip(), Sport: t.SrcPort, Dport: t.DstPort, Zone: t.Zone}
}

// tuple checks t, which what calls it in errors, and converts it.
func (t *Tuple) tuple(what string) (tuple.Tuple, error) {
	proto, err := ParseProto(t.Proto)
	if err != nil {
		return tuple.Tuple{}, fmt.Errorf("%w: %s: %w", errBadRequest, what, err)
	}
	src, dst := t.Src.Unmap(), t.Dst.Unmap()
	if !src.IsValid() || !dst.IsValid() || src.Is4() != dst.Is4() || src.Zone()+dst.Zone() != "" {
		return tuple.Tuple{}, fmt.Errorf("%w: %s: want src and dst, both IPv4 or both IPv6", errBadRequest, what)
	}
	k := tuple.Tuple{Src: tuple.AddrFrom(src), Dst: tuple.AddrFrom(dst), SrcPort: t.Sport, DstPort: t.Dport,
		Proto: proto, Family: tuple.IPv4, Zone: t.Zone}
	if src.Is6() {
		k.Family = tuple.IPv6
	}
	return k, nil
}

// readTuple reads a request whose body is a Tuple.
func readTuple(r *http.Request) (tuple.Tuple, error) {
	var request Tuple
	if err := readJSON(r, &request); err != nil {
		return tuple.Tuple{}, err
	}
	return request.tuple("tuple")
}

func expectationFrom(x *conntrack.Expect) *Expectation {
	mask := netip.AddrFrom16(x.Mask.Src)
	if x.Tuple.Family == tuple.IPv4 {
		mask = netip.AddrFrom4(x.Mask.Src.As4())
	}
	out := &Expectation{
		Tuple:   tupleFrom(&x.Tuple),
		Mask:    Mask{Src: mask, Sport: x.Mask.SrcPort},
		Master:  tupleFrom(&x.Master),
		Timeout: x.Timeout.Seconds(),
		Class:   x.Class,
		Flags:   []string{},
		Helper:  x.HelperName,
	}
	for _, f := range expectFlags {
		if x.Flags&f.bit != 0 {
			out.Flags = append(out.Flags, f.name)
		}
	}
	return out
}

// expectation checks x and converts it.
func (x *Expectation) expectation() (master tuple.Tuple, out conntrack.Expectation, timeout conntrack.Tick, err error) {
	if master, err = x.Master.tuple("master"); err != nil {
		return
	}
	if out.Tuple, err = x.Tuple.tuple("tuple"); err != nil {
		return
	}
	out.Mask, out.Class = conntrack.WholeMask(x.Mask.Sport), x.Class
	mask := x.Mask.Src
	switch {
	case mask.Is4() && out.Tuple.Family == tuple.IPv4:
		bits := mask.As4()
		copy(out.Mask.Src[12:], bits[:])
	case mask.Is6() && out.Tuple.Family == tuple.IPv6:
		out.Mask.Src = mask.As16()
	case mask.IsValid():
		return master, out, 0, fmt.Errorf("%w: mask: %v is of another family than the tuple", errBadRequest, mask)
	}
	for _, word := range x.Flags {
		bit := conntrack.ExpectFlags(0)
		for _, f := range expectFlags {
			if f.name == word {
				bit = f.bit
			}
		}
		if bit == 0 {
			return master, out, 0, fmt.Errorf("%w: unknown flag %q; use PERMANENT or INACTIVE", errBadRequest, word)
		}
		out.Flags |= bit
	}
	switch {
	case x.Helper != "":
		err = fmt.Errorf("%w: helper: only helpers themselves announce flows in their name: leave it out", errBadRequest)
	case x.Timeout < 1:
		err = fmt.Errorf("%w: timeout: want at least a second", errBadRequest)
	}
	return master, out, conntrack.Ticks(time.Duration(min(x.Timeout, maxExpectTimeout) * float64(time.Second))), err
}

// maxExpectTimeout keeps the conversion to a time.Duration from overflowing, s.
// The table has a lower limit of its own.
const maxExpectTimeout = 1 << 32

func (l *lines) expectation(x *conntrack.Expect) {
	if l.form == FormJSON {
		l.encode(expectationFrom(x))
		return
	}
	if b := l.buf.AvailableBuffer(); l.form == FormXML {
		l.buf.Write(ctfmt.AppendExpectXML(b, x))
	} else {
		l.buf.Write(ctfmt.AppendExpect(b, x))
	}
	l.buf.WriteByte('\n')
}

// expectations lists them: they are few, so all lines are collected first.
func (s *Server) expectations(w http.ResponseWriter, r *http.Request) error {
	v, err := s.view(r)
	if err != nil {
		return err
	}
	if err := v.ofExpectations(); err != nil {
		return fmt.Errorf("%w: %w", errBadRequest, err)
	}
	out := newLines(w, v)
	s.backend.Table().DumpExpect(func(x *conntrack.Expect) bool {
		if v.wantsExpect(x) {
			out.expectation(x)
		}
		return true
	})
	_ = out.send() // an error: the reader is gone
	return nil
}

// expectation lists the expectation that has a tuple.
func (s *Server) expectation(w http.ResponseWriter, r *http.Request) error {
	v, err := s.view(r)
	if err != nil {
		return err
	}
	k, err := readTuple(r)
	if err != nil {
		return err
	}
	x, err := s.backend.Table().GetExpect(k)
	if err != nil {
		return err
	}
	out := newLines(w, v)
	out.expectation(&x)
	_ = out.send() // an error: the reader is gone
	return nil
}

func (s *Server) countExpectations(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, ExpectCount{s.backend.Table().ExpectLen()})
	return nil
}

func (s *Server) flushExpectations(w http.ResponseWriter, _ *http.Request) error {
	writeJSON(w, http.StatusOK, ExpectCount{s.backend.Table().FlushExpect()})
	return nil
}

func (s *Server) createExpectation(w http.ResponseWriter, r *http.Request) error {
	var request Expectation
	if err := readJSON(r, &request); err != nil {
		return err
	}
	master, x, timeout, err := request.expectation()
	if err != nil {
		return err
	}
	if err := s.backend.Table().CreateExpect(master, x, timeout); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) deleteExpectation(w http.ResponseWriter, r *http.Request) error {
	k, err := readTuple(r)
	if err != nil {
		return err
	}
	if err := s.backend.Table().DeleteExpect(k); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
