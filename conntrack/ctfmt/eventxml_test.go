package ctfmt

import (
	"net/netip"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// begun is a TCP flow.
func begun() conntrack.Flow {
	original := tuple.Tuple{Proto: tuple.TCP, Family: tuple.IPv4, Src: tuple.AddrFrom(netip.MustParseAddr("10.0.0.1")),
		Dst: tuple.AddrFrom(netip.MustParseAddr("10.0.0.2")), SrcPort: 1, DstPort: 21}
	reply, _ := original.Inverse()
	return conntrack.Flow{Tuple: [...]tuple.Tuple{original, reply}, State: conntrack.Established, Status: conntrack.SeenReply,
		Timeout: 100 * time.Second, ID: 217738166, Start: time.Unix(0, 1795366318501076747)}
}

const (
	ends = `<meta direction="original"><layer3 protonum="2" protoname="ipv4"><src>10.0.0.1</src><dst>10.0.0.2</dst></layer3>` +
		`<layer4 protonum="6" protoname="tcp"><sport>1</sport><dport>21</dport></layer4></meta>` +
		`<meta direction="reply"><layer3 protonum="2" protoname="ipv4"><src>10.0.0.2</src><dst>10.0.0.1</dst></layer3>` +
		`<layer4 protonum="6" protoname="tcp"><sport>21</sport><dport>1</dport></layer4></meta>`
	when = `<when><hour>16</hour><min>46</min><sec>19</sec><wday>1</wday><day>22</day><month>11</month><year>2026</year></when>`
)

// TestEventsAsXML has lines that conntrack 1.4.7 printed for such events.
func TestEventsAsXML(t *testing.T) {
	at := time.Date(2026, 11, 22, 16, 46, 19, 0, time.UTC)
	for _, tt := range []struct {
		claim string
		event conntrack.Event
		want  string
	}{
		{"new", conntrack.Event{Type: conntrack.EventNew, Flow: begun()}, `<flow type="new">` + ends +
			`<meta direction="independent"><state>ESTABLISHED</state><timeout>100</timeout><id>217738166</id></meta>` + when + `</flow>`},
		{"an update of the mark", conntrack.Event{Type: conntrack.EventUpdate, Change: conntrack.ChangedMark, Flow: begun()}, `<flow type="update">` + ends +
			`<meta direction="independent"><timeout>100</timeout><mark>0</mark><id>217738166</id></meta>` + when + `</flow>`},
		{"helper behind the time", conntrack.Event{Type: conntrack.EventUpdate, Flow: func() conntrack.Flow { f := begun(); f.Helper = "ftp"; return f }()}, `<flow type="update">` + ends +
			`<meta direction="independent"><timeout>100</timeout><id>217738166</id></meta>` + when + `<helper>ftp</helper></flow>`},
		{"by command", conntrack.Event{Type: conntrack.EventNew, Commanded: true, Flow: begun()}, `<flow type="new">` + ends +
			`<meta direction="independent"><state>ESTABLISHED</state><timeout>100</timeout><mark>0</mark><id>217738166</id></meta>` + when + `</flow> [USERSPACE] portid=77`},
		{"destroy", conntrack.Event{Type: conntrack.EventDestroy, Flow: func() conntrack.Flow { f := begun(); f.Stop = f.Start.Add(3 * time.Second); return f }()},
			`<flow type="destroy">` + ends + `<meta direction="independent"><state>ESTABLISHED</state><timeout>100</timeout><id>217738166</id>` +
				`<timestamp><start>1795366318501076747</start><stop>1795366321501076747</stop></timestamp><deltatime>3</deltatime></meta>` + when + `</flow>`},
	} {
		tt.event.Time = at
		if got := string(AppendEventXML(nil, &tt.event, Options{Timestamp: true, KTimestamp: true, PortID: 77, Location: time.UTC})); got != tt.want {
			t.Errorf("%s:\ngot  %s\nwant %s", tt.claim, got, tt.want)
		}
	}
}

func TestEventsAreSavedAsCommands(t *testing.T) {
	for typ, command := range map[conntrack.EventType]string{conntrack.EventNew: "-A", conntrack.EventUpdate: "-U", conntrack.EventDestroy: "-D"} {
		want := command + " -t 100 -u SEEN_REPLY -s 10.0.0.1 -d 10.0.0.2 -r 10.0.0.2 -q 10.0.0.1 -p tcp --sport 1 --dport 21 --reply-port-src 21 --reply-port-dst 1 --state ESTABLISHED"
		if got := string(AppendEventSave(nil, &conntrack.Event{Type: typ, Flow: begun()}, Options{})); got != want {
			t.Errorf("%v:\ngot  %s\nwant %s", typ, got, want)
		}
	}
}

// TestExpectationsAsXML has a line that conntrack 1.4.7 printed for such an event.
func TestExpectationsAsXML(t *testing.T) {
	f := begun()
	e := conntrack.ExpectEvent{Type: conntrack.EventNew, Time: time.Date(2026, 11, 22, 16, 46, 19, 0, time.UTC), Expect: conntrack.Expect{
		Expectation: conntrack.Expectation{Tuple: f.Tuple[tuple.Reply], Mask: conntrack.WholeMask(0), Flags: conntrack.ExpectPermanent},
		Master:      f.Tuple[tuple.Original], HelperName: "ftp", Timeout: 300 * time.Second}}
	e.Expect.Tuple.SrcPort = 0
	want := `<flow type="new"><layer3 protonum="2" protoname="ipv4"><expected><src>10.0.0.2</src><dst>10.0.0.1</dst></expected>` +
		`<mask><src>255.255.255.255</src><dst>255.255.255.255</dst></mask><master><src>10.0.0.1</src><dst>10.0.0.2</dst></master></layer3>` +
		`<layer4 protonum="6" protoname="tcp"><expected><sport>0</sport><dport>1</dport></expected><mask><sport>0</sport><dport>65535</dport></mask>` +
		`<master><sport>1</sport><dport>21</dport></master></layer4><meta><helper-name>ftp</helper-name><timeout>300</timeout><class>0</class>` + when +
		`<permanent/></meta></flow>`
	if got := string(AppendExpectEventXML(nil, &e, Options{Timestamp: true, Location: time.UTC})); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}
