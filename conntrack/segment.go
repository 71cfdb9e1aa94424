package conntrack

// TCP header flags, as in byte 13 of the header (RFC 9293 3.1).
const (
	FIN uint8 = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// Options that Segment.Options reports as present.
const (
	OptWindowScale uint8 = 1 << iota // RFC 7323 window scale; WindowScale is valid
	OptSACKPermit                    // RFC 2018 SACK permitted
	OptSACK                          // RFC 2018 SACK blocks; SACK is valid
)

// Segment is what trackers need to know of one packet. Fields of other
// protocols are ignored. An offloaded frame (GSO) is one segment with a large
// Payload.
type Segment struct {
	Bytes   uint32 // length of the IP packet, for accounting
	Payload uint32 // length of the TCP payload

	Seq, Ack    uint32 // Ack and SACK in the numbers of the host that they are for, see Correction
	SACK        uint32 // right edge of the highest SACK block; with OptSACK
	Window      uint16 // as sent, unscaled
	Flags       uint8  // FIN, SYN, ...
	Options     uint8  // OptWindowScale, ...
	WindowScale uint8  // with OptWindowScale; values above 14 count as 14 (RFC 7323 2.3)

	DCCPType uint8 // DCCPRequest, ...
	SCTP     SCTPChunks
}
