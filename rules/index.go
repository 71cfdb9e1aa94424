package rules

import (
	"cmp"
	"iter"
	"math"
	"math/bits"
	"slices"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// index finds the rules of a list that a packet may match, without looking at the
// others. It is a tree. A node cuts one dimension of the packets into intervals,
// and each has a subtree of the rules that hold for some packet in it. Rules that
// hold for the whole dimension, as far as it reaches this node, are not copied into
// every interval but have a subtree of their own. So a walk goes down several
// branches, and ends in a few runs of positions, each in the order of the list.
//
// What the index finds is a superset: conditions that it does not know (negated
// ones, long lists of values, fields that differ from packet to packet) and what
// one dimension can not tell (IPv6 addresses in two halves) are left to matcher.
type index struct {
	nodes  []cut
	bounds []uint64 // of all nodes: first value of each interval, the first one being 0
	below  []branch // beside bounds
	runs   []uint32 // positions of rules; see run
	root   branch
}

// cut is an inner node.
type cut struct {
	dim         dimension
	first, last uint32 // its part of bounds and below
	rest        branch // rules that the cut can not tell apart
}

// branch is a node (an index of nodes) or a run (isRun set and an index of runs,
// which there begin with their length). Run 0 is empty.
type branch uint32

const isRun branch = 1 << 31

const noRules = isRun

// maxRuns is how many runs a walk may end in.
const maxRuns = 8

// cutSaves is how many rules a cut must spare the average packet: a walk takes as
// long to pass a cut as to look at about so many.
const cutSaves = 8

// Limits of the copies of rules that cuts make, so that no ruleset makes an index
// that is large or takes long.
const (
	copiesOfCut  = 4  // of a rule in one cut, on average
	copiesOfRule = 32 // of a rule in the whole index, on average
)

// dimension is a field of packets whose values an index tells apart.
type dimension uint8

const (
	dimInArea dimension = iota
	dimOutArea
	dimIn
	dimOut
	dimLocal
	dimProto
	dimDstPort // or ICMP type and code
	dimSrcPort
	dimDst4    // IPv4 address, notIPv4 for others
	dimDstHigh // upper half of an IPv6 address, 0 for others
	dimDstLow  // lower half
	dimSrc4
	dimSrcHigh
	dimSrcLow
	numDims
)

// of returns where k is in a dimension.
func (d dimension) of(k *Key) uint64 {
	switch d {
	case dimInArea:
		return uint64(k.InArea)
	case dimOutArea:
		return uint64(k.OutArea)
	case dimIn:
		return uint64(k.In)
	case dimOut:
		return uint64(k.Out)
	case dimLocal:
		return uint64(k.Local)
	case dimProto:
		return uint64(k.Tuple.Proto)
	case dimDstPort:
		return uint64(k.Tuple.DstPort)
	case dimSrcPort:
		return uint64(k.Tuple.SrcPort)
	}
	a := &k.Tuple.Src
	if d < dimSrc4 {
		a = &k.Tuple.Dst
	}
	hi, lo := halves(a)
	switch is4 := k.Tuple.Family == tuple.IPv4; {
	case d == dimDst4 || d == dimSrc4:
		if is4 {
			return lo & math.MaxUint32
		}
		return notIPv4
	case is4:
		return 0
	case d == dimDstHigh || d == dimSrcHigh:
		return hi
	}
	return lo
}

const notIPv4 = 1 << 32

// candidates are the rules of a list that a packet may match, in the order of the
// list. Who walks has it on his stack and never copies it: to read in large pieces what was
// just written in small ones takes longer than the walk.
type candidates struct {
	rules []*Rule
	runs  []uint32
	n     int
	left  [maxRuns]run
}

// run is what is left of a run: positions from pos on, which is the one at at.
type run struct{ pos, at, end uint32 }

// candidates starts the walk c, which is new, over the rules of a list that may hold
// for k.
func (p *Program) candidates(list List, k *Key, c *candidates) {
	x := &p.index[list]
	c.rules, c.runs = p.lists[list], x.runs
	if x.root&isRun != 0 { // as for all short lists
		c.take(x.root)
		return
	}
	var waiting [maxRuns]branch // rests of the cuts passed
	n := 0
	for b := x.root; ; {
		for b&isRun == 0 {
			node := &x.nodes[b]
			if node.rest != noRules {
				waiting[n] = node.rest
				n++
			}
			b = x.below[node.find(x.bounds, node.dim.of(k))]
		}
		c.take(b)
		if n == 0 {
			return
		}
		n--
		b = waiting[n]
	}
}

// take adds the run of a branch, unless it is empty.
func (c *candidates) take(b branch) {
	at := uint32(b &^ isRun)
	if n := c.runs[at]; n != 0 {
		r := &c.left[c.n]
		r.pos, r.at, r.end = c.runs[at+1], at+1, at+1+n
		c.n++
	}
}

// find returns the interval that v is in.
func (n *cut) find(bounds []uint64, v uint64) uint32 {
	first, size := n.first, n.last-n.first
	for size > 1 {
		half := size / 2
		if bounds[first+half] <= v {
			first += half
		}
		size -= half
	}
	return first
}

// next returns the next candidate, nil if there is none.
func (c *candidates) next() *Rule {
	if c.n == 0 {
		return nil
	}
	least := 0
	for i := 1; i < c.n; i++ {
		if c.left[i].pos < c.left[least].pos {
			least = i
		}
	}
	r := &c.left[least]
	rule := c.rules[r.pos]
	if r.at++; r.at < r.end {
		r.pos = c.runs[r.at]
	} else {
		c.n--
		*r = c.left[c.n]
	}
	return rule
}

// extent is an inclusive range of values of a dimension.
type extent struct{ first, last uint64 }

// covers reports whether e has all values of f.
func (e extent) covers(f extent) bool { return e.first <= f.first && f.last <= e.last }

// meets reports whether e and f have a value in common.
func (e extent) meets(f extent) bool { return e.first <= f.last && f.first <= e.last }

// region is a part of the space of packets: what is left of each dimension.
type region [numDims]extent

// maxExtents is how many values of a rule the index tells apart in one dimension.
const maxExtents = 256

// indexer builds an index.
type indexer struct {
	index
	extents [][numDims][]extent // by position, sorted and apart; none: the whole dimension
	copies  int                 // of rules that may still be made

	outlines map[*AddrSet][]addrRange
}

// newIndex makes the index of a list.
func newIndex(rules []*Rule) index {
	b := indexer{extents: make([][numDims][]extent, len(rules)), copies: copiesOfRule * len(rules), outlines: make(map[*AddrSet][]addrRange)}
	b.runs = []uint32{0} // the empty run
	all := make([]uint32, len(rules))
	for i, r := range rules {
		b.needs(&r.match, &b.extents[i])
		all[i] = uint32(i)
	}
	var space region
	for d := range space {
		space[d] = extent{0, math.MaxUint64}
	}
	b.root = b.build(all, &space, maxRuns)
	return b.index
}

// build makes the subtree for rules, given by position, and packets in space. A
// walk through it ends in at most limit runs.
func (b *indexer) build(rules []uint32, space *region, limit int) branch {
	var best plan
	if len(rules) > cutSaves {
		for d := range numDims {
			if p := b.plan(rules, d, space[d]); p.saved > best.saved && (p.rest == 0 || limit > 1) {
				best = p
			}
		}
	}
	if best.saved < cutSaves || best.copies > b.copies {
		return b.run(rules)
	}
	b.copies -= best.copies
	return b.cut(rules, space, limit, &best)
}

// run adds a run.
func (b *indexer) run(rules []uint32) branch {
	if len(rules) == 0 {
		return noRules
	}
	at := branch(len(b.runs))
	b.runs = append(append(b.runs, uint32(len(rules))), rules...)
	return at | isRun
}

// cut makes a node as p says.
func (b *indexer) cut(rules []uint32, space *region, limit int, p *plan) branch {
	within := space[p.dim]
	inside := make([][]uint32, len(p.bounds))
	var rest []uint32
	for _, i := range rules {
		if !b.tells(i, p.dim, within) {
			rest = append(rest, i)
			continue
		}
		for first, last := range b.intervals(i, p.dim, within, p.bounds) {
			for n := first; n <= last; n++ {
				inside[n] = append(inside[n], i)
			}
		}
	}
	at, first := branch(len(b.nodes)), len(b.bounds)
	b.bounds = append(b.bounds, p.bounds...)
	b.below = append(b.below, make([]branch, len(p.bounds))...)
	b.nodes = append(b.nodes, cut{dim: p.dim, first: uint32(first), last: uint32(len(b.bounds)), rest: noRules})
	if len(rest) > 0 {
		share := 1
		if len(rest) > cutSaves {
			share = limit / 2
		}
		limit -= share
		b.nodes[at].rest = b.build(rest, space, share)
	}
	part := *space
	for n := range p.bounds {
		part[p.dim] = extent{p.bounds[n], within.last}
		if n+1 < len(p.bounds) {
			part[p.dim].last = p.bounds[n+1] - 1
		}
		b.below[first+n] = b.build(inside[n], &part, limit)
	}
	return at
}

// plan is a way to cut rules.
type plan struct {
	dim    dimension
	bounds []uint64 // first values of the intervals
	rest   int      // rules that are not cut
	copies int      // of rules, that the cut makes
	saved  float64  // rules that the average packet needs not look at
}

// plan finds the best cut of rules in one dimension, of which within is left.
func (b *indexer) plan(rules []uint32, d dimension, within extent) plan {
	var specific []uint32
	edges, extents := []uint64{within.first}, 0
	for _, i := range rules {
		if !b.tells(i, d, within) {
			continue
		}
		specific = append(specific, i)
		for _, e := range b.extents[i][d] {
			if !e.meets(within) {
				continue
			}
			extents++
			edges = append(edges, max(e.first, within.first))
			if e.last < within.last {
				edges = append(edges, e.last+1)
			}
		}
	}
	if len(specific) < cutSaves {
		return plan{}
	}
	slices.Sort(edges)
	edges = slices.Compact(edges)
	p := plan{dim: d, rest: len(rules) - len(specific)}
	for step := 1; step < len(edges); step *= 2 { // wider and wider intervals
		p.bounds = everyNth(edges, step)
		if b.weigh(&p, specific, within); p.copies <= copiesOfCut*extents {
			return p
		}
	}
	return plan{}
}

func everyNth(values []uint64, n int) []uint64 {
	out := make([]uint64, 0, len(values)/n+1)
	for i := 0; i < len(values); i += n {
		out = append(out, values[i])
	}
	return out
}

// weigh finds out what a plan costs and saves. An interval counts as often as rules
// are in it: packets come where rules are.
func (b *indexer) weigh(p *plan, specific []uint32, within extent) {
	begun := make([]int, len(p.bounds)+1) // rules that begin in an interval, less those that ended before it
	for _, i := range specific {
		for first, last := range b.intervals(i, p.dim, within, p.bounds) {
			begun[first]++
			begun[last+1]--
		}
	}
	inside, sum, squares := 0, 0, 0
	for _, n := range begun[:len(p.bounds)] {
		inside += n
		sum += inside
		squares += inside * inside
	}
	p.copies = sum - len(specific)
	p.saved = float64(len(specific)) - float64(squares)/float64(max(sum, 1))
}

// tells reports whether rule i holds for a part of an extent of a dimension only.
func (b *indexer) tells(i uint32, d dimension, within extent) bool {
	all := b.extents[i][d]
	return len(all) != 0 && !slices.ContainsFunc(all, func(e extent) bool { return e.covers(within) })
}

// intervals yields the intervals that rule i is in, as ranges that do not overlap.
func (b *indexer) intervals(i uint32, d dimension, within extent, bounds []uint64) iter.Seq2[int, int] {
	return func(yield func(first, last int) bool) {
		next := 0
		for _, e := range b.extents[i][d] {
			if !e.meets(within) {
				continue
			}
			first := max(next, interval(bounds, max(e.first, within.first)))
			last := interval(bounds, min(e.last, within.last))
			if first <= last && !yield(first, last) {
				return
			}
			next = last + 1
		}
	}
}

// interval returns which interval v is in.
func interval(bounds []uint64, v uint64) int {
	n, exact := slices.BinarySearch(bounds, v)
	if !exact {
		n--
	}
	return n
}

// never is an extent of no packet.
var never = extent{math.MaxUint64, math.MaxUint64}

// needs finds the values that m needs, in the dimensions where it needs some.
func (b *indexer) needs(m *matcher, out *[numDims][]extent) {
	if m.looksAt(fInArea) {
		out[dimInArea] = bitExtents(m.inAreas)
	}
	if m.looksAt(fOutArea) {
		out[dimOutArea] = bitExtents(m.outAreas)
	}
	if m.looksAt(fIn) {
		out[dimIn] = bitExtents(m.in[:]...)
	}
	if m.looksAt(fOut) {
		out[dimOut] = bitExtents(m.out[:]...)
	}
	if m.looksAt(fLocal) {
		out[dimLocal] = []extent{{uint64(m.local), uint64(m.local)}}
	}
	if m.looksAt(fProto) {
		out[dimProto] = bitExtents(m.protos[:]...)
	}
	if m.names(fDstPort) {
		out[dimDstPort] = portExtents(m.dstPrt)
	} else if m.names(fICMP) {
		out[dimDstPort] = icmpExtents(m.icmp)
	}
	if m.names(fSrcPort) {
		out[dimSrcPort] = portExtents(m.srcPort)
	}
	out[dimDst4], out[dimDstHigh], out[dimDstLow] = b.addrExtents(m, fDst, m.dst, m.dstSets)
	out[dimSrc4], out[dimSrcHigh], out[dimSrcLow] = b.addrExtents(m, fSrc, m.src, m.srcSets)
}

// names reports whether m needs one of the values that it has for f.
func (m *matcher) names(f field) bool { return m.looksAt(f) && m.negated&f == 0 }

// bitExtents returns the numbers of the bits that are set.
func bitExtents(words ...uint64) []extent {
	out := []extent{never}[:0]
	for i, w := range words {
		for w != 0 {
			n := bits.TrailingZeros64(w)
			v := uint64(64*i + n)
			out = append(out, extent{v, v})
			w &= w - 1
		}
	}
	return apart(out)
}

func portExtents(ranges []nat.PortRange) []extent {
	out := make([]extent, len(ranges))
	for i, r := range ranges {
		out[i] = extent{uint64(r.First), uint64(r.Last)}
	}
	return apart(out)
}

func icmpExtents(types []ICMPType) []extent {
	out := make([]extent, len(types))
	for i, t := range types {
		out[i] = extent{uint64(t.Type)<<8 | uint64(t.MinCode), uint64(t.Type)<<8 | uint64(t.MaxCode)}
	}
	return apart(out)
}

// addrExtents returns what an address may be: an IPv4 address, and the halves of an
// IPv6 address. The lower half of a range says nothing unless all of the range has
// one upper half.
func (b *indexer) addrExtents(m *matcher, f field, ranges []addrRange, sets []*AddrSet) (v4, high, low []extent) {
	if !m.names(f) {
		if m.looksAt(fFamily) && m.family == tuple.IPv4 {
			v4 = []extent{{0, math.MaxUint32}}
		} else if m.looksAt(fFamily) {
			v4 = []extent{{notIPv4, notIPv4}}
		}
		return v4, nil, nil
	}
	all := slices.Clip(ranges)
	for _, set := range sets {
		all = append(all, b.outline(set)...)
	}
	for _, r := range all {
		switch {
		case r.family == tuple.IPv4:
			v4 = append(v4, extent{r.firstLo & math.MaxUint32, r.lastLo & math.MaxUint32})
			high, low = append(high, extent{0, 0}), append(low, extent{0, 0})
		case r.firstHi != r.lastHi:
			v4, high, low = append(v4, extent{notIPv4, notIPv4}), append(high, extent{r.firstHi, r.lastHi}), append(low, extent{0, math.MaxUint64})
		default:
			v4, high, low = append(v4, extent{notIPv4, notIPv4}), append(high, extent{r.firstHi, r.lastHi}), append(low, extent{r.firstLo, r.lastLo})
		}
	}
	return apart(v4), apart(high), apart(low)
}

// outline returns about maxExtents ranges at most that hold a set: of a large one,
// neighbours in one.
func (b *indexer) outline(set *AddrSet) []addrRange {
	if known, ok := b.outlines[set]; ok {
		return known
	}
	each := (set.Len() + maxExtents - 1) / maxExtents
	var joined []nat.AddrRange
	n := 0
	set.Ranges(func(r nat.AddrRange) bool { // IPv4 first
		if last := len(joined) - 1; n%each != 0 && joined[last].First.Is4() == r.First.Is4() {
			joined[last].Last = r.Last
		} else {
			joined = append(joined, r)
		}
		n++
		return true
	})
	b.outlines[set] = addrRanges(joined)
	return b.outlines[set]
}

// apart sorts extents and joins those that touch. No extent at all becomes never; of
// too many, neighbours become one.
func apart(all []extent) []extent {
	if len(all) == 0 {
		return []extent{never}
	}
	slices.SortFunc(all, func(a, b extent) int { return cmp.Compare(a.first, b.first) })
	out := all[:1]
	for _, e := range all[1:] {
		if at := &out[len(out)-1]; at.last == math.MaxUint64 || e.first <= at.last+1 {
			at.last = max(at.last, e.last)
		} else {
			out = append(out, e)
		}
	}
	return fewer(out)
}

// fewer joins neighbours until there are at most maxExtents.
func fewer(sorted []extent) []extent {
	each := (len(sorted) + maxExtents - 1) / maxExtents
	if each == 1 {
		return sorted
	}
	out := sorted[:0]
	for i := 0; i < len(sorted); i += each {
		out = append(out, extent{sorted[i].first, sorted[min(i+each, len(sorted))-1].last})
	}
	return out
}
