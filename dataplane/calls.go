package dataplane

import (
	"sync"
	"sync/atomic"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
)

// calls know the call ids of PPTP. A packet of a call names only the one that its
// receiver chose (RFC 2637 section 4.1); the tuple of its flow has the sender's, too,
// as source port. Calls say which one that is: they are filled when a helper announces a
// call, and forget it when neither the expectation nor the flow is there any more.
// GRE of PPTP that is in no call has no ports, as other GRE.
type calls struct {
	n      atomic.Int64 // entries
	shards [callShards]struct {
		mu   sync.RWMutex
		ends map[callKey]callEnd
	}
	policy uint32 // timeouts of calls
}

const (
	callShards = 16      // by call id
	maxCalls   = 1 << 18 // entries: four a call
)

// Timeouts of calls, as netfilter's: a call is as quiet as its users.
const (
	callIdle   = 10 * time.Minute
	callStream = 5 * time.Hour
)

// callKey is what a packet says of its call.
type callKey struct {
	src, dst tuple.Addr
	zone, id uint16
}

// callEnd is what it does not say.
type callEnd struct {
	id   uint16      // of the sender
	flow tuple.Tuple // of packets that come in: the expectation or the flow that keeps this alive
}

func (c *calls) init(t *conntrack.Table) (err error) {
	for i := range c.shards {
		c.shards[i].ends = make(map[callKey]callEnd)
	}
	c.policy, err = t.Policy(conntrack.Timeouts{GRE: callIdle, GREStream: callStream})
	return err
}

func callKeyOf(t *tuple.Tuple) callKey {
	return callKey{src: t.Src, dst: t.Dst, zone: t.Zone, id: t.DstPort}
}

// find returns the id that the sender of packets with key k has in their call.
func (c *calls) find(k callKey) (callEnd, bool) {
	sh := &c.shards[k.id%callShards]
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	end, ok := sh.ends[k]
	return end, ok
}

// taken reports whether packets with tuple t would be taken for those of another flow.
func (c *calls) taken(t *tuple.Tuple) bool {
	end, ok := c.find(callKeyOf(t))
	return ok && end.flow != *t
}

// add makes known that packets of a call come in with tuple t, and that those going
// the other way leave with its inverse: ICMP errors quote them.
func (c *calls) add(t tuple.Tuple) {
	c.set(&t, t)
	if back, ok := t.Inverse(); ok {
		if _, known := c.find(callKeyOf(&back)); !known {
			c.set(&back, t)
		}
	}
}

func (c *calls) set(t *tuple.Tuple, flow tuple.Tuple) {
	sh := &c.shards[t.DstPort%callShards]
	sh.mu.Lock()
	defer sh.mu.Unlock()
	before := len(sh.ends)
	sh.ends[callKeyOf(t)] = callEnd{t.SrcPort, flow}
	c.n.Add(int64(len(sh.ends) - before))
}

// name gives a packet of PPTP, or the one that an ICMP error quotes, the ids of its
// call. Without calls it costs a load.
func (c *calls) name(p *packet.Packet) {
	if c.n.Load() == 0 {
		return
	}
	id, ok := packet.PPTPCall(p)
	if !ok {
		return
	}
	t := &p.Tuple
	if p.Flags&packet.ICMPError != 0 {
		t = &p.Embedded
	}
	c.give(t, p.Tuple.Zone, id)
}

// give gives t the ids of the call that packets with id are of in a zone, none if there is none.
func (c *calls) give(t *tuple.Tuple, zone, id uint16) {
	t.SrcPort, t.DstPort = 0, 0
	if end, ok := c.find(callKey{t.Src, t.Dst, zone, id}); ok {
		t.SrcPort, t.DstPort = end.id, id
	}
}

// expire forgets calls that are over, and ends those whose control connection is, as
// netfilter does.
func (c *calls) expire(t *conntrack.Table) {
	if c.n.Load() == 0 {
		return
	}
	for i := range c.shards {
		sh := &c.shards[i]
		for _, old := range c.over(i, t) {
			sh.mu.Lock()
			if sh.ends[old.key] == old.end {
				delete(sh.ends, old.key)
				c.n.Add(-1)
			}
			sh.mu.Unlock()
		}
	}
}

// overCall is an entry that nothing keeps alive.
type overCall struct {
	key callKey
	end callEnd
}

// over returns the entries of a shard that are over.
func (c *calls) over(shard int, t *conntrack.Table) (all []overCall) {
	sh := &c.shards[shard]
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	for key, end := range sh.ends {
		if _, err := t.GetExpect(end.flow); err == nil {
			continue
		}
		if f, err := t.Get(end.flow); err == nil && f.Status.Has(conntrack.Expected) && !t.Has(f.Master) {
			_ = t.Delete(end.flow) // or it has ended on its own
		}
		if !t.Has(end.flow) {
			all = append(all, overCall{key, end})
		}
	}
	return all
}

// expectCall makes the expectation of one side of a call, whose packets come in with
// x's tuple. Without the other side's id it only takes its place. With it, packets of
// both directions are expected from then on, whichever comes first.
func (h *herald) expectCall(x *conntrack.Expectation, translated bool, p conntrack.ExpectPolicy) error {
	calls := &h.w.e.calls
	switch {
	case calls.n.Load() >= maxCalls:
		return alg.ErrLimit
	case translated && calls.taken(&x.Tuple):
		return alg.ErrNoPort
	case x.Tuple.SrcPort == 0:
		x.Flags |= conntrack.ExpectInactive
		return expectError(h.w.ct.Expect(h.ref, x, p))
	}
	// The tuple of the other side's announcement is that of packets going back as
	// they come in, but for their source, which is known now.
	back, ok := h.reserved(x.Tuple.SrcPort)
	if !ok {
		return alg.ErrForeign
	}
	_, own, _ := destinationOf(x)
	_, asker, _ := destinationOf(&back)
	reserved := back.Tuple
	setSource(x, back.Tuple.DstPort)
	setSource(&back, x.Tuple.DstPort)
	x.Tuple.SrcPort, back.Tuple.SrcPort = asker, own
	x.Mask.SrcPort, back.Mask.SrcPort = 0xffff, 0xffff
	back.Flags &^= conntrack.ExpectInactive
	if err := expectError(h.w.ct.Expect(h.ref, x, p)); err != nil {
		return err
	}
	h.w.unexpect(h.ref, &reserved)
	if err := expectError(h.w.ct.Expect(h.ref, &back, p)); err != nil {
		h.w.unexpect(h.ref, &x.Tuple)
		return err
	}
	calls.add(x.Tuple)
	calls.add(back.Tuple)
	return nil
}

// reserved returns what the other side of this flow has announced for packets to one
// of its ids.
func (h *herald) reserved(id uint16) (found conntrack.Expectation, ok bool) {
	h.w.ct.EachExpect(h.ref, func(x *conntrack.Expectation) bool {
		if x.Tuple.Proto == tuple.GRE && x.Tuple.DstPort == id && x.Flags&conntrack.ExpectInactive != 0 {
			found, ok = *x, true
		}
		return !ok
	})
	return found, ok
}

// unexpect ends the expectation of packets with exactly tuple t.
func (w *Worker) unexpect(master conntrack.Ref, t *tuple.Tuple) {
	w.ct.Unexpect(master, func(x *conntrack.Expectation) bool { return x.Tuple == *t })
}

// answered ends the expectation of the packets that answer a call which has begun.
func (w *Worker) answered(prop *conntrack.Proposal) {
	if prop.Original.Proto != tuple.GRE || prop.Master.Slot == 0 {
		return
	}
	w.unexpect(conntrack.Ref{Slot: prop.Master.Slot}, &prop.Reply)
}
