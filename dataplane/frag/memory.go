package frag

import (
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/dataplane/packet"
)

const (
	bufferLen   = 2048 // takes a frame of a 1500-byte link; larger ones are allocated to fit
	maxBuffers  = 512  // free buffers kept
	expireBatch = 4    // old datagrams ended on the way by each Track
)

func familyIndex(family uint8) int {
	if family == tuple.IPv6 {
		return 1
	}
	return 0
}

// addLocked makes room for a new datagram and adds it.
func (t *Table) addLocked(k Key, now int64) *datagram {
	s := t.sources[sourceKey{k.Src, k.Area}]
	switch {
	case s != nil && s.count >= t.cfg.DatagramsPerSource:
		t.removeLocked(s.datagrams.head, Limit)
	case len(t.datagrams) >= t.cfg.Datagrams:
		t.removeLocked(t.oldestLocked(), Limit)
	}
	// The source may have gone with its last datagram.
	if s = t.sources[sourceKey{k.Src, k.Area}]; s == nil {
		s = &source{key: sourceKey{k.Src, k.Area}}
		t.sources[s.key] = s
	}
	d := t.spare
	if d == nil {
		d = new(datagram)
	} else {
		t.spare = d.links[byAge].next
	}
	life := timeout4
	if k.Family == tuple.IPv6 {
		life = timeout6
	}
	*d = datagram{key: k, deadline: now + int64(life), source: s}
	t.datagrams[k] = d
	t.age[familyIndex(k.Family)].push(d, byAge)
	s.datagrams.push(d, bySource)
	s.count++
	return d
}

// oldestLocked returns the datagram that is nearest to its time-out. There is one.
func (t *Table) oldestLocked() *datagram {
	a, b := t.age[0].head, t.age[1].head
	if b == nil || a != nil && a.deadline <= b.deadline {
		return a
	}
	return b
}

// removeLocked forgets d. Fragments that it held are lost for reason r.
func (t *Table) removeLocked(d *datagram, r Reason) {
	t.loseLocked(d, r)
	delete(t.datagrams, d.key)
	t.age[familyIndex(d.key.Family)].remove(d, byAge)
	s := d.source
	s.datagrams.remove(d, bySource)
	if s.count--; s.count == 0 {
		delete(t.sources, s.key)
	}
	*d = datagram{}
	d.links[byAge].next = t.spare
	t.spare = d
}

// killLocked drops everything of d, what has come and what will come.
func (t *Table) killLocked(d *datagram, r Reason) {
	t.loseLocked(d, r)
	d.state, d.why = dead, r
}

func (t *Table) loseLocked(d *datagram, r Reason) {
	t.lost[r] += uint64(d.numHeld)
	t.freeLocked(t.takeHeldLocked(d))
}

func (t *Table) forgetIfCompleteLocked(d *datagram) {
	if d.state == following && d.complete() {
		t.removeLocked(d, None)
	}
}

// collectLocked holds p, and hands out d if that was the last of it.
func (t *Table) collectLocked(d *datagram, p *packet.Packet) Verdict {
	v := t.holdLocked(d, p)
	if v.Action == Hold && d.complete() {
		v = Verdict{Action: Whole, Held: t.takeHeldLocked(d)}
		t.removeLocked(d, None)
	}
	return v
}

// expireLocked ends at most n datagrams whose time is over.
func (t *Table) expireLocked(now int64, n int) {
	for i := range t.age {
		for d := t.age[i].head; d != nil && d.deadline <= now && n > 0; d = t.age[i].head {
			t.removeLocked(d, Timeout)
			n--
		}
	}
}

// holdLocked copies p into d.
func (t *Table) holdLocked(d *datagram, p *packet.Packet) Verdict {
	size := max(bufferLen, packet.Headroom+p.End-p.Off)
	if size > t.cfg.Bytes || d.source.bytes+size > t.cfg.BytesPerSource {
		t.killLocked(d, Limit)
		return Verdict{Action: Drop, Reason: Limit}
	}
	for t.bytes+size > t.cfg.Bytes {
		victim := t.holders.head
		t.killLocked(victim, Limit)
		if victim == d {
			return Verdict{Action: Drop, Reason: Limit}
		}
	}
	h := &Held{}
	p.CopyTo(&h.Packet, t.bufferLocked(size))
	if d.first == nil {
		d.first = h
		t.holders.push(d, byHolder)
	} else {
		d.tail.Next = h
	}
	d.tail = h
	d.numHeld++
	d.source.bytes += size
	t.bytes += size
	return Verdict{Action: Hold}
}

// takeHeldLocked takes the held fragments out of d.
func (t *Table) takeHeldLocked(d *datagram) *Held {
	h := d.first
	if h == nil {
		return nil
	}
	for x := h; x != nil; x = x.Next {
		d.source.bytes -= len(x.Packet.Mem)
		t.bytes -= len(x.Packet.Mem)
	}
	t.holders.remove(d, byHolder)
	d.first, d.tail, d.numHeld = nil, nil, 0
	return h
}

func (t *Table) bufferLocked(size int) []byte {
	if n := len(t.buffers); size == bufferLen && n > 0 {
		b := t.buffers[n-1]
		t.buffers = t.buffers[:n-1]
		return b
	}
	return make([]byte, size)
}

// freeLocked takes back the buffers of list h.
func (t *Table) freeLocked(h *Held) {
	for ; h != nil; h = h.Next {
		if len(h.Packet.Mem) == bufferLen && len(t.buffers) < maxBuffers {
			t.buffers = append(t.buffers, h.Packet.Mem)
		}
		h.Packet.Mem = nil
	}
}
