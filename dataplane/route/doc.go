// Package route says where a packet leaves: which port, towards which
// neighbour, with which link-layer address.
//
// It has two halves with different lives:
//
//   - Table is an immutable longest-prefix match from a destination to a
//     NextHop. Of several routes to one prefix it takes the one for the packet's
//     source, area or mark, then the lowest metric, then shares flows by weight.
//     The control path builds a new one whenever routes, addresses or the health
//     of a router change and publishes it with one pointer store.
//   - Neighbours is the mutable set of link-layer addresses, one slot for each
//     (port, address) that packets were sent to. A flow caches the slot's index
//     and tag in one word (Hint), never a copy of the address: when the
//     neighbour moves or is lost, or when routes change, the tag changes and
//     every cached hint misses at once.
//
// Anybody who may send through the gateway makes it ask for neighbours, and most
// addresses of a prefix have no owner: a scan must not use up what others need (RFC
// 6583). So every open question belongs to whoever's packet asked it. A port has a
// bounded number of them, an asker a share of these, and when all are taken the
// oldest of the heaviest asker gives way to one who has fewer; new questions have
// an allowance per second, of which half is for those with few (question.go).
// Slots go to new neighbours in this order: never used, failed, not used for some
// time. A neighbour in use keeps its slot.
//
// Resolving is not done here. The engine asks the host stack, which answers
// through Neighbours.Learn and Neighbours.Fail.
package route
