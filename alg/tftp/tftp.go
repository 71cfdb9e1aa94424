// Package tftp is the helper for TFTP (RFC 1350). A server answers a request from a
// port that it chooses for the transfer (section 4), so a gateway that has only seen
// the request does not know the answer as one. The helper announces it: a flow from
// the server, any port, to the socket that asked. Nothing is rewritten.
package tftp

import (
	"bytes"
	"encoding/binary"
	"slices"
	"strings"
	"time"

	"example.com/culvert/alg"
	"example.com/culvert/conntrack/tuple"
)

// Helper is the helper "tftp".
type Helper struct{}

// Spec implements alg.Helper. One transfer a socket, as netfilter.
func (Helper) Spec() alg.Spec {
	return alg.Spec{
		Name: "tftp", Protos: []uint8{tuple.UDP}, Port: 69,
		Classes: []alg.Class{{Name: "transfer", Max: 1, Timeout: 5 * time.Minute}},
	}
}

// New implements alg.Helper.
func (Helper) New(*alg.Flow) alg.Parser { return parser{} }

type parser struct{}

// Inspect implements alg.Parser.
func (parser) Inspect(c *alg.Context, b []byte) alg.Edit {
	if c.Dir == tuple.Original && isRequest(b) {
		c.Announce(alg.Expectation{Proto: tuple.UDP, To: c.Self()}) // the engine counts what it refuses
	}
	return alg.Edit{Done: len(b)}
}

// Opcodes of RFC 1350 section 5.
const (
	readRequest  = 1
	writeRequest = 2
)

var modes = []string{"netascii", "octet", "mail"} // RFC 1350 section 1

// isRequest reports whether b asks for a transfer: an opcode, the name of a file, a
// mode, and perhaps options (RFC 2347), of which every part ends with a zero byte.
func isRequest(b []byte) bool {
	if len(b) < 2 {
		return false
	}
	if op := binary.BigEndian.Uint16(b); op != readRequest && op != writeRequest {
		return false
	}
	name, rest, ok := bytes.Cut(b[2:], zero)
	if !ok || len(name) == 0 {
		return false
	}
	mode, rest, ok := bytes.Cut(rest, zero)
	return ok && slices.Contains(modes, strings.ToLower(string(mode))) && (len(rest) == 0 || rest[len(rest)-1] == 0)
}

var zero = []byte{0}
