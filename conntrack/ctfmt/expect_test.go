package ctfmt

import (
	"net/netip"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// ftpData is the expectation of an FTP data connection.
func ftpData() conntrack.Expect {
	expected := flow(tuple.TCP, "192.168.0.2", "192.168.1.2", 0, 41739, 0)
	master := flow(tuple.TCP, "192.168.0.2", "192.168.1.2", 36390, 21, 0)
	return conntrack.Expect{
		Expectation: conntrack.Expectation{Tuple: expected.Tuple[0], Mask: conntrack.WholeMask(0)},
		Master:      master.Tuple[0],
		Timeout:     300 * time.Second,
		HelperName:  "ftp",
	}
}

func TestAppendExpect(t *testing.T) {
	tests := []struct {
		name   string
		change func(*conntrack.Expect)
		want   string
	}{
		{"ftp", func(*conntrack.Expect) {},
			"300 proto=6 src=192.168.0.2 dst=192.168.1.2 sport=0 dport=41739 mask-src=255.255.255.255 mask-dst=255.255.255.255 sport=0 dport=65535 master-src=192.168.0.2 master-dst=192.168.1.2 sport=36390 dport=21 class=0 helper=ftp"},
		{"flags are one word", func(x *conntrack.Expect) {
			x.Flags = conntrack.ExpectPermanent | conntrack.ExpectInactive | conntrack.ExpectUserspace
			x.HelperName, x.Class, x.Tuple.Zone = "", 2, 7
		}, "300 proto=6 src=192.168.0.2 dst=192.168.1.2 sport=0 dport=41739 mask-src=255.255.255.255 mask-dst=255.255.255.255 sport=0 dport=65535 master-src=192.168.0.2 master-dst=192.168.1.2 sport=36390 dport=21 zone=7 PERMANENT,INACTIVE,USERSPACE class=2"},
		{"any source", func(x *conntrack.Expect) {
			x.Mask = conntrack.AnyMask()
			x.Tuple.Src = tuple.AddrFrom4([4]byte{})
			x.Flags = conntrack.ExpectUserspace
		}, "300 proto=6 src=0.0.0.0 dst=192.168.1.2 sport=0 dport=41739 mask-src=0.0.0.0 mask-dst=255.255.255.255 sport=0 dport=65535 master-src=192.168.0.2 master-dst=192.168.1.2 sport=36390 dport=21 USERSPACE class=0 helper=ftp"},
		{"ipv6", func(x *conntrack.Expect) {
			x.Tuple.Family = tuple.IPv6
			x.Tuple.Src, x.Tuple.Dst = tuple.AddrFrom(netip.MustParseAddr("2001:db8::5")), tuple.AddrFrom(netip.MustParseAddr("2001:db8::7"))
			x.Master = x.Tuple
		}, "300 proto=6 src=2001:db8::5 dst=2001:db8::7 sport=0 dport=41739 mask-src=ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff mask-dst=ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff sport=0 dport=65535 master-src=2001:db8::5 master-dst=2001:db8::7 sport=0 dport=41739 class=0 helper=ftp"},
	}
	for _, tt := range tests {
		x := ftpData()
		tt.change(&x)
		if got := string(AppendExpect(nil, &x)); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func TestAppendExpectEvent(t *testing.T) {
	line := string(AppendExpect(nil, &conntrack.Expect{}))
	e := conntrack.ExpectEvent{Type: conntrack.EventDestroy, Time: time.Unix(1700000000, 42000)}
	if got, want := string(AppendExpectEvent(nil, &e, Options{Timestamp: true})), "[1700000000.42    ]\t[DESTROY] "+line; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	e.Type = conntrack.EventNew
	if got, want := string(AppendExpectEvent(nil, &e, Options{})), "    [NEW] "+line; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
