package netns

import (
	"net/netip"
	"testing"
)

func TestParseFlow(t *testing.T) {
	ap := netip.MustParseAddrPort
	for _, tt := range []struct {
		name, line string
		want       Flow
	}{
		{
			"tcp has a state",
			"tcp      6 431999 ESTABLISHED src=10.0.0.5 dst=198.51.100.7 sport=40000 dport=443 src=198.51.100.7 dst=203.0.113.1 sport=443 dport=51712 [ASSURED] mark=7 use=1",
			Flow{
				Proto: "tcp", State: "ESTABLISHED", Timeout: 431999, Assured: true, Mark: 7,
				Orig:  FlowTuple{Src: ap("10.0.0.5:40000"), Dst: ap("198.51.100.7:443")},
				Reply: FlowTuple{Src: ap("198.51.100.7:443"), Dst: ap("203.0.113.1:51712")},
			},
		},
		{
			"udp has none, and counters when asked for",
			"udp      17 29 src=10.0.0.5 dst=198.51.100.7 sport=40000 dport=53 packets=1 bytes=61 [UNREPLIED] src=198.51.100.7 dst=203.0.113.1 sport=53 dport=40000 packets=0 bytes=0 mark=0 zone=3 use=1",
			Flow{
				Proto: "udp", Timeout: 29, Unreplied: true, Zone: 3,
				Orig:  FlowTuple{Src: ap("10.0.0.5:40000"), Dst: ap("198.51.100.7:53"), Packets: 1, Bytes: 61},
				Reply: FlowTuple{Src: ap("198.51.100.7:53"), Dst: ap("203.0.113.1:40000")},
			},
		},
		{
			"icmpv6 has type, code and id; -o extended names the family",
			"ipv6     10 icmpv6   58 29 src=2001:db8:1::5 dst=2001:db8:2::7 type=128 code=0 id=9 src=2001:db8:2::7 dst=2001:db8:1::5 type=129 code=0 id=9 mark=0 use=1",
			Flow{
				Proto: "icmpv6", Timeout: 29,
				Orig:  FlowTuple{Src: ap("[2001:db8:1::5]:0"), Dst: ap("[2001:db8:2::7]:0"), Type: 128, ID: 9},
				Reply: FlowTuple{Src: ap("[2001:db8:2::7]:0"), Dst: ap("[2001:db8:1::5]:0"), Type: 129, ID: 9},
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ParseFlow(tt.line)
			tt.want.Line = tt.line
			if err != nil || got != tt.want {
				t.Errorf("ParseFlow = %+v, %v\nwant %+v", got, err, tt.want)
			}
		})
	}
}

func TestParseFlowRefuses(t *testing.T) {
	for _, tt := range []struct{ name, line string }{
		{"an empty line", ""},
		{"a single tuple", "udp 17 29 src=10.0.0.5 dst=10.0.0.6 sport=1 dport=2 mark=0"},
		{"a port above 65535", "udp 17 29 src=10.0.0.5 dst=10.0.0.6 sport=65536 dport=2 src=10.0.0.6 dst=10.0.0.5 sport=2 dport=1"},
		{"an address that is none", "udp 17 29 src=x dst=10.0.0.6 src=10.0.0.6 dst=10.0.0.5"},
		{"a timeout that is none", "udp 17 soon src=10.0.0.5 dst=10.0.0.6 src=10.0.0.6 dst=10.0.0.5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := ParseFlow(tt.line); err == nil {
				t.Errorf("ParseFlow(%q) = %+v, want an error", tt.line, got)
			}
		})
	}
}
