// Package mem has ports that live in memory, for tests and simulations.
//
// Pair returns two ports with a wire between them; New returns one whose wire
// ends in the test: Inject puts frames in, Take gets what was sent. Frames are
// copied at Flush, as a kernel would, so a caller that changes memory between
// Send and Flush, or forgets Flush, fails here too.
//
// Each queue is bounded (Options.Depth). A Queue belongs to one worker, but
// the two ends of a wire may be different goroutines. Impairments (loss,
// duplication, reordering) are functions with a seed: the same seed and
// the same frames give the same result.
package mem
