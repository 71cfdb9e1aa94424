package pcp

import (
	"encoding/binary"
	"net/netip"
	"time"
)

// Port is where the server listens, UDP (RFC 6887 section 19).
const Port = 5351

// Sizes in bytes, RFC 6887 section 7.
const (
	maxMessage   = 1100
	headerSize   = 24
	mapSize      = 36
	optionHeader = 4
)

// version of the protocol, RFC 6887 section 7.1; that of NAT-PMP is 0.
const version = 2

// isResponse is the R bit, RFC 6887 section 7.1.
const isResponse = 0x80

// Opcodes, RFC 6887 section 19.1.
const (
	opAnnounce = 0
	opMap      = 1
)

// Options, RFC 6887 section 13. Those below optionalFrom must be understood.
const (
	optPreferFailure = 2
	optionalFrom     = 128
)

// Result says what became of a request, RFC 6887 section 7.4.
type Result uint8

// Results.
const (
	Success Result = iota
	UnsuppVersion
	NotAuthorized
	MalformedRequest
	UnsuppOpcode
	UnsuppOption
	MalformedOption
	NetworkFailure
	NoResources
	UnsuppProtocol
	UserExQuota
	CannotProvideExternal
	AddressMismatch
	numResults
)

var resultNames = [...]string{
	Success: "success", UnsuppVersion: "unsupported-version", NotAuthorized: "not-authorized", MalformedRequest: "malformed-request",
	UnsuppOpcode: "unsupported-opcode", UnsuppOption: "unsupported-option", MalformedOption: "malformed-option",
	NetworkFailure: "network-failure", NoResources: "no-resources", UnsuppProtocol: "unsupported-protocol",
	UserExQuota: "quota", CannotProvideExternal: "cannot-provide-external", AddressMismatch: "address-mismatch",
}

var _ [numResults]string = resultNames

func (r Result) String() string { return resultNames[r] }

// For how long a client shall believe an error, RFC 6887 section 7.4.
const (
	shortError = 30 * time.Second
	longError  = 30 * time.Minute
)

// errorLifetime returns for how long a refusal holds.
func (r Result) errorLifetime() time.Duration {
	switch r {
	case NetworkFailure, NoResources, UserExQuota, CannotProvideExternal:
		return shortError
	}
	return longError
}

// maker tells who made a record: the protocol that was spoken and, for PCP, a nonce.
type maker struct {
	version uint8
	nonce   [12]byte
}

// request is a PCP request that could be read.
type request struct {
	opcode        uint8
	lifetime      time.Duration
	client        netip.Addr
	preferFailure bool

	// Of MAP.
	maker     maker
	proto     uint8
	inside    uint16
	suggested netip.AddrPort
}

// parse reads a request of version 2 that is no response.
func parse(b []byte) (q request, why Result) {
	if len(b) < headerSize || len(b) > maxMessage || len(b)%4 != 0 {
		return q, MalformedRequest
	}
	q.opcode, q.lifetime = b[1], time.Duration(binary.BigEndian.Uint32(b[4:]))*time.Second
	q.client = addr(b[8:headerSize])
	rest := b[headerSize:]
	switch q.opcode {
	case opAnnounce:
	case opMap:
		if len(rest) < mapSize {
			return q, MalformedRequest
		}
		q.maker.version = version
		copy(q.maker.nonce[:], rest)
		q.proto, q.inside = rest[12], binary.BigEndian.Uint16(rest[16:])
		q.suggested = netip.AddrPortFrom(addr(rest[20:mapSize]), binary.BigEndian.Uint16(rest[18:]))
		rest = rest[mapSize:]
	default:
		return q, UnsuppOpcode
	}
	return q, q.options(rest)
}

// options reads what follows the data of the opcode, RFC 6887 section 7.3.
func (q *request) options(b []byte) Result {
	for len(b) > 0 {
		if len(b) < optionHeader {
			return MalformedOption
		}
		code, n := b[0], int(binary.BigEndian.Uint16(b[2:]))
		size := optionHeader + (n+3)&^3
		switch {
		case size > len(b):
			return MalformedOption
		case code == optPreferFailure && q.opcode == opMap:
			if n != 0 || q.preferFailure || q.lifetime == 0 {
				return MalformedOption
			}
			q.preferFailure = true
		case code < optionalFrom:
			return UnsuppOption
		}
		b = b[size:]
	}
	return Success
}

// addr reads an address as PCP writes it: IPv4 ones mapped into IPv6.
func addr(b []byte) netip.Addr {
	a, _ := netip.AddrFromSlice(b)
	return a.Unmap()
}

// header begins a response to b.
func header(b []byte, why Result, lifetime time.Duration, epoch uint32) []byte {
	out := make([]byte, headerSize, headerSize+mapSize+optionHeader)
	out[0], out[1], out[3] = version, isResponse, uint8(why)
	if len(b) > 1 {
		out[1] |= b[1]
	}
	binary.BigEndian.PutUint32(out[4:], uint32(lifetime/time.Second))
	binary.BigEndian.PutUint32(out[8:], epoch)
	return out
}

// refusal answers b with an error and what b said, RFC 6887 section 8.3.
func refusal(b []byte, why Result, epoch uint32) []byte {
	out := header(b, why, why.errorLifetime(), epoch)
	if len(b) > headerSize {
		out = append(out, b[headerSize:min(len(b), maxMessage)]...)
	}
	for len(out)%4 != 0 {
		out = append(out, 0)
	}
	return out
}

// grant answers a MAP request.
func (q *request) grant(b []byte, external netip.AddrPort, lifetime time.Duration, epoch uint32) []byte {
	out := append(header(b, Success, lifetime, epoch), b[headerSize:headerSize+mapSize]...)
	to := out[headerSize:]
	binary.BigEndian.PutUint16(to[18:], external.Port())
	a := external.Addr().As16()
	copy(to[20:], a[:])
	if q.preferFailure {
		out = append(out, optPreferFailure, 0, 0, 0)
	}
	return out
}
