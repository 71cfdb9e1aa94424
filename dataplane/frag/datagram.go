package frag

import "example.com/culvert/conntrack/tuple"

// maxRuns bounds the pieces of one datagram that are separated by gaps. 64 KB in
// fragments of 1500 bytes, every other one late, make 22.
const maxRuns = 32

type state uint8

const (
	waiting    state = iota // may: hold, Learn, Collect, Refuse, die, expire
	following               // may: pass fragments, Refuse, die, expire; holds nothing
	collecting              // may: hold, be handed out whole, Refuse, die, expire
	dead                    // may: expire; holds nothing
)

// run is a stretch [start, end) of the payload that has come.
type run struct{ start, end uint16 }

// datagram is one datagram in flight.
type datagram struct {
	key      Key
	deadline int64 // ns
	ref      uint64
	source   *source
	links    [numLists]link
	first    *Held // held fragments in order of arrival
	tail     *Held
	numHeld  int
	runs     [maxRuns]run // ascending, never touching
	numRuns  int
	total    int // payload length, once the last fragment has come; 0 before
	state    state
	why      Reason // of dead
}

// place takes note that [start, end) has come and reports what is wrong with it:
// Duplicate, Overlap, or Limit for too many gaps.
func (d *datagram) place(start, end int, last bool) Reason {
	i := 0
	for i < d.numRuns && int(d.runs[i].end) <= start {
		i++
	}
	if i < d.numRuns && start >= int(d.runs[i].start) && end <= int(d.runs[i].end) {
		return Duplicate
	}
	if i < d.numRuns && end > int(d.runs[i].start) {
		return Overlap
	}
	if d.total != 0 && (last || end > d.total) || last && d.numRuns > 0 && int(d.runs[d.numRuns-1].end) > end {
		return Overlap // two ends, or something behind the end
	}
	if last {
		d.total = end
	}
	return d.insert(i, run{uint16(start), uint16(end)})
}

// insert puts r before run i, and joins it with its neighbours if it touches them.
func (d *datagram) insert(i int, r run) Reason {
	joinsLeft := i > 0 && d.runs[i-1].end == r.start
	joinsRight := i < d.numRuns && d.runs[i].start == r.end
	switch {
	case joinsLeft && joinsRight:
		d.runs[i-1].end = d.runs[i].end
		copy(d.runs[i:], d.runs[i+1:d.numRuns])
		d.numRuns--
	case joinsLeft:
		d.runs[i-1].end = r.end
	case joinsRight:
		d.runs[i].start = r.start
	case d.numRuns == maxRuns:
		return Limit
	default:
		copy(d.runs[i+1:], d.runs[i:d.numRuns])
		d.runs[i] = r
		d.numRuns++
	}
	return None
}

// complete reports whether all of the datagram has come.
func (d *datagram) complete() bool {
	return d.total != 0 && d.numRuns == 1 && d.runs[0] == run{0, uint16(d.total)}
}

// sourceKey names who sends: an address within an area.
type sourceKey struct {
	addr tuple.Addr
	area uint16
}

// source is what one sender has in flight. It exists while it has datagrams.
type source struct {
	key       sourceKey
	datagrams list // oldest first
	count     int
	bytes     int // of held frames
}

// Lists that a datagram can be in.
const (
	byAge = iota
	bySource
	byHolder
	numLists
)

type link struct{ prev, next *datagram }

// list is an intrusive list of datagrams through links[which]; which is given
// with every call because it is the list's place in its owner.
type list struct{ head, tail *datagram }

func (l *list) push(d *datagram, which int) {
	d.links[which] = link{prev: l.tail}
	if l.tail != nil {
		l.tail.links[which].next = d
	} else {
		l.head = d
	}
	l.tail = d
}

func (l *list) remove(d *datagram, which int) {
	n := d.links[which]
	if n.prev != nil {
		n.prev.links[which].next = n.next
	} else {
		l.head = n.next
	}
	if n.next != nil {
		n.next.links[which].prev = n.prev
	} else {
		l.tail = n.prev
	}
	d.links[which] = link{}
}
