package example

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"example.com/culvert/alg"
	"example.com/culvert/alg/algtest"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack/tuple"
)

func TestCommands(t *testing.T) {
	const port4000 = "call tcp 198.51.100.7:* > 203.0.113.1:4000 = 10.0.0.5:4000"
	for _, tt := range []struct {
		claim, in, out string
		cfg            algtest.Config
		announced      []string
	}{
		{claim: "an address behind NAT is replaced",
			in: "CALL 10.0.0.5:4000\r\n", out: "CALL 203.0.113.1:4000\r\n", announced: []string{port4000}},
		{claim: "several lines in one segment, any case",
			in: "HELLO\ncall 10.0.0.5:4000\nBYE\n", out: "HELLO\ncall 203.0.113.1:4000\nBYE\n", announced: []string{port4000}},
		{claim: "a taken port is replaced", cfg: algtest.Config{Taken: []uint16{4000, 4001}},
			in: "CALL 10.0.0.5:4000\n", out: "CALL 203.0.113.1:4002\n",
			announced: []string{"call tcp 198.51.100.7:* > 203.0.113.1:4002 = 10.0.0.5:4000"}},
		{claim: "nobody announces for others", in: "CALL 10.0.0.9:4000\n", out: "CALL 10.0.0.9:4000\n"},
		{claim: "privileged ports stay closed", in: "CALL 10.0.0.5:22\n", out: "CALL 10.0.0.5:22\n"},
		{claim: "a rule may allow them", cfg: algtest.Config{Options: alg.Options{LowPorts: true}},
			in: "CALL 10.0.0.5:22\n", out: "CALL 203.0.113.1:22\n",
			announced: []string{"call tcp 198.51.100.7:* > 203.0.113.1:22 = 10.0.0.5:22"}},
		{claim: "a command inside of a line is none", in: "GET / CALL 10.0.0.5:4000\n", out: "GET / CALL 10.0.0.5:4000\n"},
		{claim: "of a flow picked up in its middle the first line is none", cfg: algtest.Config{History: stream.InMiddle},
			in: "CALL 10.0.0.5:4000\nCALL 10.0.0.5:4000\n", out: "CALL 10.0.0.5:4000\nCALL 203.0.113.1:4000\n", announced: []string{port4000}},
		{claim: "a line that is too long is none",
			in: strings.Repeat("x", 2*maxLine) + "CALL 10.0.0.5:4000\n", out: strings.Repeat("x", 2*maxLine) + "CALL 10.0.0.5:4000\n"},
		{claim: "an unfinished line arrives at the end", in: "CALL 10.0.0.5:40", out: "CALL 10.0.0.5:40"},
		{claim: "words that are no address stay", in: "CALL me\nCALL \nCALL\n", out: "CALL me\nCALL \nCALL\n"},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			tt.cfg.Helper = Helper{}
			got, err := algtest.Everywhere(tt.cfg, algtest.Say{Text: tt.in})
			if err != nil {
				t.Fatal(err)
			}
			if err := got.Differs(tt.out, "", tt.announced...); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWhatCannotBeReadIsCounted(t *testing.T) {
	got := algtest.Run(algtest.Config{Helper: Helper{}}, algtest.Say{Text: "HELLO\nCALL me\nCALL 10.0.0.9:4000\nCALL \n"})
	if n := got.Events[stream.Unread]; n != 2 {
		t.Errorf("counted %d times, want 2", n)
	}
}

func TestServerBehindDNATAnnouncesToo(t *testing.T) {
	addr := func(s string) tuple.Addr { return tuple.AddrFrom(netip.MustParseAddr(s)) }
	in := tuple.Tuple{Src: addr("198.51.100.7"), Dst: addr("203.0.113.1"), SrcPort: 40000, DstPort: 7000, Proto: tuple.TCP, Family: tuple.IPv4}
	back, _ := in.Inverse()
	back.Src = addr("10.0.0.5")
	cfg := algtest.Config{Helper: Helper{}, Tuple: [tuple.NumDirections]tuple.Tuple{in, back}}
	got, err := algtest.Everywhere(cfg, algtest.Say{Dir: tuple.Reply, Text: "CALL 10.0.0.5:4000\r\n"})
	if err != nil {
		t.Fatal(err)
	}
	if err := got.Differs("", "CALL 203.0.113.1:4000\r\n", "call tcp 198.51.100.7:* > 203.0.113.1:4000 = 10.0.0.5:4000"); err != nil {
		t.Error(err)
	}
}

func TestTheExampleIsShort(t *testing.T) {
	text, err := os.ReadFile("example.go")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), "\n"); n >= 100 {
		t.Errorf("it has %d lines, want less than 100", n)
	}
}

func FuzzInspect(f *testing.F) {
	f.Add("CALL 10.0.0.5:4000\r\n", 3)
	f.Add("CALL 10.0.0.5:4000\nCALL [::1]:4\n", 21)
	f.Fuzz(func(t *testing.T, text string, cut int) {
		if len(text) == 0 || len(text) > 4*maxLine {
			return
		}
		at := int(uint(cut) % uint(len(text)))
		whole := algtest.Run(algtest.Config{Helper: Helper{}}, algtest.Say{Text: text})
		parts := algtest.Run(algtest.Config{Helper: Helper{}}, algtest.Say{Text: text[:at]}, algtest.Say{Text: text[at:]})
		if err := parts.Differs(whole.Got[0][0], "", whole.Announced...); err != nil {
			t.Errorf("cut after %d: %v", at, err)
		}
		if whole.Events[stream.Panicked]+whole.Events[stream.Broken] != 0 {
			t.Error("the helper failed")
		}
	})
}
