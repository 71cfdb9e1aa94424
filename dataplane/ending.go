package dataplane

import (
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/route"
)

// Flows that cannot go on end with notice: who is behind the gateway is told at
// once instead of sending into the void until its timers run out. The control
// side says which flows (Engine.End); workers, who own the ways out, tell and end
// them, a few with every step, so that packets in between wait for microseconds.
// A packet that comes before that meets the same end (Worker.overtaken).
//
// Outside nobody is told: the peer's packets are those of an unknown flow, and a
// way that is lost carries no notice.

const (
	endingQueue = 1024                  // flows that wait in one worker to be ended
	endingPiece = 128                   // flows handed over at once
	endingPause = time.Millisecond      // after each piece: at most 128,000 notices a second
	endingStep  = 32                    // flows that a worker ends in one step
	endingPoll  = 50 * time.Microsecond // between two looks at the workers
)

// ending is a flow that a worker shall end.
type ending struct {
	original tuple.Tuple
	id       uint32 // of the flow: its tuple may belong to another one by now
	why      conntrack.Cause
}

// End ends with notice the confirmed flows for which judge finds a cause, and
// returns how many there were. A host of such a flow that is inside is told: TCP by
// a RST that is in its window, SCTP by an ABORT, others by an ICMP error that quotes
// what it could have sent. DESTROY events carry the cause.
//
// When it returns the flows have ended; since notices are paced, that takes seconds
// for hundreds of thousands of flows. Flows that begin meanwhile may or may not be
// judged: apply the State that keeps others from beginning first.
func (e *Engine) End(judge func(*conntrack.Flow) conntrack.Cause) int {
	e.ending.Lock()
	defer e.ending.Unlock()
	var piece [endingPiece]ending
	total := 0
	for position := uint32(0); ; {
		n := 0
		position = e.table.DumpFrom(position, func(f *conntrack.Flow) bool {
			if why := judge(f); why != conntrack.Unspecified {
				piece[n] = ending{f.Tuple[tuple.Original], f.ID, why}
				n++
			}
			return n < len(piece)
		})
		for i := range piece[:n] {
			e.hand(&piece[i], e.workers[(total+i)%len(e.workers)])
		}
		total += n
		if position == 0 {
			break
		}
		time.Sleep(endingPause)
	}
	e.settleEndings()
	return total
}

// hand gives a flow to a worker to end. When workers do not run, nobody can tell
// anything, and it just ends.
func (e *Engine) hand(x *ending, w *Worker) {
	for {
		select {
		case w.endings <- *x:
			w.unended.Add(1)
			return
		default:
		}
		if !e.running.Load() {
			_ = e.table.Delete(x.original) // it may have ended by itself
			return
		}
		w.wake()
		time.Sleep(endingPoll)
	}
}

// settleEndings waits until the workers have ended what they were handed.
func (e *Engine) settleEndings() {
	for _, w := range e.workers {
		for e.running.Load() && w.unended.Load() > 0 {
			w.wake()
			time.Sleep(endingPoll)
		}
	}
}

// endFlows ends some of the flows that were handed over, and returns how many.
func (w *Worker) endFlows() int {
	for n := range endingStep {
		select {
		case x := <-w.endings:
			ref := w.ct.Find(&x.original)
			if ref.Found() && w.ct.ID(ref.Slot) == x.id {
				w.end(ref, x.why)
			}
			w.unended.Add(-1)
		default:
			return n
		}
	}
	return endingStep
}

// end ends a confirmed flow and tells its hosts that are inside. It reports false
// when the flow is not confirmed or ends already.
func (w *Worker) end(ref conntrack.Ref, why conntrack.Cause) bool {
	if !w.ct.End(ref, why) {
		return false
	}
	count(&w.ended[why], 1)
	for d := range tuple.NumDirections {
		w.notify(ref, tuple.Direction(d))
	}
	return true
}

// overtaken ends the flow of p, which came before its flow was ended by End.
func (w *Worker) overtaken(p *packet.Packet, ref conntrack.Ref, why conntrack.Cause, r role) {
	if w.end(ref, why) {
		w.drop(FlowEnded)
		return
	}
	w.refuse(p, ref, FlowEnded, r) // not confirmed: its sender is told about this packet
}

// notify tells the host that packets in direction d of a flow go to, unless it is
// outside or cannot be reached without a question to its link.
func (w *Worker) notify(ref conntrack.Ref, d tuple.Direction) {
	other := w.e.table.Entry(ref.Slot).Tuple(d.Other()) // may be looked at until the batch is over
	to, ok := other.Inverse()
	if !ok {
		return
	}
	hint, at := w.wayInside(&to.Dst)
	if at == nil {
		return
	}
	out, mac, ok := w.e.neigh.Get(hint)
	if !ok {
		return
	}
	told := uint64(0)
	for w.makeNotice(ref.Slot, d, int(told), &to, &other, at) {
		w.scratch.In = at.id // what is for the gateway itself goes to the kernel behind this port, if to any
		if w.emit(&w.scratch, w.v.portOf(out), mac, ref, roleWire) != None {
			break // lost, like any answer that finds no room
		}
		told++
	}
	count(&w.counter.originated, told)
	count(&w.counter.noticed, min(told, 1))
}

// wayInside returns the next hop to a host that is not outside, and the port that
// it is behind: nil if there is none. For the gateway's own addresses that is the
// port that has the address.
func (w *Worker) wayInside(dst *tuple.Addr) (route.Hint, *portEntry) {
	if id, own := w.v.own(dst); own {
		return w.e.neigh.HostHint(), w.v.portOf(id)
	}
	hop, ok := w.v.routeTo(dst)
	if !ok {
		return 0, nil
	}
	at := w.v.portOf(hop.Port)
	if at == nil || at.outside {
		return 0, nil
	}
	addr := at.neighbour(hop, *dst)
	hint, _, fresh := w.e.neigh.Find(hop.Port, addr, w.now)
	if fresh && w.e.host != nil {
		w.e.host.Resolve(hop.Port, addr.Netip())
	}
	return hint, at
}

// makeNotice builds in w.scratch the packet number n, from 0, of those that tell the
// host that receives packets to and sends packets from that the flow is over. It
// reports false when all is said.
func (w *Worker) makeNotice(slot uint32, d tuple.Direction, n int, to, from *tuple.Tuple, at *portEntry) bool {
	if to.Proto == tuple.TCP {
		return w.makeReset(slot, d, n, to)
	}
	if n > 0 {
		return false
	}
	if to.Proto == tuple.SCTP {
		if tag := w.e.table.Entry(slot).SCTPTag(d); tag != 0 {
			packet.MakeAbort(&w.scratch, w.arena(packet.AnswerLen), to, tag)
			return true
		}
	}
	src, ok := at.primary(to.Family)
	var quoted packet.Packet
	if !ok || !packet.MakeQuoted(&quoted, w.arena(packet.AnswerLen), from) || !packet.MayAnswer(&quoted) {
		return false
	}
	// No port leads to the peer any more. Of the codes that say nothing about policy it
	// is the one on which hosts give up at once (RFC 1122 section 4.1.3.3).
	packet.DestUnreachable(&w.scratch, &quoted, w.arena(packet.AnswerLen), src, packet.PortUnreachable)
	return true
}

// makeReset builds RST number n for the receiver of direction d. A host takes a RST
// only at exactly the number that it expects next (RFC 5961 section 3.2). That is
// the one behind all that was sent, or the one it has last asked for, if what was
// sent since did not arrive: it gets one for each.
func (w *Worker) makeReset(slot uint32, d tuple.Direction, n int, to *tuple.Tuple) bool {
	edge, ok := w.ct.TCPEdge(slot, d)
	if !ok || n > 1 || n == 1 && edge.Acked == edge.Next {
		return false
	}
	s := packet.Segment{Seq: edge.Next, Ack: edge.Ack, Flags: packet.RST | packet.ACK}
	if n == 1 {
		s.Seq = edge.Acked
	}
	packet.MakeSegment(&w.scratch, w.arena(packet.AnswerLen), to, s)
	return true
}
