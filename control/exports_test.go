package control

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/control/api"
	"example.com/culvert/control/ipfix"
	"example.com/culvert/control/logging"
	"example.com/culvert/dataplane"
	"example.com/culvert/rules/config"
)

// logged is the masquerading gateway with a flow log in a file.
func logged(path string) string {
	return masquerading + fmt.Sprintf("\n[[flowlog]]\nfile = %q\n", path)
}

// lines returns how many lines about an event a file has.
func linesOf(t *testing.T, path, event string) int {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), " event="+event+" ")
}

func TestFlowLogFollowsReloadsAndRotation(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first.log"), filepath.Join(dir, "second.log")
	b := newBench(t, logged(first), Options{}, "lan0", "wan0")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.send(t, 40001)
	eventually(t, "a line", func() bool { return linesOf(t, first, "new") == 1 })

	if err := os.Rename(first, first+".old"); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken.toml")
	if err := os.WriteFile(broken, []byte("nonsense"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := b.ReloadFile(t.Context(), api.ReloadRequest{Config: broken}); !errors.Is(err, ErrRefused) {
		t.Fatal(err)
	}
	eventually(t, "the file anew, though the reload is refused", func() bool { _, err := os.Stat(first); return err == nil })
	b.send(t, 40002)
	eventually(t, "a line in the new file", func() bool { return linesOf(t, first, "new") == 1 })

	if err := b.Reload(parse(t, logged(second))); err != nil {
		t.Fatal(err)
	}
	b.send(t, 40003)
	eventually(t, "a line in the other file", func() bool { return linesOf(t, second, "new") == 1 })
	if n := linesOf(t, first, "new"); n != 1 {
		t.Errorf("the file that is no longer configured has %d lines, want 1", n)
	}
}

func TestReloadKeepsExportsThatStay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.log")
	b := newBench(t, logged(path), Options{}, "lan0", "wan0")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := b.exports.logs[0].Logger
	if err := b.Reload(parse(t, logged(path)+"\n[[ipfix]]\ncollector = \"127.0.0.1:9\"\n")); err != nil {
		t.Fatal(err)
	}
	if b.exports.logs[0].Logger != before {
		t.Error("a flow log whose settings stay was opened again")
	}
	if all := b.Exports(); len(all) != 2 || all[0].To != path || all[1].To != "udp:127.0.0.1:9" {
		t.Errorf("exports are %+v", all)
	}
	if err := b.Reload(parse(t, masquerading)); err != nil {
		t.Fatal(err)
	}
	if all := b.Exports(); len(all) != 0 {
		t.Errorf("exports are %+v, want none", all)
	}
}

func TestFlowLogThatCanNotBeOpenedIsRefused(t *testing.T) {
	nowhere := filepath.Join(t.TempDir(), "no", "flows.log")
	if err := newBench(t, logged(nowhere), Options{}, "lan0", "wan0").Start(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("start: %v", err)
	}
	b := start(t)
	if err := b.Reload(parse(t, logged(nowhere))); !errors.Is(err, ErrRefused) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("reload: %v", err)
	}
	b.send(t, 40004)
	b.received(t)
}

func TestCloseWritesTheLastLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.log")
	b := newBench(t, logged(path), Options{}, "lan0", "wan0")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	const flows = 50
	for i := range uint16(flows) {
		b.send(t, 40000+i)
	}
	eventually(t, "all flows", func() bool { return b.Table().Len() == flows })
	eventually(t, "all flows told", func() bool { return b.Exports()[0].Written == flows })
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if n := linesOf(t, path, "new"); n != flows {
		t.Errorf("%d lines, want %d", n, flows)
	}
}

func TestCollectorIsToldOfSessions(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := newBench(t, masquerading+fmt.Sprintf("\n[[ipfix]]\ncollector = %q\ndomain = 77\n", conn.LocalAddr()), Options{}, "lan0", "wan0")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.send(t, 40005)
	b.received(t)
	// What the record has is IPv4 addresses and ports side by side; see package ipfix.
	want := []byte{10, 0, 0, 5, 203, 0, 113, 1, 17, 40005 >> 8, 40005 & 0xff, 40005 >> 8, 40005 & 0xff, 203, 0, 113, 9, 203, 0, 113, 9, 0, 53, 0, 53, 1}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for m := make([]byte, 2048); ; {
		n, _, err := conn.ReadFrom(m)
		if err != nil {
			t.Fatalf("no session: %v", err)
		}
		if bytes.Contains(m[:n], want) {
			break
		}
	}
}

func TestSessionsOfEachKind(t *testing.T) {
	in, nat, out := netip.MustParseAddr("10.0.0.5"), netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("198.51.100.7")
	tup := func(proto uint8, src netip.Addr, sport uint16, dst netip.Addr, dport uint16) tuple.Tuple {
		return tuple.Tuple{Src: tuple.AddrFrom(src), Dst: tuple.AddrFrom(dst), SrcPort: sport, DstPort: dport, Proto: proto, Family: tuple.IPv4}
	}
	now := time.Now()
	for _, tt := range []struct {
		claim           string
		typ             conntrack.EventType
		status          conntrack.Status
		original, reply tuple.Tuple
		want            ipfix.Event
	}{
		{"masqueraded TCP", conntrack.EventNew, conntrack.SrcNAT, tup(tuple.TCP, in, 40000, out, 443), tup(tuple.TCP, out, 443, nat, 1025),
			ipfix.Event{Kind: ipfix.SessionCreate, Realm: ipfix.Private, Proto: 6, Source: in, PostSource: nat, Destination: out, PostDestination: out,
				SourcePort: 40000, PostSourcePort: 1025, DestPort: 443, PostDestPort: 443}},
		{"a forwarded port ends", conntrack.EventDestroy, conntrack.DstNAT, tup(tuple.TCP, out, 5, nat, 443), tup(tuple.TCP, in, 8443, out, 5),
			ipfix.Event{Kind: ipfix.SessionDelete, Realm: ipfix.Public, Proto: 6, Source: out, PostSource: out, Destination: nat, PostDestination: in,
				SourcePort: 5, PostSourcePort: 5, DestPort: 443, PostDestPort: 8443, Octets: [2]uint64{60, 70}}},
		{"a ping has its identifiers", conntrack.EventNew, conntrack.SrcNAT, tup(tuple.ICMP, in, 77, out, 8<<8), tup(tuple.ICMP, out, 78, nat, 0),
			ipfix.Event{Kind: ipfix.SessionCreate, Realm: ipfix.Private, Proto: 1, Source: in, PostSource: nat, Destination: out, PostDestination: out,
				SourcePort: 77, PostSourcePort: 78}},
	} {
		e := conntrack.Event{Type: tt.typ, Time: now}
		e.Flow.Status, e.Flow.Tuple, e.Flow.Bytes = tt.status, [2]tuple.Tuple{tt.original, tt.reply}, [2]uint64{60, 70}
		tt.want.Time = now
		if got := sessionEvent(&e); got != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.claim, got, tt.want)
		}
	}
}

func TestMarksAreToldOnceUntilTheyAreLeft(t *testing.T) {
	var m marks
	m.set(90, 70)
	for _, step := range []struct {
		used uint64
		want crossing
		mark uint32
	}{
		{899, notCrossed, 0}, {900, crossedHigh, 900}, {1000, notCrossed, 0}, {880, notCrossed, 0}, {950, notCrossed, 0},
		{701, notCrossed, 0}, {700, crossedLow, 700}, {10, notCrossed, 0}, {900, crossedHigh, 900},
	} {
		if got, mark := m.cross(markKey{pool: 1}, step.used, 1000); got != step.want || mark != step.mark {
			t.Errorf("%d of 1000: %v at %d, want %v at %d", step.used, got, mark, step.want, step.mark)
		}
	}
	if got, _ := m.cross(markKey{pool: 2}, 1, 1); got != crossedHigh {
		t.Error("a pool of one address that is used is not above its mark")
	}
	m.set(0, 0)
	if got, _ := m.cross(markKey{pool: 3}, 1, 1); got != notCrossed {
		t.Error("a mark is told that nobody wants")
	}
}

func TestPoolsCountAddressesInUse(t *testing.T) {
	pool := strings.Replace(masquerading, "action = \"masquerade\"", "action = \"snat\"\nto = \"203.0.113.8-203.0.113.11\"", 1)
	b := newBench(t, pool, Options{}, "lan0", "wan0")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ranges := poolOf(b.Engine().Program().Rules()[0])
	a := func(text string) tuple.Addr { return tuple.AddrFrom(netip.MustParseAddr(text)) }
	used, size := poolUse(ranges, []dataplane.PortUse{
		{Addr: a("203.0.113.8"), Proto: 6, Used: 3}, {Addr: a("203.0.113.8"), Proto: 17, Used: 1}, {Addr: a("203.0.113.9"), Kept: 1},
		{Addr: a("203.0.113.10")}, {Addr: a("203.0.113.1"), Used: 9},
	})
	if used != 2 || size != 4 {
		t.Errorf("%d of %d addresses are used, want 2 of 4", used, size)
	}
}

func TestComponentsOfTheLogAreThoseOfTheConfiguration(t *testing.T) {
	if !slices.Equal(config.LogComponents, logging.Names()) {
		t.Errorf("configuration has %v, the log %v", config.LogComponents, logging.Names())
	}
}

// lockedBuffer is what a log writes to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func TestLevelsAreSetByTheAPIUntilAReload(t *testing.T) {
	var out lockedBuffer
	logs := logging.New(&out, LogSettings(&config.Log{}), logging.Fixed{})
	b := newBench(t, masquerading, Options{Logs: logs}, "lan0", "wan0")
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	client := api.NewClient(b.socket)
	defer client.Close()
	l, err := client.SetLog(t.Context(), api.LogChange{Level: "debug", Components: []string{"pcp", "uplink"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range l.Levels {
		if want := map[bool]string{true: "debug", false: "info"}[c.Component == "pcp" || c.Component == "uplink"]; c.Level != want {
			t.Errorf("%s is at %s, want %s", c.Component, c.Level, want)
		}
	}
	for _, wrong := range []api.LogChange{{Level: "loud"}, {Level: "info", Components: []string{"pcp", "attic"}}} {
		if _, err := client.SetLog(t.Context(), wrong); !errors.Is(err, ErrRefused) {
			t.Errorf("%+v: %v, want a refusal", wrong, err)
		}
	}
	if err := b.Reload(parse(t, masquerading+"\n[log]\nlevel = \"warn\"\ncomponents = { api = \"error\" }\n")); err != nil {
		t.Fatal(err)
	}
	want := logging.AllAt(slog.LevelWarn)
	want[logging.API] = slog.LevelError
	if got := logs.Levels(); got != want {
		t.Errorf("after the reload levels are %v, want %v", got, want)
	}
}

func TestLevelsOfAForeignLogAreNotOurs(t *testing.T) {
	b := start(t)
	if err := b.SetLog(api.LogChange{Level: "debug"}); !errors.Is(err, ErrRefused) {
		t.Errorf("%v, want a refusal", err)
	}
}
