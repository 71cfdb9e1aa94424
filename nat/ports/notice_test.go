package ports

import (
	"testing"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// noticed returns what was told so far.
func noticed(s *Set) (all []Notice) {
	for {
		select {
		case n := <-s.Notices():
			all = append(all, n)
		default:
			return all
		}
	}
}

func TestMappingsAreToldWhenTheyBeginAndEnd(t *testing.T) {
	s, err := New(64, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	terms := Terms{Mapping: nat.EndpointIndependent, Filtering: nat.EndpointIndependent}
	use := terms.Outbound(Mixed)
	f := Flow{Proto: tuple.UDP, Inside: Endpoint{tuple.Addr{15: 1}, 5060, 2}, External: Endpoint{tuple.Addr{15: 9}, 6000, 0}}
	second := f
	second.Remote.Port = 7
	take := func(f *Flow) {
		t.Helper()
		if out, _ := s.Take(f, use, &terms, Fits{Source: &nat.Source{}, Egress: f.External.Addr}, 1); out != Granted {
			t.Fatal(out)
		}
	}
	take(&f)
	s.Release(&f, use, 2)
	if got := noticed(s); got != nil {
		t.Errorf("told %v before anybody asked", got)
	}
	s.Watch(Watch{Mappings: true})
	take(&f)
	take(&second)
	s.Release(&f, use, 2)
	begun := Notice{Kind: MappingBegun, Proto: tuple.UDP, Inside: f.Inside, External: f.External}
	if got := noticed(s); len(got) != 1 || got[0] != begun {
		t.Errorf("told %v, want %v", got, begun)
	}
	s.Release(&second, use, 3)
	ended := begun
	ended.Kind = MappingEnded
	if got := noticed(s); len(got) != 1 || got[0] != ended {
		t.Errorf("told %v, want %v", got, ended)
	}
}

func TestClientsAreToldOnceWhenTheirPortsReachAMark(t *testing.T) {
	s, err := New(64, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Watch(Watch{High: 80, Low: 50})
	terms := Terms{Quota: 10}
	use, host := terms.Outbound(LinuxOnly), tuple.AddrFrom4([4]byte{10, 0, 0, 5})
	flow := func(n int) *Flow {
		return &Flow{Proto: tuple.TCP, Inside: Endpoint{host, uint16(1000 + n), 0}, External: Endpoint{tuple.Addr{15: 9}, uint16(2000 + n), 0}}
	}
	var got []Notice
	for n := range 11 {
		out, _ := s.Take(flow(n), use, &terms, Fits{Source: &nat.Source{}}, 1)
		if want := map[bool]Outcome{true: Granted, false: QuotaReached}[n < 10]; out != want {
			t.Fatalf("port %d: %v, want %v", n+1, out, want)
		}
	}
	for n := range 10 {
		s.Release(flow(n), use, 2)
	}
	got = noticed(s)
	client := Endpoint{Addr: host}
	want := []Notice{{Kind: ClientHigh, Proto: tuple.TCP, Inside: client, Quota: 10, Used: 8}, {Kind: ClientLow, Proto: tuple.TCP, Inside: client, Quota: 10, Used: 4}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("told %v, want %v", got, want)
	}
}

func TestNoticesThatNobodyReadsAreCounted(t *testing.T) {
	var n notices
	n.to = make(chan Notice, 2)
	for range 5 {
		n.tell(Notice{})
	}
	if got := n.lost.Load(); got != 3 {
		t.Errorf("%d lost, want 3", got)
	}
}
