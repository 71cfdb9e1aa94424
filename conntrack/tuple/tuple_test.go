package tuple

import (
	"net/netip"
	"testing"
	"unsafe"
)

var _ [40]byte = [unsafe.Sizeof(Tuple{})]byte{} // five words, no padding

func TestInverse(t *testing.T) {
	a, b := AddrFrom4([4]byte{10, 0, 0, 5}), AddrFrom(netip.MustParseAddr("198.51.100.7"))
	tests := []struct {
		name string
		t    Tuple
		want Tuple
		ok   bool
	}{
		{"tcp swaps addresses and ports and keeps the zone",
			Tuple{Src: a, Dst: b, SrcPort: 1, DstPort: 2, Proto: TCP, Family: IPv4, Zone: 9},
			Tuple{Src: b, Dst: a, SrcPort: 2, DstPort: 1, Proto: TCP, Family: IPv4, Zone: 9}, true},
		{"echo keeps its identifier",
			Tuple{Src: a, Dst: b, SrcPort: 77, DstPort: 8 << 8, Proto: ICMP},
			Tuple{Src: b, Dst: a, SrcPort: 77, DstPort: 0 << 8, Proto: ICMP}, true},
		{"echo reply is answered by echo",
			Tuple{Src: a, Dst: b, SrcPort: 77, DstPort: 0 << 8, Proto: ICMP},
			Tuple{Src: b, Dst: a, SrcPort: 77, DstPort: 8 << 8, Proto: ICMP}, true},
		{"icmpv6 echo",
			Tuple{Src: a, Dst: b, SrcPort: 77, DstPort: 128 << 8, Proto: ICMPv6},
			Tuple{Src: b, Dst: a, SrcPort: 77, DstPort: 129 << 8, Proto: ICMPv6}, true},
		{"an error has no answer", Tuple{Src: a, Dst: b, DstPort: 3 << 8, Proto: ICMP}, Tuple{}, false},
		{"esp has no ports",
			Tuple{Src: a, Dst: b, Proto: 50}, Tuple{Src: b, Dst: a, Proto: 50}, true},
	}
	for _, tt := range tests {
		got, ok := tt.t.Inverse()
		if got != tt.want || ok != tt.ok {
			t.Errorf("%s: %v %v, want %v %v", tt.name, got, ok, tt.want, tt.ok)
		}
		if !ok {
			continue
		}
		if back, ok := got.Inverse(); !ok || back != tt.t {
			t.Errorf("%s: the inverse of the inverse is %v", tt.name, back)
		}
	}
}

func TestAddr(t *testing.T) {
	for _, text := range []string{"10.0.0.5", "2001:db8::1", "::", "0.0.0.0", "::1"} {
		a := AddrFrom(netip.MustParseAddr(text))
		if a.String() != text {
			t.Errorf("%s prints as %v", text, a)
		}
		if got, want := a.Is4(), netip.MustParseAddr(text).Is4(); got != want {
			t.Errorf("%s: Is4 = %v, want %v", text, got, want)
		}
	}
	if a := AddrFrom4([4]byte{192, 0, 2, 1}); a.As4() != [4]byte{192, 0, 2, 1} {
		t.Errorf("As4 = %v", a.As4())
	}
	if AddrFrom(netip.Addr{}) != (Addr{}) {
		t.Error("no address is not the zero address")
	}
}

func TestString(t *testing.T) {
	k := Tuple{Src: AddrFrom4([4]byte{10, 0, 0, 5}), Dst: AddrFrom4([4]byte{192, 0, 2, 1}), SrcPort: 40000, DstPort: 443, Proto: TCP, Zone: 3}
	if got, want := k.String(), "tcp 10.0.0.5:40000 > 192.0.2.1:443 zone 3"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestWordsMoveWholeTuples: what moves words does what assignments of fields do.
func TestWordsMoveWholeTuples(t *testing.T) {
	from := Tuple{Src: AddrFrom4([4]byte{10, 0, 0, 5}), Dst: AddrFrom4([4]byte{198, 51, 100, 7}),
		SrcPort: 0x1234, DstPort: 0x5678, Proto: TCP, Family: IPv4, Zone: 0x9abc}
	var got Tuple
	if got.Set(&from); got != from {
		t.Errorf("Set made %+v of %+v", got, from)
	}
	whole := from
	whole.Zone = 0
	if got.SetWire4(0x0500000a, 0x076433c6, 0x78563412, TCP); got != whole {
		t.Errorf("SetWire4 made %+v, want %+v", got, whole)
	}
	got = Tuple{SrcPort: 1, DstPort: 2, Proto: UDP, Family: IPv6, Zone: 3}
	back := Tuple{Src: from.Dst, Dst: from.Src, SrcPort: 0x5678, DstPort: 0x1234, Proto: UDP, Family: IPv6, Zone: 3}
	if ports := got.BecomeAnswer(&from); got != back || ports != 0x34127856 {
		t.Errorf("BecomeAnswer made %+v and %#x, want %+v and 0x34127856", got, ports, back)
	}
	got = Tuple{SrcPort: 1, DstPort: 2, Proto: UDP, Family: IPv6, Zone: 3}
	want := got
	want.Src, want.Dst = from.Src, from.Dst
	if got.SetAddrs(&from); got != want {
		t.Errorf("SetAddrs made %+v, want %+v", got, want)
	}
	want.SrcPort, want.DstPort, want.Proto, want.Family, want.Zone = 0x1234, 0x5678, TCP, IPv4, 0x9abc
	if got.SetRest(0x1234, 0x5678, TCP, IPv4, 0x9abc); got != want {
		t.Errorf("SetRest made %+v, want %+v", got, want)
	}
}
