package rules

import (
	"net/netip"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// AreaID names an area in a Key: the position in Spec.Areas.
type AreaID uint8

// The areas that every Spec begins with.
const (
	AreaHost     AreaID = iota // the gateway's own host
	AreaLAN                    // inside
	AreaWAN                    // outside
	AreaGuest                  // inside, but not with lan
	NumWellKnown               // the first id of a user's own area
)

// Area is a group of interfaces that rules treat alike.
type Area struct {
	Name     string
	Services Services
	Side     Side
}

// Services says whether the gateway's own services, ping replies and RSTs
// answer packets from an area.
type Services uint8

const (
	Silent   Services = iota
	Answered          // local = true
)

// Side says what the default policy takes an area for.
type Side uint8

const (
	Inside  Side = iota // may open flows to outside areas and within itself
	Outside             // may open nothing
)

// DefaultAreas returns the well-known areas with their default properties.
func DefaultAreas() []Area {
	return []Area{
		AreaHost:  {"host", Answered, Inside},
		AreaLAN:   {"lan", Answered, Inside},
		AreaWAN:   {"wan", Silent, Outside},
		AreaGuest: {"guest", Silent, Inside},
	}
}

// List is one of the four ordered lists of rules.
type List uint8

const (
	Pre    List = iota // before tracking: notrack, zone, mark
	Dnat               // destination of new flows
	Filter             // what may pass
	Snat               // source of new flows
	NumLists
)

var listNames = [...]string{Pre: "pre", Dnat: "dnat", Filter: "filter", Snat: "snat"}

var _ [NumLists]string = listNames

// String returns the name of l as configuration files spell it.
func (l List) String() string { return listNames[l] }

// Spec is a ruleset as it is written: it names interfaces and areas, and can be
// compiled for any machine. The first areas must be the well-known ones.
type Spec struct {
	Areas []Area
	Sets  []*Set
	Lists [NumLists][]RuleSpec
}

// AreaID returns the id of the named area.
func (s *Spec) AreaID(name string) (AreaID, bool) {
	for i := range s.Areas {
		if s.Areas[i].Name == name {
			return AreaID(i), true
		}
	}
	return 0, false
}

// Set returns the named set, nil if there is none.
func (s *Spec) Set(name string) *Set {
	for _, set := range s.Sets {
		if set.Name == name {
			return set
		}
	}
	return nil
}

// Sense says whether a match holds for its values or for all others.
type Sense uint8

const (
	Is    Sense = iota
	IsNot       // written "!value"
)

// Match is a condition on one field: one of the values, or none of them. Values
// and the elements of Sets count alike. Without any it always holds.
type Match[T any] struct {
	Sense  Sense
	Values []T
	Sets   []string // names in Spec.Sets
}

// IsAny reports whether m holds for everything.
func (m *Match[T]) IsAny() bool { return len(m.Values) == 0 && len(m.Sets) == 0 }

// ICMPType matches the type of an ICMP or ICMPv6 query or error, and perhaps
// its code.
type ICMPType struct {
	Type    uint8
	MinCode uint8
	MaxCode uint8 // 255 with MinCode 0: any code
}

// MarkMatch holds for marks with mark&Mask == Value.
type MarkMatch struct {
	Value, Mask uint32
}

// ByteRange is an inclusive range of a one-byte field.
type ByteRange struct {
	First, Last uint8
}

// ShortRange is an inclusive range of a two-byte field.
type ShortRange struct {
	First, Last uint16
}

// Conditions are what a rule looks at; all of them must hold.
type Conditions struct {
	In, Out          Match[string] // interface names; a trailing * matches any rest
	InArea, OutArea  Match[string]
	Src, Dst         Match[nat.AddrRange]
	SrcPort, DstPort Match[nat.PortRange]
	Proto            Match[uint8]
	ICMP             Match[ICMPType]
	Family           uint8 // tuple.IPv4, tuple.IPv6, 0: both
	Local            Match[Delivery]
	State            Match[State]
	Mark             Match[MarkMatch]
	TTL              Match[ByteRange]
	DSCP             Match[ByteRange]
	Length           Match[ShortRange]      // of the IP packet, in bytes
	Zone             Match[ShortRange]      // of connection tracking
	Direction        Match[tuple.Direction] // of the packet in its flow
	Helper           Match[string]          // that announced the flow: as netfilter's ct helper, its master's
	Window           Window
	Limit            *Limit     // looked at last; nil: none
	Flows            *FlowLimit // of new flows; nil: none
}

// Action is what a rule does.
type Action uint8

const (
	ActNone       Action = iota // ends a dnat or snat list: leave the packet alone
	ActAccept                   // ends a list
	ActDrop                     // filter
	ActReject                   // filter
	ActMark                     // goes on with the next rule, as all that only have attributes
	ActCount                    // goes on
	ActLog                      // goes on
	ActHelper                   // goes on
	ActTimeout                  // goes on
	ActZone                     // pre
	ActNoTrack                  // pre
	ActDnat                     // dnat
	ActRedirect                 // dnat
	ActSnat                     // snat
	ActMasquerade               // snat
	ActNetmap                   // dnat, snat: another prefix, the same host bits
	ActNPTv6                    // the same, and checksums stay (RFC 6296)
	numActions
)

var actionNames = [...]string{
	ActNone: "none", ActAccept: "accept", ActDrop: "drop", ActReject: "reject", ActMark: "mark",
	ActCount: "count", ActLog: "log", ActHelper: "helper", ActTimeout: "timeout",
	ActZone: "zone", ActNoTrack: "notrack", ActDnat: "dnat", ActRedirect: "redirect",
	ActSnat: "snat", ActMasquerade: "masquerade", ActNetmap: "netmap", ActNPTv6: "nptv6",
}

var _ [numActions]string = actionNames

// String returns the name of a as configuration files spell it.
func (a Action) String() string { return actionNames[a] }

// Terminal reports whether a rule with action a ends its list.
func (a Action) Terminal() bool {
	switch a {
	case ActMark, ActCount, ActLog, ActHelper, ActTimeout:
		return false
	}
	return true
}

// Actions returns all actions that rules of list may have.
func Actions(list List) []Action {
	var all []Action
	for a := range numActions {
		if allowed[list][a] {
			all = append(all, a)
		}
	}
	return all
}

// Rejection is how ActReject answers.
type Rejection uint8

const (
	RejectAuto          Rejection = iota // TCP: as WithReset; else as WithAdminProhibited
	WithReset                            // a RST; TCP only
	WithNoRoute                          // ICMP 3/0, ICMPv6 1/0
	WithHostUnreachable                  // ICMP 3/1, ICMPv6 1/3
	WithPortUnreachable                  // ICMP 3/3, ICMPv6 1/4
	WithAdminProhibited                  // ICMP 3/13, ICMPv6 1/1
	numRejections
)

var rejectionNames = [...]string{
	RejectAuto: "", WithReset: "tcp-reset", WithNoRoute: "no-route", WithHostUnreachable: "host-unreachable",
	WithPortUnreachable: "port-unreachable", WithAdminProhibited: "admin-prohibited",
}

var _ [numRejections]string = rejectionNames

// String returns the name of r as configuration files spell it, "" for RejectAuto.
func (r Rejection) String() string { return rejectionNames[r] }

// Rejections returns all that configuration files may name.
func Rejections() []Rejection {
	all := make([]Rejection, 0, numRejections-1)
	for r := WithReset; r < numRejections; r++ {
		all = append(all, r)
	}
	return all
}

// ZoneSide says which direction of a flow a zone rule gives its zone to; the
// other one is in zone 0, as with netfilter's ct original zone and ct reply zone.
type ZoneSide uint8

const (
	ZoneBoth ZoneSide = iota
	ZoneOriginal
	ZoneReply
	numZoneSides
)

var zoneSideNames = [...]string{ZoneBoth: "both", ZoneOriginal: "original", ZoneReply: "reply"}

var _ [numZoneSides]string = zoneSideNames

// String returns the name of s as configuration files spell it.
func (s ZoneSide) String() string { return zoneSideNames[s] }

// Log asks for a line about each packet that a rule applies to.
type Log struct {
	Prefix string
	Rate   Rate // of lines; more are counted only
}

// RuleSpec is one rule as it is written.
type RuleSpec struct {
	Name    string // optional, unique in its list
	Comment string
	Source  Location

	If   Conditions
	Then Action

	Zone     uint16          // ActZone
	ZoneSide ZoneSide        // ActZone
	Reject   Rejection       // ActReject
	Dest     nat.Destination // dnat list
	Src      nat.Source      // snat list
	PortKeys PortKeys        // snat list: what of Src is written
	Twice    *nat.Source     // dnat list: the new source, too; nil: the snat list decides
	Hairpin  Hairpin         // dnat list

	// What a rule does beside its action, if any. A rule that has nothing else has
	// one of the actions that go on with the next rule; which makes no difference.
	Mark, MarkMask uint32              // set-mark: of the packet, and of the flow from then on
	PacketMark     MarkMatch           // of this packet alone: the bits under Mask become Value
	Helper         string              // that will watch the flow
	HelperOptions  alg.Options         // what Helper may do
	Count          string              // counter of packets and bytes
	Log            *Log                // a line about each packet
	Timeouts       *conntrack.Timeouts // of the flows it applies to; zero fields: the table's; nil: all are

	OnChange OnChange // with a terminal action, or helper, in the dnat, filter and snat lists
}

// OnChange says what becomes of the live flows of a rule that the rules of a reload
// would treat otherwise: those it admitted or translated, and those that it, being
// new, would refuse or translate.
type OnChange uint8

const (
	ChangeDefault   OnChange = iota // see Resolve
	KeepFlows                       // they go on as they are until they end
	EndFlows                        // they end with notice to inside hosts
	ReevaluateFlows                 // they are forgotten: their next packets meet the new rules as first ones
	numOnChanges
)

var onChangeNames = [...]string{
	ChangeDefault: "default", KeepFlows: "keep", EndFlows: "end", ReevaluateFlows: "reevaluate",
}

var _ [numOnChanges]string = onChangeNames

// String returns the name of c as configuration files spell it.
func (c OnChange) String() string { return onChangeNames[c] }

// OnChanges returns the values that rules may name.
func OnChanges() []OnChange { return []OnChange{KeepFlows, EndFlows, ReevaluateFlows} }

// Hairpin says whether a dnat rule holds for inside hosts that use the outside
// address, too.
type Hairpin uint8

const (
	Hairpinned Hairpin = iota // yes, and they appear with an outside address (RFC 4787 REQ-9)
	NoHairpin                 // only where its conditions on the interface hold
)

// Location is where the user can edit something.
type Location struct {
	File string
	Line int // 0: made by the program itself
}

// Binding is what a Spec is compiled for: the interfaces that exist now.
type Binding struct {
	Ports []BoundPort
}

// BoundPort is an interface of the gateway.
type BoundPort struct {
	Index uint16 // 1 to MaxPorts-1; HostPort is bound by itself
	Name  string
	Area  string
}

// Prefix returns the addresses of p as a range.
func Prefix(p netip.Prefix) nat.AddrRange {
	first := p.Masked().Addr().As16()
	last := first
	bits := p.Bits()
	if p.Addr().Is4() {
		bits += 96
	}
	for i := bits; i < 128; i++ {
		last[i/8] |= 0x80 >> (i % 8)
	}
	return nat.AddrRange{First: tuple.Addr(first), Last: tuple.Addr(last)}
}
