package flowlog

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.FixedZone("somewhere", 3600))

func addr(text string) tuple.Addr { return tuple.AddrFrom(netip.MustParseAddr(text)) }

// webFlow is a connection that was masqueraded.
func webFlow() conntrack.Flow {
	f := conntrack.Flow{Status: conntrack.SrcNAT, Rule: 7, Generation: 3, ID: 99, State: conntrack.TimeWait,
		Packets: [2]uint64{9, 8}, Bytes: [2]uint64{1040, 9012}}
	f.Tuple[tuple.Original] = tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr("198.51.100.7"), SrcPort: 40000, DstPort: 443, Proto: tuple.TCP, Family: tuple.IPv4}
	f.Tuple[tuple.Reply] = tuple.Tuple{Src: addr("198.51.100.7"), Dst: addr("203.0.113.1"), SrcPort: 443, DstPort: 1025, Proto: tuple.TCP, Family: tuple.IPv4}
	return f
}

// pingFlow is an echo request over IPv6 that nothing was done to.
func pingFlow() conntrack.Flow {
	f := conntrack.Flow{Mark: 16, Timeout: time.Second}
	f.Tuple[tuple.Original] = tuple.Tuple{Src: addr("fd00::5"), Dst: addr("2001:db8::7"), SrcPort: 77, DstPort: 128 << 8, Proto: tuple.ICMPv6, Family: tuple.IPv6, Zone: 2}
	f.Tuple[tuple.Reply], _ = f.Tuple[tuple.Original].Inverse()
	return f
}

const (
	at        = "time=2026-03-01T11:00:00.123456Z "
	webLine   = "proto=tcp src=10.0.0.5 sport=40000 dst=198.51.100.7 dport=443 nat_src=203.0.113.1 nat_sport=1025 nat_dst=198.51.100.7 nat_dport=443 rule=internet generation=3 id=99"
	counted   = " packets=9 bytes=1040 reply_packets=8 reply_bytes=9012"
	uncounted = " packets=0 bytes=0 reply_packets=0 reply_bytes=0"
)

func TestLinesOfFlows(t *testing.T) {
	timed := webFlow()
	timed.Start = noon.Add(-12250 * time.Millisecond)
	aged := webFlow()
	aged.State = conntrack.Established
	other := conntrack.Flow{}
	other.Tuple[0] = tuple.Tuple{Src: addr("10.0.0.5"), Dst: addr("10.0.0.6"), Proto: 89, Family: tuple.IPv4}
	other.Tuple[1], _ = other.Tuple[0].Inverse()
	const pingLine = "proto=icmpv6 src=fd00::5 dst=2001:db8::7 type=128 code=0 icmp_id=77 nat_src=fd00::5 nat_dst=2001:db8::7 nat_id=77 generation=0 id=0 zone=2 mark=16"
	for _, tt := range []struct {
		claim string
		event conntrack.Event
		rule  string
		want  string
	}{
		{"a translated flow", conntrack.Event{Flow: webFlow()}, "internet", "event=new " + webLine},
		{"a ping in a zone, with a mark and by the default policy", conntrack.Event{Flow: pingFlow()}, "", "event=new " + pingLine},
		{"a protocol without ports or a name", conntrack.Event{Flow: other}, "any thing \"else\"",
			"event=new proto=unknown protonum=89 src=10.0.0.5 sport=0 dst=10.0.0.6 dport=0 nat_src=10.0.0.5 nat_sport=0 nat_dst=10.0.0.6 nat_dport=0 rule=\"any thing \\\"else\\\"\" generation=0 id=0"},
		{"the end of a connection that was closed", conntrack.Event{Type: conntrack.EventDestroy, Flow: webFlow()}, "internet",
			"event=destroy " + webLine + counted + " end=closed"},
		{"of one whose start is known", conntrack.Event{Type: conntrack.EventDestroy, Flow: timed}, "internet",
			"event=destroy " + webLine + " duration=12.250000" + counted + " end=closed"},
		{"of one that fell silent", conntrack.Event{Type: conntrack.EventDestroy, Flow: aged}, "internet",
			"event=destroy " + webLine + counted + " end=expired"},
		{"of one that was deleted", conntrack.Event{Type: conntrack.EventDestroy, Flow: pingFlow()}, "",
			"event=destroy " + pingLine + uncounted + " end=ended"},
		{"of one whose uplink went", conntrack.Event{Type: conntrack.EventDestroy, Flow: pingFlow(), Cause: conntrack.UplinkDown}, "",
			"event=destroy " + pingLine + uncounted + " end=uplink-down"},
	} {
		tt.event.Time = noon
		var w writer
		if w.flow(&tt.event, tt.rule); string(w.b) != at+tt.want+"\n" {
			t.Errorf("%s:\n%swant\n%s%s", tt.claim, w.b, at, tt.want)
		}
		sameInJSON(t, tt.claim, tt.want, func(w *writer) { w.flow(&tt.event, tt.rule) })
	}
}

func TestLinesOfOtherEvents(t *testing.T) {
	for _, tt := range []struct {
		claim string
		write func(*writer)
		want  string
	}{
		{"a block", func(w *writer) {
			w.block(&Block{noon, BlockAllocated, addr("10.0.0.5"), 0, addr("203.0.113.1"), nat.PortRange{First: 1024, Last: 1535}})
		}, "event=block-allocated client=10.0.0.5 address=203.0.113.1 ports=1024-1535"},
		{"a block of a zone", func(w *writer) {
			w.block(&Block{noon, BlockReleased, addr("fd00::"), 4, addr("2001:db8::1"), nat.PortRange{First: 1024, Last: 1535}})
		}, "event=block-released client=fd00:: address=2001:db8::1 ports=1024-1535 zone=4"},
		{"a refusal", func(w *writer) {
			w.refusal(&Refusal{noon, "port-quota", addr("10.0.0.5"), addr("203.0.113.1"), 0, tuple.UDP, addr("198.51.100.7"), 53, 12})
		}, "event=refused reason=port-quota client=10.0.0.5 address=203.0.113.1 proto=udp dst=198.51.100.7 dport=53 packets=12"},
		{"a loss", func(w *writer) { w.lost(noon, 17) }, "event=lost records=17"},
	} {
		var w writer
		if tt.write(&w); string(w.b) != at+tt.want+"\n" {
			t.Errorf("%s:\n%swant\n%s%s", tt.claim, w.b, at, tt.want)
		}
		sameInJSON(t, tt.claim, tt.want, tt.write)
	}
}

// sameInJSON expects the keys of a text line, in its order, in the JSON one.
func sameInJSON(t *testing.T, claim, text string, write func(*writer)) {
	t.Helper()
	w := writer{form: JSON}
	write(&w)
	var all map[string]any
	if err := json.Unmarshal(w.b, &all); err != nil {
		t.Errorf("%s: %v in %s", claim, err, w.b)
		return
	}
	if all["time"] != "2026-03-01T11:00:00.123456Z" {
		t.Errorf("%s: time %v", claim, all["time"])
	}
	from, keys := 0, 1
	for _, word := range strings.Fields(text) {
		key, value, ok := strings.Cut(word, "=")
		if !ok {
			continue // within quotes
		}
		i := strings.Index(string(w.b[from:]), `"`+key+`":`)
		if i < 0 {
			t.Errorf("%s: no %q behind what comes before it in %s", claim, key, w.b)
			continue
		}
		from += i
		keys++
		if got := strings.Trim(string(w.b[from+len(key)+3:]), `"`); !strings.HasPrefix(got, strings.Trim(value, `"`)) {
			t.Errorf("%s: %s is %.20s, want %s", claim, key, got, value)
		}
	}
	if len(all) != keys {
		t.Errorf("%s: %d keys in JSON, %d in text: %s", claim, len(all), keys, w.b)
	}
}

// FuzzText holds names that anybody may choose against a reader of JSON, and against the
// rule that a line is a line.
func FuzzText(f *testing.F) {
	for _, seed := range []string{"", "internet", "two words", "quo\"te", "back\\slash", "new\nline", "\x00\x7f\xff", "ü\u2028"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		e := conntrack.Event{Time: noon, Flow: webFlow()}
		w := writer{}
		w.flow(&e, name)
		if n := strings.Count(string(w.b), "\n"); n != 1 {
			t.Errorf("%d newlines in %q", n, w.b)
		}
		w = writer{form: JSON}
		w.flow(&e, name)
		var all map[string]any
		if err := json.Unmarshal(w.b, &all); err != nil {
			t.Fatalf("%v in %q", err, w.b)
		}
		if name != "" && all["rule"] != strings.ToValidUTF8(name, "\ufffd") && !strings.Contains(name, "\ufffd") && strings.ToValidUTF8(name, "") == name {
			t.Errorf("rule %q is read as %q", name, all["rule"])
		}
	})
}

func TestLinesDoNotAllocate(t *testing.T) {
	e := conntrack.Event{Type: conntrack.EventDestroy, Time: noon, Flow: webFlow()}
	var l lines
	for range 10 { // until there is room
		l.flow(&e, "internet")
	}
	if n := testing.AllocsPerRun(100, func() {
		l.b = l.b[:0]
		l.flow(&e, "internet")
	}); n != 0 {
		t.Errorf("%.0f allocations for a line", n)
	}
}
