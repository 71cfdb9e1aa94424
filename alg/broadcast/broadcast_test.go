package broadcast

import (
	"net/netip"
	"slices"
	"testing"

	"example.com/culvert/alg/algtest"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack/tuple"
)

const (
	query  = "\x12\x34\x01\x10\x00\x01\x00\x00\x00\x00\x00\x00\x20CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\x00\x00\x21\x00\x01"
	answer = "\x12\x34\x84\x00\x00\x00\x00\x01\x00\x00\x00\x00\x20CKAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\x00\x00\x21\x00\x01"
	get    = "\x30\x1a\x02\x01\x01\x04\x06public\xa0\x0d\x02\x01\x01\x02\x01\x00\x02\x01\x00\x30\x02\x30\x00"
)

// asking is a flow of the box to all hosts of its link.
func asking(h Helper, net string) algtest.Config {
	out := tuple.Tuple{
		Src: tuple.AddrFrom(netip.MustParseAddr("10.0.0.1")), Dst: tuple.AddrFrom(netip.MustParseAddr("10.0.0.255")),
		SrcPort: 137, DstPort: h.port, Proto: tuple.UDP, Family: tuple.IPv4,
	}
	back, _ := out.Inverse()
	cfg := algtest.Config{Helper: h, Tuple: [tuple.NumDirections]tuple.Tuple{out, back}}
	if net != "" {
		cfg.Subnet = netip.MustParsePrefix(net)
	}
	return cfg
}

func TestAnswersOfTheLinkAreAnnounced(t *testing.T) {
	for _, tt := range []struct {
		claim, net, say string
		helper          Helper
		announced       int
		unread          uint32
	}{
		{"a name is asked for", "10.0.0.0/24", query, NetBIOS, 1, 0},
		{"an answer", "10.0.0.0/24", answer, NetBIOS, 0, 0},
		{"no more than a header", "10.0.0.0/24", query[:12], NetBIOS, 0, 1},
		{"one host is asked", "", query, NetBIOS, 0, 0},
		{"agents are asked for", "10.0.0.0/24", get, SNMP, 1, 0},
		{"not SNMP", "10.0.0.0/24", query, SNMP, 0, 1},
		{"nothing", "10.0.0.0/24", "", SNMP, 0, 0},
	} {
		got := algtest.Run(asking(tt.helper, tt.net), algtest.Say{Text: tt.say})
		if len(got.Announced) != tt.announced || len(got.Refused) != 0 || !slices.Equal(got.Got[tuple.Original], []string{tt.say}) {
			t.Errorf("%s: announced %q, refused %q", tt.claim, got.Announced, got.Refused)
		}
		if n := got.Events[stream.Unread]; n != tt.unread {
			t.Errorf("%s: counted as unread %d times, want %d", tt.claim, n, tt.unread)
		}
		if tt.announced > 0 && got.Kept != tt.helper.wait {
			t.Errorf("%s: the flow is kept for %v", tt.claim, got.Kept)
		}
	}
	got := algtest.Run(asking(SNMP, "10.0.0.0/24"), algtest.Say{Dir: tuple.Reply, Text: get})
	if len(got.Announced) != 0 {
		t.Errorf("an answer announced %q", got.Announced)
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(query)
	f.Add(get)
	f.Fuzz(func(t *testing.T, text string) {
		for _, h := range []Helper{SNMP, NetBIOS} {
			got := algtest.Run(asking(h, "10.0.0.0/24"), algtest.Say{Text: text})
			if !slices.Equal(got.Got[tuple.Original], []string{text}) || got.Events[stream.Panicked]+got.Events[stream.Broken] != 0 {
				t.Errorf("%s: %+v", h.name, got)
			}
		}
	})
}
