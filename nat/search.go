package nat

import "example.com/culvert/conntrack/tuple"

// Search is a walk over candidate sources. It is a value: copying it forks the
// walk. The zero Search has no candidates.
type Search struct {
	t   tuple.Tuple // source address of the current round
	rnd uint64

	pool       []AddrRange
	addr, size uint64 // index of the current address in pool, and its size
	left       uint64 // addresses not yet finished, the current one included

	own      uint16 // the packet's own port
	keep     keep
	spans    [maxSpans]span
	numSpans uint8
	cur      uint8  // current span
	done     uint32 // ports of the current span that were passed
	start    uint32 // where the current span started
	steer    bool   // begin a span with a port of the own one's bucket
	stage    stage
	avoid    avoided // ports of the current address that need not be offered
}

// begin makes c a walk over one address, without ports yet.
func (c *Search) begin(t *tuple.Tuple, rnd uint64) {
	*c = Search{}
	c.t.Set(t)
	c.rnd, c.left = rnd, 1
}

// Addr returns the address that the next candidate has, unless that one's ports
// are at their end.
func (c *Search) Addr() tuple.Addr { return c.t.Src }

// At returns the flow's tuple with a source of the caller's choice.
func (c *Search) At(addr tuple.Addr, port uint16) tuple.Tuple {
	t := c.t
	t.Src, t.SrcPort = addr, port
	return t
}

// Avoid has the search pass over what is in the sets, for the current address.
// The packet's own port is offered all the same. Sets may be nil.
func (c *Search) Avoid(a, b, also *PortSet) { c.avoid = avoided{a, b, also} }

// keep says whether the packet's own port is the first candidate.
type keep uint8

const (
	keepNot keep = iota
	keepFirst
	keepOnly // there is nothing to choose: a protocol without ports
)

type stage uint8

const (
	stageOwn stage = iota
	stageSpans
)

// span is a group of equally good ports: first, first+stride, ... (n of them).
type span struct {
	first  uint16
	stride uint8
	why    Choice
	n      uint32
}

// maxSpans: the part of a range that is of the port's class in both parities,
// and what lies below and above.
const maxSpans = 4

// Empty reports whether the walk has no candidates at all.
func (c *Search) Empty() bool { return c.left == 0 }

// plan lays out the spans that every address is searched by.
func (c *Search) plan(ports PortRange, f Flags) {
	c.own = c.t.SrcPort
	switch {
	case tuple.HasPorts(c.t.Proto):
		c.planPorts(ports, f)
	case tuple.IsICMP(c.t.Proto):
		if ports.IsZero() {
			c.add(PortRange{0, 65535}, 1, RandomPort)
		} else {
			c.add(ports, 1, RandomPort)
		}
		c.keepOwn(ports, f)
	case c.t.Proto == tuple.GRE && c.own != 0:
		c.add(PortRange{1, 65535}, 1, RandomPort) // call ids: rules name ports, not these
		c.keepOwn(PortRange{}, f)
	default:
		c.keep = keepOnly
	}
	c.enter()
}

func (c *Search) keepOwn(ports PortRange, f Flags) {
	if f&(Random|FullyRandom) == 0 && (ports.IsZero() || ports.Contains(c.own)) {
		c.keep = keepFirst
	}
}

// Port classes.
var (
	linuxLow  = PortRange{1, 511}
	linuxMid  = PortRange{600, 1023}
	high      = PortRange{1024, 65535}
	rfcLow    = PortRange{1, 1023} // RFC 4787 REQ-3a; port 0 is none
	wholePort = PortRange{1, 65535}
)

func (c *Search) planPorts(ports PortRange, f Flags) {
	c.keepOwn(ports, f)
	// Ports that are hard to guess, or that keep order and parity, are what they are.
	c.steer = f&(Random|FullyRandom|RFC) == 0
	if f&RFC != 0 {
		c.planRFC(ports)
		return
	}
	switch {
	case !ports.IsZero():
		c.add(ports, 1, RandomPort)
	case c.own < 512:
		c.add(linuxLow, 1, Class)
		c.add(high, 1, RandomPort)
	case c.own < 1024:
		c.add(linuxMid, 1, Class)
		c.add(high, 1, RandomPort)
	default:
		c.add(high, 1, Class)
	}
}

func (c *Search) planRFC(ports PortRange) {
	class := high
	if c.own < 1024 {
		class = rfcLow
	}
	limit := ports
	if limit.IsZero() {
		if limit = wholePort; c.own >= 1024 {
			limit = high
		}
	}
	in := PortRange{max(class.First, limit.First), min(class.Last, limit.Last)}
	if in.First > in.Last { // the rule's range has nothing of the class
		c.add(limit, 1, RandomPort)
		return
	}
	c.addParity(in, c.own&1, Parity)
	c.addParity(in, c.own&1^1, Class)
	if limit.First < in.First {
		c.add(PortRange{limit.First, in.First - 1}, 1, RandomPort)
	}
	if limit.Last > in.Last {
		c.add(PortRange{in.Last + 1, limit.Last}, 1, RandomPort)
	}
}

func (c *Search) add(r PortRange, stride uint8, why Choice) {
	c.spans[c.numSpans] = span{first: r.First, stride: stride, why: why, n: uint32(r.Size()+int(stride)-1) / uint32(stride)}
	c.numSpans++
}

// addParity adds the ports of r with the given lowest bit, if there are any.
func (c *Search) addParity(r PortRange, bit uint16, why Choice) {
	if r.First&1 != bit {
		if r.First == r.Last {
			return
		}
		r.First++
	}
	c.add(r, 2, why)
}

// enter begins the current span at a random place.
func (c *Search) enter() {
	c.done = 0
	if c.cur < c.numSpans {
		c.rnd = mix(c.rnd + 0x9e3779b97f4a7c15)
		c.start = uint32(pick(c.rnd, uint64(c.spans[c.cur].n)))
	}
}

// Next returns the next candidate: the flow's tuple with a new source, and why.
// It reports false after it has offered every port of every address once; the
// walk is then at its end for good.
func (c *Search) Next() (t tuple.Tuple, why Choice, ok bool) {
	why, ok = c.NextTo(&t)
	return t, why, ok
}

// NextTo is Next with the candidate put in place. t stays what it was when there is none.
func (c *Search) NextTo(t *tuple.Tuple) (why Choice, ok bool) {
	for c.left > 0 {
		if c.stage == stageOwn {
			c.stage = stageSpans
			switch c.keep {
			case keepFirst:
				c.candidate(t, c.own)
				return Preserved, true
			case keepOnly:
				t.Set(&c.t)
				return AddressOnly, true
			}
		}
		for c.cur < c.numSpans {
			s := &c.spans[c.cur]
			if c.done == s.n {
				c.cur++
				c.enter()
				continue
			}
			if c.done == 0 && c.steer {
				c.align(s)
			}
			if c.pass(s); c.done == s.n {
				continue
			}
			i := c.start + c.done
			if i >= s.n {
				i -= s.n
			}
			c.done++
			port := s.first + uint16(i)*uint16(s.stride)
			if port == c.own && c.keep == keepFirst {
				continue // was the first candidate
			}
			c.candidate(t, port)
			return s.why, true
		}
		c.nextAddr()
	}
	return None, false
}

// candidate makes t the flow's tuple with the address in hand and a port.
func (c *Search) candidate(t *tuple.Tuple, port uint16) {
	t.SetAddrs(&c.t)
	t.SetRest(port, c.t.DstPort, c.t.Proto, c.t.Family, c.t.Zone)
}

// align moves the start of a span, less than 128 ports, to one of the own port's bucket
// (tuple.PortBucket): then packets of the other direction come to the same worker. It
// stays where it is if there is none in reach.
func (c *Search) align(s *span) {
	port := s.first + uint16(c.start)*uint16(s.stride)
	low := uint16(tuple.PortBuckets - 1)
	near := port&^low | uint16(tuple.PortBucket(port&^low)^tuple.PortBucket(c.own))
	if s.stride == 2 && near&1 != s.first&1 {
		near ^= tuple.PortBuckets | 1 // both change the last bit of the bucket
	}
	if at := (uint32(near) - uint32(s.first)) / uint32(s.stride); near >= s.first && at < s.n {
		c.start = at
	}
}

// pass goes on to the next port of a span that need not be avoided: to its end if
// there is none.
func (c *Search) pass(s *span) {
	if c.avoid == (avoided{}) {
		return
	}
	at := func(i uint32) uint16 { return s.first + uint16(i)*uint16(s.stride) }
	if i := c.start + c.done; i < s.n { // before it wraps around
		if port, ok := c.avoid.outside(at(i), at(s.n-1), s.stride); ok {
			c.done += uint32(port-at(i)) / uint32(s.stride)
			return
		}
		if c.start == 0 {
			c.done = s.n
			return
		}
		c.done = s.n - c.start
	}
	first := c.start + c.done - s.n
	if port, ok := c.avoid.outside(at(first), at(c.start-1), s.stride); ok {
		c.done += uint32(port-at(first)) / uint32(s.stride)
		return
	}
	c.done = s.n
}

// nextAddr goes on with the next address of the pool, if there is one.
func (c *Search) nextAddr() {
	if c.left--; c.left == 0 {
		return
	}
	if c.addr++; c.addr == c.size {
		c.addr = 0
	}
	c.t.Src = poolAt(c.pool, c.addr)
	c.stage, c.cur, c.avoid = stageOwn, 0, avoided{}
	c.enter()
}
