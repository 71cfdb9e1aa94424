package api

import (
	"errors"
	"strings"
	"testing"

	"example.com/culvert/conntrack/tuple"
)

func TestParseProbe(t *testing.T) {
	for _, tt := range []struct {
		text, want string
		also       Probe // but for the tuple
	}{
		{"tcp 10.0.0.5:40000 > 198.51.100.7:443 in lan0", "tcp 10.0.0.5:40000 > 198.51.100.7:443", Probe{In: "lan0"}},
		{"udp [2001:db8::5]:4000 > [2001:db8:1::9]:53", "udp [2001:db8::5]:4000 > [2001:db8:1::9]:53", Probe{}},
		{"icmp 10.0.0.5 > 198.51.100.7 id 7", "icmp 10.0.0.5 > 198.51.100.7 type 8 code 0 id 7", Probe{}},
		{"icmp 10.0.0.5 > 198.51.100.7 type 13 code 1", "icmp 10.0.0.5 > 198.51.100.7 type 13 code 1 id 0", Probe{}},
		{"icmp 2001:db8::5 > 2001:db8:1::9", "icmpv6 2001:db8::5 > 2001:db8:1::9 type 128 code 0 id 0", Probe{}},
		{"esp 10.0.0.5 > 198.51.100.7", "unknown 10.0.0.5 > 198.51.100.7", Probe{}},
		{"47 10.0.0.5 > 198.51.100.7", "gre 10.0.0.5 > 198.51.100.7", Probe{}},
		{"gre 10.0.0.5 > 198.51.100.7 call 21", "gre 10.0.0.5 > 198.51.100.7 call 21", Probe{}},
		{"gre 10.0.0.5 > 198.51.100.7:21", "gre 10.0.0.5 > 198.51.100.7 call 21", Probe{}},
		{"gre 10.0.0.5:7 > 198.51.100.7:21", "gre 10.0.0.5:7 > 198.51.100.7:21", Probe{}},
		{"gre [2001:db8::5]:7 > [2001:db8:1::9]:21", "gre [2001:db8::5]:7 > [2001:db8:1::9]:21", Probe{}},
		{"tcp 10.0.0.5:1 > 198.51.100.7:2 flags SA ttl 3 dscp 46 len 1500 established mark 0x10", "tcp 10.0.0.5:1 > 198.51.100.7:2",
			Probe{TCPFlags: 0x12, TTL: 3, TOS: 46 << 2, Length: 1500, Mark: 16, Assume: "established"}},
	} {
		p, err := ParseProbe(tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.text, err)
			continue
		}
		if got := p.Tuple.String(); got != tt.want {
			t.Errorf("%s: read as %s, want %s", tt.text, got, tt.want)
		}
		if p.Tuple = (tuple.Tuple{}); p != tt.also {
			t.Errorf("%s: %+v, want %+v", tt.text, p, tt.also)
		}
	}
}

func TestParseProbeSaysWhatIsWrong(t *testing.T) {
	for text, want := range map[string]string{
		"":                                        "want a protocol, a source, > and a destination",
		"tcp 10.0.0.5:1 198.51.100.7:2 in":        "want a protocol, a source, > and a destination",
		"tcp 10.0.0.5:0 > 198.51.100.7:2":         `source "10.0.0.5:0": port 0 is no port`,
		"tcp 10.0.0.5:1 > nobody":                 `destination "nobody": want an address, or an address and a port`,
		"tcp 10.0.0.5:1 > [2001:db8::1]:2":        "of different address families",
		"tcp 10.0.0.5:1 > 198.51.100.7":           "tcp needs ports",
		"icmp 10.0.0.5:1 > 198.51.100.7:1":        "icmp has no ports",
		"tpc 10.0.0.5:1 > 198.51.100.7:2":         `unknown protocol "tpc"`,
		"udp 10.0.0.5:1 > 198.51.100.7:2 via x":   `unknown word "via"`,
		"udp 10.0.0.5:1 > 198.51.100.7:2 ttl":     "ttl needs a value: N",
		"udp 10.0.0.5:1 > 198.51.100.7:2 ttl 256": `ttl "256": want a number up to 255`,
		"udp 10.0.0.5:1 > 198.51.100.7:2 flags S": `flags "S": only tcp has flags`,
		"udp 10.0.0.5:1 > 198.51.100.7:2 call 2":  `call "2": only gre has calls`,
		"gre 10.0.0.5:7 > 198.51.100.7":           "gre names a call by the id of its receiver",
		"gre 10.0.0.5 > 198.51.100.7 call 65536":  `call "65536": want a number up to 65535`,
		"tcp 10.0.0.5:1 > 198.51.100.7:2 flags X": `flags "X": want letters of FSRPAU`,
		"tcp 10.0.0.5:1 > 198.51.100.7:2 mark 1":  "say established, related or invalid, too",
	} {
		if _, err := ParseProbe(text); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), ProbeSyntax) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func FuzzParseProbe(f *testing.F) {
	f.Add("tcp 10.0.0.5:40000 > 198.51.100.7:443 in lan0 flags SA")
	f.Add("icmp ::1 > ::2 type 300 code -1")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := ParseProbe(text)
		if err == nil && p.Tuple.Family == 0 {
			t.Errorf("%q gives a tuple without a family", text)
		}
	})
}

func TestExplainTakesAPacketAsText(t *testing.T) {
	_, client, _ := serve(t)
	x, err := client.Explain(t.Context(), "tcp 10.0.0.5:40000 > 198.51.100.7:443")
	if err != nil || x.Verdict != "dropped" || x.Reason != "no-route" {
		t.Errorf("%+v, %v; want what the backend says", x, err)
	}
	if _, err = client.Explain(t.Context(), "tcp 10.0.0.5:40000 > 198.51.100.7:443 in nope"); !errors.Is(err, ErrNotFound) {
		t.Errorf("by an interface that is not there: %v", err)
	}
	if _, err = client.Explain(t.Context(), "tcp"); err == nil || !strings.Contains(err.Error(), ProbeSyntax) {
		t.Errorf("no packet: %v", err)
	}
}
