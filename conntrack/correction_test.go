package conntrack

import (
	"math/rand/v2"
	"testing"
)

// correctionTwin is a Correction in whole numbers that never wrap: at position pos of
// the sender's stream, old bytes became added ones, and before that the stream had
// grown by shift.
type correctionTwin struct{ pos, shift, added int64 }

// correction returns what a helper may have done near a number, often nothing.
func (r *walker) correction(near uint32) correctionTwin {
	if r.IntN(2) == 0 {
		return correctionTwin{}
	}
	return correctionTwin{int64(int32(near)) + int64(r.IntN(2000)), int64(r.IntN(400) - 200), int64(r.IntN(100) - 50)}
}

func (c correctionTwin) correction() Correction {
	return Correction{Pos: uint32(c.pos), Before: uint32(c.shift), After: uint32(c.shift + c.added)}
}

// covers reports whether a 32-bit number can tell on which side of c position x is.
func (c correctionTwin) covers(x int64) bool { return x-c.pos < 1<<30 && c.pos-x < 1<<30 }

// toReceiver counts the bytes.
func (c correctionTwin) toReceiver(x int64) int64 {
	if x < c.pos {
		return x + c.shift
	}
	return x + c.shift + c.added
}

// toSender looks for the last position that is not beyond y.
func (c correctionTwin) toSender(y int64) int64 {
	x := y - c.shift + max(-c.added, 0)
	for c.toReceiver(x) > y {
		x--
	}
	return x
}

func TestCorrectionsAgreeWithTheirTwin(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for range 20000 {
		c := correctionTwin{int64(r.Uint32()) + 1<<33, int64(r.IntN(4000) - 2000), int64(r.IntN(400) - 200)}
		a := c.correction()
		for range 20 {
			x := c.pos + int64(r.IntN(1000)-500)
			if got, want := a.ToReceiver(uint32(x)), uint32(c.toReceiver(x)); got != want {
				t.Fatalf("%+v: %d is %d for the receiver, want %d", c, uint32(x), got, want)
			}
			y := c.toReceiver(c.pos) + int64(r.IntN(1000)-500)
			if got, want := a.ToSender(uint32(y)), uint32(c.toSender(y)); got != want {
				t.Fatalf("%+v: %d is %d for the sender, want %d", c, uint32(y), got, want)
			}
		}
	}
}
