package dataplane

import (
	"example.com/culvert/conntrack"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

// Reason says why a packet did not leave. Every packet that is not forwarded,
// delivered or deliberately held has exactly one; it is the label of the drop
// counter and the word users see. The zero Reason means the packet went on.
type Reason uint8

// Reasons in the order of the packet walk.
const (
	None Reason = iota

	// Step 2, parse.
	BadPacket     // header lengths or versions that cannot be
	BadChecksum   // IP or transport checksum wrong
	NotIP         // an EtherType the gateway does not carry
	OtherHost     // link-layer destination is another machine
	UnknownVLAN   // tag of no declared sub-interface
	BadTCPFlags   // flag combination no TCP sends
	SourceRouted  // IP source routing (RFC 5095)
	BadOffload    // GSO frame that cannot be carried further
	Martian       // source or destination that must not be on a wire
	LandPacket    // source equals destination
	SpoofedSource // reverse-path check: the source does not live behind this port

	// Step 2, fragments.
	FragmentOverlap   // overlapping fragments (RFC 5722, RFC 8200)
	FragmentTiny      // first fragment without a whole transport header
	FragmentLimit     // too many waiting fragments, in all or from one source
	FragmentTimeout   // the first fragment never came
	FragmentDuplicate // the same fragment again
	FragmentOrphan    // a later fragment whose first one was refused

	// Step 3, host and link control.
	HostQueueFull // ring to the gateway's own stack is full
	Multicast     // multicast or broadcast with no taker

	// Step 4, lookup.
	ICMPNoFlow // ICMP error about no known flow
	Redirect   // ICMP redirect for a translated flow

	// Step 6, rules.
	NoRoute         // no route to the destination
	LocalDenied     // for the gateway itself, from an area without local services
	PolicyDenied    // refused by the default policy
	RuleDenied      // refused by a filter rule
	RuleRejected    // refused by a filter rule with notice to the sender
	NoMapping       // prefix translation (RFC 6296) has no other address for this one
	SourceNeeded    // masquerade, and the egress interface has no address of the family
	TTLExceeded     // time to live ran out here
	TooBigForEgress // longer than the egress MTU, must not be fragmented

	// Step 7, bind.
	PortsExhausted // every port the rule may use is taken
	PortQuota      // the client has as many ports as its rule allows
	PortBlocks     // every port of the client's blocks is taken, and it may have no other block
	MappingClash   // the port that the inside endpoint is mapped to is taken towards this destination
	MappingEnded   // the mapping that let the packet in has just ended
	LeasesFull     // no room to note whose a port is
	TableFull      // connection-tracking table full
	ChainFull      // hash neighbourhood full
	ClientFull     // one client has more than its share of a nearly full table
	CommitRace     // lost the race for a tuple too often

	// Step 8, track.
	InvalidState  // not a legal packet in the state of its flow
	InvalidWindow // TCP sequence or acknowledgement out of window
	InvalidNew    // not a packet that may start a flow
	Untranslated  // invalid, let pass by a rule, and not fit to leave as it is
	FlowEnded     // its flow was ended with notice

	// Step 9, helpers.
	HelperCrowded // no room for bytes that a helper must see in order

	// Step 11, transmit.
	NeighbourFailed  // nobody answers for the next hop
	NeighbourQueue   // too many packets wait for the next hop's address
	NeighboursFull   // neighbour table full
	EgressFull       // no room in the transmit queue
	EgressDown       // the egress interface is down or gone
	EgressRefused    // the kernel refused the frame
	ReceiveTruncated // the receive ring could not hold the frame

	HandedOver // it waited here when the flows were handed to another process

	Internal // a defect of the gateway: must stay zero

	numReasons
)

// reasonText is what users see of a Reason: its name (metric label, trace), and
// what to do when its counter grows.
type reasonText struct {
	name   string
	step   string // place on the packet walk
	advice string
}

var reasonTexts = [...]reasonText{
	None:              {"none", "", ""},
	BadPacket:         {"bad-packet", "parse", "a broken or hostile sender: capture on the ingress port"},
	BadChecksum:       {"bad-checksum", "parse", "damage on the way, or a driver that offloads checksums without saying so"},
	NotIP:             {"not-ip", "parse", "harmless: a protocol other than IP or ARP on the link"},
	OtherHost:         {"other-host", "parse", "harmless: the link floods frames of other machines"},
	UnknownVLAN:       {"unknown-vlan", "parse", "declare the VLAN (parent, vlan) or remove the tag at the switch"},
	BadTCPFlags:       {"bad-tcp-flags", "parse", "a port scan"},
	SourceRouted:      {"source-routed", "parse", "an attack, or a very old tool"},
	BadOffload:        {"bad-offload", "parse", "a super-packet of SCTP, or of a tunnel in a tunnel, that cannot be cut: lower the sender's GSO"},
	Martian:           {"martian", "parse", "a spoofed or misconfigured sender"},
	LandPacket:        {"land", "parse", "an attack"},
	SpoofedSource:     {"spoofed-source", "parse", "asymmetric routing: set rpf = \"loose\"; else an attack"},
	FragmentOverlap:   {"fragment-overlap", "fragments", "an attack"},
	FragmentTiny:      {"fragment-tiny", "fragments", "an attack"},
	FragmentLimit:     {"fragment-limit", "fragments", "an attack, or a sender with a too large datagram size; else raise fragments or fragment_memory in [limits]"},
	FragmentTimeout:   {"fragment-timeout", "fragments", "loss on the way"},
	FragmentDuplicate: {"fragment-duplicate", "fragments", "harmless: duplication on the way"},
	FragmentOrphan:    {"fragment-orphan", "fragments", "its first fragment was refused: see the other reasons"},
	HostQueueFull:     {"host-queue-full", "host", "the gateway's own services are overloaded: raise host_queue in [limits]"},
	Multicast:         {"multicast", "host", "harmless: the gateway does not route multicast"},
	ICMPNoFlow:        {"icmp-no-flow", "lookup", "late errors of ended flows, or a scan"},
	Redirect:          {"redirect", "lookup", "a router on the link sends redirects for translated flows"},
	NoRoute:           {"no-route", "rules", "add a route or a next_hop"},
	LocalDenied:       {"local-denied", "rules", "expected outside; set local = true for the area to serve it"},
	PolicyDenied:      {"policy-denied", "rules", "unsolicited traffic; add a filter or dnat rule to admit it"},
	RuleDenied:        {"rule-denied", "rules", "your rule; see culvert rules"},
	RuleRejected:      {"rule-rejected", "rules", "your rule; see culvert rules"},
	NoMapping:         {"no-mapping", "rules", "hosts use a subnet or identifier of all ones, which nptv6 cannot translate: renumber them"},
	SourceNeeded:      {"no-egress-address", "rules", "give the egress interface an address of this family"},
	TTLExceeded:       {"ttl-exceeded", "rules", "traceroute, or a routing loop"},
	TooBigForEgress:   {"too-big", "rules", "path MTU discovery at work; check mtu if it never ends"},
	PortsExhausted:    {"ports-exhausted", "bind", "widen ports or add an address"},
	PortQuota:         {"port-quota", "bind", "raise ports_per_client of the rule, or find out what the client does"},
	PortBlocks:        {"port-blocks", "bind", "raise max_blocks or block_size of the rule, or find out what the client does"},
	MappingClash:      {"mapping-clash", "bind", "flows of older rules or of a dnat rule have the port: it ends with them"},
	MappingEnded:      {"mapping-ended", "bind", "harmless: the inside host has just ended the flow"},
	LeasesFull:        {"port-leases-full", "bind", "raise conntrack.max"},
	TableFull:         {"table-full", "bind", "raise conntrack.max or find the holder of the flows"},
	ChainFull:         {"chain-full", "bind", "raise conntrack.max; if the table is not full, a collision attack"},
	ClientFull:        {"client-share", "bind", "raise conntrack.max, or find out what that client does: the alarm names it"},
	CommitRace:        {"commit-race", "bind", "report this"},
	InvalidState:      {"invalid-state", "track", "late or forged segments"},
	InvalidWindow:     {"invalid-window", "track", "late or forged segments"},
	InvalidNew:        {"invalid-new", "track", "packets of flows the gateway has not seen start"},
	Untranslated:      {"untranslated", "track", "your rule accepts invalid packets, but these would show an inside address or reach the gateway's own stack"},
	FlowEnded:         {"flow-ended", "track", "the gateway lost the address or the uplink of the flow, or a reload ended it: its inside host was told"},
	HelperCrowded:     {"helper-crowded", "helper", "harmless if rare: segments behind a long hole, which their sender repeats; else raise the memory of helpers"},
	NeighbourFailed:   {"neighbour-failed", "transmit", "the next hop is down or the address is not on the link"},
	NeighbourQueue:    {"neighbour-queue-full", "transmit", "more packets than may wait for an address: raise waiting_packets in [limits] if that is no scan"},
	NeighboursFull:    {"neighbours-full", "transmit", "a scan of an inside prefix, or a very large link: raise neighbours in [limits]"},
	EgressFull:        {"egress-full", "transmit", "the egress link is saturated"},
	EgressDown:        {"egress-down", "transmit", "the egress interface is down"},
	EgressRefused:     {"egress-refused", "transmit", "the kernel refused frames: see the port's counters"},
	ReceiveTruncated:  {"receive-truncated", "receive", "raise the receive buffer: large frames found no room"},
	HandedOver:        {"handed-over", "transmit", "harmless: culvert upgrade while packets waited for an address or the rest of their fragments"},
	Internal:          {"internal", "", "a defect of the gateway: please report it"},
}

var _ = [1]struct{}{}[len(reasonTexts)-int(numReasons)] // one text for each Reason

func (r Reason) String() string { return reasonTexts[r].name }

// Advice says what to do when the Reason's counter grows.
func (r Reason) Advice() string { return reasonTexts[r].advice }

// Step names the place on the packet walk where the Reason arises.
func (r Reason) Step() string { return reasonTexts[r].step }

// Reasons returns every Reason but None, in the order of the walk.
func Reasons() []Reason {
	all := make([]Reason, 0, numReasons-1)
	for r := None + 1; r < numReasons; r++ {
		all = append(all, r)
	}
	return all
}

// ofStatus maps the answer of a port to a Reason.
var ofStatus = [port.NumStatuses]Reason{
	port.Sent:        None,
	port.TooBig:      TooBigForEgress,
	port.Unsupported: BadOffload,
	port.Full:        EgressFull,
	port.Down:        EgressDown,
}

// ofFault maps what Parse found to a Reason. NotIP frames go to link control
// first.
var ofFault = [packet.NumFaults]Reason{
	packet.OK:                None,
	packet.NotIP:             NotIP,
	packet.TooShort:          BadPacket,
	packet.BadVersion:        BadPacket,
	packet.BadHeaderLen:      BadPacket,
	packet.BadTotalLen:       BadPacket,
	packet.BadIPChecksum:     BadChecksum,
	packet.BadOptions:        BadPacket,
	packet.TooManyExtensions: BadPacket,
	packet.SourceRouted:      SourceRouted,
	packet.BadFragment:       BadPacket,
	packet.TinyFragment:      FragmentTiny,
	packet.BadTransportLen:   BadPacket,
	packet.BadChecksum:       BadChecksum,
	packet.BadEmbedded:       BadPacket,
	packet.BadOffload:        BadOffload,
	packet.UnsupportedGSO:    BadOffload,
	packet.LandPacket:        LandPacket,
}

// ofVerdict maps what a tracker refused to a Reason.
var ofVerdict = [...]Reason{
	conntrack.InvalidState:  InvalidState,
	conntrack.InvalidFlags:  BadTCPFlags,
	conntrack.InvalidSeq:    InvalidWindow,
	conntrack.InvalidAck:    InvalidWindow,
	conntrack.InvalidRST:    InvalidWindow,
	conntrack.InvalidPickup: InvalidNew,
	conntrack.InvalidType:   InvalidNew,
	conntrack.InvalidTag:    InvalidState,
}

var _ = [1]struct{}{}[len(ofVerdict)-int(conntrack.Accept)] // every invalid verdict has a Reason

// ofClaim maps a refused claim to a Reason.
var ofClaim = [...]Reason{
	conntrack.OriginalTaken: CommitRace,
	conntrack.ReplyTaken:    PortsExhausted,
	conntrack.TableFull:     TableFull,
	conntrack.ChainFull:     ChainFull,
	conntrack.ClientFull:    ClientFull,
}
