package dataplane

import (
	"bytes"
	"fmt"
	"testing"

	"example.com/culvert/alg"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

// watched is a port that calls a function before it sends anything.
type watched struct {
	port.Port
	before func()
}

func (p *watched) Queue(i int) port.Queue { return &watchedQueue{p.Port.Queue(i), p.before} }

type watchedQueue struct {
	port.Queue
	before func()
}

func (q *watchedQueue) Flush() [port.NumStatuses]uint32 {
	q.before()
	return q.Queue.Flush()
}

// TestNoLockIsHeldWhileEditsAreSent: more edited bytes come in a batch than a worker has
// room for, so that it sends in between; other workers may have packets of the same flow.
func TestNoLockIsHeldWhileEditsAreSent(t *testing.T) {
	var l *lab
	inBetween := 0
	l = parrotLab(t, labConfig{more: func(st *State, _ portMaker) {
		for i := range st.Ports {
			st.Ports[i].Port = &watched{st.Ports[i].Port, func() {
				if l == nil {
					return
				}
				if l.w.editsUsed > 0 {
					inBetween++
				}
				for j := range l.e.helpers.shards {
					for _, f := range l.e.helpers.shards[j].flows {
						if !f.mu.TryLock() {
							t.Error("a flow is locked while packets are sent")
							return
						}
						f.mu.Unlock()
					}
				}
			}}
		}
	}}, alg.Options{})
	const flows = 8
	text := string(bytes.Repeat(append(bytes.Repeat([]byte{'a'}, 98), "~\n"...), 600))
	for i := range flows {
		client, seen := fmt.Sprintf("10.0.0.5:%d", 40000+i), fmt.Sprintf("203.0.113.1:%d", 40000+i)
		l.send("lan", tcp(client, parrotTo, seq(100, 0)))
		l.send("wan", tcp(parrotTo, seen, flags(packet.SYN|packet.ACK), seq(500, 101)))
		l.send("lan", tcp(client, parrotTo, flags(ackFlag), seq(101, 501), body("begin\n")))
		l.ports["wan"].TakeFrames()
		l.ports["lan"].TakeFrames()
	}
	inBetween = 0
	for i := range flows {
		l.inject("lan", superTCP(l, "lan", fmt.Sprintf("10.0.0.5:%d", 40000+i), parrotTo, 0, 1400, seq(107, 501), body(text)))
	}
	l.step()
	got := 0
	for _, f := range l.ports["wan"].TakeFrames() {
		ip := ipOf(f, l.ports["wan"].Info().Link)
		got += len(ip) - headerLen(ip) - int(ip[headerLen(ip)+12]>>4)*4
	}
	if want := flows * (len(text) + 600*49); got != want || inBetween < 2 {
		t.Errorf("%d bytes left, want %d; sent %d times within a batch, want more than once", got, want, inBetween)
	}
	l.wantDrops()
}
