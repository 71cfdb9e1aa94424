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
	e := alg.Edit{Done: len(b)}
	switch op := opcode(b); {
	case op >= data && op <= optionAck: // of a transfer with a server that has one port for all
	case op != readRequest && op != writeRequest, !isRequest(b):
		e.Unread = 1
	case c.Dir == tuple.Original:
		c.Announce(alg.Expectation{Proto: tuple.UDP, To: c.Self()}) // the engine counts what it refuses
	}
	return e
}

// Opcodes of RFC 1350 section 5, and the last one of RFC 2347.
const (
	readRequest  = 1
	writeRequest = 2
	data         = 3
	optionAck    = 6
)

// opcode returns what kind of message b is, 0 for none.
func opcode(b []byte) uint16 {
	if len(b) < 2 {
		return 0
	}
	return binary.BigEndian.Uint16(b)
}

var modes = []string{"netascii", "octet", "mail"} // RFC 1350 section 1

// isRequest reports whether behind the opcode of b is a request: the name of a file, a
// mode, and perhaps options (RFC 2347), of which every part ends with a zero byte.
func isRequest(b []byte) bool {
	name, rest, ok := bytes.Cut(b[2:], zero)
	if !ok || len(name) == 0 {
		return false
	}
	mode, rest, ok := bytes.Cut(rest, zero)
	return ok && slices.Contains(modes, strings.ToLower(string(mode))) && (len(rest) == 0 || rest[len(rest)-1] == 0)
}

var zero = []byte{0}
