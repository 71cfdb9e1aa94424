package rules

import (
	"strconv"

	"example.com/culvert/nat"
)

// PortKeys is a set of keys of a rule that say how its flows get their ports. What
// is not written, the profile decides.
type PortKeys uint8

// Keys. Those that have no default other than "none" need no bit.
const (
	MappingKey PortKeys = 1 << iota
	FilteringKey
	PoolingKey
	HoldDownKey
)

// Behaviours are the names of mapping and filtering in rules, by nat.Behaviour.
var Behaviours = [...]string{
	nat.Linux: "linux", nat.EndpointIndependent: "endpoint-independent",
	nat.AddressDependent: "address-dependent", nat.AddressAndPortDependent: "address-and-port-dependent",
}

// portTerms adds how flows get their ports.
func (w *words) portTerms(rs *RuleSpec) {
	s := &rs.Src
	if rs.PortKeys&MappingKey != 0 {
		w.add("mapping " + Behaviours[s.Mapping])
	}
	if rs.PortKeys&FilteringKey != 0 {
		w.add("filtering " + Behaviours[s.Filtering])
	}
	if rs.PortKeys&PoolingKey != 0 && s.Flags&nat.Arbitrary != 0 {
		w.add("arbitrary")
	}
	if rs.PortKeys&HoldDownKey != 0 {
		w.add("hold-down " + DurationText(s.HoldDown))
	}
	if s.PortsPerClient != 0 {
		w.add("ports-per-client " + strconv.Itoa(int(s.PortsPerClient)))
	}
	switch {
	case s.Plan != nil:
		w.add("deterministic " + strconv.Itoa(int(s.Plan.Size)))
	case s.BlockSize != 0:
		w.add("blocks " + strconv.Itoa(int(s.MaxBlocks)) + " of " + strconv.Itoa(int(s.BlockSize)))
	}
}
