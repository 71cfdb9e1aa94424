package conntrack

import (
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/internal/word"
)

// SCTP chunk types that the tracker knows (RFC 9260 section 3.2). All others,
// DATA and SACK among them, change no state.
const (
	ChunkInit             = 1
	ChunkInitAck          = 2
	ChunkHeartbeat        = 4
	ChunkHeartbeatAck     = 5
	ChunkAbort            = 6
	ChunkShutdown         = 7
	ChunkShutdownAck      = 8
	ChunkError            = 9
	ChunkCookieEcho       = 10
	ChunkCookieAck        = 11
	ChunkShutdownComplete = 14
	numChunks             = 15

	chunkData = 0
)

// MaxChunks is how many chunks that matter one packet may have. Hosts bundle
// two or three.
const MaxChunks = 8

// SCTPChunks is what the tracker needs to know of an SCTP packet.
type SCTPChunks struct {
	Tag       uint32           // verification tag of the packet
	InitTag   uint32           // initiate tag of its INIT or INIT ACK, if it has one
	Types     [MaxChunks]uint8 // chunks that matter, in their order: Chunk*
	Num       uint8            // of Types
	Reflected uint8            // bit i: chunk i has the T bit (RFC 9260 section 8.5.1)
	Others    uint8            // number of chunks of other types, 255 stands for more; Num+Others is 0 in a broken packet
	HasData   bool             // one of Others is DATA
}

// chunkMatters reports whether the tracker wants to see chunks of a type.
func chunkMatters(kind uint8) bool { return kind < numChunks && sctpBegins[kind] != None }

// Add notes the next chunk of a packet; reflected is its T bit. It reports
// false when the packet is broken: a cookie is not its first chunk (RFC 9260
// sections 5.1, 6.10), or more chunks matter than any host bundles.
func (c *SCTPChunks) Add(kind uint8, reflected uint8) bool {
	if !chunkMatters(kind) {
		c.Others = uint8(min(int(c.Others)+1, 255))
		c.HasData = c.HasData || kind == chunkData
		return true
	}
	isCookie := kind == ChunkCookieEcho || kind == ChunkCookieAck
	if c.Num == MaxChunks || isCookie && (c.Num > 0 || c.Others > 0) {
		return false
	}
	c.Types[c.Num] = kind
	c.Reflected |= reflected & 1 << c.Num
	c.Num++
	return true
}

// wellFormed reports whether the chunks may be together in one packet: INIT,
// INIT ACK and SHUTDOWN COMPLETE are alone (RFC 9260 section 6.10).
func (c *SCTPChunks) wellFormed() bool {
	if c.Num == 0 {
		return c.Others > 0
	}
	for _, kind := range c.Types[:c.Num] {
		switch kind {
		case ChunkInit, ChunkInitAck, ChunkShutdownComplete:
			if c.Num > 1 || c.Others > 0 {
				return false
			}
		}
	}
	return true
}

// begins reports whether a packet may be the first of a flow: data may not, nor
// what a host discards out of the blue (RFC 9260 section 8.4).
func (c *SCTPChunks) begins() bool {
	if c.Num == 0 || c.Others != 0 {
		return false
	}
	for _, kind := range c.Types[:c.Num] {
		switch kind {
		case ChunkAbort, ChunkShutdownComplete, ChunkCookieAck:
			return false
		}
	}
	return c.wellFormed()
}

// sctpBegins is what the first chunk of a flow makes of it. None: it can begin
// none.
var sctpBegins = [numChunks]State{
	ChunkInit:             SCTPClosed,
	ChunkInitAck:          SCTPClosed,
	ChunkHeartbeat:        SCTPHeartbeatSent, // another path of an association
	ChunkHeartbeatAck:     SCTPClosed,
	ChunkAbort:            SCTPClosed,
	ChunkShutdown:         SCTPClosed,
	ChunkShutdownAck:      SCTPShutdownAckSent, // out of the blue: a SHUTDOWN COMPLETE answers it (RFC 9260 section 8.4)
	ChunkError:            SCTPClosed,
	ChunkCookieEcho:       SCTPClosed,
	ChunkCookieAck:        SCTPClosed,
	ChunkShutdownComplete: SCTPClosed,
}

// sctpStates is a row of sctpNext.
type sctpStates [numStates]State

// sctpNext is what a chunk in a direction makes of a state. A zero cell leaves
// the state as it is: most chunks are for the hosts only. ABORT is not here, it
// closes everything, and the flow that began with a heartbeat has a table of its
// own.
var sctpNext = [tuple.NumDirections][numChunks]sctpStates{
	tuple.Original: {
		ChunkInit:             {SCTPShutdownSent: SCTPClosed, SCTPShutdownRecd: SCTPClosed},
		ChunkShutdown:         {SCTPEstablished: SCTPShutdownSent},
		ChunkShutdownAck:      {SCTPShutdownSent: SCTPShutdownAckSent, SCTPShutdownRecd: SCTPShutdownAckSent},
		ChunkCookieEcho:       {SCTPCookieWait: SCTPCookieEchoed},
		ChunkCookieAck:        {SCTPCookieEchoed: SCTPEstablished}, // after a collision of INITs
		ChunkShutdownComplete: {SCTPShutdownAckSent: SCTPClosed},
	},
	tuple.Reply: {
		ChunkInitAck:          {SCTPClosed: SCTPCookieWait},
		ChunkShutdown:         {SCTPEstablished: SCTPShutdownRecd},
		ChunkShutdownAck:      {SCTPShutdownSent: SCTPShutdownAckSent, SCTPShutdownRecd: SCTPShutdownAckSent},
		ChunkError:            {SCTPCookieEchoed: SCTPClosed}, // stale cookie
		ChunkCookieEcho:       {SCTPCookieWait: SCTPCookieEchoed},
		ChunkCookieAck:        {SCTPCookieEchoed: SCTPEstablished},
		ChunkShutdownComplete: {SCTPShutdownAckSent: SCTPClosed},
	},
}

// sctpAfterHeartbeat is what comes after SCTPHeartbeatSent. A zero cell is
// invalid.
var sctpAfterHeartbeat = [tuple.NumDirections][numChunks]State{
	tuple.Original: {
		ChunkInit:             SCTPCookieWait,
		ChunkInitAck:          SCTPClosed,
		ChunkHeartbeat:        SCTPHeartbeatSent,
		ChunkHeartbeatAck:     SCTPHeartbeatSent,
		ChunkAbort:            SCTPClosed,
		ChunkShutdown:         SCTPClosed,
		ChunkShutdownAck:      SCTPShutdownAckSent,
		ChunkError:            SCTPClosed,
		ChunkCookieEcho:       SCTPClosed,
		ChunkCookieAck:        SCTPClosed,
		ChunkShutdownComplete: SCTPClosed,
	},
	tuple.Reply: {
		ChunkHeartbeat:    SCTPHeartbeatSent,
		ChunkHeartbeatAck: SCTPEstablished, // the path works
	},
}

// sctpStep returns what a chunk makes of a state, None if it is invalid there.
func sctpStep(d tuple.Direction, kind uint8, s State) State {
	switch {
	case s == None && d == tuple.Original:
		return sctpBegins[kind]
	case s == None:
		return None
	case s == SCTPHeartbeatSent:
		return sctpAfterHeartbeat[d][kind]
	case kind == ChunkAbort:
		return SCTPClosed
	}
	if next := sctpNext[d][kind][s]; next != None {
		return next
	}
	return s
}

// sctpConn is the SCTP part of an entry, unpacked. It has no lock, clock or table.
type sctpConn struct {
	state  State
	tag    [tuple.NumDirections]uint32 // verification tag of packets in a direction, 0: not known
	inited uint8                       // bit d: an INIT came in direction d

	// probed is set after a heartbeat with a wrong tag in direction probe: if its
	// answer has one, too, the association was restarted behind our back.
	probed bool
	probe  tuple.Direction
}

// sctpResult is what sctpConn.advance found.
type sctpResult struct {
	verdict Verdict
	idle    tcpIdle
	assured bool // the association is up
}

// advance takes a packet in direction d through the tracker. status is the
// entry's before it. After an invalid packet c is void.
func (c *sctpConn) advance(d tuple.Direction, p *SCTPChunks, status Status) sctpResult {
	if !p.wellFormed() {
		return sctpResult{verdict: InvalidState}
	}
	if c.state == None {
		if !p.begins() {
			return sctpResult{verdict: InvalidState}
		}
		c.begin(d, p)
	}
	if p.Num == 0 || !ownTagRules(p) {
		if p.Tag != c.tag[d] {
			return sctpResult{verdict: InvalidTag}
		}
	}
	r := sctpResult{verdict: Accept}
	for i, kind := range p.Types[:p.Num] {
		if kind == ChunkHeartbeat || kind == ChunkHeartbeatAck {
			switch c.heartbeat(d, kind, p, r.idle) {
			case InvalidTag:
				return sctpResult{verdict: InvalidTag}
			case Ignore:
				r.idle = idleKeep
				continue
			}
		} else if !c.tagFits(d, kind, p.Tag, p.Reflected>>i&1) {
			return sctpResult{verdict: InvalidTag}
		}
		next := sctpStep(d, kind, c.state)
		if next == None {
			return sctpResult{verdict: InvalidState}
		}
		switch kind {
		case ChunkInit:
			c.init(d, p.InitTag)
			if c.state == SCTPClosed && status.Has(Confirmed) {
				r.idle = idleKeep // or retransmissions keep a dead entry's port for ever
			}
		case ChunkInitAck:
			if !c.initAck(d, p.InitTag) {
				return sctpResult{verdict: InvalidTag}
			}
		}
		r.assured = r.assured || next == SCTPEstablished && c.state != next
		c.state = next
	}
	return r
}

// ownTagRules reports whether p has a chunk that RFC 9260 section 8.5.1 excepts
// from the rule that the tag is the receiver's.
func ownTagRules(p *SCTPChunks) bool {
	for _, kind := range p.Types[:p.Num] {
		switch kind {
		case ChunkInit, ChunkAbort, ChunkShutdownComplete, ChunkCookieEcho, ChunkShutdownAck, ChunkHeartbeat, ChunkHeartbeatAck:
			return true
		}
	}
	return false
}

// begin learns the tags that the first packet of a flow tells. Out of the blue, the
// answer reflects the tag (RFC 9260 section 8.4), but not if it answers a
// heartbeat.
func (c *sctpConn) begin(d tuple.Direction, p *SCTPChunks) {
	reflects := true
	for _, kind := range p.Types[:p.Num] {
		reflects = reflects && kind != ChunkHeartbeat && kind != ChunkHeartbeatAck
	}
	for _, kind := range p.Types[:p.Num] {
		switch {
		case kind == ChunkInit:
			c.tag[d.Other()] = p.InitTag
		case kind == ChunkHeartbeat:
			c.tag[d] = p.Tag
		case kind == ChunkShutdownAck || reflects:
			c.tag[d.Other()] = p.Tag
		}
	}
}

// tagFits holds a packet's tag against a chunk of it (RFC 9260 section 8.5.1).
func (c *sctpConn) tagFits(d tuple.Direction, kind uint8, tag uint32, reflected uint8) bool {
	switch kind {
	case ChunkInit:
		return tag == 0
	case ChunkAbort, ChunkShutdownComplete:
		if reflected != 0 {
			return tag == c.tag[d.Other()]
		}
		return tag == c.tag[d]
	case ChunkCookieEcho:
		return tag == c.tag[d]
	}
	return true
}

// heartbeat judges the tag of a heartbeat or its answer. A new path has to tell
// its tags first; a wrong tag passes once and is believed only when the other
// side answers it. Ignore: the packet passes, the chunk has no effect.
func (c *sctpConn) heartbeat(d tuple.Direction, kind uint8, p *SCTPChunks, idle tcpIdle) Verdict {
	switch {
	case c.tag[d] == 0:
		c.tag[d] = p.Tag
	case p.Tag == c.tag[d]:
		c.probed = false
	case p.HasData || idle == idleKeep:
		return InvalidTag // with data, or a second one in the packet: as netfilter
	case kind == ChunkHeartbeat:
		c.probed, c.probe = true, d
		return Ignore
	case !c.probed || c.probe == d:
		return InvalidTag
	default:
		c.probed = false
		c.tag[d], c.tag[d.Other()] = p.Tag, 0
	}
	return Accept
}

// init notes an INIT: the answers carry its tag.
func (c *sctpConn) init(d tuple.Direction, tag uint32) {
	mine, other := uint8(1)<<d, uint8(1)<<d.Other()
	if c.inited == mine|other {
		c.inited = mine // the collision is over
	}
	c.inited |= mine
	c.tag[d.Other()] = tag
}

// initAck notes an INIT ACK and reports whether its tag can be: after a
// collision of INITs (RFC 9260 section 5.2.1) it repeats the one of this side's INIT.
func (c *sctpConn) initAck(d tuple.Direction, tag uint32) bool {
	o := d.Other()
	known := c.tag[o]
	if c.inited&(1<<o) == 0 && known != 0 && known != tag {
		return false
	}
	if c.inited == 1<<d|1<<o && known != tag {
		return false
	}
	c.tag[o] = tag
	return true
}

// Bits of Entry.word of an SCTP flow, below wordLock, after the state.
const (
	sctpInitedShift = 4
	sctpProbed      = 1 << 6
	sctpProbeShift  = 7
)

// load unpacks the SCTP part of a locked entry.
func (c *sctpConn) load(e *Entry, w uint32) {
	c.state = stateOf(tuple.SCTP, w)
	c.inited = uint8(w >> sctpInitedShift & 3)
	c.probed = w&sctpProbed != 0
	c.probe = tuple.Direction(w >> sctpProbeShift & 1)
	c.tag = [tuple.NumDirections]uint32{e.proto[0], e.proto[1]}
}

// store packs c into a locked entry and returns its word.
func (c *sctpConn) store(e *Entry) uint32 {
	e.proto[0], e.proto[1] = c.tag[0], c.tag[1]
	w := packState(c.state) | uint32(c.inited)<<sctpInitedShift | uint32(c.probe)<<sctpProbeShift
	if c.probed {
		w |= sctpProbed
	}
	return w
}

// trackSCTP takes a packet through the pure tracker under the entry's lock.
func (w *Worker) trackSCTP(r Ref, e *Entry, status Status, s *Segment, now Tick) Verdict {
	var c sctpConn
	packed := e.lock()
	c.load(e, packed)
	old := c.state
	res := c.advance(r.Dir, &s.SCTP, status)
	if res.verdict != Accept {
		e.unlock(packed)
		word.Add64(&w.stats.Invalid, 1)
		return res.verdict
	}
	e.countLocked(r.Dir, s)
	if res.idle == idleRefresh {
		w.refreshLocked(r, e, status, now, w.idleOf(e, status).sctp[c.state-sctpBase])
	}
	e.unlock(c.store(e))

	change := Change(0)
	if c.state != old {
		change |= ChangedState
	}
	if res.assured && w.assure(r.Slot) != 0 {
		change |= ChangedAssured
	}
	w.replied(r, e, status, change, now)
	return Accept
}
