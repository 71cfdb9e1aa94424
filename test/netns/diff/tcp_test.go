//go:build netns

package diff

// host is one side of a connection: it knows what it has said and heard.
type host struct {
	isn, next uint32 // its first and its next sequence number
	heard     uint32 // the next one of the other side
	win       uint16
	scale     int // window scale it offers, negative: none
	sackOK    bool
}

// tcpTalk is the two hosts of a connection.
type tcpTalk struct {
	*generator
	hosts [numSides]host
}

// tcp makes a conversation in which something may go wrong at each turn.
func (g *generator) tcp(end int) {
	t := &tcpTalk{generator: g}
	for s := range t.hosts {
		t.hosts[s] = t.host()
	}
	switch pick(g, choices{{0, 60}, {1, 10}, {2, 10}, {3, 15}, {4, 5}}) {
	case 0:
		t.shake(client)
	case 1:
		t.open(client)
	case 2:
		t.openBoth()
	case 3:
		t.join()
	}
	for g.step < end {
		t.turn(one(g, client, server))
	}
}

// host makes a host. One in eight begins where sequence numbers wrap.
func (t *tcpTalk) host() host {
	h := host{isn: t.Uint32(), win: one(t.generator, uint16(65535), 65535, 8192, 1000, 100, 1), scale: -1}
	if t.chance(12) {
		h.isn = -t.Uint32N(2000)
	}
	if t.chance(50) {
		h.scale = one(t.generator, 0, 2, 7, 7, 14, 15)
	}
	h.sackOK = t.chance(50)
	h.next = h.isn
	return h
}

// segment is what a side would say now.
func (t *tcpTalk) segment(from side, flags uint8) *tcp {
	h := &t.hosts[from]
	s := &tcp{seq: h.next, ack: h.heard, flags: flags, win: h.win, scale: -1, sum: t.sum()}
	if flags&ack == 0 {
		s.ack = 0
	}
	if flags&syn != 0 {
		s.scale, s.sackOK = h.scale, h.sackOK
	}
	return s
}

// say sends a segment that both sides take seriously.
func (t *tcpTalk) say(from side, s *tcp) {
	n := uint32(s.length)
	if s.flags&(syn|fin) != 0 {
		n++
	}
	t.hosts[from].next = s.seq + n
	t.hosts[from.other()].heard = s.seq + n
	t.add(from, s)
}

// open sends a SYN.
func (t *tcpTalk) open(from side) {
	h := &t.hosts[from]
	h.next = h.isn
	t.say(from, t.segment(from, syn))
}

// shake is a whole handshake.
func (t *tcpTalk) shake(from side) {
	t.open(from)
	o := from.other()
	t.hosts[o].next = t.hosts[o].isn
	t.say(o, t.segment(o, syn|ack))
	t.say(from, t.segment(from, ack))
}

// openBoth is a simultaneous open, or most of it.
func (t *tcpTalk) openBoth() {
	t.open(client)
	t.open(server)
	for _, s := range []side{server, client} {
		if t.chance(85) {
			m := t.segment(s, syn|ack)
			m.seq = t.hosts[s].isn
			t.add(s, m)
		}
	}
}

// join begins in the middle.
func (t *tcpTalk) join() {
	for s := range t.hosts {
		t.hosts[s].next = t.hosts[s].isn + 1
		t.hosts[1-s].heard = t.hosts[s].isn + 1
	}
	m := t.segment(client, ack)
	m.length = one(t.generator, 0, 1, 500)
	t.say(client, m)
}

// What a side may do next.
const (
	sendData = iota
	sendAck
	sendFin
	sendRst
	sendSyn
	sendSynAck
	sendAgain
	sendOld
	sendAhead
	ackAhead
	ackOld
	oddFlags
	zeroWindow
	sackBlock
	keepAlive
	broken
	reopen
	closeAll
	complain
	urgent
)

var turns = choices{
	{sendData, 20}, {sendAck, 15}, {sendFin, 8}, {sendRst, 6}, {sendSyn, 7}, {sendSynAck, 4}, {sendAgain, 8}, {sendOld, 5},
	{sendAhead, 5}, {ackAhead, 5}, {ackOld, 4}, {oddFlags, 3}, {zeroWindow, 3}, {sackBlock, 3}, {keepAlive, 2}, {broken, 2},
	{reopen, 5}, {closeAll, 5}, {complain, 3}, {urgent, 2},
}

// turn is one thing that a side says.
func (t *tcpTalk) turn(from side) {
	g, h, peer := t.generator, &t.hosts[from], &t.hosts[from.other()]
	switch pick(g, turns) {
	case sendData:
		m := t.segment(from, ack|psh)
		m.length = one(g, 1, 10, 100, 1000, 1400)
		t.say(from, m)
	case sendAck:
		t.say(from, t.segment(from, ack))
	case sendFin:
		t.say(from, t.segment(from, fin|ack))
	case sendRst:
		m := t.segment(from, one(g, rst, rst|ack))
		m.seq = one(g, h.next, h.next, peer.heard, h.next+1+g.Uint32N(uint32(peer.win)+1), h.next-1-g.Uint32N(5000), 0, g.Uint32())
		t.add(from, m)
	case sendSyn:
		t.strange(from)
	case sendSynAck:
		m := t.segment(from, syn|ack)
		m.seq = one(g, h.isn, h.next, g.Uint32())
		m.ack = one(g, peer.isn+1, h.heard, h.heard+1)
		t.add(from, m)
	case sendAgain:
		t.again()
	case sendOld:
		m := t.segment(from, ack)
		m.seq -= one(g, 1, 100, uint32(peer.win), uint32(peer.win)+1, 70000, 200000)
		m.length = one(g, 0, 1, 100, 1400)
		t.add(from, m)
	case sendAhead:
		m := t.segment(from, ack)
		w := uint32(peer.win)
		m.seq += one(g, 1, w-1, w, w+1, 2*w, 2*w+1, 100000)
		m.length = one(g, 0, 1, 100, 1400)
		t.add(from, m)
	case ackAhead:
		m := t.segment(from, ack)
		m.ack += one[uint32](g, 1, 2, 100, 66000)
		t.add(from, m)
	case ackOld:
		m := t.segment(from, ack)
		m.ack -= one[uint32](g, 1, 1000, 65999, 66000, 66001, 70000)
		t.add(from, m)
	case oddFlags:
		m := t.segment(from, uint8(g.Uint32()))
		t.add(from, m)
	case zeroWindow:
		m := t.segment(from, ack)
		m.win = 0
		t.say(from, m)
	case sackBlock:
		m := t.segment(from, ack)
		begin := h.heard + one[uint32](g, 1, 100, 1000)
		m.sack = [2]uint32{begin, begin + one[uint32](g, 1, 100, 5000)}
		t.add(from, m)
	case keepAlive:
		m := t.segment(from, ack)
		m.seq--
		m.length = g.IntN(2)
		t.add(from, m)
	case broken:
		m := t.segment(from, one(g, ack, syn, fin|ack))
		switch g.IntN(3) {
		case 0:
			m.sum = badSum
		case 1:
			m.offset = one[uint8](g, 1, 4, 6, 15)
		case 2:
			m.cut = 1 + g.IntN(16)
		}
		t.add(from, m)
	case reopen:
		for s := range t.hosts {
			t.hosts[s] = t.host()
		}
		t.shake(one(g, client, client, client, server))
	case closeAll:
		t.say(from, t.segment(from, fin|ack))
		o := from.other()
		if t.chance(30) {
			t.say(o, t.segment(o, ack))
		}
		t.say(o, t.segment(o, fin|ack))
		t.say(from, t.segment(from, ack))
	case complain:
		t.complain()
	case urgent:
		m := t.segment(from, ack|urg)
		m.length = 1
		t.say(from, m)
	}
}

// strange sends a SYN in the middle of something: of a host that has restarted,
// or an old one.
func (t *tcpTalk) strange(from side) {
	g, h := t.generator, &t.hosts[from]
	m := t.segment(from, syn)
	m.seq = one(g, h.isn, h.next, h.next+1000, h.next+100000, h.next-100000, g.Uint32())
	if g.chance(60) { // it means it
		h.isn = m.seq
		t.say(from, m)
		return
	}
	t.add(from, m)
}
