package api

import (
	"net/netip"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// filtered is a TCP flow whose source is translated.
func filtered() conntrack.Flow {
	addr := func(s string) tuple.Addr { return tuple.AddrFrom(netip.MustParseAddr(s)) }
	return conntrack.Flow{
		Tuple: [tuple.NumDirections]tuple.Tuple{
			{Src: addr("10.0.0.5"), Dst: addr("198.51.100.7"), SrcPort: 40000, DstPort: 443, Proto: tuple.TCP, Family: tuple.IPv4, Zone: 3},
			{Src: addr("198.51.100.7"), Dst: addr("203.0.113.1"), SrcPort: 443, DstPort: 6000, Proto: tuple.TCP, Family: tuple.IPv4, Zone: 3},
		},
		Status: conntrack.Confirmed | conntrack.SeenReply | conntrack.SrcNAT,
		State:  conntrack.Established, Timeout: 9*time.Second + 900*time.Millisecond,
		Mark: 0x25, ID: 77, Labels: [2]uint64{1 << 3, 1 << 1},
		Rule: 9, Generation: 4, Helper: "ftp", Packets: [2]uint64{3, 2}, Bytes: [2]uint64{300, 200}, Start: noon,
	}
}

func TestFilterNamesFlows(t *testing.T) {
	prefix, addr := netip.MustParsePrefix, netip.MustParseAddr
	for _, tt := range []struct {
		claim string
		f     Filter
		want  bool
	}{
		{"nothing wants all", Filter{}, true},
		{"a prefix of the source", Filter{Original: Ends{Src: prefix("10.0.0.0/24")}}, true},
		{"another prefix", Filter{Original: Ends{Src: prefix("10.0.1.0/24")}}, false},
		{"an address of the other family", Filter{Original: Ends{Dst: prefix("::/0")}}, false},
		{"the reply's port", Filter{Reply: Ends{Dport: new(uint16(6000))}}, true},
		{"the original direction has another", Filter{Original: Ends{Dport: new(uint16(6000))}}, false},
		{"tcp has no type", Filter{Original: Ends{Code: new(uint8(187))}}, false},
		{"its state", Filter{State: "ESTABLISHED"}, true},
		{"another state", Filter{State: "SYN_SENT"}, false},
		{"its status", Filter{Status: []string{"SEEN_REPLY"}}, true},
		{"all of the status is wanted", Filter{Status: []string{"SEEN_REPLY", "ASSURED"}}, false},
		{"it has seen a reply", Filter{Status: []string{"UNREPLIED"}}, false},
		{"its mark", Filter{Mark: &MarkFilter{Value: 0x25, Mask: 0xffffffff}}, true},
		{"a part of its mark", Filter{Mark: &MarkFilter{Value: 5, Mask: 0xf}}, true},
		{"a value outside of the mask", Filter{Mark: &MarkFilter{Value: 0x25, Mask: 0xf}}, false},
		{"its id", Filter{ID: new(uint32(77))}, true},
		{"its seconds", Filter{Timeout: new(uint32(9))}, true},
		{"its zone", Filter{Zone: new(uint16(3))}, true},
		{"neither direction has one of its own", Filter{OrigZone: new(uint16(0)), ReplyZone: new(uint16(0))}, true},
		{"not the one of both", Filter{OrigZone: new(uint16(3))}, false},
		{"a mask with holes", Filter{Original: Ends{Src: netip.MustParsePrefix("10.9.0.5/32"), SrcMask: addr("255.0.255.255")}}, true},
		{"a mask that does not fit", Filter{Original: Ends{Src: netip.MustParsePrefix("10.9.0.5/32"), SrcMask: addr("255.255.0.0")}}, false},
		{"no zone is zone 0", Filter{Zone: new(uint16(0))}, false},
		{"one of its labels", Filter{Labels: []int{65}}, true},
		{"all labels are wanted", Filter{Labels: []int{3, 4}}, false},
		{"its rule", Filter{Rule: new(uint32(9))}, true},
		{"no rule", Filter{Rule: new(uint32(0))}, false},
		{"the generation of its rules", Filter{Since: new(uint32(4))}, true},
		{"another generation", Filter{Since: new(uint32(5))}, false},
		{"its helper", Filter{Helper: new("ftp")}, true},
		{"no helper", Filter{Helper: new("")}, false},
		{"as many packets in both directions", Filter{Packets: 5}, true},
		{"more packets", Filter{Packets: 6}, false},
		{"as many bytes", Filter{Bytes: 500}, true},
		{"more bytes", Filter{Bytes: 501}, false},
		{"it began then", Filter{After: new(noon), Before: new(noon.Add(1))}, true},
		{"it began later", Filter{Before: new(noon)}, false},
		{"it began earlier", Filter{After: new(noon.Add(1))}, false},
		{"its source is translated", Filter{SrcNAT: &NATFilter{}}, true},
		{"to this address", Filter{SrcNAT: &NATFilter{Addr: addr("203.0.113.1")}}, true},
		{"and this port", Filter{SrcNAT: &NATFilter{Addr: addr("203.0.113.1"), Port: 6000}}, true},
		{"not to that one", Filter{SrcNAT: &NATFilter{Addr: addr("203.0.113.1"), Port: 6001}}, false},
		{"its destination is not", Filter{DstNAT: &NATFilter{}}, false},
		{"one of them is", Filter{AnyNAT: &NATFilter{Addr: addr("203.0.113.1")}}, true},
	} {
		m, err := parseFilter(encodeFilter(&tt.f))
		if err != nil {
			t.Errorf("%s: %v", tt.claim, err)
			continue
		}
		if f := filtered(); m.wants(&f) != tt.want {
			t.Errorf("%s: %+v: %v, want %v", tt.claim, tt.f, !tt.want, tt.want)
		}
	}
}

func TestWrongFiltersAreRefused(t *testing.T) {
	for text, want := range map[string]string{
		`{"status":["UNKNOWN"]}`: `filter: unknown status "UNKNOWN"`,
		`{"labels":[128]}`:       `filter: label 128: want 0 to 127`,
		`{"statsu":["SNAT"]}`:    `filter: unknown field "statsu"; did you mean status?`,
	} {
		if _, err := parseFilter(text); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}
