package flowlog

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"example.com/culvert/conntrack"
)

// Flows says which flows are logged.
type Flows uint8

const (
	AllFlows   Flows = iota
	Translated       // only those whose addresses or ports are
)

// Sink is a File or a Syslog.
type Sink interface {
	fmt.Stringer
	ready() error // whether it is worth to begin
	write(*lines) error
	reopen() error
	close() error
}

// Config says what a Logger writes, and where.
type Config struct {
	Sink   Sink
	Form   Form
	Events [numEvents]bool
	Flows  Flows
	Buffer int                    // events that wait
	Rule   func(id uint32) string // name of a rule, "" if there is none
	Log    *slog.Logger           // is told of trouble
}

const (
	batchBytes = 64 << 10
	extraRoom  = 1024 // blocks and refusals that wait
	firstRetry = time.Second
	lastRetry  = 30 * time.Second
)

// Logger is one flow log. Its methods may be called by any goroutine.
type Logger struct {
	conf    Config
	sub     *conntrack.Subscription // nil: flows are not logged
	extra   chan any                // Block or Refusal
	reopens chan struct{}
	closing chan struct{}
	done    chan struct{}
	ctx     context.Context // ends when Close has waited long enough
	cancel  context.CancelFunc
	once    sync.Once

	written atomic.Uint64
	missed  atomic.Uint64 // of extra
	unsaid  atomic.Uint64 // lines that were left when it closed
	failing atomic.Bool

	lines lines  // of the goroutine, as the rest
	told  uint64 // of lost, what has a line
}

// Open starts to log what becomes of the flows of t. A file that can not be opened is an
// error; a server may come later. Close it.
func Open(t *conntrack.Table, c Config) (*Logger, error) {
	if err := c.Sink.ready(); err != nil {
		return nil, err
	}
	l := &Logger{conf: c, extra: make(chan any, extraRoom), reopens: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{})}
	l.lines.form = c.Form
	l.ctx, l.cancel = context.WithCancel(context.Background())
	mask := conntrack.EventMask(0)
	if c.Events[New] {
		mask |= conntrack.NewEvents
	}
	if c.Events[Destroy] {
		mask |= conntrack.DestroyEvents
	}
	if mask != 0 {
		l.sub = t.Subscribe(c.Buffer, mask)
	}
	go l.run()
	return l, nil
}

// Block logs what becomes of a block of ports. It never waits.
func (l *Logger) Block(b Block) {
	if l.conf.Events[b.Event] {
		l.add(b)
	}
}

// Refuse logs that flows found no port or no room. It never waits.
func (l *Logger) Refuse(r Refusal) {
	if l.conf.Events[Refused] {
		l.add(r)
	}
}

func (l *Logger) add(x any) {
	select {
	case l.extra <- x:
	default:
		l.missed.Add(1)
	}
}

// Reopen has the sink opened anew: a file by its path, a server by its address.
func (l *Logger) Reopen() {
	select {
	case l.reopens <- struct{}{}:
	default: // it will be
	}
}

// Stats are the counters of a Logger.
type Stats struct {
	Written uint64 // lines
	Lost    uint64 // events that have no line and will have none
	Failing bool   // the sink takes nothing at the moment
}

// Stats returns the present numbers.
func (l *Logger) Stats() Stats {
	return Stats{Written: l.written.Load(), Lost: l.lost() + l.unsaid.Load(), Failing: l.failing.Load()}
}

// lost returns how many events did not get here.
func (l *Logger) lost() uint64 {
	n := l.missed.Load()
	if l.sub != nil {
		n += l.sub.Missed()
	}
	return n
}

// String returns where the log goes.
func (l *Logger) String() string { return l.conf.Sink.String() }

// Close writes what is there, as long as ctx lasts, and closes the sink. The error
// tells what was not written.
func (l *Logger) Close(ctx context.Context) error {
	l.once.Do(func() { close(l.closing) })
	select {
	case <-l.done:
	case <-ctx.Done():
		l.cancel()
		<-l.done
	}
	l.cancel()
	if n := l.unsaid.Load(); n > 0 {
		return fmt.Errorf("flow log %s: %d lines were not written", l.conf.Sink, n)
	}
	return nil
}

// run writes until Close, or the table is closed.
func (l *Logger) run() {
	defer close(l.done)
	defer l.finish()
	var events <-chan conntrack.Event
	if l.sub != nil {
		events = l.sub.Events()
		defer l.sub.Close()
	}
	for {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			l.flow(&e)
		case x := <-l.extra:
			l.line(x)
		case <-l.reopens:
			l.reopen()
			continue
		case <-l.closing:
			return
		}
		l.gather(events)
		if !l.write() {
			return
		}
	}
}

// gather makes lines of all that waits, up to a batch.
func (l *Logger) gather(events <-chan conntrack.Event) {
	for !l.lines.full() {
		select {
		case e, ok := <-events:
			if !ok {
				return
			}
			l.flow(&e)
		case x := <-l.extra:
			l.line(x)
		default:
			return
		}
	}
}

// flow makes a line of an event.
func (l *Logger) flow(e *conntrack.Event) {
	if l.conf.Flows == Translated && e.Flow.Status&(conntrack.SrcNAT|conntrack.DstNAT) == 0 {
		return
	}
	rule := ""
	if e.Flow.Rule != 0 {
		rule = l.conf.Rule(e.Flow.Rule)
	}
	l.lines.flow(e, rule)
	what := New
	if e.Type == conntrack.EventDestroy {
		what = Destroy
	}
	l.lines.close(what)
}

// line makes a line of a Block or a Refusal.
func (l *Logger) line(x any) {
	switch x := x.(type) {
	case Block:
		l.lines.block(&x)
		l.lines.close(x.Event)
	case Refusal:
		l.lines.refusal(&x)
		l.lines.close(Refused)
	}
}

// confess makes a line of what was lost since the last one.
func (l *Logger) confess() {
	if n := l.lost(); n != l.told {
		l.lines.lost(time.Now(), n-l.told)
		l.lines.close(Lost)
		l.told = n
	}
}

// write hands all lines to the sink, however often that takes, and in the end a line
// about what was lost meanwhile. It reports false when Close ends that.
func (l *Logger) write() bool {
	l.confess()
	for retry := firstRetry; ; retry = min(2*retry, lastRetry) {
		n := l.lines.len()
		err := l.conf.Sink.write(&l.lines)
		l.written.Add(uint64(n - l.lines.len()))
		if err == nil {
			l.recovered()
			if l.confess(); l.lines.len() == 0 {
				return true
			}
			continue
		}
		if l.failed(err); !l.pause(retry) {
			return false
		}
	}
}

// pause waits until it is time to try again, and reports false when Close was called.
func (l *Logger) pause(d time.Duration) bool {
	wait := time.NewTimer(d)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-l.reopens:
		l.reopen()
	case <-l.closing:
		return false
	}
	return true
}

func (l *Logger) reopen() {
	if err := l.conf.Sink.reopen(); err != nil {
		l.failed(err)
	}
}

// failed tells once that the sink takes nothing, recovered that it does again.
func (l *Logger) failed(err error) {
	if !l.failing.Swap(true) {
		l.conf.Log.Error("flow log can not be written; trying on", "to", l.conf.Sink.String(), "error", err)
	}
}

func (l *Logger) recovered() {
	if l.failing.Swap(false) {
		l.conf.Log.Info("flow log is written again", "to", l.conf.Sink.String(), "lost", l.lost())
	}
}

// finish writes what is left, once, and closes the sink.
func (l *Logger) finish() {
	var events <-chan conntrack.Event
	if l.sub != nil {
		events = l.sub.Events()
	}
	for {
		l.gather(events)
		l.confess()
		n := l.lines.len()
		if n == 0 {
			break
		}
		var err error
		if err = l.ctx.Err(); err == nil {
			err = l.conf.Sink.write(&l.lines)
		}
		l.written.Add(uint64(n - l.lines.len()))
		if err != nil {
			l.failed(err)
			l.unsaid.Add(uint64(l.lines.len() + len(events) + len(l.extra)))
			break
		}
	}
	if err := l.conf.Sink.close(); err != nil {
		l.conf.Log.Warn("flow log was not closed cleanly", "to", l.conf.Sink.String(), "error", err)
	}
}
