package ipfix

import (
	"bytes"
	"net/netip"
	"testing"
	"time"
)

var (
	noon    = time.Date(2026, 3, 1, 12, 0, 0, 123e6, time.UTC)
	inside4 = netip.MustParseAddr("10.0.0.5")
	nat4    = netip.MustParseAddr("203.0.113.1")
	far4    = netip.MustParseAddr("198.51.100.7")
	inside6 = netip.MustParseAddr("fd00::5")
	nat6    = netip.MustParseAddr("2001:db8::1")
	far6    = netip.MustParseAddr("2001:db8:7::7")
)

// everyEvent is one of each template, with the elements that its record must have
// beside time and natEvent.
var everyEvent = []struct {
	claim string
	event Event
	want  record
	addrs map[uint16]netip.Addr
}{
	{
		"a session begins", Event{Kind: SessionCreate, Realm: Private, Proto: 6, Source: inside4, PostSource: nat4, SourcePort: 40000, PostSourcePort: 1025,
			Destination: far4, PostDestination: far4, DestPort: 443, PostDestPort: 443},
		record{229: 1, 4: 6, 7: 40000, 227: 1025, 11: 443, 228: 443},
		map[uint16]netip.Addr{8: inside4, 225: nat4, 12: far4, 226: far4},
	},
	{
		"a session begins over IPv6", Event{Kind: SessionCreate, Realm: Public, Proto: 17, Source: far6, PostSource: far6, SourcePort: 53, PostSourcePort: 53,
			Destination: nat6, PostDestination: inside6, DestPort: 1025, PostDestPort: 40000},
		record{229: 2, 4: 17, 7: 53, 227: 53, 11: 1025, 228: 40000},
		map[uint16]netip.Addr{27: far6, 281: far6, 28: nat6, 282: inside6},
	},
	{
		"a session ends with its bytes", Event{Kind: SessionDelete, Realm: Private, Proto: 6, Source: inside4, PostSource: nat4, SourcePort: 40000, PostSourcePort: 1025,
			Destination: far4, PostDestination: far4, DestPort: 443, PostDestPort: 443, Octets: [2]uint64{1 << 40, 7}},
		record{229: 1, 231: 1 << 40, 232: 7}, map[uint16]netip.Addr{8: inside4},
	},
	{
		"a session ends over IPv6", Event{Kind: SessionDelete, Realm: Private, Proto: 6, Source: inside6, PostSource: nat6, Destination: far6, PostDestination: far6},
		record{231: 0, 232: 0}, map[uint16]netip.Addr{27: inside6, 281: nat6},
	},
	{
		"a mapping begins", Event{Kind: MappingCreate, Proto: 17, Source: inside4, PostSource: nat4, SourcePort: 5060, PostSourcePort: 5060},
		record{4: 17, 7: 5060, 227: 5060}, map[uint16]netip.Addr{8: inside4, 225: nat4},
	},
	{
		"a mapping ends over IPv6", Event{Kind: MappingDelete, Proto: 17, Source: inside6, PostSource: nat6, SourcePort: 5060, PostSourcePort: 5061},
		record{4: 17, 7: 5060, 227: 5061}, map[uint16]netip.Addr{27: inside6, 281: nat6},
	},
	{
		"a block is allocated", Event{Kind: BlockAllocated, Source: inside4, PostSource: nat4, FirstPort: 1024, LastPort: 1535},
		record{361: 1024, 362: 1535, 363: 1, 364: 512}, map[uint16]netip.Addr{8: inside4, 225: nat4},
	},
	{
		"a block is released over IPv6", Event{Kind: BlockReleased, Source: inside6, PostSource: nat6, FirstPort: 65024, LastPort: 65535},
		record{361: 65024, 362: 65535, 363: 1, 364: 512}, map[uint16]netip.Addr{27: inside6, 281: nat6},
	},
	{"an address has no ports left", Event{Kind: PortsExhausted, Proto: 6, PostSource: nat4}, record{4: 6}, map[uint16]netip.Addr{225: nat4}},
	{"an IPv6 address has no ports left", Event{Kind: PortsExhausted, Proto: 6, PostSource: nat6}, record{4: 6}, map[uint16]netip.Addr{281: nat6}},
	{"a pool has no addresses left", Event{Kind: AddressesExhausted, Pool: 7}, record{283: 7}, nil},
	{"the table is full", Event{Kind: QuotaExceeded, Quota: QuotaSessions, Limit: 65536}, record{466: 1, 471: 65536}, nil},
	{"there are too many mappings", Event{Kind: QuotaExceeded, Quota: QuotaMappings, Limit: 9}, record{466: 2, 472: 9}, nil},
	{"a client has too much", Event{Kind: QuotaExceeded, Quota: QuotaUser, Limit: 3, Source: inside4}, record{466: 3, 473: 3}, map[uint16]netip.Addr{8: inside4}},
	{"an IPv6 client has too much", Event{Kind: QuotaExceeded, Quota: QuotaUser, Limit: 3, Source: inside6}, record{466: 3, 473: 3}, map[uint16]netip.Addr{27: inside6}},
	{"too many fragments wait", Event{Kind: QuotaExceeded, Quota: QuotaFragments, Limit: 256}, record{466: 5, 475: 256}, nil},
	{"a pool runs low", Event{Kind: ThresholdReached, Threshold: PoolHigh, Limit: 4, Pool: 7}, record{467: 1, 476: 4, 283: 7}, nil},
	{"a pool is well again", Event{Kind: ThresholdReached, Threshold: PoolLow, Limit: 2, Pool: 7}, record{467: 2, 477: 2, 283: 7}, nil},
	{"ports run low", Event{Kind: ThresholdReached, Threshold: MappingsHigh, Limit: 60000, Proto: 6, PostSource: nat4}, record{467: 3, 478: 60000, 4: 6}, map[uint16]netip.Addr{225: nat4}},
	{"ports of an IPv6 address run low", Event{Kind: ThresholdReached, Threshold: MappingsHigh, Limit: 60000, PostSource: nat6}, record{467: 3}, map[uint16]netip.Addr{281: nat6}},
	{"a client nears his quota", Event{Kind: ThresholdReached, Threshold: UserHigh, Limit: 90, Source: inside4}, record{467: 4, 480: 90}, map[uint16]netip.Addr{8: inside4}},
	{"an IPv6 client nears his quota", Event{Kind: ThresholdReached, Threshold: UserHigh, Limit: 90, Source: inside6}, record{467: 4, 480: 90}, map[uint16]netip.Addr{27: inside6}},
	{"the table fills up", Event{Kind: ThresholdReached, Threshold: GlobalHigh, Limit: 58982}, record{467: 5, 481: 58982}, nil},
}

func events() []Event {
	all := make([]Event, len(everyEvent))
	for i := range everyEvent {
		all[i] = everyEvent[i].event
		all[i].Time = noon.Add(time.Duration(i) * time.Millisecond)
	}
	return all
}

// decoded sends events through a session and a decoder.
func decoded(t *testing.T, s *Session, d *decoder, events []Event) (all []message) {
	t.Helper()
	for _, b := range s.Templates(noon) {
		if len(b) > s.Max {
			t.Errorf("a message of templates has %d bytes, want %d at most", len(b), s.Max)
		}
		if _, err := d.read(b); err != nil {
			t.Fatal(err)
		}
	}
	for len(events) > 0 {
		b, n := s.Append(nil, events, noon)
		if len(b) > s.Max {
			t.Errorf("a message has %d bytes, want %d at most", len(b), s.Max)
		}
		if n == 0 {
			t.Fatal("a message takes no event")
		}
		m, err := d.read(b)
		if err != nil {
			t.Fatal(err)
		}
		all, events = append(all, m), events[n:]
	}
	return all
}

func TestEveryEventIsReadAsItWasMeant(t *testing.T) {
	for _, size := range []int{MinMessage, 1400, MaxMessage} {
		var d decoder
		at := 0
		for _, m := range decoded(t, &Session{Domain: 9, Max: size}, &d, events()) {
			if m.domain != 9 || m.exported != uint32(noon.Unix()) {
				t.Errorf("domain %d, exported %d", m.domain, m.exported)
			}
			for i, got := range m.values {
				want := everyEvent[at]
				if got[323] != uint64(noon.UnixMilli())+uint64(at) || got[230] != uint64(want.event.Kind) {
					t.Errorf("%s: at %d, natEvent %d", want.claim, got[323], got[230])
				}
				for id, v := range want.want {
					if have, ok := got[id]; !ok || have != v {
						t.Errorf("%s: element %d is %d (%v), want %d", want.claim, id, have, ok, v)
					}
				}
				for id, a := range want.addrs {
					if have, _ := netip.AddrFromSlice([]byte(m.addresses[i][id])); have != a {
						t.Errorf("%s: element %d is %v, want %v", want.claim, id, have, a)
					}
				}
				at++
			}
		}
		if at != len(everyEvent) || d.missed != 0 {
			t.Errorf("messages of %d bytes: %d records, %d missed; want %d and none", size, at, d.missed, len(everyEvent))
		}
	}
}

func TestEveryTemplateIsUsed(t *testing.T) {
	used := map[int]bool{}
	for _, e := range everyEvent {
		at, ok := templateOf(&e.event)
		if !ok {
			t.Errorf("%s: no template", e.claim)
		}
		used[at] = true
	}
	for at, template := range templates {
		if len(template) < 3 || !used[at] {
			t.Errorf("template %d has %d elements, used: %v", firstTemplate+at, len(template), used[at])
		}
	}
}

func TestSequenceNumbersShowWhatWasLost(t *testing.T) {
	s, d := &Session{Max: MinMessage}, &decoder{}
	decoded(t, s, d, events())
	s.Skip(17)
	decoded(t, s, d, events()[:3])
	if d.missed != 17 || len(d.records) != len(everyEvent)+3 {
		t.Errorf("the collector misses %d of %d, want 17 of %d", d.missed, len(d.records), len(everyEvent)+3)
	}
}

func TestSequenceNumberWrapsAround(t *testing.T) {
	s, d := &Session{Max: MinMessage}, &decoder{next: 1<<32 - 5}
	s.Skip(1<<32 - 5)
	decoded(t, s, d, events())
	if d.missed != 0 || d.next != uint32(len(everyEvent)-5) {
		t.Errorf("%d missed, the next would be %d", d.missed, d.next)
	}
}

func TestWhatIsNoEventIsLeftOut(t *testing.T) {
	s := &Session{Max: MinMessage}
	nonsense := []Event{{}, {Kind: 99}, {Kind: QuotaExceeded}, {Kind: ThresholdReached, Threshold: 9}}
	if b, n := s.Append(nil, nonsense, noon); len(b) != 0 || n != len(nonsense) {
		t.Errorf("%d bytes for %d of %d events that are none", len(b), n, len(nonsense))
	}
}

func TestWithdrawalLeavesNoTemplate(t *testing.T) {
	s, d := &Session{Max: MinMessage}, &decoder{}
	decoded(t, s, d, nil)
	if _, err := d.read(s.Withdrawal(noon)); err != nil || len(d.templates) != 0 || d.withdrawn != numTemplates {
		t.Errorf("%d templates left, %d withdrawn, %v", len(d.templates), d.withdrawn, err)
	}
}

// FuzzMessages holds whatever events there are against a collector.
func FuzzMessages(f *testing.F) {
	f.Add(uint8(4), uint8(0), []byte{10, 0, 0, 5}, uint16(600), 30)
	f.Add(uint8(5), uint8(0), bytes.Repeat([]byte{0xfd}, 16), uint16(512), 200)
	f.Add(uint8(18), uint8(4), []byte{}, uint16(1400), 3) // a client without an address
	f.Add(uint8(13), uint8(4), []byte{10, 0, 0, 5}, uint16(512), 3)
	f.Fuzz(func(t *testing.T, kind, what uint8, raw []byte, size uint16, n int) {
		source, _ := netip.AddrFromSlice(raw)
		e := Event{Kind: Kind(kind), Quota: Quota(what), Threshold: Threshold(what), Time: noon, Source: source, PostSource: source, Destination: nat4}
		all := everyEventAround(e, min(max(n, 0), 500))
		var d decoder
		s := &Session{Max: max(int(size), MinMessage)}
		want := 0
		for i := range all {
			if _, ok := templateOf(&all[i]); ok {
				want++
			}
		}
		for _, b := range s.Templates(noon) {
			if _, err := d.read(b); err != nil {
				t.Fatal(err)
			}
		}
		for len(all) > 0 {
			b, taken := s.Append(nil, all, noon)
			if taken == 0 || len(b) > s.Max {
				t.Fatalf("%d events in %d bytes", taken, len(b))
			}
			if all = all[taken:]; len(b) == 0 {
				continue
			}
			if _, err := d.read(b); err != nil {
				t.Fatal(err)
			}
		}
		if len(d.records) != want || d.missed != 0 {
			t.Errorf("%d records and %d missed of %d", len(d.records), d.missed, want)
		}
	})
}

// everyEventAround mixes n times e into the others.
func everyEventAround(e Event, n int) []Event {
	var all []Event
	for i := range n {
		all = append(all, e, everyEvent[i%len(everyEvent)].event)
	}
	return append(all, e)
}
