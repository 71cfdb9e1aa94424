package ipfix

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/culvert/internal/await"
)

func config(t *testing.T, network, collector string) Config {
	return Config{Network: network, Collector: collector, Dial: new(net.Dialer).DialContext, Domain: 3, Max: 1400, Refresh: time.Hour,
		Queue: 4096, Log: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

// start runs an exporter until the test ends.
func start(t *testing.T, c Config) *Exporter {
	t.Helper()
	x := NewExporter(c)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = x.Close(ctx) // events that are left are the test's affair
	})
	return x
}

func closeIt(t *testing.T, x *Exporter) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := x.Close(ctx); err != nil {
		t.Error(err)
	}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	await.Until(t, what, ok)
}

// udpCollector reads datagrams into a decoder.
type udpCollector struct {
	net.PacketConn
	mu        sync.Mutex // guards the rest
	d         decoder
	templates int // messages without records
	err       error
}

func collectUDP(t *testing.T, address string) *udpCollector {
	t.Helper()
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	c := &udpCollector{PacketConn: conn}
	done := make(chan struct{})
	t.Cleanup(func() { conn.Close(); <-done })
	go func() {
		defer close(done)
		for b := make([]byte, 65536); ; {
			n, _, err := conn.ReadFrom(b)
			if err != nil {
				return
			}
			c.mu.Lock()
			m, err := c.d.read(b[:n])
			c.err = errors.Join(c.err, err)
			if len(m.values) == 0 {
				c.templates++
			}
			c.mu.Unlock()
		}
	}()
	return c
}

func (c *udpCollector) seen() (records, templates int, missed uint32, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.d.records), c.templates, c.d.missed, c.err
}

func TestEventsReachAUDPCollectorAfterTheirTemplates(t *testing.T) {
	c := collectUDP(t, "127.0.0.1:0")
	x := start(t, config(t, "udp", c.LocalAddr().String()))
	for _, e := range events() {
		x.Send(e)
	}
	eventually(t, "all records", func() bool { n, _, _, _ := c.seen(); return n == len(everyEvent) })
	if _, _, missed, err := c.seen(); missed != 0 || err != nil {
		t.Errorf("%d missed, %v", missed, err)
	}
	if s := x.Stats(); s.Sent != uint64(len(everyEvent)) || s.Lost != 0 || s.Failed != 0 || !s.Up {
		t.Errorf("%+v", s)
	}
}

func TestTemplatesAreToldAgainOverUDP(t *testing.T) {
	c := collectUDP(t, "127.0.0.1:0")
	conf := config(t, "udp", c.LocalAddr().String())
	conf.Refresh = 5 * time.Millisecond
	start(t, conf)
	eventually(t, "templates three times", func() bool { _, n, _, _ := c.seen(); return n >= 3 })
}

func TestCloseSendsWhatIsQueued(t *testing.T) {
	c := collectUDP(t, "127.0.0.1:0")
	x := start(t, config(t, "udp", c.LocalAddr().String()))
	for range 1000 {
		x.Send(events()[0])
	}
	closeIt(t, x)
	eventually(t, "all records", func() bool { n, _, _, _ := c.seen(); return n == 1000 })
	if c.d.withdrawn != 0 {
		t.Error("templates were withdrawn over UDP, which RFC 7011 section 8.4 forbids")
	}
}

func TestWhatTheQueueCanNotHoldIsCountedAndSeen(t *testing.T) {
	c := collectUDP(t, "127.0.0.1:0")
	conf := config(t, "udp", c.LocalAddr().String())
	conf.Queue = 10
	open := make(chan struct{})
	conf.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		<-open
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	x := start(t, conf)
	for range 100 {
		x.Send(events()[0])
	}
	close(open)
	eventually(t, "ten records", func() bool { n, _, _, _ := c.seen(); return n == 10 })
	if _, _, missed, err := c.seen(); missed != 90 || err != nil || x.Stats().Lost != 90 {
		t.Errorf("the collector misses %d, the exporter has lost %d, %v; want 90", missed, x.Stats().Lost, err)
	}
}

func TestCollectorThatComesBackGetsTemplates(t *testing.T) {
	first := collectUDP(t, "127.0.0.1:0")
	address := first.LocalAddr().String()
	x := start(t, config(t, "udp", address))
	x.Send(events()[0])
	eventually(t, "a record", func() bool { n, _, _, _ := first.seen(); return n == 1 })
	first.Close()
	eventually(t, "a refusal", func() bool { x.Send(events()[0]); return x.Stats().Failed > 0 })
	second := collectUDP(t, address)
	eventually(t, "records with templates", func() bool {
		x.Send(events()[0])
		n, _, _, _ := second.seen() // what came before the templates is not readable
		return n > 0
	})
	eventually(t, "that it counts as there", func() bool { x.Send(events()[0]); return x.Stats().Up })
}

// readMessage takes one message from a stream.
func readMessage(r io.Reader) ([]byte, error) {
	b := make([]byte, 16, 65536)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	b = b[:binary.BigEndian.Uint16(b[2:])]
	_, err := io.ReadFull(r, b[16:])
	return b, err
}

// readStream decodes a connection until it ends or has n records.
func readStream(t *testing.T, conn net.Conn, d *decoder, n int) {
	t.Helper()
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for len(d.records) < n {
		b, err := readMessage(conn)
		if err != nil {
			t.Fatalf("after %d records: %v", len(d.records), err)
		}
		if _, err := d.read(b); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStreamBreaksAndNothingIsMissing(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	x := start(t, config(t, "tcp", l.Addr().String()))
	accept := func() net.Conn {
		t.Helper()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	send := func() {
		for _, e := range events() {
			x.Send(e)
		}
	}
	conn, first := accept(), decoder{}
	send()
	readStream(t, conn, &first, len(everyEvent))
	conn.Close()
	eventually(t, "the end seen", func() bool { return !x.Stats().Up })
	send()
	conn, second := accept(), decoder{}
	readStream(t, conn, &second, len(everyEvent))
	if first.missed+second.missed != 0 || x.Stats().Lost != 0 {
		t.Errorf("missed %d before and %d after, %d lost", first.missed, second.missed, x.Stats().Lost)
	}
	closeIt(t, x)
	b, err := readMessage(conn)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := second.read(b); err != nil || second.withdrawn != numTemplates {
		t.Errorf("%d of %d templates withdrawn, %v", second.withdrawn, numTemplates, err)
	}
	if _, err := readMessage(conn); !errors.Is(err, io.EOF) {
		t.Errorf("after the withdrawal: %v, want the end", err)
	}
}

func TestCloseWithoutACollectorTellsTheLoss(t *testing.T) {
	conf := config(t, "tcp", "127.0.0.1:9")
	conf.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route") }
	x := NewExporter(conf)
	for range 7 {
		x.Send(events()[0])
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := x.Close(ctx); err == nil || !strings.Contains(err.Error(), "7 events were not sent") || x.Stats().Lost != 7 {
		t.Errorf("%v, %+v", err, x.Stats())
	}
}

func TestCollectorThatDoesNotReadHoldsUpNobody(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	x := start(t, config(t, "tcp", l.Addr().String()))
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	n := uint64(0)
	eventually(t, "a full queue", func() bool {
		for range 10000 {
			x.Send(events()[0])
			n++
		}
		return x.Stats().Lost > 0
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // waits no longer
	if err := x.Close(ctx); err == nil {
		t.Error("the loss at the end is not told")
	}
	if s := x.Stats(); s.Sent+s.Lost != n {
		t.Errorf("%d sent and %d lost of %d", s.Sent, s.Lost, n)
	}
}

func TestSendDoesNotAllocate(t *testing.T) {
	conf := config(t, "udp", "127.0.0.1:9")
	conf.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route") }
	x := start(t, conf)
	e := events()[0]
	if n := testing.AllocsPerRun(100, func() { x.Send(e) }); n != 0 {
		t.Errorf("%.0f allocations for an event", n)
	}
}
