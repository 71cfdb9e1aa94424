package main

import (
	"fmt"

	"example.com/culvert/internal/nearest"
)

// didYouMean returns "; did you mean X?" for the candidate nearest to word, or
// nothing when none is near.
func didYouMean(word string, candidates []string) string {
	best := nearest.To(word, candidates)
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", best)
}
