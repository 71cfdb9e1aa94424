package dataplane

import (
	"testing"
	"time"
)

// shift is some looks at a crew that all find the same.
type shift struct {
	looks int
	busy  []float64 // of each worker that works, share of the time; the last one stands for all further ones
	ran   float64   // share of that on a processor
	idle  float64   // processors
	work  float64
	want  int // that work afterwards
}

func (s *shift) load(size, most int) *crewLoad {
	part := func(f float64) time.Duration { return time.Duration(f * float64(crewLook)) }
	l := &crewLoad{elapsed: crewLook, busy: make([]time.Duration, most), ran: make([]time.Duration, most), idle: part(s.idle), work: s.work}
	for i := range size {
		b := s.busy[min(i, len(s.busy)-1)]
		l.busy[i], l.ran[i] = part(b), part(b*s.ran)
	}
	return l
}

func TestCrewFollowsTheLoad(t *testing.T) {
	full, half, little, none := []float64{1}, []float64{0.5}, []float64{0.1}, []float64{0}
	tests := []struct {
		claim  string
		most   int
		shifts []shift
	}{
		{"one works while nothing happens", 4, []shift{{100, none, 1, 4, 0, 1}}},
		{"and while it has some time left", 4, []shift{{100, []float64{0.8}, 1, 3, 10, 1}}},
		{"one slow look changes nothing", 4, []shift{{1, full, 1, 3, 10, 1}, {50, half, 1, 3, 5, 1}, {1, full, 1, 3, 10, 1}, {50, half, 1, 3, 5, 1}}},
		{"a saturated one gets help where a processor idles", 4, []shift{{1, full, 1, 1, 10, 1}, {1, full, 1, 1, 10, 2}}},
		{"but not where none does", 4, []shift{{100, full, 1, 0.1, 10, 1}}},
		{"also when others keep it from running", 2, []shift{{2, full, 0.5, 0, 10, 2}}},
		{"help that pays stays", 2, []shift{{2, full, 1, 1, 10, 2}, {4, full, 1, 0, 18, 2}, {100, full, 1, 0, 18, 2}}},
		{"help that does not pay leaves", 2, []shift{{2, full, 1, 1, 10, 2}, {3, full, 1, 0, 10, 2}, {1, full, 1, 0, 10, 1}}},
		{"and is not asked for again at once", 2, []shift{{2, full, 1, 1, 10, 2}, {4, full, 1, 0, 10, 1}, {49, full, 1, 1, 10, 1}, {1, full, 1, 1, 10, 2}}},
		{"and then later and later", 2, []shift{{2, full, 1, 1, 10, 2}, {4, full, 1, 0, 10, 1}, {50, full, 1, 1, 10, 2}, {4, full, 1, 0, 10, 1}, {99, full, 1, 1, 10, 1}, {1, full, 1, 1, 10, 2}}},
		{"there are no more than there are", 3, []shift{{2, full, 1, 3, 10, 2}, {4, full, 1, 2, 20, 2}, {2, full, 1, 2, 20, 3}, {4, full, 1, 1, 30, 3}, {100, full, 1, 1, 30, 3}}},
		{"one flow that fills a worker gets no further ones", 4, []shift{{2, full, 1, 3, 10, 2}, {4, []float64{1, 0.3}, 1, 2, 13, 2}, {100, []float64{1, 0.3}, 1, 2, 13, 2}}},
		{"with little to do one leaves after a second", 2, []shift{{2, full, 1, 1, 10, 2}, {4, full, 1, 0, 18, 2}, {9, little, 1, 1, 2, 2}, {1, little, 1, 1, 2, 1}}},
		{"a short pause sends nobody away", 2, []shift{{2, full, 1, 1, 10, 2}, {4, full, 1, 0, 18, 2}, {9, none, 1, 2, 0, 2}, {1, full, 1, 0, 18, 2}, {9, none, 1, 2, 0, 2}, {1, full, 1, 0, 18, 2}}},
		{"what two have to do at half load is too much for one", 2, []shift{{2, full, 1, 1, 10, 2}, {4, full, 1, 0, 18, 2}, {100, half, 1, 1, 10, 2}}},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			c := newCrew(tt.most)
			for i := range tt.shifts {
				s := &tt.shifts[i]
				got := c.size
				for range s.looks {
					was := got
					if got = c.look(s.load(was, tt.most)); got < was-1 || got > was+1 {
						t.Fatalf("shift %d: from %d to %d at once", i, was, got)
					}
				}
				if got != s.want {
					t.Errorf("shift %d: %d work, want %d", i, got, s.want)
				}
			}
		})
	}
}

func TestACrewThatLosesPacketsGetsHelpBeforeItIsSaturated(t *testing.T) {
	always, never, burst := []float64{50, 50, 50, 50}, []float64{0, 0, 0, 0}, []float64{0, 50, 0, 50}
	tests := []struct {
		claim     string
		ran, idle float64
		lost      []float64 // frames of each look, beside 100 that were handled
		want      int
	}{
		{"one that waits for a processor, and loses packets meanwhile", 0.7, 0, always, 2},
		{"one beside a processor that idles", 1, 1, always, 2},
		{"where no processor has time more of them would not help", 1, 0, always, 1},
		{"one that loses none has time enough", 0.7, 1, never, 1},
		{"one packet in a hundred is no reason", 0.7, 1, []float64{1, 1, 1, 1}, 1},
		{"nor is a burst now and then", 0.7, 1, burst, 1},
	}
	for _, tt := range tests {
		t.Run(tt.claim, func(t *testing.T) {
			c := newCrew(2)
			s := shift{busy: []float64{0.6}, ran: tt.ran, idle: tt.idle, work: 100}
			for _, lost := range tt.lost {
				l := s.load(c.size, 2)
				l.lost = lost
				c.look(l)
			}
			if c.size != tt.want {
				t.Errorf("%d work, want %d", c.size, tt.want)
			}
		})
	}
}

// Whatever the load does, the number does not flap: it changes seldom, and stays between
// one and all.
func TestCrewDoesNotFlap(t *testing.T) {
	c := newCrew(4)
	changes := 0
	for i := range 6000 { // ten minutes
		s := shift{busy: []float64{[]float64{1, 0}[i/3%2]}, ran: 1, idle: 1, work: []float64{10, 0}[i/3%2]} // on and off
		was := c.size
		if c.look(s.load(was, 4)) != was {
			changes++
		}
		if c.size < 1 || c.size > 4 {
			t.Fatalf("%d work", c.size)
		}
	}
	if changes > 20 {
		t.Errorf("%d changes in ten minutes", changes)
	}
}

func TestALookAtAClockThatStoodStillChangesNothing(t *testing.T) {
	c := newCrew(2)
	if n := c.look(&crewLoad{}); n != 1 {
		t.Errorf("%d work, want 1", n)
	}
}
