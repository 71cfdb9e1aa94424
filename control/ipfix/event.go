package ipfix

import (
	"net/netip"
	"time"
)

// Kind is a natEvent (RFC 8158 section 8.3).
type Kind uint8

// Kinds that a Culvert gateway has.
const (
	AddressesExhausted Kind = 3
	SessionCreate      Kind = 4
	SessionDelete      Kind = 5
	MappingCreate      Kind = 8
	MappingDelete      Kind = 9
	PortsExhausted     Kind = 12
	QuotaExceeded      Kind = 13
	BlockAllocated     Kind = 16
	BlockReleased      Kind = 17
	ThresholdReached   Kind = 18
)

// Quota is a natQuotaExceededEvent (RFC 8158 section 8.4). Number 4, subscribers, is
// not limited here.
type Quota uint32

const (
	QuotaSessions  Quota = 1 // flows in all
	QuotaMappings  Quota = 2 // mappings in all
	QuotaUser      Quota = 3 // entries of one client
	QuotaFragments Quota = 5 // fragments that wait for others
)

// Threshold is a natThresholdEvent (RFC 8158 section 8.5).
type Threshold uint32

const (
	PoolHigh     Threshold = 1 // addresses of a pool in use
	PoolLow      Threshold = 2
	MappingsHigh Threshold = 3 // ports of an external address in use
	UserHigh     Threshold = 4 // entries of one client
	GlobalHigh   Threshold = 5 // flows in all
)

// Realm is a natOriginatingAddressRealm: who began a flow.
type Realm uint8

const (
	Private Realm = 1 // somebody inside
	Public  Realm = 2 // somebody outside
)

// Event is one NAT event. Which fields count depends on Kind; see the templates.
type Event struct {
	Kind      Kind
	Quota     Quota     // of QuotaExceeded
	Threshold Threshold // of ThresholdReached
	Realm     Realm     // of sessions
	Proto     uint8     // IP protocol
	Time      time.Time

	// Before translation and after it. Of mappings and blocks Source is inside and
	// PostSource outside. Source of a quota or threshold is the client; PostSource of
	// PortsExhausted and MappingsHigh the address. All of one Event have the same family; the zero
	// Addr is written as all zeros.
	Source, PostSource           netip.Addr
	Destination, PostDestination netip.Addr
	SourcePort, PostSourcePort   uint16
	DestPort, PostDestPort       uint16

	FirstPort, LastPort uint16    // of a block
	Octets              [2]uint64 // of SessionDelete: from who began it, and to him
	Limit               uint32    // that was reached: entries, addresses, fragments
	Pool                uint32    // id of the rule whose pool it is
}
