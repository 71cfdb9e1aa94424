package packet

// Fault says why a frame is not a packet the gateway can handle. Parse returns
// one; the engine turns it into a drop Reason.
type Fault uint8

const (
	OK                Fault = iota
	NotIP                   // ARP or another EtherType; Packet.EtherType says which
	TooShort                // frame ends before the headers do
	BadVersion              // IP version differs from what the link layer says
	BadHeaderLen            // IPv4 header length below 20 or beyond the packet
	BadTotalLen             // IP length field is impossible or beyond the frame
	BadIPChecksum           // IPv4 header checksum
	BadOptions              // IPv4 option or IPv6 extension header runs past its end or is misplaced
	TooManyExtensions       // more than maxExtensions IPv6 extension headers
	SourceRouted            // IPv4 source route, or IPv6 routing header with segments left (RFC 5095)
	BadFragment             // fragment of odd size, or that reaches past 65535 bytes
	TinyFragment            // first fragment without its transport header, or one that would overwrite it (RFC 1858)
	BadTransportLen         // transport header or its length field does not fit the packet
	BadChecksum             // TCP, UDP, UDP-Lite, DCCP, ICMP or ICMPv6 checksum, or SCTP CRC32c
	BadEmbedded             // ICMP error whose embedded packet has no usable IP header
	BadOffload              // virtio header points outside the packet or at a wrong field
	UnsupportedGSO          // GSO frame of a kind that the virtio header cannot express: tunnels, SCTP, UFO
	LandPacket              // source and destination address are the same; everything else is right
	NumFaults
)

var faultNames = [...]string{
	OK:                "ok",
	NotIP:             "not-ip",
	TooShort:          "too-short",
	BadVersion:        "bad-version",
	BadHeaderLen:      "bad-header-length",
	BadTotalLen:       "bad-total-length",
	BadIPChecksum:     "bad-ip-checksum",
	BadOptions:        "bad-options",
	TooManyExtensions: "too-many-extensions",
	SourceRouted:      "source-routed",
	BadFragment:       "bad-fragment",
	TinyFragment:      "tiny-fragment",
	BadTransportLen:   "bad-transport-length",
	BadChecksum:       "bad-checksum",
	BadEmbedded:       "bad-embedded",
	BadOffload:        "bad-offload",
	UnsupportedGSO:    "unsupported-gso",
	LandPacket:        "land-packet",
}

var _ [NumFaults]string = faultNames

func (f Fault) String() string {
	if f < NumFaults {
		return faultNames[f]
	}
	return "unknown-fault"
}
