package config

import (
	"encoding/binary"
	"math/bits"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// maxCompared bounds how many earlier rules one rule is compared with. The index
// finds the few that can matter in all but contrived lists; in those, rules with
// the same conditions and rules without any are still found.
const maxCompared = 512

// earlier is the rules of one list so far, found by what they look at.
//
// A rule that decides all packets of another has, in every field it looks at, a
// value around each of the other's. So it is kept under its values of one field,
// the one with the fewest rules there, and the other rule looks under all that
// lie around its own values. Networks and ranges are kept under the smallest
// prefix around them.
type earlier struct {
	rules  []*draft
	places map[place][]int      // positions in rules, ascending
	sizes  [numFields][129]bool // prefix lengths in places
	rest   []int                // rules without a field to keep them under
	same   map[conditions]int   // the last deciding rule that has these
	goOn   map[string]int       // the last rule with this text that goes on
	marked int                  // position of the last rule that marks and goes on, -1: none
}

// field is what a rule may be kept under.
type field uint8

const (
	fieldSrc field = iota
	fieldDst
	fieldDstPort
	fieldSrcPort
	fieldIn
	fieldOut
	fieldInArea
	fieldOutArea
	fieldProto
	numFields
)

// place is a prefix, a name or a number that rules are kept under.
type place struct {
	field field
	bits  uint8      // of prefix
	value tuple.Addr // of a prefix, or a number
	name  string
}

// conditions are the same for rules that the same packets meet, and that may
// decide about the same rules.
type conditions struct {
	text   string
	family uint8
	first  bool // see decidesFirst
}

func newEarlier() *earlier {
	return &earlier{places: map[place][]int{}, same: map[conditions]int{}, goOn: map[string]int{}, marked: -1}
}

// add appends r to the rules.
func (e *earlier) add(r *draft) {
	i := len(e.rules)
	e.rules = append(e.rules, r)
	if !r.Then.Terminal() {
		if r.MarkMask|r.PacketMark.Mask != 0 {
			e.marked = i
		}
		e.goOn[r.Text()] = i
		return
	}
	if r.If.Limit != nil || r.If.Flows != nil {
		return // what is beyond the limit goes on
	}
	if r.picky() {
		return
	}
	e.same[conditions{conditionText(&r.If), r.family, decidesFirst(r)}] = i
	best := e.homes(r)
	if best == nil {
		e.rest = append(e.rest, i)
	}
	for _, p := range best {
		e.places[p] = append(e.places[p], i)
		e.sizes[p.field][p.bits] = true
	}
}

// picky reports whether r applies to fewer packets than its conditions say: a map by
// address and port has not every port of every address.
func (r *draft) picky() bool {
	return len(r.pairs) > 0 && r.pairs[0].byAddr() && r.pairs[0].byPort()
}

// homes returns the places to keep r under, none when it has no field for that.
func (e *earlier) homes(r *draft) []place {
	var best []place
	fewest := 0
	for f := range numFields {
		ps := placesOf(r, f)
		most := 0
		for _, p := range ps {
			most = max(most, len(e.places[p]))
		}
		if ps != nil && (best == nil || most < fewest) {
			best, fewest = ps, most
		}
	}
	return best
}

// deciding returns the last rule that decides all packets of r or, if r is a rule
// that goes on, the same rule if that comes later; nil when there is none.
func (e *earlier) deciding(r *draft) *draft {
	last := -1
	if !r.Then.Terminal() {
		if i, ok := e.goOn[r.Text()]; ok {
			last = i
		}
	}
	for _, text := range [...]string{conditionText(&r.If), anyPacket, anyIPv4, anyIPv6} {
		for _, family := range [...]uint8{0, r.family} {
			for _, first := range [...]bool{false, true} {
				if i, ok := e.same[conditions{text, family, first}]; ok && i > last && e.decides(i, r) {
					last = i
				}
			}
		}
	}
	s := search{earlier: e, rule: r, last: last, left: maxCompared}
	s.among(e.rest)
	for f := range numFields {
		s.around(f)
	}
	if s.last < 0 {
		return nil
	}
	return e.rules[s.last]
}

// decides reports whether rule i decides all packets of r.
func (e *earlier) decides(i int, r *draft) bool {
	b := e.rules[i]
	if e.marked > i && !b.If.Mark.IsAny() || decidesFirst(b) && !decidesFirst(r) {
		return false // a mark rule in between may change what r sees
	}
	if b.Then == rules.ActAccept && r.If.Names(rules.Invalid) && !b.If.Names(rules.Invalid) {
		return false // b lets pass what belongs to a flow
	}
	return (b.family == 0 || b.family == r.family) && covers(&b.If, &r.If)
}

// search looks for the last rule that decides all packets of rule.
type search struct {
	*earlier
	rule *draft
	last int // found so far, -1: none
	left int // comparisons
}

// among looks at the rules at positions, the last one first.
func (s *search) among(positions []int) {
	for j := len(positions) - 1; j >= 0 && positions[j] > s.last && s.left > 0; j-- {
		s.left--
		if s.decides(positions[j], s.rule) {
			s.last = positions[j]
		}
	}
}

// around looks at the rules that are kept under a place around the first value of
// the rule's field f: what covers the rule covers that value.
func (s *search) around(f field) {
	ps := placesOf(s.rule, f)
	if len(ps) == 0 {
		return
	}
	p := ps[0]
	switch f {
	case fieldSrc, fieldDst, fieldSrcPort, fieldDstPort:
		for size := range int(p.bits) + 1 {
			if s.sizes[f][size] {
				s.among(s.places[prefixAround(f, &p.value, size)])
			}
		}
	case fieldIn, fieldOut:
		name := p.name
		s.among(s.places[p])
		for n := range name {
			p.name = name[:n] + "*"
			if p.name != name {
				s.among(s.places[p])
			}
		}
	default:
		s.among(s.places[p])
	}
}

// placesOf returns the places of what r may find in field f, none if it does not
// look there or takes all but some values.
func placesOf(r *draft, f field) []place {
	c := &r.If
	switch f {
	case fieldSrc:
		return placesFor(&c.Src, f, addrPlace)
	case fieldDst:
		return placesFor(&c.Dst, f, addrPlace)
	case fieldSrcPort:
		return placesFor(&c.SrcPort, f, portPlace)
	case fieldDstPort:
		return placesFor(&c.DstPort, f, portPlace)
	case fieldIn:
		return placesFor(&c.In, f, namePlace)
	case fieldOut:
		return placesFor(&c.Out, f, namePlace)
	case fieldInArea:
		return placesFor(&c.InArea, f, namePlace)
	case fieldOutArea:
		return placesFor(&c.OutArea, f, namePlace)
	}
	return placesFor(&c.Proto, f, func(f field, proto uint8) place { return place{field: f, value: tuple.Addr{proto}} })
}

func placesFor[T any](m *rules.Match[T], f field, at func(field, T) place) []place {
	if m.IsAny() || m.Sense == rules.IsNot || len(m.Sets) > 0 {
		return nil
	}
	ps := make([]place, len(m.Values))
	for i, v := range m.Values {
		ps[i] = at(f, v)
	}
	return ps
}

func namePlace(f field, name string) place { return place{field: f, name: name} }

func addrPlace(f field, r nat.AddrRange) place {
	size := 0
	for size < 128 && (r.First[size/8]^r.Last[size/8])<<(size%8)&0x80 == 0 {
		size++
	}
	return prefixAround(f, &r.First, size)
}

func portPlace(f field, r nat.PortRange) place {
	var first tuple.Addr
	binary.BigEndian.PutUint16(first[:], r.First)
	return prefixAround(f, &first, bits.LeadingZeros16(r.First^r.Last))
}

// prefixAround is the place of the prefix with size bits that a is in.
func prefixAround(f field, a *tuple.Addr, size int) place {
	p := place{field: f, bits: uint8(size)}
	n := copy(p.value[:], a[:size/8])
	if rest := size % 8; rest > 0 {
		p.value[n] = a[n] &^ (0xff >> rest)
	}
	return p
}

// conditionText is the same for the same conditions.
func conditionText(c *rules.Conditions) string {
	r := rules.RuleSpec{If: *c}
	return r.Text()
}

// Texts of the conditions that all packets meet.
var (
	anyPacket = conditionText(&rules.Conditions{})
	anyIPv4   = conditionText(&rules.Conditions{Family: tuple.IPv4})
	anyIPv6   = conditionText(&rules.Conditions{Family: tuple.IPv6})
)
