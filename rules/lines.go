package rules

import "sync/atomic"

// Line is what a rule with a log has to say about a packet.
type Line struct {
	At     int64 // boot clock, ns
	Rule   *Rule
	Key    Key
	Mark   uint32 // of the packet, as the rules before have changed it
	Missed uint64 // lines of this worker before this one that were too many
}

// lines is a ring between one worker and one reader. The worker never waits: what
// finds no place, or is beyond the rate of its rule, is counted.
type lines struct {
	missed atomic.Uint64 // all so far
	told   uint64        // of these, told with a line; the worker's

	head, tail atomic.Uint32 // next to write, next to read
	ready      chan struct{} // has an element when there may be something to read
	ring       [lineRing]Line
}

const lineRing = 256 // a power of two

func newLines() *lines { return &lines{ready: make(chan struct{}, 1)} }

// add is called by the worker.
func (l *lines) add(r *Rule, k *Key, mark uint32, now int64, granted bool) {
	head := l.head.Load()
	if !granted || head-l.tail.Load() == lineRing {
		l.missed.Store(l.missed.Load() + 1)
		return
	}
	missed := l.missed.Load()
	l.ring[head%lineRing] = Line{At: now, Rule: r, Key: *k, Mark: mark, Missed: missed - l.told}
	l.told = missed
	l.head.Store(head + 1)
	select {
	case l.ready <- struct{}{}:
	default:
	}
}

// read calls f for each line there is. Only one goroutine may.
func (l *lines) read(f func(*Line)) {
	for tail := l.tail.Load(); tail != l.head.Load(); {
		f(&l.ring[tail%lineRing])
		tail++
		l.tail.Store(tail)
	}
}

// Lines are the lines that rules have logged, of one worker, over all programs.
type Lines struct{ l *lines }

// Lines returns the log of a worker.
func (l *Ledger) Lines(worker int) Lines { return Lines{l.pages[worker].lines} }

// Ready has an element when there may be lines to read.
func (l Lines) Ready() <-chan struct{} { return l.l.ready }

// Read calls f for each line there is; f must copy what it keeps. Only one
// goroutine may call it.
func (l Lines) Read(f func(*Line)) { l.l.read(f) }

// Missed returns how many lines were beyond the rate of their rule or found no place.
func (l Lines) Missed() uint64 { return l.l.missed.Load() }
