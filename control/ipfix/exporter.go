package ipfix

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Config says where an Exporter sends to, and how.
type Config struct {
	Network   string // "udp" or "tcp"
	Collector string // address:port
	Dial      func(ctx context.Context, network, address string) (net.Conn, error)
	Domain    uint32        // observation domain
	Max       int           // bytes of a message
	Refresh   time.Duration // between templates over UDP
	Queue     int           // events that wait
	Log       *slog.Logger
}

const (
	batchSize    = 256                    // events written together at most
	linger       = 100 * time.Millisecond // that an event waits for others to share its message
	writeTimeout = 10 * time.Second
	firstRetry   = time.Second
	lastRetry    = 30 * time.Second
)

// Exporter sends events to one collector. Its methods may be called by any goroutine.
type Exporter struct {
	conf    Config
	queue   chan Event
	closing chan struct{}
	done    chan struct{}
	ctx     context.Context // ends when Close has waited long enough
	cancel  context.CancelFunc
	once    sync.Once

	sent, lost, failed atomic.Uint64
	up                 atomic.Bool

	batch   []Event // not written yet; of the goroutine
	skipped uint64  // of lost, what the session knows
	silent  bool    // the collector did not answer, which has been logged
}

// NewExporter starts an exporter. Close it.
func NewExporter(c Config) *Exporter {
	x := &Exporter{
		conf: c, queue: make(chan Event, c.Queue), closing: make(chan struct{}), done: make(chan struct{}),
		batch: make([]Event, 0, batchSize),
	}
	x.ctx, x.cancel = context.WithCancel(context.Background())
	go x.run()
	return x
}

// Send has an event sent. It never waits: when the queue is full the event is lost
// and counted.
func (x *Exporter) Send(e Event) {
	select {
	case x.queue <- e:
	default:
		x.lost.Add(1)
	}
}

// Lose counts events that were lost before they came here.
func (x *Exporter) Lose(n uint64) { x.lost.Add(n) }

// Stats are the counters of an Exporter.
type Stats struct {
	Sent   uint64 // events handed to the socket
	Lost   uint64 // events that never were: the queue was full, or the end came first
	Failed uint64 // messages that the socket refused; over UDP their events are not sent again
	Queued int    // events that wait now
	Up     bool   // connected; over UDP: nobody has refused the last message
}

// Stats returns the present numbers.
func (x *Exporter) Stats() Stats {
	return Stats{Sent: x.sent.Load(), Lost: x.lost.Load(), Failed: x.failed.Load(), Queued: len(x.queue), Up: x.up.Load()}
}

// Close sends what is queued, as long as ctx lasts, and ends the session. What could
// not be sent is counted as lost and told in the error. Send must not follow.
func (x *Exporter) Close(ctx context.Context) error {
	before := x.lost.Load()
	x.once.Do(func() { close(x.closing) })
	select {
	case <-x.done:
	case <-ctx.Done():
		x.cancel()
		<-x.done
	}
	x.cancel()
	if n := x.lost.Load() - before; n > 0 {
		return fmt.Errorf("collector %s: %d events were not sent", x.conf.Collector, n)
	}
	return nil
}

// run keeps a connection until Close.
func (x *Exporter) run() {
	defer close(x.done)
	defer func() { x.lost.Add(uint64(len(x.batch) + len(x.queue))) }()
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		err := x.connect(&retry)
		x.up.Store(false)
		if err == nil {
			return
		}
		x.complain(err)
		wait := time.NewTimer(retry)
		select {
		case <-wait.C:
		case <-x.closing:
			wait.Stop()
			return
		}
	}
}

// connect serves one transport session. It returns nil when that ends because of Close.
func (x *Exporter) connect(retry *time.Duration) error {
	ctx, cancel := context.WithTimeout(x.ctx, writeTimeout)
	conn, err := x.conf.Dial(ctx, x.conf.Network, x.conf.Collector)
	cancel()
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(x.ctx, func() { conn.Close() })()
	c := &connection{Exporter: x, conn: conn, session: Session{Domain: x.conf.Domain, Max: x.conf.Max}}
	gone := make(chan struct{})
	if c.stream() {
		go func() { // a collector says nothing, until it goes
			_, _ = io.Copy(io.Discard, conn) // the end is what counts, not why
			close(gone)
		}()
	}
	if err := c.begin(); err != nil {
		return err
	}
	*retry = firstRetry
	return c.serve(gone)
}

// complain logs once that the collector does not answer.
func (x *Exporter) complain(err error) {
	if !x.silent {
		x.silent = true
		x.conf.Log.Warn("IPFIX collector does not take events; trying on", "collector", x.conf.Collector, "transport", x.conf.Network, "error", err)
	}
}

// praise logs that it does again.
func (x *Exporter) praise() {
	x.up.Store(true)
	if x.silent {
		x.silent = false
		x.conf.Log.Info("IPFIX collector takes events again", "collector", x.conf.Collector, "transport", x.conf.Network, "lost", x.lost.Load())
	}
}

// connection is one transport session.
type connection struct {
	*Exporter
	conn    net.Conn
	session Session
	message []byte
	told    time.Time // when the templates were sent
	refused bool      // a datagram was: the collector may have forgotten the templates
	row     int       // datagrams since then
}

var errGone = errors.New("the collector closed the connection")

func (c *connection) stream() bool { return c.conf.Network == "tcp" }

// begin sends the templates.
func (c *connection) begin() error {
	c.told = time.Now()
	for _, m := range c.session.Templates(c.told) {
		if err := c.write(m); err != nil {
			return err
		}
	}
	return nil
}

// serve sends events until the connection ends, or Close.
func (c *connection) serve(gone <-chan struct{}) error {
	if err := c.flush(); err != nil { // what another connection left
		return err
	}
	refresh := time.NewTicker(c.conf.Refresh)
	defer refresh.Stop()
	for {
		select {
		case e := <-c.queue:
			c.collect(e)
			if err := c.flush(); err != nil {
				return err
			}
		case <-refresh.C:
			if c.stream() {
				continue
			}
			if err := c.begin(); err != nil {
				return err
			}
		case <-gone:
			return errGone
		case <-c.closing:
			return c.end()
		}
	}
}

// collect gathers what comes with e, for a moment.
func (c *connection) collect(e Event) {
	c.batch = append(c.batch, e)
	moment := time.NewTimer(linger)
	defer moment.Stop()
	for len(c.batch) < batchSize {
		select {
		case e := <-c.queue:
			c.batch = append(c.batch, e)
		case <-moment.C:
			return
		case <-c.closing:
			return
		}
	}
}

// flush writes the batch. What a stream did not take stays in it.
func (c *connection) flush() error {
	if c.refused && time.Since(c.told) > firstRetry {
		c.refused = false
		if err := c.begin(); err != nil {
			return err
		}
	}
	for done := 0; done < len(c.batch); {
		lost := c.lost.Load()
		c.session.Skip(lost - c.skipped)
		c.skipped = lost
		message, n := c.session.Append(c.message, c.batch[done:], time.Now())
		c.message = message
		if len(message) > 0 {
			if err := c.write(message); err != nil {
				c.batch = append(c.batch[:0], c.batch[done:]...)
				return err
			}
		}
		done += n
		c.sent.Add(uint64(n))
	}
	c.batch = c.batch[:0]
	return nil
}

// end sends what is left.
func (c *connection) end() error {
	for {
		select {
		case e := <-c.queue:
			if c.batch = append(c.batch, e); len(c.batch) < batchSize {
				continue
			}
		default:
		}
		if len(c.batch) == 0 {
			break
		}
		if err := c.flush(); err != nil {
			c.complain(err)
			return nil // there is no time to begin again
		}
	}
	if c.stream() {
		if err := c.write(c.session.Withdrawal(time.Now())); err != nil {
			c.complain(err)
		}
	}
	return nil
}

// taken is how many datagrams in a row must go without a refusal before a collector
// counts as there: one is refused when the next is written.
const taken = 3

// write sends one message. A datagram that is refused is lost, which is no reason to
// begin again.
func (c *connection) write(message []byte) error {
	err := c.writeOnce(message)
	if err == nil {
		if c.row++; c.row >= taken || c.stream() || !c.silent {
			c.praise()
		}
		return nil
	}
	c.failed.Add(1)
	c.up.Store(false)
	if c.stream() || errors.Is(err, net.ErrClosed) {
		return err
	}
	c.row, c.refused = 0, true
	c.complain(err)
	if errors.Is(err, syscall.ECONNREFUSED) { // which was about the one before
		if err := c.writeOnce(message); errors.Is(err, net.ErrClosed) {
			return err
		}
	}
	return nil
}

func (c *connection) writeOnce(message []byte) error {
	if err := c.conn.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	_, err := c.conn.Write(message)
	return err
}
