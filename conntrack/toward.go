package conntrack

import (
	"math/bits"
	"sync/atomic"

	"example.com/culvert/conntrack/tuple"
)

// toward counts, for each host and each socket that it sends to, the flows of which
// such packets are, in cells that a hash chooses. Who wants to give a socket away
// towards a host learns without a search that nobody has it, whatever the host's
// port: 0 is always true, another number may be that of some other pair.
type toward struct {
	cells []uint32
	shift uint // of the hash, to a cell
	key   hashKey
}

// towardCells returns how many cells a table for so many flows has: one for each of
// their tuples at least, a power of two.
func towardCells(flows int) int { return 1 << bits.Len(uint(2*flows-1)) }

func (c *toward) init(cells []uint32, key hashKey) {
	c.cells, c.shift, c.key = cells, uint(64-bits.Len(uint(len(cells)-1))), key
}

// towardCell returns the counter of packets with tuple k, nil if its protocol has no ports.
func (t *Table) towardCell(k *tuple.Tuple) *uint32 {
	if !tuple.HasPorts(k.Proto) && k.Proto != tuple.GRE {
		return nil
	}
	var pair tuple.Tuple
	pair.SetAddrs(k)
	pair.SetRest(0, k.DstPort, k.Proto, k.Family, k.Zone)
	return &t.toward.cells[t.toward.hash(&pair)>>t.toward.shift]
}

// hash mixes a tuple with the key. Who finds tuples with equal hashes makes ports look
// taken that are free: it needs not be as strong as that of the index, and is four
// times as fast.
func (c *toward) hash(k *tuple.Tuple) uint64 {
	h := c.key.K0
	for _, x := range words(k) {
		hi, lo := bits.Mul64(h^x, c.key.K1|1)
		h = hi ^ lo ^ c.key.K0
	}
	hi, lo := bits.Mul64(h, 0x9e3779b97f4a7c15)
	return hi ^ lo
}

// towardCellsOf returns the counters of both tuples of an entry.
func (t *Table) towardCellsOf(e *Entry) [tuple.NumDirections]*uint32 {
	return t.towardCells(&e.half[tuple.Original].tuple, &e.half[tuple.Reply].tuple, e.Status())
}

// towardCells returns the counters of a flow's tuples: without the one that goes to an
// inside socket, where the translation tells which that is.
func (t *Table) towardCells(original, reply *tuple.Tuple, status Status) (cells [tuple.NumDirections]*uint32) {
	if len(t.toward.cells) == 0 {
		return cells
	}
	nat := status & (SrcNAT | DstNAT)
	if nat != SrcNAT {
		cells[tuple.Original] = t.towardCell(original)
	}
	if nat != DstNAT {
		cells[tuple.Reply] = t.towardCell(reply)
	}
	return cells
}

// countToward adds n to the counters of a flow.
func countToward(cells *[tuple.NumDirections]*uint32, n uint32) {
	for _, c := range cells {
		if c != nil {
			atomic.AddUint32(c, n)
		}
	}
}

// Toward returns how many tuples there may be that have the destination of k and the
// source address of k, whatever their source port: never less than there are that
// come to an external socket. A flow counts from before its Claim returns until it has
// ended. A table with Config.Sockets SocketsUncounted always says 0.
func (t *Table) Toward(k *tuple.Tuple) int {
	if len(t.toward.cells) == 0 {
		return 0
	}
	if c := t.towardCell(k); c != nil {
		return int(atomic.LoadUint32(c))
	}
	return 0
}
