package pcp

import (
	"encoding/binary"
	"net/netip"
	"time"

	"example.com/culvert/conntrack/tuple"
)

// Opcodes of NAT-PMP, RFC 6886 section 3.
const (
	pmpExternal = 0
	pmpUDP      = 1
	pmpTCP      = 2
)

// Sizes of requests in bytes, RFC 6886 sections 3.2 and 3.3.
const (
	pmpHeader  = 2
	pmpMapSize = 12
)

// pmpResults are results as NAT-PMP has them, RFC 6886 section 3.5.
var pmpResults = [numResults]uint16{
	UnsuppVersion: 1, NotAuthorized: 2, AddressMismatch: 2, MalformedRequest: 2, NetworkFailure: 3,
	NoResources: 4, UserExQuota: 4, CannotProvideExternal: 4, UnsuppOpcode: 5, UnsuppProtocol: 5, UnsuppOption: 5, MalformedOption: 5,
}

// handlePMP answers a NAT-PMP request. s.mu must be held.
func (s *Server) handlePMP(b []byte, from netip.Addr, now time.Time) ([]byte, Result) {
	if !from.Is4() {
		return nil, UnsuppVersion
	}
	switch op := b[1]; op {
	case pmpExternal:
		return s.externalPMP(from, now)
	case pmpUDP, pmpTCP:
		if len(b) < pmpMapSize {
			return nil, MalformedRequest
		}
		q := request{opcode: opMap, client: from, proto: tuple.TCP, inside: binary.BigEndian.Uint16(b[4:]),
			lifetime: time.Duration(binary.BigEndian.Uint32(b[8:])) * time.Second}
		if op == pmpUDP {
			q.proto = tuple.UDP
		}
		if port := binary.BigEndian.Uint16(b[6:]); port != 0 {
			q.suggested = netip.AddrPortFrom(netip.IPv4Unspecified(), port)
		}
		return s.mapPMP(b, &q, now)
	default:
		return s.pmp(op, UnsuppOpcode, now, nil), UnsuppOpcode
	}
}

// externalPMP tells the external address of a client.
func (s *Server) externalPMP(from netip.Addr, now time.Time) ([]byte, Result) {
	why := s.authorize(from)
	var external netip.Addr
	if why == Success {
		var err error
		external, err = s.gate.ExternalAddress(from)
		why = resultOf(err)
	}
	if !external.Is4() {
		external = netip.IPv4Unspecified()
	}
	a := external.As4()
	return s.pmp(pmpExternal, why, now, a[:]), why
}

// mapPMP makes, renews or deletes a record, or deletes all of a client's for a
// protocol (RFC 6886 section 3.4).
func (s *Server) mapPMP(b []byte, q *request, now time.Time) ([]byte, Result) {
	out := make([]byte, 8)
	copy(out, b[4:6])
	why := s.authorize(q.client)
	switch {
	case why != Success:
	case q.lifetime == 0 && q.inside == 0:
		s.deleteAll(q)
	default:
		var r *record
		if r, why = s.serveMap(q, now); r != nil {
			binary.BigEndian.PutUint16(out[2:], r.port.External().Port())
			binary.BigEndian.PutUint32(out[4:], seconds(r.until.Sub(now)))
		}
	}
	return s.pmp(b[1], why, now, out), why
}

// pmp makes a response of NAT-PMP.
func (s *Server) pmp(op uint8, why Result, now time.Time, data []byte) []byte {
	out := make([]byte, 8, 16)
	out[1] = op | isResponse
	binary.BigEndian.PutUint16(out[2:], pmpResults[why])
	binary.BigEndian.PutUint32(out[4:], s.epoch(now))
	return append(out, data...)
}

func seconds(d time.Duration) uint32 { return uint32(d / time.Second) }
