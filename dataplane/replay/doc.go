// Package replay runs a helper over a capture, and says what it would do: which bytes
// it would replace, and which flows it would let in.
//
// There is no gateway and no table. A flow has the helper when its first packet goes
// to the helper's port, or when the helper has announced it so. Who sends that packet
// is taken for a host behind a gateway that translates its address to an external one,
// with all ports free; without an external address nothing is translated, and
// helpers have little to replace.
//
// Segments go through the same code as in a gateway (package alg/stream), so they
// may be lost, repeated and exchanged. A connection whose beginning is not in the
// capture is shown to the helper as one that was picked up in its middle. Frames that
// cannot be read, fragments among them, are counted and left out; checksums of
// transport headers don't count, because captures of a sender have unfinished ones.
package replay
