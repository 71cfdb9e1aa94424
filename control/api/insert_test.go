package api

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"

	"example.com/culvert/conntrack"
)

// newFlow is a flow to insert, from 10.0.0.5.
func newFlow(proto string, sport uint16) NewFlow {
	return NewFlow{Timeout: 60, Original: Tuple{Proto: proto, Src: netip.MustParseAddr("10.0.0.5"), Dst: netip.MustParseAddr("192.0.2.53"), Sport: sport, Dport: 53}}
}

func TestFlowIsInserted(t *testing.T) {
	_, client, _ := serve(t)
	x := newFlow("tcp", 40000)
	x.SrcNAT, x.State = &NATFilter{Addr: netip.MustParseAddr("203.0.113.1"), Port: 6000}, "ESTABLISHED"
	x.Status, x.Mark, x.Labels = []string{"SEEN_REPLY", "ASSURED"}, 7, []int{3, 65}
	f, err := client.InsertFlow(t.Context(), x)
	if err != nil {
		t.Fatal(err)
	}
	if f.State != "ESTABLISHED" || f.Mark != 7 || len(f.Labels) != 2 || f.Reply.Dst.String() != "203.0.113.1" || *f.Reply.Dport != 6000 || f.Timeout != 60 {
		t.Errorf("the flow is %+v", f)
	}
	if _, err := client.InsertFlow(t.Context(), x); !errors.Is(err, ErrExists) {
		t.Errorf("again: %v", err)
	}
}

func TestRepliesOfAnInsertedFlowAreItsInverseUnlessTold(t *testing.T) {
	other := Tuple{Proto: "udp", Src: netip.MustParseAddr("192.0.2.99"), Dst: netip.MustParseAddr("203.0.113.1"), Sport: 5353, Dport: 6000}
	for _, tt := range []struct {
		claim string
		edit  func(*NewFlow)
		want  string // the reply tuple
	}{
		{"nothing else", func(*NewFlow) {}, "udp 192.0.2.53:53 > 10.0.0.5:40000"},
		{"a reply tuple", func(x *NewFlow) { x.Reply = &other }, "udp 192.0.2.99:5353 > 203.0.113.1:6000"},
		{"both ends translated", func(x *NewFlow) {
			x.SrcNAT = &NATFilter{Addr: other.Dst, Port: 7}
			x.DstNAT = &NATFilter{Addr: other.Src, Port: 8}
		}, "udp 192.0.2.99:8 > 203.0.113.1:7"},
		{"an address alone", func(x *NewFlow) { x.DstNAT = &NATFilter{Addr: other.Src} }, "udp 192.0.2.99:53 > 10.0.0.5:40000"},
	} {
		x := newFlow("udp", 40000)
		tt.edit(&x)
		in, err := x.insertion()
		if got := in.Reply.String(); err != nil || got != tt.want {
			t.Errorf("%s: %s, %v; want %s", tt.claim, got, err, tt.want)
		}
	}
}

func TestFlowsThatCannotBeAreNotInserted(t *testing.T) {
	_, client, _ := serve(t)
	for claim, edit := range map[string]func(*NewFlow){
		"no state":                func(x *NewFlow) { x.Original.Proto = "tcp" },
		"a state of another":      func(x *NewFlow) { x.State = "ESTABLISHED" },
		"a status nobody may set": func(x *NewFlow) { x.Status = []string{"EXPECTED"} },
		"no address":              func(x *NewFlow) { x.Original.Dst = netip.Addr{} },
		"two families":            func(x *NewFlow) { x.SrcNAT = &NATFilter{Addr: netip.MustParseAddr("::1")} },
		"a label there is not":    func(x *NewFlow) { x.Labels = []int{128} },
		"a message that is no question": func(x *NewFlow) {
			x.Original.Proto, x.Original.Dport = "icmp", 3<<8
		},
		"another protocol answers": func(x *NewFlow) { r := x.Original; r.Proto = "tcp"; x.Reply = &r },
	} {
		x := newFlow("udp", 40000)
		edit(&x)
		if _, err := client.InsertFlow(t.Context(), x); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", claim, err)
		}
	}
}

func TestFlowIsListedWithWhoMadeIt(t *testing.T) {
	g, client, _ := serve(t)
	g.flow(t, 40000)
	for _, tt := range []struct {
		form Form
		want string
	}{
		{FormText, `use=1 rule="the way out" at=c.toml:9 generation=0 port=preserved`},
		{FormJSON, `"why":{"rule":"the way out","text":"masquerade","position":"c.toml:9","generation":0,"port_choice":"preserved"}`},
	} {
		if got := read(t, client, Format{Form: tt.form, Output: []string{"why"}}); !strings.Contains(got, tt.want) {
			t.Errorf("%s: %s", tt.form, got)
		}
	}
	if got := read(t, client, Format{Form: FormJSON}); strings.Contains(got, "why") {
		t.Errorf("without being asked: %s", got)
	}
}

// read returns the list of flows.
func read(t *testing.T, client *Client, f Format) string {
	t.Helper()
	body, err := client.Flows(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	b, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestCountersAreZeroedWithTheirList(t *testing.T) {
	g, client, _ := serve(t)
	g.flow(t, 40000)
	k := newFlow("udp", 40000).Original
	key, _ := k.tuple("")
	w := g.table.Worker(0)
	w.Begin(conntrack.Now())
	w.Track(w.Find(&key), &conntrack.Segment{Bytes: 100}, conntrack.Now())
	w.Park()
	for _, want := range []uint64{1, 0} {
		body, err := client.ZeroFlows(t.Context(), Format{})
		if err != nil {
			t.Fatal(err)
		}
		var f Flow
		if err := json.NewDecoder(body).Decode(&f); err != nil || f.Original.Packets != want {
			t.Errorf("%d packets, %v; want %d", f.Original.Packets, err, want)
		}
		body.Close()
	}
}

func TestStatsCountWhatBegan(t *testing.T) {
	g, client, _ := serve(t)
	g.flow(t, 40000)
	st, err := client.FlowStats(t.Context())
	if err != nil || len(st.Workers) != 1 || st.Workers[0].Insert != 1 {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestExpectationIsFoundByItsTuple(t *testing.T) {
	g, client, _ := serve(t)
	g.flow(t, 40000)
	x := expectation(40000, 5000)
	if _, err := client.Expectation(t.Context(), x.Tuple, Format{Form: FormText}); !errors.Is(err, ErrNotFound) {
		t.Errorf("before there is one: %v", err)
	}
	if err := client.CreateExpectation(t.Context(), x); err != nil {
		t.Fatal(err)
	}
	body, err := client.Expectation(t.Context(), x.Tuple, Format{Form: FormXML})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	line, err := bufio.NewReader(body).ReadString('\n')
	if want := `<expected><src>192.0.2.53</src><dst>10.0.0.5</dst></expected><mask><src>255.255.255.255</src>`; err != nil || !strings.Contains(line, want) {
		t.Errorf("%s, %v; want %s", line, err, want)
	}
}
