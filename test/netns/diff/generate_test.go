//go:build netns

package diff

import (
	"math/rand/v2"
	"slices"
)

// generator makes a sequence.
type generator struct {
	*rand.Rand
	s    *sequence
	step int // of the next packet
}

// generate makes sequence number of a seed: the same ones always.
func generate(seed, number uint64) *sequence {
	g := generator{Rand: rand.New(rand.NewPCG(seed, number)), s: &sequence{number: number}}
	if g.IntN(4) == 0 {
		g.s.family = ipv6
	}
	length := 1 + g.IntN(numSteps)
	g.step = g.IntN(numSteps - length + 1)
	end := g.step + length
	kind := pick(&g, choices{{tcpKind, 70}, {udpKind, 10}, {icmpKind, 8}, {otherKind, 4}, {sctpKind, 8}})
	if kind == sctpKind { // lives for seconds only
		g.step, end = ageStep+g.IntN(3), numSteps
	}
	talk := [...]func(*generator, int){
		tcpKind: (*generator).tcp, udpKind: (*generator).udp, icmpKind: (*generator).icmp,
		otherKind: (*generator).other, sctpKind: (*generator).sctp,
	}[kind]
	talk(&g, end)
	g.s.events = g.s.events[:min(len(g.s.events), length)]
	return g.s
}

// Kinds of sequences.
const (
	tcpKind = iota
	udpKind
	icmpKind
	otherKind
	sctpKind
)

// choices are things with their weights.
type choices []struct{ what, weight int }

func pick(g *generator, c choices) int {
	sum := 0
	for _, x := range c {
		sum += x.weight
	}
	n := g.IntN(sum)
	for _, x := range c {
		if n -= x.weight; n < 0 {
			return x.what
		}
	}
	panic("unreachable")
}

// one returns one of some values.
func one[T any](g *generator, from ...T) T { return from[g.IntN(len(from))] }

// chance is true in n of 100 cases.
func (g *generator) chance(n int) bool { return g.IntN(100) < n }

// add appends a packet. A few packets have a wrong IP header or a wrong sum.
func (g *generator) add(from side, m message) {
	if g.step >= numSteps {
		return
	}
	fault := sound
	if g.chance(2) {
		fault = one(g, padded, padded, badHeader, tooLong, tooShort)
	}
	g.s.events = append(g.s.events, event{step: g.step, from: from, what: m, ip: fault})
	g.step++
}

func (g *generator) sum() sumFault {
	if g.chance(2) {
		return badSum
	}
	return goodSum
}

// again sends an earlier packet once more.
func (g *generator) again() bool {
	if len(g.s.events) == 0 || g.step >= numSteps {
		return false
	}
	e := g.s.events[g.IntN(len(g.s.events))]
	e.step = g.step
	g.s.events = append(g.s.events, e)
	g.step++
	return true
}

// complain sends an ICMP error about an earlier packet to its sender, or about a
// packet that never was.
func (g *generator) complain() {
	if len(g.s.events) == 0 {
		return
	}
	e := one(g, g.s.events...)
	from := e.from.other()
	if g.chance(10) {
		from = e.from
	}
	m := &icmpError{about: e.what, quote: one(g, 8, 8, 8, 20, 28, 100, 500), sum: g.sum(), wrongPort: g.chance(10)}
	if g.s.family == ipv4 {
		m.kind = one[uint8](g, 3, 3, 3, 11, 4, 12, 5)
	} else {
		m.kind = one[uint8](g, 1, 1, 2, 3, 4)
	}
	if g.chance(3) {
		m.quote = g.IntN(8) // less than RFC 792 asks for
	}
	m.code = uint8(g.IntN(5))
	g.add(from, m)
}

func (g *generator) udp(end int) {
	lite := g.chance(5)
	g.speak(end, func() message {
		u := &udp{lite: lite, length: one(g, 0, 1, 2, 100, 512, 1400), sum: g.sum()}
		switch {
		case g.chance(5):
			u.sum = noSum
		case g.chance(2):
			u.skew = one(g, -1, 1, -4, 7, -2000, 2000)
		case lite && u.length > 0 && g.chance(90):
			u.skew = -1 - g.IntN(u.length)
		}
		return u
	})
}

// speak lets both sides send what say returns, the client first as a rule, with
// errors in between.
func (g *generator) speak(end int, say func() message) {
	from := client
	if g.chance(5) {
		from = server
	}
	for g.step < end {
		switch {
		case g.chance(10):
			g.complain()
		case !g.chance(10) || !g.again():
			g.add(from, say())
		}
		from = one(g, client, server)
	}
}

func (g *generator) icmp(end int) {
	queries, answers := []uint8{8, 8, 8, 8, 13, 15, 17}, map[uint8]uint8{8: 0, 13: 14, 15: 16, 17: 18}
	if g.s.family == ipv6 {
		queries, answers = []uint8{128}, map[uint8]uint8{128: 129}
	}
	query := one(g, queries...)
	asker := client
	if g.chance(5) {
		asker = server
	}
	first := true
	for g.step < end {
		m := &icmp{kind: query, number: uint16(g.IntN(4)), length: one(g, 0, 12, 56, 1000), sum: g.sum()}
		from := asker
		if !first && g.chance(50) {
			from, m.kind = asker.other(), answers[query]
		}
		switch {
		case g.chance(5):
			m.kind = uint8(g.IntN(256))
			if g.s.family == ipv6 && m.kind >= 130 && m.kind < 200 {
				m.kind = 200 // the others belong to the link
			}
		case g.chance(5):
			m.code = uint8(g.IntN(4))
		case g.chance(5):
			m.other = uint16(g.IntN(3))
		case g.chance(3):
			m.cut = 1 + g.IntN(8+m.length-4)
		case g.chance(5):
			from = from.other()
		}
		first = false
		switch {
		case g.chance(10):
			g.complain()
		case !g.chance(10) || !g.again():
			g.add(from, m)
		}
	}
}

func (g *generator) other(end int) {
	number := one[uint8](g, 47, 47, 50, 51, 51, 4, 89, 253, 99)
	inside := one[uint8](g, 17, 99, 59) // of an authentication header: a protocol, or none
	g.speak(end, func() message {
		data := make([]byte, one(g, 8, 20, 40))
		if number != 47 && number != 51 || g.chance(3) {
			data = data[:g.IntN(9)]
		}
		for i := range data {
			data[i] = byte(g.Uint32())
		}
		switch {
		case number == 47 && len(data) >= 4: // GRE, version 0
			copy(data, []byte{0, 0, 8, 0})
		case number == 51 && len(data) >= 8: // the second byte is the length (RFC 4302 section 2.2)
			copy(data, []byte{inside, byte(len(data)/4 - 2), 0, 0})
		}
		return &opaque{number, data}
	})
}

// sctp follows the handshake and the end of an association, with mistakes.
func (g *generator) sctp(end int) {
	tags := [numSides]uint32{1 + g.Uint32N(1<<31), 1 + g.Uint32N(1<<31)} // what each side wants to see
	type move struct {
		from side
		c    chunk
	}
	flow := []move{
		{client, chunkInit}, {server, chunkInitAck}, {client, chunkCookieEcho}, {server, chunkCookieAck},
		{client, chunkData}, {server, chunkSack}, {client, chunkShutdown}, {server, chunkShutdownAck}, {client, chunkShutdownComplete},
	}
	if g.chance(15) {
		flow = []move{{client, chunkHeartbeat}, {server, chunkHeartbeatAck}, {client, chunkData}, {server, chunkSack}}
	}
	all := []chunk{chunkData, chunkInit, chunkInitAck, chunkSack, chunkHeartbeat, chunkHeartbeatAck, chunkAbort, chunkShutdown,
		chunkShutdownAck, chunkError, chunkCookieEcho, chunkCookieAck, chunkShutdownComplete}
	for i := 0; g.step < end && i < 2*len(flow); i++ {
		m := flow[i%len(flow)]
		if g.chance(15) {
			m = move{one(g, client, server), one(g, all...)}
		}
		p := &sctp{tag: tags[m.from.other()], chunks: []chunk{m.c}, sum: g.sum()}
		switch m.c {
		case chunkInit:
			p.tag, p.tagged = 0, tags[m.from]
		case chunkInitAck:
			p.tagged = tags[m.from]
		}
		switch {
		case g.chance(5):
			p.chunks = append(p.chunks, one(g, all...))
		case g.chance(4):
			p.tag = one(g, 0, 7, tags[m.from])
		case g.chance(4):
			p.flags, p.tag = 1, tags[m.from] // T: the tag is the sender's own
		case g.chance(3):
			p.skew = one(g, -20, -17, 1, 4, 100)
		case g.chance(3):
			p.chunks = nil
		}
		g.add(m.from, p)
		if g.chance(5) {
			g.again()
		}
	}
	slices.SortStableFunc(g.s.events, func(a, b event) int { return a.step - b.step })
}
