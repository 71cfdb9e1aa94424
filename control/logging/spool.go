package logging

import (
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

const (
	spoolLines = 1024        // that wait for whoever reads the log
	drainTime  = time.Second // that they have at the end
)

// spool writes lines on a goroutine of its own: whoever logs never waits, not even for
// a pipe that nobody reads. Lines beyond spoolLines are lost, and counted.
type spool struct {
	to    io.Writer
	lines chan []byte
	ask   chan chan struct{} // is closed when all lines before are written
	tell  func(lost uint64)  // writes how many lines were lost since the last call
	lost  atomic.Uint64
}

func newSpool(to io.Writer) *spool {
	return &spool{to: to, lines: make(chan []byte, spoolLines), ask: make(chan chan struct{})}
}

// Write implements io.Writer for one line.
func (s *spool) Write(line []byte) (int, error) {
	select {
	case s.lines <- append([]byte(nil), line...):
	default:
		s.lost.Add(1)
	}
	return len(line), nil
}

// run writes for as long as the process lives: it may be in a Write that never ends.
func (s *spool) run() {
	told, since := uint64(0), 0
	for {
		select {
		case line := <-s.lines:
			s.write(line)
			since++
		case done := <-s.ask:
			for range len(s.lines) {
				s.write(<-s.lines)
			}
			close(done)
		}
		// Behind those that found room before, as far as there is an end of them.
		if lost := s.lost.Load(); lost != told && (len(s.lines) == 0 || since >= 2*spoolLines) {
			s.tell(lost - told)
			told, since = lost, 0
		}
	}
}

func (s *spool) write(line []byte) { _, _ = s.to.Write(line) } // an error: there is nowhere else to tell

// drain waits until what was logged so far is written, for drainTime at most.
func (s *spool) drain() error {
	done := make(chan struct{})
	late := time.NewTimer(drainTime)
	defer late.Stop()
	select {
	case s.ask <- done:
		select {
		case <-done:
			return nil
		case <-late.C:
		}
	case <-late.C:
	}
	return fmt.Errorf("%d lines of the log are not written: nobody reads it", len(s.lines))
}
