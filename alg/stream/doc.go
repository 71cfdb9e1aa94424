// Package stream takes the payload of one flow through its helper: it puts the
// bytes of a TCP direction in order, asks the parser, and says what to send in
// place of each segment. It knows no packets, tables or clocks; a lock is its
// caller's.
//
// # Two numberings
//
// A direction has the sequence numbers of its sender, x here, and those of its
// receiver, y. An edit says that bytes [at, at+old) of x are replaced by a text. All
// edits together are one rising function from x to y:
//
//	before an edit   y = x + shift
//	inside of one    y = y(at) + min(x-at, length of the text)
//	behind it        y = x + shift', with the difference of the lengths
//
// so every segment [x1, x2) has one meaning in y, however the sender cuts its data
// and whenever it sends it again: the bytes [y(x1), y(x2)) of the edited stream. An
// acknowledgement y means the largest x with y(x) not above it. Numbers wrap.
//
// An edit is remembered until the receiver has acknowledged all of its text. Then
// only its part of the shift remains: what is older than an acknowledged byte is of
// no interest to either side, whatever its exact number. So a session of any length
// needs room for the edits in flight only.
//
// # Positions of a direction, in x
//
//	acked    the receiver has everything before it
//	sent     everything before it has been forwarded once
//	settled  the parser has decided on everything before it
//	end      everything before it has come, without a hole
//	told     the sender was told that everything before it has arrived
//
// acked <= sent <= end, settled <= end. Bytes from the lower one of sent and settled
// on are kept in buf. Segments behind a hole wait in late; they are not sent before
// it is filled, because a command may begin in it and end in them.
//
// # Holding without starving
//
// A sender with Nagle's algorithm (RFC 9293 section 3.7.4) waits with the second
// half of a command until the first one is acknowledged. What is held is therefore
// acknowledged in the receiver's name as soon as that has everything before it. The
// bytes are then owed: kept until the receiver acknowledges them, and sent again
// with each retransmission of what follows them. No timer is needed, because something
// must follow: what is held is released by the segment that completes it, and that one
// the sender keeps until the receiver itself has acknowledged it. If nothing follows,
// the receiver misses half a command that no application acts on.
package stream
