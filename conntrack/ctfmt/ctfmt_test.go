package ctfmt

import (
	"net/netip"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// flow returns a flow whose reply comes to another destination port when
// dport is not 0.
func flow(proto uint8, src, dst string, sport, port, dport uint16) conntrack.Flow {
	k := tuple.Tuple{
		Src: tuple.AddrFrom(netip.MustParseAddr(src)), Dst: tuple.AddrFrom(netip.MustParseAddr(dst)),
		SrcPort: sport, DstPort: port, Proto: proto, Family: tuple.IPv4,
	}
	if !k.Src.Is4() {
		k.Family = tuple.IPv6
	}
	reply, _ := k.Inverse()
	if dport != 0 {
		reply.DstPort = dport
	}
	return conntrack.Flow{
		Tuple:   [tuple.NumDirections]tuple.Tuple{k, reply},
		Status:  conntrack.Confirmed,
		Timeout: 118*time.Second + 990*time.Millisecond,
		ID:      1833834788,
	}
}

// with returns f after change.
func with(f conntrack.Flow, change func(*conntrack.Flow)) conntrack.Flow {
	change(&f)
	return f
}

var (
	start = time.Date(2026, 11, 5, 10, 42, 0, 0, time.UTC)
	http  = with(flow(tuple.TCP, "10.0.0.5", "198.51.100.7", 40000, 443, 0), func(f *conntrack.Flow) {
		f.State = conntrack.SynSent
	})
	translated = with(flow(tuple.TCP, "10.0.0.5", "198.51.100.7", 40001, 443, 6000), func(f *conntrack.Flow) {
		f.State = conntrack.Established
		f.Status |= conntrack.SeenReply | conntrack.Assured | conntrack.SrcNAT
		f.Tuple[tuple.Reply].Dst = tuple.AddrFrom4([4]byte{203, 0, 113, 1})
		f.Mark = 5
		f.Packets, f.Bytes = [2]uint64{169, 113}, [2]uint64{14322, 34787}
	})
	zoned = with(flow(tuple.UDP, "2001:db8::5", "2001:db8::7", 40001, 53, 0), func(f *conntrack.Flow) {
		f.Status |= conntrack.SeenReply
		f.Tuple[0].Zone, f.Tuple[1].Zone = 7, 7
	})
	halfZoned = with(flow(tuple.UDP, "10.0.0.5", "10.0.0.6", 40001, 53, 0), func(f *conntrack.Flow) { f.Tuple[0].Zone = 3 })
	timed     = with(http, func(f *conntrack.Flow) { f.Start = start })
)

// The lines were taken from conntrack 1.4.7 on Linux 6.18 for the same flows.
func TestAppendList(t *testing.T) {
	tests := []struct {
		name string
		f    conntrack.Flow
		o    Options
		want string
	}{
		{"tcp", http, Options{},
			"tcp      6 118 SYN_SENT src=10.0.0.5 dst=198.51.100.7 sport=40000 dport=443 [UNREPLIED] src=198.51.100.7 dst=10.0.0.5 sport=443 dport=40000 mark=0 use=1"},
		{"translated, with counters", translated, Options{Accounting: true},
			"tcp      6 118 ESTABLISHED src=10.0.0.5 dst=198.51.100.7 sport=40001 dport=443 packets=169 bytes=14322 src=198.51.100.7 dst=203.0.113.1 sport=443 dport=6000 packets=113 bytes=34787 [ASSURED] mark=5 use=1"},
		{"extended", http, Options{Extended: true},
			"ipv4     2 tcp      6 118 SYN_SENT src=10.0.0.5 dst=198.51.100.7 sport=40000 dport=443 [UNREPLIED] src=198.51.100.7 dst=10.0.0.5 sport=443 dport=40000 mark=0 use=1"},
		{"zone of both directions", zoned, Options{Extended: true},
			"ipv6     10 udp      17 118 src=2001:db8::5 dst=2001:db8::7 sport=40001 dport=53 src=2001:db8::7 dst=2001:db8::5 sport=53 dport=40001 mark=0 zone=7 use=1"},
		{"zone of one direction", halfZoned, Options{Accounting: true},
			"udp      17 118 src=10.0.0.5 dst=10.0.0.6 sport=40001 dport=53 zone-orig=3 packets=0 bytes=0 [UNREPLIED] src=10.0.0.6 dst=10.0.0.5 sport=53 dport=40001 packets=0 bytes=0 mark=0 use=1"},
		{"icmp", flow(tuple.ICMP, "10.0.0.5", "10.0.0.6", 77, 8<<8, 0), Options{},
			"icmp     1 118 src=10.0.0.5 dst=10.0.0.6 type=8 code=0 id=77 [UNREPLIED] src=10.0.0.6 dst=10.0.0.5 type=0 code=0 id=77 mark=0 use=1"},
		{"icmpv6", flow(tuple.ICMPv6, "2001:db8::5", "2001:db8::7", 77, 128<<8, 0), Options{},
			"icmpv6   58 118 src=2001:db8::5 dst=2001:db8::7 type=128 code=0 id=77 [UNREPLIED] src=2001:db8::7 dst=2001:db8::5 type=129 code=0 id=77 mark=0 use=1"},
		{"gre", flow(tuple.GRE, "10.0.0.5", "10.0.0.6", 0, 16, 0), Options{},
			"gre      47 118 src=10.0.0.5 dst=10.0.0.6 srckey=0x0 dstkey=0x10 [UNREPLIED] src=10.0.0.6 dst=10.0.0.5 srckey=0x10 dstkey=0x0 mark=0 use=1"},
		{"a protocol without a name", flow(50, "10.0.0.5", "10.0.0.6", 0, 0, 0), Options{},
			"unknown  50 118 src=10.0.0.5 dst=10.0.0.6 [UNREPLIED] src=10.0.0.6 dst=10.0.0.5 mark=0 use=1"},
		{"udp-lite", flow(tuple.UDPLite, "10.0.0.5", "10.0.0.6", 1, 2, 0), Options{},
			"udplite  136 118 src=10.0.0.5 dst=10.0.0.6 sport=1 dport=2 [UNREPLIED] src=10.0.0.6 dst=10.0.0.5 sport=2 dport=1 mark=0 use=1"},
		{"sctp", with(flow(tuple.SCTP, "10.0.0.5", "10.0.0.6", 1, 2, 0), func(f *conntrack.Flow) { f.State = conntrack.SCTPCookieWait }), Options{},
			"sctp     132 118 COOKIE_WAIT src=10.0.0.5 dst=10.0.0.6 sport=1 dport=2 [UNREPLIED] src=10.0.0.6 dst=10.0.0.5 sport=2 dport=1 mark=0 use=1"},
		{"dccp", with(flow(tuple.DCCP, "10.0.0.5", "10.0.0.6", 1, 2, 0), func(f *conntrack.Flow) { f.State = conntrack.DCCPPartOpen }), Options{},
			"dccp     33 118 PARTOPEN src=10.0.0.5 dst=10.0.0.6 sport=1 dport=2 [UNREPLIED] src=10.0.0.6 dst=10.0.0.5 sport=2 dport=1 mark=0 use=1"},
		{"age", timed, Options{Now: start.Add(time.Second)},
			"tcp      6 118 SYN_SENT src=10.0.0.5 dst=198.51.100.7 sport=40000 dport=443 [UNREPLIED] src=198.51.100.7 dst=10.0.0.5 sport=443 dport=40000 mark=0 delta-time=1 use=1"},
		{"start and id", timed, Options{Now: start.Add(time.Second), KTimestamp: true, ID: true, Location: time.UTC},
			"tcp      6 118 SYN_SENT src=10.0.0.5 dst=198.51.100.7 sport=40000 dport=443 [UNREPLIED] src=198.51.100.7 dst=10.0.0.5 sport=443 dport=40000 mark=0 delta-time=1 [start=Thu Nov  5 10:42:00 2026] use=1 id=1833834788"},
		{"helper and labels", with(http, func(f *conntrack.Flow) { f.Helper = "ftp"; f.Labels = [2]uint64{2, 1} }),
			Options{LabelName: func(bit int) string { return map[int]string{1: "voice", 64: "guest"}[bit] }},
			"tcp      6 118 SYN_SENT src=10.0.0.5 dst=198.51.100.7 sport=40000 dport=443 [UNREPLIED] src=198.51.100.7 dst=10.0.0.5 sport=443 dport=40000 mark=0 helper=ftp use=1 labels=voice,guest"},
	}
	for _, tt := range tests {
		if got := string(AppendList(nil, &tt.f, tt.o)); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

// The flows that conntrack-tools documents, and those of an FTP session: the
// helper is named on the control connection alone, and EXPECTED has no word.
func TestAppendListOfDocumentedFlows(t *testing.T) {
	after := func(d time.Duration, f conntrack.Flow) conntrack.Flow {
		f.Timeout = d
		return f
	}
	masqueraded := func(f *conntrack.Flow) {
		f.Status |= conntrack.SrcNAT
		f.Tuple[tuple.Reply].Dst = tuple.AddrFrom4([4]byte{198, 51, 100, 2})
	}
	established := func(f *conntrack.Flow) {
		f.State = conntrack.Established
		f.Status |= conntrack.SeenReply | conntrack.Assured
	}
	imap := with(flow(tuple.TCP, "192.168.2.100", "203.0.113.7", 34846, 993, 0), established)
	imap.Packets, imap.Bytes = [2]uint64{169, 113}, [2]uint64{14322, 34787}
	control := with(flow(tuple.TCP, "192.168.0.2", "192.168.1.2", 36390, 21, 0), established)
	control.Helper, control.Status = "ftp", control.Status|conntrack.Helper
	data := with(flow(tuple.TCP, "192.168.0.2", "192.168.1.2", 36391, 41739, 0), established)
	data.Status |= conntrack.Expected
	data.Master = control.Tuple[tuple.Original]
	for _, tt := range []struct {
		name string
		f    conntrack.Flow
		o    Options
		want string
	}{
		{"tcp", after(431982*time.Second, imap), Options{Accounting: true},
			"tcp      6 431982 ESTABLISHED src=192.168.2.100 dst=203.0.113.7 sport=34846 dport=993 packets=169 bytes=14322 src=203.0.113.7 dst=192.168.2.100 sport=993 dport=34846 packets=113 bytes=34787 [ASSURED] mark=0 use=1"},
		{"udp", after(29*time.Second, with(flow(tuple.UDP, "10.0.0.5", "192.0.2.53", 40000, 53, 0), masqueraded)), Options{},
			"udp      17 29 src=10.0.0.5 dst=192.0.2.53 sport=40000 dport=53 [UNREPLIED] src=192.0.2.53 dst=198.51.100.2 sport=53 dport=40000 mark=0 use=1"},
		{"icmp", after(29*time.Second, with(flow(tuple.ICMP, "10.0.0.5", "192.0.2.1", 77, 8<<8, 0), func(f *conntrack.Flow) {
			f.Status |= conntrack.SeenReply
			masqueraded(f)
		})), Options{},
			"icmp     1 29 src=10.0.0.5 dst=192.0.2.1 type=8 code=0 id=77 src=192.0.2.1 dst=198.51.100.2 type=0 code=0 id=77 mark=0 use=1"},
		{"control connection of ftp", after(431999*time.Second, control), Options{},
			"tcp      6 431999 ESTABLISHED src=192.168.0.2 dst=192.168.1.2 sport=36390 dport=21 src=192.168.1.2 dst=192.168.0.2 sport=21 dport=36390 [ASSURED] mark=0 helper=ftp use=1"},
		{"data connection of ftp", after(431999*time.Second, data), Options{},
			"tcp      6 431999 ESTABLISHED src=192.168.0.2 dst=192.168.1.2 sport=36391 dport=41739 src=192.168.1.2 dst=192.168.0.2 sport=41739 dport=36391 [ASSURED] mark=0 use=1"},
	} {
		if got := string(AppendList(nil, &tt.f, tt.o)); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
}

func TestAppendEvent(t *testing.T) {
	ended := with(timed, func(f *conntrack.Flow) { f.Stop = start.Add(time.Second) })
	labelled := with(http, func(f *conntrack.Flow) { f.Labels = [2]uint64{2} })
	names := func(bit int) string { return map[int]string{1: "voice"}[bit] }
	tests := []struct {
		name string
		e    conntrack.Event
		o    Options
		want string
	}{
		{"update of the labels", conntrack.Event{Type: conntrack.EventUpdate, Change: conntrack.ChangedLabels, Flow: labelled}, Options{LabelName: names},
			" [UPDATE] tcp      6 118 src=10.0.0.5 dst=198.51.100.7 sport=40000 dport=443 [UNREPLIED] src=198.51.100.7 dst=10.0.0.5 sport=443 dport=40000 labels=voice"},
		{"update of the state has no labels", conntrack.Event{Type: conntrack.EventUpdate, Change: conntrack.ChangedState, Flow: labelled}, Options{LabelName: names},
			" [UPDATE] tcp      6 118 SYN_SENT src=10.0.0.5 dst=198.51.100.7 sport=40000 dport=443 [UNREPLIED] src=198.51.100.7 dst=10.0.0.5 sport=443 dport=40000"},
		{"destroy by command has no labels", conntrack.Event{Type: conntrack.EventDestroy, Commanded: true, Flow: labelled}, Options{LabelName: names, PortID: 77},
			"[DESTROY] tcp      6 118 SYN_SENT src=10.0.0.5 dst=198.51.100.7 sport=40000 dport=443 [UNREPLIED] src=198.51.100.7 dst=10.0.0.5 sport=443 dport=40000 [USERSPACE] portid=77"},
		{"new", conntrack.Event{Type: conntrack.EventNew, Flow: http}, Options{Accounting: true},
			"    [NEW] tcp      6 118 SYN_SENT src=10.0.0.5 dst=198.51.100.7 sport=40000 dport=443 [UNREPLIED] src=198.51.100.7 dst=10.0.0.5 sport=443 dport=40000"},
		{"update of the state", conntrack.Event{Type: conntrack.EventUpdate, Change: conntrack.ChangedState, Flow: translated}, Options{},
			" [UPDATE] tcp      6 118 ESTABLISHED src=10.0.0.5 dst=198.51.100.7 sport=40001 dport=443 src=198.51.100.7 dst=203.0.113.1 sport=443 dport=6000 [ASSURED] mark=5"},
		{"update of the mark has no state", conntrack.Event{Type: conntrack.EventUpdate, Change: conntrack.ChangedMark, Flow: http}, Options{},
			" [UPDATE] tcp      6 118 src=10.0.0.5 dst=198.51.100.7 sport=40000 dport=443 [UNREPLIED] src=198.51.100.7 dst=10.0.0.5 sport=443 dport=40000 mark=0"},
		{"destroy with everything", conntrack.Event{Type: conntrack.EventDestroy, Time: time.Unix(1795344121, 490936000), Flow: ended},
			Options{Accounting: true, Timestamp: true, Extended: true, ID: true, KTimestamp: true, Location: time.UTC},
			"[1795344121.490936]\t[DESTROY] ipv4     2 tcp      6 118 SYN_SENT src=10.0.0.5 dst=198.51.100.7 sport=40000 dport=443 packets=0 bytes=0 [UNREPLIED] src=198.51.100.7 dst=10.0.0.5 sport=443 dport=40000 packets=0 bytes=0 delta-time=1 [start=Thu Nov  5 10:42:00 2026] [stop=Thu Nov  5 10:42:01 2026] id=1833834788"},
		{"new by command", conntrack.Event{Type: conntrack.EventNew, Commanded: true, Flow: http}, Options{PortID: 77},
			"    [NEW] tcp      6 118 SYN_SENT src=10.0.0.5 dst=198.51.100.7 sport=40000 dport=443 [UNREPLIED] src=198.51.100.7 dst=10.0.0.5 sport=443 dport=40000 mark=0 [USERSPACE] portid=77"},
		{"update by command has everything that could have changed", conntrack.Event{Type: conntrack.EventUpdate, Change: conntrack.ChangedTimeout, Commanded: true, Flow: http}, Options{PortID: 77},
			" [UPDATE] tcp      6 118 SYN_SENT src=10.0.0.5 dst=198.51.100.7 sport=40000 dport=443 [UNREPLIED] src=198.51.100.7 dst=10.0.0.5 sport=443 dport=40000 mark=0 [USERSPACE] portid=77"},
		{"destroy by command has no mark of 0", conntrack.Event{Type: conntrack.EventDestroy, Commanded: true, Flow: http}, Options{PortID: 77},
			"[DESTROY] tcp      6 118 SYN_SENT src=10.0.0.5 dst=198.51.100.7 sport=40000 dport=443 [UNREPLIED] src=198.51.100.7 dst=10.0.0.5 sport=443 dport=40000 [USERSPACE] portid=77"},
		{"destroy of an expired flow has no timeout", conntrack.Event{Type: conntrack.EventDestroy, Flow: with(zoned, func(f *conntrack.Flow) { f.Timeout = 0 })}, Options{},
			"[DESTROY] udp      17 src=2001:db8::5 dst=2001:db8::7 sport=40001 dport=53 src=2001:db8::7 dst=2001:db8::5 sport=53 dport=40001 zone=7"},
	}
	for _, tt := range tests {
		if got := string(AppendEvent(nil, &tt.e, tt.o)); got != tt.want {
			t.Errorf("%s:\n got %s\nwant %s", tt.name, got, tt.want)
		}
	}
}
