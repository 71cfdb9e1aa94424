// Package frag lets fragments through a gateway that translates: most without
// putting datagrams together (virtual reassembly, kept shallow), those that must be
// seen whole by collecting them.
//
// Only the first fragment of a datagram carries ports. It is looked up as any
// packet is; the others follow what was decided for it. The life of a datagram:
//
//	waiting   no verdict yet. Fragments after the first are copied and held.
//	          Learn makes it following and hands out what was held; Collect
//	          makes it collecting; Refuse makes it dead.
//	following the flow is known. Fragments pass at once, in any order. When all
//	          of them have passed, the datagram is forgotten, so that the
//	          sender may use its identification again.
//	collecting
//	          all fragments are held, the first one too. The one that makes the
//	          datagram complete hands all of them out, for packet.Join, and the
//	          datagram is forgotten.
//	dead      the first fragment was refused, or fragments overlap (RFC 5722,
//	          RFC 8200 section 4.5): everything of it is dropped.
//
// Every state ends at the time-out counted from the fragment that came first.
//
// Who sees the first fragment decides. The dataplane collects SCTP, whose CRC32c
// covers all fragments and changes with the ports in the first, and flows whose
// helper reads the payload.
//
// What follows passes exactly as it came, so the output is never larger than the
// largest fragment that came in; a datagram put together remembers how long that
// was (packet.Packet.FragMax) and is split accordingly. A fragment inside what has passed already is a duplicate and
// dropped alone; one that partly covers it kills the datagram. The receiver thus
// gets each byte once, or not the datagram.
//
// # Bounds
//
// Datagrams in all, datagrams a source, bytes held in all, bytes held a source,
// and gaps in a datagram. A source at its bound loses its own oldest datagram; a
// full table loses the oldest of all. Real datagrams are through within
// milliseconds, so a flood has to turn the whole table over in that time before it
// hurts others. What a datagram holds while it is collected counts as what waits for
// a first fragment does; a datagram that a source may not hold whole is dropped.
//
// One Table serves all workers, because a fanout by ports separates fragments from
// their flow. It has one mutex: fragments are the slow path.
package frag
