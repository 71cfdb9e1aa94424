package sip

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/alg/algtest"
	"example.com/culvert/alg/offline"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack/tuple"
)

// TestWorkGrowsWithTheLengthOfAMessage: nobody can have the gateway spend more time than
// his bytes are worth, by what he repeats in a message or by how he cuts it.
func TestWorkGrowsWithTheLengthOfAMessage(t *testing.T) {
	const (
		short, long = 4 << 10, 60 << 10
		most        = 4 * long / short // times the work; the square is fifteen times it
	)
	fill := func(unit string, n int) string { return strings.Repeat(unit, n/len(unit)) }
	register := func(contact string) string {
		return text("REGISTER sip:example.org SIP/2.0", "Via: SIP/2.0/UDP 10.0.0.5:5060", "CSeq: 1 REGISTER",
			"Call-ID: 1", "Contact: "+contact, "Content-Length: 0", "")
	}
	for _, tt := range []struct {
		claim string
		proto uint8
		cut   int // bytes of a segment, 0: all at once
		say   func(n int) string
	}{
		{"addresses without a comma between them", tuple.UDP, 0, func(n int) string { return register(fill("sip:a ", n)) }},
		{"parameters before spaces", tuple.UDP, 0, func(n int) string { return register("<sip:a>" + fill(";", n/2) + fill(" ", n/2) + ",b") }},
		{"hops of Via", tuple.UDP, 0, func(n int) string { return text("OPTIONS sip:a SIP/2.0", "Via: "+fill("/ 1.1.1.1,", n), "") }},
		{"open quotes", tuple.UDP, 0, func(n int) string { return register(fill(`"sip:a" `, n)) }},
		{"fences of a multipart body", tuple.UDP, 0, func(n int) string {
			return text("OPTIONS sip:a SIP/2.0", "Content-Type: multipart/mixed;boundary=x", "", fill("--x\r\n", n))
		}},
		{"short headers, byte by byte", tuple.TCP, 1, func(n int) string { return text("OPTIONS sip:a SIP/2.0", fill("a:\r\n", n), "Content-Length: 0", "") }},
		{"one folded header, byte by byte", tuple.TCP, 1, func(n int) string {
			return text("OPTIONS sip:a SIP/2.0", "Via: a"+fill("\r\n ", n), "Content-Length: 0", "")
		}},
		{"a body, byte by byte", tuple.TCP, 1, func(n int) string {
			return text("OPTIONS sip:a SIP/2.0", fill("a:\r\n", n/2)+"Content-Length: LEN", "", fill("x", n/2))
		}},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			work := func(n int) time.Duration {
				var says []algtest.Say
				for s := tt.say(n); s != ""; {
					at := len(s)
					if tt.cut != 0 {
						at = min(at, tt.cut)
					}
					says, s = append(says, algtest.Say{Text: s[:at]}), s[at:]
				}
				best := time.Hour
				for range 5 { // others use the processors, too
					began := time.Now()
					algtest.Run(algtest.Config{Helper: Helper{}, Proto: tt.proto}, says...)
					best = min(best, time.Since(began))
				}
				return best
			}
			if few, many := work(short), work(long); many > most*few {
				t.Errorf("%d times as many bytes take %d times as long: %v, %v", long/short, many/few, few, many)
			}
		})
	}
}

// TestProtocolsWithOtherLinesDoNotWait: a client of something else on the port, whose
// lines look like a beginning and have no CR, is heard at once.
func TestProtocolsWithOtherLinesDoNotWait(t *testing.T) {
	for _, line := range []string{"HELP\n", "GET /index.html\n", "OPTIONS sip:a SIP/2.0\n"} {
		t.Run(fmt.Sprintf("%q", line), func(t *testing.T) {
			at := alg.Attach(Helper{}, alg.Options{})
			s := stream.New(&at, alg.Flow{Tuple: flow(tuple.TCP, 5060)}, stream.Limits{})
			s.Begin(tuple.Original, 100, stream.FromStart)
			got := ""
			for i := range line {
				out := s.Segment(tuple.Original, 100+uint32(i), []byte(line[i:i+1]), stream.More, &offline.Gateway{Spec: at.Spec})
				switch out.Fate {
				case stream.AsItIs:
					got += line[i : i+1]
				case stream.Rewritten:
					for _, p := range out.Pieces() {
						got += string(p.Data)
					}
				}
			}
			if got != line || s.Helped() {
				t.Errorf("%q has arrived, and the helper is there: %v", got, s.Helped())
			}
		})
	}
}

// TestMessageWithAddressesWithoutEndPasses: what a parser keeps stays small, and is what it
// says.
func TestMessageWithAddressesWithoutEndPasses(t *testing.T) {
	says := text("OPTIONS sip:a SIP/2.0", "Route: "+strings.Repeat("<sip:10.0.0.5>,", 4000), "")
	f := alg.Flow{Tuple: flow(tuple.UDP, 5060)}
	at := alg.Attach(Helper{}, alg.Options{})
	s, p := stream.New(&at, f, stream.Limits{}), Helper{}.New(&f).(*parser)
	g := &offline.Gateway{Spec: at.Spec}
	if got, changed := s.Datagram(tuple.Original, []byte(says), g); changed || string(got) != says || s.Events[stream.Unread] != 1 {
		t.Errorf("it was changed: %v; %d messages were not read", changed, s.Events[stream.Unread])
	}
	p.Inspect(&alg.Context{Flow: &f, Gateway: g}, []byte(says))
	if n := p.Size(); n > 64<<10 || s.Memory() < n {
		t.Errorf("the parser keeps %d bytes, of which its flow says %d", n, s.Memory())
	}
}
