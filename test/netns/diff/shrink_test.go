//go:build netns

package diff

import (
	"context"
	"slices"
)

// shrinkRounds bounds shrinking; each round takes at least one packet out of
// every sequence that has one to spare.
const shrinkRounds = numSteps

// unlisted reports whether t still shows a difference that no class explains.
func (t *trial) unlisted() bool { return !t.same() && classOf(t) < 0 }

// shrink takes packets out of differing sequences as long as they still differ. All
// candidates of a round run at the same time.
func (r *rig) shrink(ctx context.Context, from []*trial) ([]*trial, error) {
	best := slices.Clone(from)
	done := make([]bool, len(best))
	for range shrinkRounds {
		var all []*sequence
		var owner []int
		for i, b := range best {
			if done[i] {
				continue
			}
			for _, c := range b.smaller() {
				all, owner = append(all, c), append(owner, i)
			}
		}
		if len(all) == 0 {
			break
		}
		trials, err := r.run(ctx, all)
		if err != nil {
			return best, err
		}
		for i := range done {
			done[i] = true
		}
		for j, t := range trials {
			if i := owner[j]; t.unlisted() && len(t.events) < len(best[i].events) {
				best[i], done[i] = t, false
			}
		}
	}
	return best, nil
}

// smaller returns the sequence without its second half, and without each of its
// packets.
func (s *sequence) smaller() []*sequence {
	var all []*sequence
	n := len(s.events)
	if n > 3 {
		all = append(all, &sequence{s.number, s.family, slices.Clone(s.events[:n/2])})
	}
	for i := range n {
		if n > 1 {
			all = append(all, &sequence{s.number, s.family, slices.Delete(slices.Clone(s.events), i, i+1)})
		}
	}
	return all
}
