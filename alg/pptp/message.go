package pptp

import "encoding/binary"

// kind is the type of a control message (RFC 2637 section 2).
type kind uint16

const (
	startRequest     kind = 1
	startReply       kind = 2
	stopRequest      kind = 3
	stopReply        kind = 4
	echoRequest      kind = 5
	echoReply        kind = 6
	outgoingRequest  kind = 7
	outgoingReply    kind = 8
	incomingRequest  kind = 9
	incomingReply    kind = 10
	connected        kind = 11
	clearRequest     kind = 12
	disconnectNotify kind = 13
	errorNotify      kind = 14
	linkInfo         kind = 15
	numKinds              = 16
)

// ids says which call ids a message has.
type ids uint8

const (
	ownID  ids = 1 << iota // the sender's own
	peerID                 // the receiver's
)

// layout is the length of each kind of message, and the call ids in it. The sender's
// own comes first.
var layout = [numKinds]struct {
	len int
	ids ids
}{
	startRequest:     {156, 0},
	startReply:       {156, 0},
	stopRequest:      {16, 0},
	stopReply:        {16, 0},
	echoRequest:      {16, 0},
	echoReply:        {20, 0},
	outgoingRequest:  {168, ownID},
	outgoingReply:    {32, ownID | peerID},
	incomingRequest:  {220, ownID},
	incomingReply:    {24, ownID | peerID},
	connected:        {28, peerID},
	clearRequest:     {16, ownID},
	disconnectNotify: {148, ownID},
	errorNotify:      {40, peerID},
	linkInfo:         {24, peerID},
}

// Places in a message (RFC 2637 section 1.4, and those of its kinds).
const (
	typeAt        = 2
	cookieAt      = 4
	kindAt        = 8
	headerLen     = 12
	startResultAt = 14
	callResultAt  = 16
	idLen         = 2

	maxMessage  = 220
	control     = 1 // the only type there is
	magicCookie = 0x1a2b3c4d
	agreed      = 1 // as the result of a reply
)

var be = binary.BigEndian

// progress says how much of a message has come.
type progress uint8

const (
	open   progress = iota // it may become one
	whole                  //
	broken                 // it is none
)

// message looks at the message that b begins with.
func message(b []byte) (k kind, n int, is progress) {
	var want [cookieAt + 4]byte
	be.PutUint16(want[typeAt:], control)
	be.PutUint32(want[cookieAt:], magicCookie)
	for i := typeAt; i < len(want) && i < len(b); i++ {
		if b[i] != want[i] {
			return 0, 0, broken
		}
	}
	if len(b) < kindAt+idLen {
		return 0, 0, open
	}
	k, n = kind(be.Uint16(b[kindAt:])), int(be.Uint16(b))
	switch {
	case k >= numKinds || n == 0 || n != layout[k].len:
		return k, n, broken
	case len(b) < n:
		return k, n, open
	}
	return k, n, whole
}
