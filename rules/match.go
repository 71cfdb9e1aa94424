package rules

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// field is a set of the fields that a matcher looks at.
type field uint32

const (
	fIn field = 1 << iota
	fOut
	fInArea
	fOutArea
	fFamily
	fProto
	fSrc
	fDst
	fSrcPort
	fDstPort
	fICMP
	fLocal
	fMap
	fZone
	fHelper
	fDirection
	fFlows // asked by Decision.grants
	fState
	fMark
	fTTL
	fDSCP
	fLength
	fWindow
	fLimit // asked by Decision.grants, after all others

	fStatic   = fState - 1                                        // the same for all packets of one direction of a flow
	fVolatile = fMark | fTTL | fDSCP | fLength | fWindow | fLimit // may change from packet to packet
	fMoving   = fState | fVolatile | fDirection                   // may tell packets of one flow apart
)

const maxAreas = 64

// bits256 is a set of one-byte values.
type bits256 [4]uint64

func (s *bits256) add(v uint8)      { s[v>>6] |= 1 << (v & 63) }
func (s *bits256) has(v uint8) bool { return s[v>>6]>>(v&63)&1 != 0 }
func (s *bits256) addRange(first, last uint8) {
	for v := int(first); v <= int(last); v++ {
		s.add(uint8(v))
	}
}

func (s *bits256) invert() {
	for i := range s {
		s[i] = ^s[i]
	}
}

// portSet is a set of bound ports.
type portSet [MaxPorts / 64]uint64

func (s *portSet) has(v uint16) bool { return v < MaxPorts && s[v>>6]>>(v&63)&1 != 0 }

// matcher is the compiled form of Conditions. Negation is folded into the sets
// where they are bit sets.
type matcher struct {
	fields          field
	negated         field // of fSrc, fDst, fSrcPort, fDstPort, fMark, fICMP
	family          uint8
	states          uint8 // 1<<State
	local           Delivery
	in, out         *portSet
	inAreas         uint64 // 1<<AreaID
	outAreas        uint64
	protos          *bits256
	ttls, dscps     *bits256
	src, dst        []addrRange
	srcPort, dstPrt []nat.PortRange
	srcSets         []*AddrSet
	dstSets         []*AddrSet
	icmp            []ICMPType
	marks           []MarkMatch
	spec            *RuleSpec // with fMap: its map must have something for the packet
	lengths, zones  []ShortRange
	helpers         []string
	directions      uint8 // 1<<Direction
	window          int32 // in Program.windows
}

func (m *matcher) looksAt(f field) bool { return m.fields&f != 0 }

// sense folds f's negation into found.
func (m *matcher) sense(f field, found bool) bool { return found != (m.negated&f != 0) }

// moving reports whether m looks at what may tell packets of a flow apart.
func (m *matcher) moving() bool { return m.looksAt(fMoving) }

// acceptMayEnd reports whether a later established packet could miss the accept
// rule that this packet of state s has just met.
func (m *matcher) acceptMayEnd(s State) bool {
	return m.looksAt(fVolatile) || s != Established && !m.admits(Established)
}

func (m *matcher) admits(s State) bool { return !m.looksAt(fState) || m.states>>s&1 != 0 }

// holds reports whether all conditions hold but for a limit; see Decision.grants.
func (m *matcher) holds(k *Key, d *Decision) bool {
	return m.static(k) && m.perPacket(k, d)
}

// static checks the fields that do not change within a direction of a flow,
// cheap ones first.
func (m *matcher) static(k *Key) bool {
	t := &k.Tuple
	switch {
	case m.looksAt(fFamily) && m.family != t.Family:
	case m.looksAt(fInArea) && m.inAreas>>k.InArea&1 == 0:
	case m.looksAt(fOutArea) && m.outAreas>>k.OutArea&1 == 0:
	case m.looksAt(fProto) && !m.protos.has(t.Proto):
	case m.looksAt(fIn) && !m.in.has(k.In):
	case m.looksAt(fOut) && !m.out.has(k.Out):
	case m.looksAt(fLocal) && m.local != k.Local:
	case m.looksAt(fDstPort) && !m.hasPort(fDstPort, m.dstPrt, t, t.DstPort):
	case m.looksAt(fSrcPort) && !m.hasPort(fSrcPort, m.srcPort, t, t.SrcPort):
	case m.looksAt(fICMP) && !m.hasICMP(t):
	case m.looksAt(fDst) && !m.hasAddr(fDst, m.dst, m.dstSets, t, &t.Dst):
	case m.looksAt(fSrc) && !m.hasAddr(fSrc, m.src, m.srcSets, t, &t.Src):
	case m.looksAt(fZone) && !m.hasShort(fZone, m.zones, uint32(t.Zone)):
	case m.looksAt(fDirection) && m.directions>>k.Dir&1 == 0:
	case m.looksAt(fHelper) && !m.hasHelper(k.Helper):
	case m.looksAt(fMap) && (m.spec.Dest.For(t) == nil || m.spec.Src.For(t) == nil):
	default:
		return true
	}
	return false
}

// perPacket checks the other fields.
func (m *matcher) perPacket(k *Key, d *Decision) bool {
	switch {
	case !m.moving():
		return true
	case m.looksAt(fState) && m.states>>k.State&1 == 0:
	case m.looksAt(fMark) && !m.hasMark(d.ApplyMark(k.Mark)):
	case m.looksAt(fTTL) && !m.ttls.has(k.TTL):
	case m.looksAt(fDSCP) && !m.dscps.has(k.TOS>>2):
	case m.looksAt(fLength) && !m.hasShort(fLength, m.lengths, k.Length):
	case m.looksAt(fWindow) && !d.Page.isOpen(m.window):
	default:
		return true
	}
	return false
}

// hasShort compares lengths and zones.
func (m *matcher) hasShort(f field, ranges []ShortRange, v uint32) bool {
	for _, r := range ranges {
		if uint32(r.First) <= v && v <= uint32(r.Last) {
			return m.sense(f, true)
		}
	}
	return m.sense(f, false)
}

func (m *matcher) hasHelper(name string) bool {
	return m.sense(fHelper, slices.Contains(m.helpers, name))
}

// hasPort is false for protocols without ports, whatever the sense.
func (m *matcher) hasPort(f field, ranges []nat.PortRange, t *tuple.Tuple, port uint16) bool {
	if !tuple.HasPorts(t.Proto) {
		return false
	}
	for _, r := range ranges {
		if r.Contains(port) {
			return m.sense(f, true)
		}
	}
	return m.sense(f, false)
}

// hasAddr compares within the family only: ::/0 does not hold IPv4 addresses.
func (m *matcher) hasAddr(f field, ranges []addrRange, sets []*AddrSet, t *tuple.Tuple, a *tuple.Addr) bool {
	hi, lo := halves(a)
	for i := range ranges {
		if r := &ranges[i]; r.family == t.Family && r.contains(hi, lo) {
			return m.sense(f, true)
		}
	}
	for _, set := range sets {
		if set.Has(a) {
			return m.sense(f, true)
		}
	}
	return m.sense(f, false)
}

// addrRange is a nat.AddrRange as two pairs of words: a rule that misses by
// address takes two thirds of the time (BenchmarkFirstPacket).
type addrRange struct {
	firstHi, firstLo uint64
	lastHi, lastLo   uint64
	family           uint8
}

func (r *addrRange) contains(hi, lo uint64) bool {
	return (hi > r.firstHi || hi == r.firstHi && lo >= r.firstLo) &&
		(hi < r.lastHi || hi == r.lastHi && lo <= r.lastLo)
}

func halves(a *tuple.Addr) (hi, lo uint64) {
	return binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(a[8:])
}

func addrRanges(ranges []nat.AddrRange) []addrRange {
	out := make([]addrRange, len(ranges))
	for i := range ranges {
		r := &out[i]
		r.firstHi, r.firstLo = halves(&ranges[i].First)
		r.lastHi, r.lastLo = halves(&ranges[i].Last)
		r.family = family(&ranges[i])
	}
	return out
}

// hasICMP is false for other protocols, whatever the sense.
func (m *matcher) hasICMP(t *tuple.Tuple) bool {
	if !tuple.IsICMP(t.Proto) {
		return false
	}
	typ, code := uint8(t.DstPort>>8), uint8(t.DstPort)
	for _, i := range m.icmp {
		if i.Type == typ && i.MinCode <= code && code <= i.MaxCode {
			return m.sense(fICMP, true)
		}
	}
	return m.sense(fICMP, false)
}

func (m *matcher) hasMark(mark uint32) bool {
	for _, w := range m.marks {
		if mark&w.Mask == w.Value {
			return m.sense(fMark, true)
		}
	}
	return m.sense(fMark, false)
}

// family returns the address family of a range.
func family(r *nat.AddrRange) uint8 {
	if r.First.Is4() {
		return tuple.IPv4
	}
	return tuple.IPv6
}

// compileMatch turns conditions into a matcher.
func compileMatch(spec *Spec, b *Binding, rs *RuleSpec) (matcher, error) {
	var m matcher
	var err error
	c := &rs.If
	if m.family, err = rs.Family(); err != nil {
		return m, err
	}
	if m.family != 0 {
		m.fields |= fFamily
	}
	if m.inAreas, err = areaSet(spec, &c.InArea); err != nil {
		return m, err
	}
	if m.outAreas, err = areaSet(spec, &c.OutArea); err != nil {
		return m, err
	}
	if m.in, err = bindPorts(spec, b, &c.In); err != nil {
		return m, err
	}
	if m.out, err = bindPorts(spec, b, &c.Out); err != nil {
		return m, err
	}
	m.protos = byteSet(&c.Proto, func(s *bits256, v uint8) { s.add(v) })
	m.ttls = byteSet(&c.TTL, func(s *bits256, v ByteRange) { s.addRange(v.First, v.Last) })
	m.dscps = byteSet(&c.DSCP, func(s *bits256, v ByteRange) { s.addRange(v.First, v.Last) })
	for _, s := range c.State.Values {
		m.states |= 1 << s
	}
	if c.State.Sense == IsNot {
		m.states = ^m.states
	}
	if !c.Local.IsAny() {
		if m.local = c.Local.Values[0]; c.Local.Sense == IsNot {
			m.local ^= ToLocal
		}
	}
	m.src, m.dst = addrRanges(c.Src.Values), addrRanges(c.Dst.Values)
	if m.srcSets, err = addrSets(spec, &c.Src); err != nil {
		return m, err
	}
	if m.dstSets, err = addrSets(spec, &c.Dst); err != nil {
		return m, err
	}
	if m.srcPort, err = withSets(spec, &c.SrcPort, SetPorts, portsOf); err != nil {
		return m, err
	}
	if m.dstPrt, err = withSets(spec, &c.DstPort, SetPorts, portsOf); err != nil {
		return m, err
	}
	m.icmp, m.marks = c.ICMP.Values, c.Mark.Values
	m.lengths, m.zones, m.helpers = c.Length.Values, c.Zone.Values, c.Helper.Values
	for _, d := range c.Direction.Values {
		m.directions |= 1 << d
	}
	if c.Direction.Sense == IsNot {
		m.directions = ^m.directions
	}
	if !c.Window.IsAny() {
		m.fields |= fWindow
	}
	if c.Limit != nil {
		m.fields |= fLimit
	}
	if c.Flows != nil {
		m.fields |= fFlows
	}

	note(&m, fIn, &c.In)
	note(&m, fOut, &c.Out)
	note(&m, fInArea, &c.InArea)
	note(&m, fOutArea, &c.OutArea)
	note(&m, fProto, &c.Proto)
	note(&m, fSrc, &c.Src)
	note(&m, fDst, &c.Dst)
	note(&m, fSrcPort, &c.SrcPort)
	note(&m, fDstPort, &c.DstPort)
	note(&m, fICMP, &c.ICMP)
	note(&m, fLocal, &c.Local)
	note(&m, fState, &c.State)
	note(&m, fMark, &c.Mark)
	note(&m, fTTL, &c.TTL)
	note(&m, fDSCP, &c.DSCP)
	note(&m, fLength, &c.Length)
	note(&m, fZone, &c.Zone)
	note(&m, fDirection, &c.Direction)
	note(&m, fHelper, &c.Helper)
	if rs.Dest.Map != nil || rs.Src.Map != nil {
		m.fields |= fMap
		m.spec = rs
	}
	return m, nil
}

// namedSet returns the set that a condition on values of kind names.
func namedSet(spec *Spec, name string, kind SetKind) (*Set, error) {
	set := spec.Set(name)
	if set == nil || set.Kind != kind {
		return nil, fmt.Errorf("%q: %w", name, ErrSet)
	}
	return set, nil
}

func addrSets(spec *Spec, c *Match[nat.AddrRange]) ([]*AddrSet, error) {
	var sets []*AddrSet
	for _, name := range c.Sets {
		set, err := namedSet(spec, name, SetAddrs)
		if err != nil {
			return nil, err
		}
		sets = append(sets, set.Addrs)
	}
	return sets, nil
}

// withSets returns the values of c and of its sets.
func withSets[T any](spec *Spec, c *Match[T], kind SetKind, elements func(*Set) []T) ([]T, error) {
	values := c.Values
	for _, name := range c.Sets {
		set, err := namedSet(spec, name, kind)
		if err != nil {
			return nil, err
		}
		values = slices.Concat(values, elements(set))
	}
	return values, nil
}

func portsOf(s *Set) []nat.PortRange { return s.Ports }

func namesOf(s *Set) []string { return s.Names }

// note records that m looks at f, and its sense.
func note[T any](m *matcher, f field, c *Match[T]) {
	if c.IsAny() {
		return
	}
	m.fields |= f
	if c.Sense == IsNot {
		m.negated |= f
	}
}

func byteSet[T any](c *Match[T], add func(*bits256, T)) *bits256 {
	if c.IsAny() {
		return nil
	}
	s := new(bits256)
	for _, v := range c.Values {
		add(s, v)
	}
	if c.Sense == IsNot {
		s.invert()
	}
	return s
}

func areaSet(spec *Spec, c *Match[string]) (uint64, error) {
	set := uint64(0)
	for _, name := range c.Values {
		id, ok := spec.AreaID(name)
		if !ok {
			return 0, fmt.Errorf("%q: %w", name, ErrArea)
		}
		set |= 1 << id
	}
	if c.Sense == IsNot {
		set = ^set
	}
	return set, nil
}

// bindPorts returns the ports of b that c names.
func bindPorts(spec *Spec, b *Binding, c *Match[string]) (*portSet, error) {
	if c.IsAny() {
		return nil, nil
	}
	patterns, err := withSets(spec, c, SetInterfaces, namesOf)
	if err != nil {
		return nil, err
	}
	s := new(portSet)
	for _, port := range b.Ports {
		found := false
		for _, pattern := range patterns {
			found = found || MatchName(pattern, port.Name)
		}
		if found == (c.Sense == Is) {
			s[port.Index>>6] |= 1 << (port.Index & 63)
		}
	}
	if c.Sense == IsNot {
		s[0] |= 1 << HostPort
	}
	return s, nil
}

// MatchName reports whether an interface name fits a pattern: the name itself,
// or its beginning followed by *.
func MatchName(pattern, name string) bool {
	if rest, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(name, rest)
	}
	return pattern == name
}

// Family returns the one address family that rs can match or translate, 0 for
// both, or ErrFamilies.
func (rs *RuleSpec) Family() (uint8, error) {
	fam := rs.If.Family
	narrow := func(ranges []nat.AddrRange) error {
		seen := [2]bool{}
		for i := range ranges {
			if family(&ranges[i]) == tuple.IPv4 {
				seen[0] = true
			} else {
				seen[1] = true
			}
		}
		if seen[0] == seen[1] {
			return nil // none, or both
		}
		one := tuple.IPv4
		if seen[1] {
			one = tuple.IPv6
		}
		if fam != 0 && fam != one {
			return ErrFamilies
		}
		fam = one
		return nil
	}
	for _, c := range [...]*Match[nat.AddrRange]{&rs.If.Src, &rs.If.Dst} {
		if len(c.Sets) > 0 {
			continue // a set may hold both families, and change
		}
		if err := narrow(c.Values); err != nil {
			return 0, err
		}
	}
	twice := nat.Source{}
	if rs.Twice != nil {
		twice = *rs.Twice
	}
	for _, ranges := range [...][]nat.AddrRange{rs.Dest.Targets(), rs.Src.Targets(), twice.Addrs} {
		if err := narrow(ranges); err != nil {
			return 0, err
		}
	}
	return fam, nil
}
