package config

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // zones of rules are known on machines that have none

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// match reads the values of a condition: a value or a list of values, where all
// begin with "!" (none of these) or none does.
func match[T comparable](d *decoder, n *node, m *rules.Match[T], parse func(string) (T, error), compare func(a, b T) int) {
	matchOrSet(d, n, noSets, m, parse, compare)
}

// noSets is the kind of sets that a condition takes that takes none.
const noSets rules.SetKind = 255

// matchOrSet is match where "@name" stands for the elements of a set of a kind.
func matchOrSet[T comparable](d *decoder, n *node, kind rules.SetKind, m *rules.Match[T], parse func(string) (T, error), compare func(a, b T) int) {
	var out rules.Match[T]
	seen := map[T]bool{}
	for i, item := range d.items(n) {
		s, ok := d.scalarText(item)
		if !ok {
			continue
		}
		sense := rules.Is
		if rest, not := strings.CutPrefix(s, "!"); not {
			sense, s = rules.IsNot, rest
		}
		if i > 0 && sense != out.Sense {
			d.errorf(item.at, "mixes values with and without \"!\": negate all of them or none, or use two rules")
			return
		}
		out.Sense = sense
		if name, isSet := strings.CutPrefix(s, "@"); isSet {
			if d.checkSet(item, name, kind) && !slices.Contains(out.Sets, name) {
				out.Sets = append(out.Sets, name)
			}
			continue
		}
		v, err := parse(s)
		if err != nil {
			d.errorf(item.at, "%v", err)
			continue
		}
		if seen[v] {
			d.errorf(item.at, "%s is listed twice: delete one", s)
			continue
		}
		seen[v] = true
		out.Values = append(out.Values, v)
	}
	slices.SortFunc(out.Values, compare)
	slices.Sort(out.Sets)
	*m = out
}

func parseIfname(s string) (string, error) { return s, checkIfname(s) }

// parseAddr accepts a unicast address that may be on a wire.
func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	switch {
	case err != nil:
		return a, fmt.Errorf("%q is not an IP address", s)
	case a.Zone() != "":
		return a, fmt.Errorf("%s has a zone: leave %q away", s, "%"+a.Zone())
	case a.Is4In6():
		return a, fmt.Errorf("%s is an IPv4 address in disguise: write %s", s, a.Unmap())
	case a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return a, fmt.Errorf("%s is not the address of a host", s)
	case a.IsLoopback():
		return a, fmt.Errorf("%s is a loopback address, which is never on a wire", s)
	}
	return a, nil
}

// parsePrefix accepts a prefix without host bits.
func parsePrefix(s string) (netip.Prefix, error) {
	p, err := parseAnyPrefix(s)
	if err == nil && p != p.Masked() {
		return p, fmt.Errorf("%s has bits set after the prefix: write %s for the network, or %s/%d for the host",
			s, p.Masked(), p.Addr(), p.Addr().BitLen())
	}
	return p, err
}

// parseAnyPrefix accepts a prefix with host bits.
func parseAnyPrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil && !strings.Contains(s, "/"):
		if a, err := netip.ParseAddr(s); err == nil {
			return p, fmt.Errorf("%s has no prefix length: write %s/%d, or the length of its network", s, s, a.BitLen())
		}
		return p, fmt.Errorf("%q is not an address with a prefix length", s)
	case err != nil:
		return p, fmt.Errorf("%q is not an address with a prefix length", s)
	case p.Addr().Is4In6():
		return p, fmt.Errorf("%s is an IPv4 prefix in disguise: write it as IPv4", s)
	}
	return p, nil
}

// parseOwn accepts an address of the gateway with the length of its network.
func parseOwn(s string) (netip.Prefix, error) {
	p, err := parseAnyPrefix(s)
	if err != nil {
		return p, err
	}
	if _, err := parseAddr(p.Addr().String()); err != nil {
		return p, err
	}
	if p.Addr().Is4() && p.Bits() < 31 {
		r := rules.Prefix(p)
		switch p.Addr() {
		case r.First.Netip():
			return p, fmt.Errorf("%s is the address of the network itself: give the gateway another one, such as %s/%d", s, p.Addr().Next(), p.Bits())
		case r.Last.Netip():
			return p, fmt.Errorf("%s is the broadcast address of its network: give the gateway another one", s)
		}
	}
	return p, nil
}

// parseRange accepts an address, a prefix or "first-last".
func parseRange(s string) (nat.AddrRange, error) {
	if strings.Contains(s, "/") {
		p, err := parsePrefix(s)
		if err != nil {
			return nat.AddrRange{}, err
		}
		return rules.Prefix(p), nil
	}
	low, high, isRange := strings.Cut(s, "-")
	if !isRange {
		high = low
	}
	first, err := netip.ParseAddr(low)
	last, err2 := netip.ParseAddr(high)
	switch {
	case err != nil || err2 != nil:
		return nat.AddrRange{}, fmt.Errorf("%q is not an address, prefix or range of addresses", s)
	case first.Is4In6() || last.Is4In6() || first.Zone() != "" || last.Zone() != "":
		return nat.AddrRange{}, fmt.Errorf("%s: write IPv4 addresses as IPv4, and no zones", s)
	case first.Is4() != last.Is4():
		return nat.AddrRange{}, fmt.Errorf("%s begins in one address family and ends in the other", s)
	case last.Less(first):
		return nat.AddrRange{}, fmt.Errorf("%s ends before it begins: write %s-%s", s, last, first)
	}
	return nat.AddrRange{First: tuple.AddrFrom(first), Last: tuple.AddrFrom(last)}, nil
}

// parseTarget accepts a range that flows can be translated to.
func parseTarget(s string) (nat.AddrRange, error) {
	r, err := parseRange(s)
	if err != nil {
		return r, err
	}
	for _, a := range [...]tuple.Addr{r.First, r.Last} {
		if _, err := parseAddr(a.String()); err != nil {
			return r, err
		}
	}
	return r, nil
}

func compareRanges(a, b nat.AddrRange) int {
	return cmp.Or(a.First.Netip().Compare(b.First.Netip()), a.Last.Netip().Compare(b.Last.Netip()))
}

// parsePorts accepts "80" or "1024-65535".
func parsePorts(s string) (nat.PortRange, error) {
	first, last, err := numbers(s, 65535)
	switch {
	case err != nil:
		return nat.PortRange{}, fmt.Errorf("%q is not a port or a range of ports, 1 to 65535", s)
	case first == 0:
		return nat.PortRange{}, errors.New("port 0 is never used on the wire: begin at 1")
	case last < first:
		return nat.PortRange{}, fmt.Errorf("%s ends before it begins: write %d-%d", s, last, first)
	}
	return nat.PortRange{First: uint16(first), Last: uint16(last)}, nil
}

func comparePorts(a, b nat.PortRange) int {
	return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
}

// byteRange returns a parser of "5" or "5-9" with values of at most high.
func byteRange(high uint64) func(string) (rules.ByteRange, error) {
	return func(s string) (rules.ByteRange, error) {
		first, last, err := numbers(s, high)
		if err != nil || last < first {
			return rules.ByteRange{}, fmt.Errorf("%q is not a number or range of numbers, 0 to %d", s, high)
		}
		return rules.ByteRange{First: uint8(first), Last: uint8(last)}, nil
	}
}

func compareBytes(a, b rules.ByteRange) int {
	return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
}

// numbers parses "5" or "5-9".
func numbers(s string, high uint64) (first, last uint64, err error) {
	low, up, isRange := strings.Cut(s, "-")
	if !isRange {
		up = low
	}
	first, err = strconv.ParseUint(low, 10, 64)
	if err != nil {
		return 0, 0, err
	}
	last, err = strconv.ParseUint(up, 10, 64)
	if err != nil || first > high || last > high {
		return 0, 0, cmp.Or(err, strconv.ErrRange)
	}
	return first, last, nil
}

// protocols are the names that rules know; others are written as numbers.
var protocols = map[string]uint8{
	"icmp": tuple.ICMP, "tcp": tuple.TCP, "udp": tuple.UDP, "dccp": tuple.DCCP, "gre": tuple.GRE,
	"esp": 50, "ah": 51, "icmpv6": tuple.ICMPv6, "sctp": tuple.SCTP, "udplite": tuple.UDPLite,
}

func parseProto(s string) (uint8, error) {
	if p, ok := protocols[s]; ok {
		return p, nil
	}
	n, err := strconv.ParseUint(s, 10, 8)
	if err != nil {
		names := make([]string, 0, len(protocols))
		for name := range protocols {
			names = append(names, name)
		}
		slices.Sort(names)
		return 0, fmt.Errorf("unknown protocol %q; %s, or a number 0 to 255", s, strings.TrimSuffix(suggest(s, names), "?"))
	}
	return uint8(n), nil
}

// shortRange accepts "5" or "5-9" with values of at most 65535.
func shortRange(s string) (rules.ShortRange, error) {
	first, last, err := numbers(s, 65535)
	if err != nil || last < first {
		return rules.ShortRange{}, fmt.Errorf("%q is not a number or range of numbers, 0 to 65535", s)
	}
	return rules.ShortRange{First: uint16(first), Last: uint16(last)}, nil
}

func compareShort(a, b rules.ShortRange) int {
	return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
}

func parseDirection(s string) (tuple.Direction, error) {
	for d := range tuple.NumDirections {
		if d.String() == s {
			return d, nil
		}
	}
	return 0, fmt.Errorf("unknown direction %q; known are original and reply", s)
}

// parseHours accepts "08:00-18:00", also through midnight; 24:00 ends a day.
func parseHours(s string) (rules.HourRange, error) {
	from, until, isRange := strings.Cut(s, "-")
	first, ok := secondOfDay(from)
	last, ok2 := secondOfDay(until)
	switch {
	case !isRange || !ok || !ok2 || first == daySeconds:
		return rules.HourRange{}, fmt.Errorf("%q is not a part of the day: write it like %s", s, exampleMark)
	case first == last%daySeconds:
		return rules.HourRange{}, fmt.Errorf("%s ends where it begins: leave the key out for the whole day", s)
	}
	return rules.HourRange{First: first, Last: last}, nil
}

const daySeconds = 24 * 60 * 60

// secondOfDay reads "hh:mm" or "hh:mm:ss".
func secondOfDay(s string) (int32, bool) {
	if s == "24:00" {
		return daySeconds, true
	}
	for _, layout := range [...]string{"15:04", "15:04:05"} {
		if t, err := time.Parse(layout, s); err == nil && len(s) == len(layout) {
			return int32(t.Hour()*3600 + t.Minute()*60 + t.Second()), true
		}
	}
	return 0, false
}

func compareHours(a, b rules.HourRange) int {
	return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.Last, b.Last))
}

func parseWeekday(s string) (time.Weekday, error) {
	names := make([]string, 0, 7)
	for d := time.Sunday; d <= time.Saturday; d++ {
		if s == rules.WeekdayName(d) {
			return d, nil
		}
		names = append(names, rules.WeekdayName(d))
	}
	return 0, fmt.Errorf("unknown weekday %q; %s", s, suggest(s, names))
}

func parseZone(s string) (*time.Location, error) {
	if s == "Local" {
		return nil, errors.New("leave the key out for the machine's own zone")
	}
	zone, err := time.LoadLocation(s)
	if err != nil {
		return nil, fmt.Errorf("unknown time zone %q: write it like %s", s, exampleMark)
	}
	return zone, nil
}

func parseState(s string) (rules.State, error) {
	states := []rules.State{rules.New, rules.Established, rules.Related, rules.Invalid, rules.Untracked}
	names := spellings(states)
	if i := slices.Index(names, s); i >= 0 {
		return states[i], nil
	}
	return 0, fmt.Errorf("unknown state %q; %s", s, suggest(s, names))
}

// parseMark accepts "0x10", "16" or "0x10/0xff".
func parseMark(s string) (rules.MarkMatch, error) {
	value, mask, hasMask := strings.Cut(s, "/")
	v, err := strconv.ParseUint(value, 0, 32)
	m, err2 := uint64(0xffffffff), error(nil)
	if hasMask {
		m, err2 = strconv.ParseUint(mask, 0, 32)
	}
	switch {
	case err != nil || err2 != nil:
		return rules.MarkMatch{}, fmt.Errorf("%q is not a mark: write a 32-bit number, or number/mask", s)
	case v&^m != 0:
		return rules.MarkMatch{}, fmt.Errorf("%s has bits outside its mask: write 0x%x/0x%x", s, v&m, m)
	case m == 0:
		return rules.MarkMatch{}, fmt.Errorf("%s looks at no bit: give a mask other than 0", s)
	}
	return rules.MarkMatch{Value: uint32(v), Mask: uint32(m)}, nil
}

func compareMarks(a, b rules.MarkMatch) int {
	return cmp.Or(cmp.Compare(a.Value, b.Value), cmp.Compare(a.Mask, b.Mask))
}

// icmpNames are the types that have names in rules, by protocol.
var icmpNames = map[uint8]map[string]uint8{
	tuple.ICMP: {
		"echo-reply": 0, "destination-unreachable": 3, "redirect": 5, "echo-request": 8,
		"time-exceeded": 11, "parameter-problem": 12, "timestamp-request": 13, "timestamp-reply": 14,
	},
	tuple.ICMPv6: {
		"destination-unreachable": 1, "packet-too-big": 2, "time-exceeded": 3, "parameter-problem": 4,
		"echo-request": 128, "echo-reply": 129,
	},
}

// icmpType returns a parser of "echo-request", "3", "3/4" or "3/0-5" for proto.
func icmpType(proto uint8) func(string) (rules.ICMPType, error) {
	return func(s string) (rules.ICMPType, error) {
		name, code, hasCode := strings.Cut(s, "/")
		typ, known := icmpNames[proto][name]
		if !known {
			n, err := strconv.ParseUint(name, 10, 8)
			if errors.Is(err, strconv.ErrRange) {
				return rules.ICMPType{}, fmt.Errorf("%q is not a type: give a name, or 0 to 255", name)
			}
			if err != nil {
				names := make([]string, 0, len(icmpNames[proto]))
				for k := range icmpNames[proto] {
					names = append(names, k)
				}
				slices.Sort(names)
				return rules.ICMPType{}, fmt.Errorf("unknown type %q; %s, or write type/code as numbers", name, strings.TrimSuffix(suggest(name, names), "?"))
			}
			typ = uint8(n)
		}
		if !hasCode {
			return rules.ICMPType{Type: typ, MaxCode: 255}, nil
		}
		codes, err := byteRange(255)(code)
		return rules.ICMPType{Type: typ, MinCode: codes.First, MaxCode: codes.Last}, err
	}
}

func compareICMP(a, b rules.ICMPType) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.MinCode, b.MinCode), cmp.Compare(a.MaxCode, b.MaxCode))
}

// maxTimeout keeps deadlines within the table's wrapping clock.
const maxTimeout = 100 * 24 * time.Hour

// duration reads "30s", "5m", "12h" or "5d".
func (d *decoder) duration(n *node, v *time.Duration) {
	s, ok := d.text(n)
	if !ok {
		return
	}
	text, unit := s, time.Duration(1)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		text, unit = days+"h", 24
	}
	t, err := time.ParseDuration(text)
	t = min(max(t, 0), maxTimeout+1) * unit // 24 times that does not overflow
	switch {
	case err != nil:
		d.errorf(n.at, "%q is not a duration: write it like %s", s, exampleMark)
	case t < time.Second || t > maxTimeout:
		d.errorf(n.at, "%s is out of range: give 1s to 100d", s)
	default:
		*v = t
	}
}
