// Package nearest finds the word that somebody may have meant.
package nearest

// maxLength is the length of the longest word, in bytes, that is compared. Keys,
// commands and names of interfaces are shorter.
const maxLength = 64

// To returns the candidate nearest to word, the first of several, or "" when none
// is near: a third of the letters may differ, and one letter in words of two.
func To(word string, candidates []string) string {
	if len(word) > maxLength {
		return ""
	}
	best, limit := "", max(len(word)/3, min(len(word)-1, 1))
	for _, c := range candidates {
		if len(c) > len(word)+limit {
			continue
		}
		if d := Distance(word, c); d <= limit {
			best, limit = c, d-1
		}
	}
	return best
}

// Distance is the least number of insertions, deletions and replacements of bytes,
// and of swaps of neighbours, that turn a into b (optimal string alignment).
func Distance(a, b string) int {
	var before, last []int // rows for a[:i-1] and a[:i]
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		before, last, row = last, row, make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			replace := last[j]
			if a[i] != b[j] {
				replace++
			}
			row[j+1] = min(replace, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
	}
	return row[len(b)]
}
