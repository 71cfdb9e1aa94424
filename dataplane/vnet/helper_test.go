package vnet

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/alg/example"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/port/mem"
)

// helped is the home net with one helper for flows to a port.
func helped(t *testing.T, h alg.Helper, port uint16, o Options) *Net {
	t.Helper()
	text, err := os.ReadFile("testdata/home.toml")
	if err != nil {
		t.Fatal(err)
	}
	if o.Helpers, err = alg.NewSet(h); err != nil {
		t.Fatal(err)
	}
	number, err := o.Helpers.Number(h.Spec().Name, alg.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o.Helper = func(f tuple.Tuple) uint32 {
		if f.DstPort == port {
			return number
		}
		return 0
	}
	return NewOptions(t, string(text), o)
}

// listen returns the next connection to an address.
func listen(t *testing.T, h *Host, addr string) <-chan net.Conn {
	t.Helper()
	l, err := h.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	got := make(chan net.Conn, 1)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(20 * time.Second))
			got <- c
		}
	}()
	return got
}

func dial(t *testing.T, h *Host, addr string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	c, err := h.Dial(ctx, "tcp", addr)
	if err != nil {
		t.Fatalf("dial %s: %v", addr, err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

func readLine(t *testing.T, c net.Conn) string {
	t.Helper()
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := c.Read(b); err != nil {
			t.Fatalf("after %q: %v", line, err)
		}
		line = append(line, b[0])
		if b[0] == '\n' {
			return string(line)
		}
	}
}

// TestServerReachesWhatAClientBehindNATAnnounced: the command is rewritten, however it
// is cut, the second connection arrives, and bytes go on in both directions.
func TestServerReachesWhatAClientBehindNATAnnounced(t *testing.T) {
	for _, cut := range []int{0, 1, 4, 9, 17} {
		t.Run(fmt.Sprintf("cut after %d bytes", cut), func(t *testing.T) {
			n := helped(t, example.Helper{}, 7000, Options{})
			client, server := n.Host("lan", "10.0.0.5/24"), n.Host("wan", "203.0.113.9/24")
			n.Start()
			control, calls := listen(t, server, "203.0.113.9:7000"), listen(t, client, "10.0.0.5:4000")
			c := dial(t, client, "203.0.113.9:7000")
			s := <-control
			fmt.Fprint(c, "HELLO\r\n")
			if got := readLine(t, s); got != "HELLO\r\n" {
				t.Fatalf("the server got %q", got)
			}
			const command = "CALL 10.0.0.5:4000\r\n"
			fmt.Fprint(c, command[:cut])
			fmt.Fprint(c, command[cut:]+"NEXT\r\n")
			if got := readLine(t, s); got != "CALL 203.0.113.1:4000\r\n" {
				t.Fatalf("the server got %q", got)
			}
			if got := readLine(t, s); got != "NEXT\r\n" {
				t.Fatalf("the server got %q after the command", got)
			}
			back := dial(t, server, "203.0.113.1:4000")
			in := <-calls
			if from := in.RemoteAddr().String(); from != back.LocalAddr().String() {
				t.Errorf("the client sees %s, want %s", from, back.LocalAddr())
			}
			fmt.Fprint(back, "data\n")
			if got := readLine(t, in); got != "data\n" {
				t.Errorf("the client got %q", got)
			}
			fmt.Fprint(s, "BYE\r\n")
			if got := readLine(t, c); got != "BYE\r\n" {
				t.Errorf("the client got %q", got)
			}
			c.Close()
			if rest, err := io.ReadAll(s); err != nil || len(rest) != 0 {
				t.Errorf("at its end the server got %q, %v", rest, err)
			}
			expected := 0
			n.Table.Dump(func(f *conntrack.Flow) bool {
				if f.Status&conntrack.Expected != 0 {
					expected++
				}
				if f.Tuple[0].DstPort == 7000 && f.Status&(conntrack.SeqAdjust|conntrack.Helper) != conntrack.SeqAdjust|conntrack.Helper {
					t.Errorf("the master's status is %v", f.Status)
				}
				return true
			})
			if expected != 1 {
				t.Errorf("%d flows were expected, want 1", expected)
			}
		})
	}
}

// words is a helper that writes every word of digits in another length.
type words struct{}

func (words) Spec() alg.Spec {
	return alg.Spec{Name: "words", Protos: []uint8{tuple.TCP}, Classes: []alg.Class{{Name: "none"}}, Limit: 1 << 10}
}
func (words) New(*alg.Flow) alg.Parser { return words{} }

func (words) Inspect(_ *alg.Context, b []byte) (e alg.Edit) {
	for {
		i := bytes.IndexByte(b[e.Done:], ' ')
		if i < 0 {
			e.Rest = alg.Hold
			return e
		}
		if text, ok := reword(b[e.Done : e.Done+i]); ok {
			e.Replace = append(e.Replace, alg.Replacement{From: e.Done, To: e.Done + i, Text: text})
		}
		e.Done += i + 1
	}
}

func reword(w []byte) ([]byte, bool) {
	switch {
	case len(w)%3 == 0 && len(w) > 0:
		return append(bytes.Repeat([]byte{'+'}, 40), w...), true
	case len(w)%3 == 1 && len(w) > 1:
		return w[:1], true
	}
	return nil, false
}

// TestRealHostsGetWhatAHelperMakesOfTheirBytes sends text both ways at once over a path
// that loses and exchanges packets.
func TestRealHostsGetWhatAHelperMakesOfTheirBytes(t *testing.T) {
	for _, tt := range []struct {
		loss   int
		server string
	}{{0, "203.0.113.9:7000"}, {4, "203.0.113.9:7000"}, {0, "[2001:db8:2::9]:7000"}} {
		t.Run(fmt.Sprintf("%d percent lost on the way to %s", tt.loss, tt.server), func(t *testing.T) {
			loss := tt.loss
			r := rand.New(rand.NewPCG(uint64(loss), 7))
			n := helped(t, words{}, 7000, Options{Impair: mem.Impair(1, mem.Rates{Drop: float64(loss) / 100, Swap: float64(loss) / 50, Duplicate: float64(loss) / 200})})
			client := n.Host("lan", "10.0.0.5/24", "2001:db8:1::5/64")
			server := n.Host("wan", "203.0.113.9/24", "2001:db8:2::9/64")
			n.Start()
			control := listen(t, server, tt.server)
			c := dial(t, client, tt.server)
			s := <-control
			done := make(chan error, 2)
			send := func(from, to net.Conn) {
				var text, want []byte
				for len(text) < 20000 {
					w := bytes.Repeat([]byte{byte('0' + r.IntN(10))}, 1+r.IntN(200))
					text = append(append(text, w...), ' ')
					if other, ok := reword(w); ok {
						w = other
					}
					want = append(append(want, w...), ' ')
				}
				go func() {
					for rest := text; len(rest) > 0; {
						k := min(1+len(rest)%3000, len(rest))
						from.Write(rest[:k])
						rest = rest[k:]
					}
					from.(interface{ CloseWrite() error }).CloseWrite()
				}()
				go func() {
					got, err := io.ReadAll(to)
					if err == nil && !bytes.Equal(got, want) {
						err = fmt.Errorf("got %d bytes that differ from the %d wanted", len(got), len(want))
					}
					done <- err
				}()
			}
			send(c, s)
			send(s, c)
			for range 2 {
				if err := <-done; err != nil {
					t.Error(err)
				}
			}
			if st := n.Engine.HelperStats(); st.Edited == 0 || st.Late+st.Broken+st.Panicked != 0 {
				t.Errorf("helpers: %+v", st)
			}
		})
	}
}

// bomb is a helper whose parser panics at the second payload.
type bomb struct{}

func (bomb) Spec() alg.Spec {
	return alg.Spec{Name: "bomb", Protos: []uint8{tuple.TCP}, Classes: []alg.Class{{Name: "none"}}}
}
func (bomb) New(*alg.Flow) alg.Parser { return new(fuse) }

type fuse int

func (f *fuse) Inspect(*alg.Context, []byte) alg.Edit {
	if *f++; *f == 2 {
		panic("out of range")
	}
	return alg.Edit{}
}

func TestPanicOfAParserEndsItAlone(t *testing.T) {
	n := helped(t, bomb{}, 7000, Options{})
	client, server := n.Host("lan", "10.0.0.5/24"), n.Host("wan", "203.0.113.9/24")
	n.Start()
	control := listen(t, server, "203.0.113.9:7000")
	c := dial(t, client, "203.0.113.9:7000")
	s := <-control
	for i := range 4 {
		line := fmt.Sprintf("line %d\n", i)
		fmt.Fprint(c, line)
		if got := readLine(t, s); got != line {
			t.Fatalf("got %q, want %q", got, line)
		}
	}
	if st := n.Engine.HelperStats(); st.Panicked != 1 {
		t.Errorf("%d panics counted, want 1", st.Panicked)
	}
}
