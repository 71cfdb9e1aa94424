package dataplane

import (
	"slices"
	"strings"
	"testing"

	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

// sticky is a port whose first queue hangs in Recv while it is told to.
type sticky struct {
	port.Port
	hang    chan struct{} // a value: hang; closed: no more
	hanging chan struct{} // told when it does
}

func (s *sticky) Queue(i int) port.Queue {
	if i != 0 {
		return s.Port.Queue(i)
	}
	return &stickyQueue{s.Port.Queue(i), s}
}

type stickyQueue struct {
	port.Queue
	s *sticky
}

func (q *stickyQueue) Recv(p []packet.Packet) int {
	select {
	case _, more := <-q.s.hang:
		if more {
			q.s.hanging <- struct{}{}
			<-q.s.hang // until it is closed
		}
	default:
	}
	return q.Queue.Recv(p)
}

func TestOnlyAWorkerThatHangsIsStuck(t *testing.T) {
	g := startGateway(t)
	p := &sticky{g.st.Ports[0].Port, make(chan struct{}), make(chan struct{})}
	g.st.Ports[0].Port = p
	g.apply()
	e, pulse := g.e, Pulse{}
	// Idle workers sleep, or pass batches between two looks.
	for range 3 {
		goesOn(t, e.workers[0])
		goesOn(t, e.workers[1])
		if err := e.Stuck(&pulse); err != nil {
			t.Errorf("idle: %v", err)
		}
	}

	p.hang <- struct{}{}
	<-p.hanging
	_ = e.Stuck(&pulse) // it may have begun this batch since the last look
	goesOn(t, e.workers[1])
	err := e.Stuck(&pulse)
	if err == nil || !strings.Contains(err.Error(), "worker 0") || strings.Contains(err.Error(), "worker 1") {
		t.Errorf("worker 0 hangs: %v, want it named alone", err)
	}

	goesOn(t, e.workers[1])
	if got := e.Still(&pulse); !slices.Equal(got, []int{0}) {
		t.Errorf("stand still: %v, want worker 0", got)
	}

	close(p.hang)
	goesOn(t, e.workers[0])
	goesOn(t, e.workers[1])
	if err := e.Stuck(&pulse); err != nil {
		t.Errorf("goes on: %v", err)
	}
}

// goesOn waits until a worker has begun another batch.
func goesOn(t *testing.T, w *Worker) {
	t.Helper()
	began := w.rounds.Load()
	until(t, w.String()+" begins another batch", func() bool { return w.rounds.Load() != began })
}
