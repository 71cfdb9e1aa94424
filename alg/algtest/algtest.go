// Package algtest runs a conversation through a helper without an engine: what each
// side gets, and what was announced. It is for the tests of helpers, and for looking
// at what one does.
//
//	got, err := algtest.Everywhere(algtest.Config{Helper: ftp.Helper{}},
//		algtest.Say{Text: "PORT 10,0,0,5,156,65\r\n"},
//		algtest.Say{Dir: tuple.Reply, Text: "200 fine\r\n"})
//
// A client 10.0.0.5 behind 203.0.113.1 talks with a server 198.51.100.7, if Config
// says nothing else.
package algtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/alg/offline"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack/tuple"
)

// Config is a flow with its helper.
type Config struct {
	Helper  alg.Helper
	Options alg.Options
	Proto   uint8                             // default: the first that the helper reads
	Tuple   [tuple.NumDirections]tuple.Tuple  // of the flow; default: see the package comment
	Taken   []uint16                          // external ports that are not free
	Freed   int                               // after so many announcements Taken are free; 0: never
	History stream.History                    // whether the helper sees the flow from its start
	Refuse  error                             // what every announcement gets; nil: what an engine says
	SeenAs  map[netip.AddrPort]netip.AddrPort // mappings of other flows
	Subnet  netip.Prefix                      // whose broadcast address the flow goes to
	Moved   bool                              // behind each message another process goes on with the flow
}

// Say is what one side sends: of a stream some bytes, or one datagram.
type Say struct {
	Dir  tuple.Direction
	Text string
}

// Result is what became of a conversation.
type Result struct {
	Got       [tuple.NumDirections][]string // what the receivers got: one text of a stream, or each datagram
	Announced []string                      // and withdrawn, in order, as offline.Gateway writes them
	Refused   []string                      // announcements that were refused, with the reason
	Kept      time.Duration                 // the longest time that the flow was kept for
	Events    [stream.NumEvents]uint32
	Helped    bool // the helper is still there
}

// flow returns the tuples of the usual flow.
func flow(proto uint8, port uint16) [tuple.NumDirections]tuple.Tuple {
	addr := func(s string) tuple.Addr { return tuple.AddrFrom(netip.MustParseAddr(s)) }
	out := tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr("198.51.100.7"), SrcPort: 40000, DstPort: port, Proto: proto, Family: tuple.IPv4}
	back, _ := out.Inverse()
	back.Dst = addr("203.0.113.1")
	return [tuple.NumDirections]tuple.Tuple{out, back}
}

// Run takes a conversation through a helper. Each Say is one segment or datagram, and
// arrives.
func Run(c Config, says ...Say) Result {
	at := alg.Attach(c.Helper, c.Options)
	sp := &at.Spec
	if c.Proto == 0 {
		c.Proto = sp.Protos[0]
	}
	f := alg.Flow{Tuple: c.Tuple}
	if f.Tuple == ([tuple.NumDirections]tuple.Tuple{}) {
		f.Tuple = flow(c.Proto, sp.Port)
	}
	g := &gateway{cfg: &c, Gateway: offline.Gateway{Spec: at.Spec, Taken: c.Taken, Freed: c.Freed, Refuse: c.Refuse, Mapped: c.SeenAs, Net: c.Subnet}}
	s := stream.New(&at, f, stream.Limits{})
	g.moved = func(s *stream.Session) *stream.Session { return moved(s, &at, f) }
	if f.Stream() {
		s = g.stream(s, says)
	} else {
		for _, say := range says {
			got, _ := s.Datagram(say.Dir, []byte(say.Text), g)
			g.res.Got[say.Dir] = append(g.res.Got[say.Dir], string(got))
			if c.Moved {
				s = g.moved(s)
			}
		}
	}
	g.res.Events, g.res.Helped = s.Events, s.Helped()
	g.res.Announced, g.res.Refused, g.res.Kept = g.Announced, g.Refused, g.Kept
	return g.res
}

// moved returns what another process goes on with in place of s.
func moved(s *stream.Session, at *alg.Attachment, f alg.Flow) *stream.Session {
	text, err := json.Marshal(s.Save())
	if err != nil {
		panic(err)
	}
	var v stream.Saved
	if err := json.Unmarshal(text, &v); err != nil {
		panic(err)
	}
	next, err := stream.Resume(at, f, stream.Limits{}, &v)
	if err != nil {
		panic(err)
	}
	for i := range next.Events {
		next.Events[i] += s.Events[i]
	}
	return next
}

// stream says everything in segments, whose receivers acknowledge at once. It returns the
// session that is there in the end.
func (g *gateway) stream(s *stream.Session, says []Say) *stream.Session {
	var next [tuple.NumDirections]uint32 // of each sender
	var got [tuple.NumDirections][]byte
	for d := range next {
		next[d] = uint32(1000 * (d + 1))
		s.Begin(tuple.Direction(d), next[d], g.cfg.History)
	}
	send := func(d tuple.Direction, b []byte, last stream.Last) {
		out := s.Segment(d, next[d], b, last, g)
		next[d] += uint32(len(b))
		switch out.Fate {
		case stream.AsItIs:
			got[d] = append(got[d], b...)
		case stream.Rewritten:
			for _, p := range out.Pieces() {
				got[d] = append(got[d], p.Data...)
			}
		}
		s.Acked(d.Other(), uint32(1000*(int(d)+1)+len(got[d])))
	}
	for _, say := range says {
		send(say.Dir, []byte(say.Text), stream.More)
		if g.cfg.Moved {
			s = g.moved(s)
		}
	}
	for d := range next {
		send(tuple.Direction(d), nil, stream.Fin)
		g.res.Got[d] = []string{string(got[d])}
	}
	return s
}

// Everywhere runs a conversation as it is, and then cut into two at every byte, and
// byte by byte; and as it is and byte by byte with another process for each message and
// byte. The error says where the result differs.
func Everywhere(c Config, says ...Say) (Result, error) {
	want := Run(c, says...)
	check := func(how string, cut []Say) error {
		got := Run(c, cut...)
		got.Events = want.Events // how often the parser was called is its own affair
		if !reflect.DeepEqual(got, want) {
			return fmt.Errorf("%s: got\n%+v, want\n%+v", how, got, want)
		}
		return nil
	}
	var single []Say
	for i, say := range says {
		for at := range len(say.Text) {
			single = append(single, Say{say.Dir, say.Text[at : at+1]})
			if at == 0 {
				continue
			}
			cut := slices.Concat(says[:i], []Say{{say.Dir, say.Text[:at]}, {say.Dir, say.Text[at:]}}, says[i+1:])
			if err := check(fmt.Sprintf("message %d cut after byte %d of %d", i, at, len(say.Text)), cut); err != nil {
				return want, err
			}
		}
	}
	if err := check("byte by byte", single); err != nil {
		return want, err
	}
	c.Moved = true
	if err := check("from process to process", says); err != nil {
		return want, err
	}
	if f := c.Tuple[tuple.Original].Proto; f != 0 && f != tuple.TCP || c.Proto == tuple.UDP {
		return want, nil // a datagram has no parts
	}
	return want, check("byte by byte, from process to process", single)
}

// gateway collects what becomes of a conversation.
type gateway struct {
	offline.Gateway
	cfg   *Config
	res   Result
	moved func(*stream.Session) *stream.Session
}

// Differs compares a result with what was wanted: what each receiver got, and what was
// announced. Of a stream, the texts are joined.
func (r *Result) Differs(original, reply string, announced ...string) error {
	var errs []error
	for d, want := range [...]string{original, reply} {
		got := ""
		for _, text := range r.Got[d] {
			got += text
		}
		if got != want {
			errs = append(errs, fmt.Errorf("%v: got %q, want %q", tuple.Direction(d), got, want))
		}
	}
	if !slices.Equal(r.Announced, announced) {
		errs = append(errs, fmt.Errorf("announced %q, want %q", r.Announced, announced))
	}
	return errors.Join(errs...)
}
