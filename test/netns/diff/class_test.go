//go:build netns

package diff

// maxListedPercent bounds the share of sequences with a listed difference.
const maxListedPercent = 2

// class is a difference that shall be.
type class struct {
	name, why string
	has       func(t *trial) bool
}

var classes = []class{}

// classOf returns the index of the class that explains t's difference, -1 if
// none does.
func classOf(t *trial) int {
	for i, c := range classes {
		if c.has(t) {
			return i
		}
	}
	return -1
}
