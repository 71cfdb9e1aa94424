package vnet

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/ctfmt"
	"example.com/culvert/dataplane"
	"example.com/culvert/rules/config"
)

// RunScript plays the script in a file. Its lines, with # for comments:
//
//	rules  FILE              the configuration, beside the script; first line. Later: reload
//	[TIME] LINK> PACKET      a packet arrives from a link, named by interface or area;
//	                         TIME, in seconds since the start, lets time pass before
//	       LINK< PACKET      the next packet that the gateway sends there; only what is
//	                         written is compared, checksums always
//	       LINK< nothing     the gateway has sent nothing there
//	flow   WORD...           a flow is listed whose line (conntrack -L) has these words in
//	                         this order
//	noflow WORD...           none is; without words: the table is empty
//	count  NAME +N, ...      how much counters have grown since the last count: forwarded,
//	                         delivered, originated, received, dropped (all), or a reason
//	advance DURATION         time passes
//	silent LINK ADDRESS      nobody answers for the address on the link
//
// Packets are written as in these examples:
//
//	tcp 10.0.0.5:40000 > 203.0.113.1:443 S seq 1 win 1000 mss 1460 ttl 64
//	udp [2001:db8::5]:4000 > [2001:db8:1::9]:53 data "question"
//	icmp 10.0.0.5 > 203.0.113.1 echo id 7 seq 1 len 56
//	icmp 203.0.113.9 > 203.0.113.1 error 3/1 { udp 203.0.113.1:4000 > 203.0.113.9:53 }
//	proto 47 10.0.0.5 > 203.0.113.1 len 20
//
// TCP flags are letters of FSRPAU. A packet that the gateway sends and the script does not
// expect before its next arrival, count or end is an error.
func RunScript(t T, path string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s := &script{t: t, dir: filepath.Dir(path), sent: make(map[*Link][][]byte)}
	for i, line := range strings.Split(string(text), "\n") {
		s.at = fmt.Sprintf("%s:%d", path, i+1)
		line, _, _ = strings.Cut(line, "#")
		words, err := tokens(line)
		if err == nil && len(words) > 0 {
			err = s.line(words)
		}
		if err != nil {
			t.Fatalf("%s: %v", s.at, err)
		}
	}
	if s.net == nil {
		t.Fatalf("%s: no rules line", path)
	}
	s.nothingLeft()
}

// script is the state of a script that runs.
type script struct {
	t     T
	dir   string
	at    string // file:line
	net   *Net
	begin int64
	sent  map[*Link][][]byte // by the gateway, not yet expected
	last  map[string]uint64  // counters at the last count
}

func (s *script) line(words []string) error {
	if words[0] == "rules" && len(words) == 2 {
		return s.rules(words[1])
	}
	if s.net == nil {
		return fmt.Errorf("the first line must be: rules FILE")
	}
	if at, err := strconv.ParseFloat(words[0], 64); err == nil && len(words) > 1 {
		if err := s.until(time.Duration(at * float64(time.Second))); err != nil {
			return err
		}
		words = words[1:]
	}
	verb, args := words[0], words[1:]
	switch {
	case strings.HasSuffix(verb, ">"):
		s.nothingLeft()
		return s.arrive(s.net.Link(strings.TrimSuffix(verb, ">")), args)
	case strings.HasSuffix(verb, "<"):
		return s.expect(s.net.Link(strings.TrimSuffix(verb, "<")), args)
	case verb == "flow":
		return s.flow(args)
	case verb == "noflow":
		return s.noflow(args)
	case verb == "count":
		s.nothingLeft()
		return s.count(strings.Join(args, " "))
	case verb == "advance" && len(args) == 1:
		d, err := time.ParseDuration(args[0])
		if err == nil {
			s.net.Advance(d)
		}
		return err
	case verb == "silent" && len(args) == 2:
		a, err := parseAddr(args[1])
		if err == nil {
			s.net.Link(args[0]).Silence(a.Addr())
		}
		return err
	}
	return fmt.Errorf("unknown line %q", strings.Join(words, " "))
}

func (s *script) rules(file string) error {
	cfg, err := config.Load(filepath.Join(s.dir, file))
	if err != nil {
		return err
	}
	if s.net != nil {
		return s.net.reload(cfg)
	}
	s.net = NewConfig(s.t, cfg)
	s.begin = s.net.Now()
	s.last = s.counters()
	return nil
}

// until lets time pass up to d after the start.
func (s *script) until(d time.Duration) error {
	wait := d - time.Duration(s.net.Now()-s.begin)
	if wait < 0 {
		return fmt.Errorf("time %v is over", d)
	}
	s.net.Advance(wait)
	return nil
}

func (s *script) arrive(l *Link, words []string) error {
	d, err := parseOne(words)
	if err != nil {
		return err
	}
	ip, err := d.build()
	if err != nil {
		return err
	}
	l.Send(ip)
	return nil
}

func parseOne(words []string) (*desc, error) {
	d, rest, err := parseDesc(words)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("unknown word %q", rest[0])
	}
	return d, err
}

func (s *script) expect(l *Link, words []string) error {
	s.collect()
	queue := s.sent[l]
	if slices.Equal(words, []string{"nothing"}) {
		if len(queue) > 0 {
			s.t.Errorf("%s: gateway sent %s, want nothing", s.at, inWords(queue[0]))
		}
		return nil
	}
	want, err := parseOne(words)
	if err != nil {
		return err
	}
	if len(queue) == 0 {
		s.t.Errorf("%s: gateway sent nothing, want %v%s", s.at, want, s.reasons())
		return nil
	}
	s.sent[l] = queue[1:]
	got, err := describe(queue[0])
	if err != nil {
		s.t.Errorf("%s: gateway sent a broken packet: %v", s.at, err)
	} else if why := want.differs(got); why != "" {
		s.t.Errorf("%s: %s\n got %v\nwant %v", s.at, why, got, want)
	}
	return nil
}

// collect takes what the gateway has sent.
func (s *script) collect() {
	for _, l := range s.net.links {
		s.sent[l] = append(s.sent[l], l.Take()...)
	}
}

// nothingLeft reports packets that nobody expected.
func (s *script) nothingLeft() {
	s.collect()
	for _, l := range s.net.links {
		for _, ip := range s.sent[l] {
			s.t.Errorf("%s: before this line the gateway sent unexpectedly on %s: %s", s.at, l.conf.Name, inWords(ip))
		}
		s.sent[l] = nil
	}
}

func inWords(ip []byte) string {
	d, err := describe(ip)
	if err != nil {
		return err.Error()
	}
	return d.String()
}

// flows returns the lines of conntrack -L.
func (s *script) flows() []string {
	var lines []string
	s.net.Table.Dump(func(f *conntrack.Flow) bool {
		lines = append(lines, string(ctfmt.AppendList(nil, f, ctfmt.Options{})))
		return true
	})
	return lines
}

func (s *script) flow(words []string) error {
	lines := s.flows()
	if !slices.ContainsFunc(lines, func(line string) bool { return hasWords(line, words) }) {
		s.t.Errorf("%s: no flow %s among\n%s", s.at, strings.Join(words, " "), strings.Join(lines, "\n"))
	}
	return nil
}

func (s *script) noflow(words []string) error {
	for _, line := range s.flows() {
		if hasWords(line, words) {
			s.t.Errorf("%s: unwanted flow %s", s.at, line)
		}
	}
	return nil
}

// hasWords reports whether line has all words, in their order.
func hasWords(line string, words []string) bool {
	for _, w := range strings.Fields(line) {
		if len(words) > 0 && w == words[0] {
			words = words[1:]
		}
	}
	return len(words) == 0
}

// counters returns all counters by name.
func (s *script) counters() map[string]uint64 {
	st := s.net.Engine.Stats()
	c := map[string]uint64{
		"received": st.Received, "forwarded": st.Forwarded, "delivered": st.Delivered,
		"originated": st.Originated, "held": st.Held, "dropped": st.Drops(),
	}
	for _, r := range dataplane.Reasons() {
		c[r.String()] = st.Dropped[r]
	}
	return c
}

func (s *script) count(text string) error {
	now := s.counters()
	for _, item := range strings.Split(text, ",") {
		name, amount, _ := strings.Cut(strings.TrimSpace(item), " ")
		want, err := strconv.ParseUint(strings.TrimPrefix(amount, "+"), 10, 64)
		if _, known := now[name]; !known || err != nil {
			return fmt.Errorf("count %q: want the name of a counter and +N", item)
		}
		if got := now[name] - s.last[name]; got != want {
			s.t.Errorf("%s: %s +%d, want +%d%s", s.at, name, got, want, s.reasons())
		}
	}
	s.last = now
	return nil
}

// reasons lists what was dropped since the last count, for error messages.
func (s *script) reasons() string {
	now := s.counters()
	var b strings.Builder
	for _, r := range dataplane.Reasons() {
		if n := now[r.String()] - s.last[r.String()]; n > 0 {
			fmt.Fprintf(&b, "; dropped %d for %s", n, r)
		}
	}
	return b.String()
}
