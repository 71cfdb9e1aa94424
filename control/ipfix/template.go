package ipfix

import (
	"encoding/binary"
	"net/netip"
)

// element is an information element in a template, and how its value is made.
type element struct {
	id     uint16 // IANA's number
	length uint16 // bytes
	append func(b []byte, e *Event) []byte
}

func u8(id uint16, get func(*Event) uint8) element {
	return element{id, 1, func(b []byte, e *Event) []byte { return append(b, get(e)) }}
}

func u16(id uint16, get func(*Event) uint16) element {
	return element{id, 2, func(b []byte, e *Event) []byte { return binary.BigEndian.AppendUint16(b, get(e)) }}
}

func u32(id uint16, get func(*Event) uint32) element {
	return element{id, 4, func(b []byte, e *Event) []byte { return binary.BigEndian.AppendUint32(b, get(e)) }}
}

func u64(id uint16, get func(*Event) uint64) element {
	return element{id, 8, func(b []byte, e *Event) []byte { return binary.BigEndian.AppendUint64(b, get(e)) }}
}

// addr has the number of the IPv4 and that of the IPv6 element.
func addr(id4, id6 uint16, get func(*Event) netip.Addr) [numFamilies]element {
	return [numFamilies]element{
		v4: {id4, 4, func(b []byte, e *Event) []byte {
			a := [4]byte{}
			if v := get(e); v.Is4() {
				a = v.As4()
			}
			return append(b, a[:]...)
		}},
		v6: {id6, 16, func(b []byte, e *Event) []byte {
			a := [16]byte{}
			if v := get(e); v.IsValid() {
				a = v.As16()
			}
			return append(b, a[:]...)
		}},
	}
}

const (
	v4 = iota
	v6
	numFamilies
)

// Elements of RFC 8158 section 5.5, with their numbers in IANA's registry.
var (
	observed      = u64(323, func(e *Event) uint64 { return uint64(e.Time.UnixMilli()) })
	natEvent      = u8(230, func(e *Event) uint8 { return uint8(e.Kind) })
	realm         = u8(229, func(e *Event) uint8 { return uint8(e.Realm) })
	protocol      = u8(4, func(e *Event) uint8 { return e.Proto })
	sourcePort    = u16(7, func(e *Event) uint16 { return e.SourcePort })
	postSrcPort   = u16(227, func(e *Event) uint16 { return e.PostSourcePort })
	destPort      = u16(11, func(e *Event) uint16 { return e.DestPort })
	postDestPort  = u16(228, func(e *Event) uint16 { return e.PostDestPort })
	firstPort     = u16(361, func(e *Event) uint16 { return e.FirstPort })
	lastPort      = u16(362, func(e *Event) uint16 { return e.LastPort })
	portStep      = u16(363, func(*Event) uint16 { return 1 })
	portCount     = u16(364, func(e *Event) uint16 { return e.LastPort - e.FirstPort + 1 })
	initiator     = u64(231, func(e *Event) uint64 { return e.Octets[0] })
	responder     = u64(232, func(e *Event) uint64 { return e.Octets[1] })
	pool          = u32(283, func(e *Event) uint32 { return e.Pool })
	quotaEvent    = u32(466, func(e *Event) uint32 { return uint32(e.Quota) })
	threshold     = u32(467, func(e *Event) uint32 { return uint32(e.Threshold) })
	source        = addr(8, 27, func(e *Event) netip.Addr { return e.Source })
	postSource    = addr(225, 281, func(e *Event) netip.Addr { return e.PostSource })
	destination   = addr(12, 28, func(e *Event) netip.Addr { return e.Destination })
	postDest      = addr(226, 282, func(e *Event) netip.Addr { return e.PostDestination })
	limit         = func(id uint16) element { return u32(id, func(e *Event) uint32 { return e.Limit }) }
	maxSessions   = limit(471)
	maxMappings   = limit(472)
	maxOfUser     = limit(473)
	maxFragments  = limit(475)
	poolHigh      = limit(476)
	poolLow       = limit(477)
	mappingsHigh  = limit(478)
	mappingsOfOne = limit(480)
	globalHigh    = limit(481)
)

// firstTemplate is the smallest number that a template may have (RFC 7011 section 3.4.1).
const firstTemplate = 256

// templates are all there are; the number of one is firstTemplate plus its position.
var templates = makeTemplates()

// Positions in templates: those with addresses have one for each family.
const (
	session = iota * numFamilies
	sessionEnd
	mapping
	block
	noPorts
	userQuota
	userThreshold
	portThreshold
	numWithAddresses
)

// And those without.
const (
	noAddresses = numWithAddresses + iota
	sessionQuota
	mappingQuota
	fragmentQuota
	poolHighReached
	poolLowReached
	globalHighReached
	numTemplates
)

func makeTemplates() (all [numTemplates][]element) {
	for f := range numFamilies {
		ends := []element{source[f], postSource[f], protocol, sourcePort, postSrcPort}
		whole := append(ends[:len(ends):len(ends)], destination[f], postDest[f], destPort, postDestPort, realm)
		all[session+f] = event(whole...)
		all[sessionEnd+f] = event(append(whole[:len(whole):len(whole)], initiator, responder)...)
		all[mapping+f] = event(ends...)
		all[block+f] = event(source[f], postSource[f], firstPort, lastPort, portStep, portCount)
		all[noPorts+f] = event(postSource[f], protocol)
		all[userQuota+f] = event(quotaEvent, maxOfUser, source[f])
		all[portThreshold+f] = event(threshold, mappingsHigh, postSource[f], protocol)
		all[userThreshold+f] = event(threshold, mappingsOfOne, source[f])
	}
	all[noAddresses] = event(pool)
	all[sessionQuota] = event(quotaEvent, maxSessions)
	all[mappingQuota] = event(quotaEvent, maxMappings)
	all[fragmentQuota] = event(quotaEvent, maxFragments)
	all[poolHighReached] = event(threshold, poolHigh, pool)
	all[poolLowReached] = event(threshold, poolLow, pool)
	all[globalHighReached] = event(threshold, globalHigh)
	return all
}

// event begins a template with what all of them have.
func event(more ...element) []element { return append([]element{observed, natEvent}, more...) }

var quotaTemplates = map[Quota]int{QuotaSessions: sessionQuota, QuotaMappings: mappingQuota, QuotaFragments: fragmentQuota}

var thresholdTemplates = map[Threshold]int{PoolHigh: poolHighReached, PoolLow: poolLowReached, GlobalHigh: globalHighReached}

// templateOf returns the position of the template that e is written by, and false if it
// is no event.
func templateOf(e *Event) (at int, ok bool) {
	ok = true
	switch e.Kind {
	case SessionCreate:
		at = session
	case SessionDelete:
		at = sessionEnd
	case MappingCreate, MappingDelete:
		at = mapping
	case BlockAllocated, BlockReleased:
		at = block
	case PortsExhausted:
		at = noPorts
	case AddressesExhausted:
		return noAddresses, true
	case QuotaExceeded:
		if at = userQuota; e.Quota != QuotaUser {
			at, ok = quotaTemplates[e.Quota]
			return at, ok
		}
	case ThresholdReached:
		switch e.Threshold {
		case UserHigh:
			at = userThreshold
		case MappingsHigh:
			at = portThreshold
		default:
			at, ok = thresholdTemplates[e.Threshold]
			return at, ok
		}
	default:
		return 0, false
	}
	return at + e.family(), true
}

// family is that of the address which every event with addresses has.
func (e *Event) family() int {
	a := e.Source
	if e.Kind == PortsExhausted || e.Threshold == MappingsHigh {
		a = e.PostSource
	}
	if a.Is6() {
		return v6
	}
	return v4
}

// recordLength returns the bytes of a record by a template.
func recordLength(t []element) (n int) {
	for i := range t {
		n += int(t[i].length)
	}
	return n
}
