package conntrack

import (
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
)

// day is so long that a clock of ticks wraps after 497.
const day = 24 * 3600 * second

// live has a packet pass in direction d every minute for a number of days, and
// returns the time after it.
func live(t *testing.T, w *Worker, k *tuple.Tuple, s *Segment, now Tick, days int) Tick {
	t.Helper()
	for range days * 24 * 60 {
		now += 60 * second
		w.Begin(now)
		r := w.Find(k)
		if !r.Found() {
			t.Fatalf("the flow is gone after %v", (now - start).Duration())
		}
		w.Track(r, s, now)
	}
	return now
}

// TestTimeWrapsUnderALiveFlow has flows outlive what a difference of ticks can tell.
func TestTimeWrapsUnderALiveFlow(t *testing.T) {
	timeouts := Timeouts{UDP: 2 * time.Minute, UDPStream: 5 * time.Minute}
	t.Run("a stream that nobody answers ends after its timeout", func(t *testing.T) {
		for _, days := range []int{200, 260, 400} {
			w := newWorker(t, Config{Max: 100, Timeouts: timeouts})
			p := proposal(flowTuple(tuple.UDP, 1))
			mustAdmit(t, w, p, data, start)
			now := live(t, w, &p.Original, data, start, days)
			now += 121 * second
			if w.Begin(now); w.Find(&p.Original).Found() {
				t.Errorf("after %d days it lives on when nothing comes any more", days)
			}
		}
	})
	t.Run("an old stream keeps the timeout of streams", func(t *testing.T) {
		for _, days := range []int{200, 260, 400} {
			w := newWorker(t, Config{Max: 100, Timeouts: timeouts})
			p := proposal(flowTuple(tuple.UDP, 1))
			r := mustAdmit(t, w, p, data, start)
			w.Track(Ref{r.Slot, tuple.Reply}, data, start)
			live(t, w, &p.Original, data, start, days)
			if got, want := w.Entry(r.Slot).Timeout().Duration(), timeouts.UDPStream; got != want {
				t.Errorf("timeout after %d days: %v, want %v", days, got, want)
			}
		}
	})
}

func TestWallClockTimeGoesOnWhenTicksWrap(t *testing.T) {
	base := time.Unix(1_700_000_000, 0)
	w := newTable(t, Config{Max: 100, Base: base, Timestamp: true}).Worker(0)
	at := Tick(0)
	for range 15 { // 3 turns
		w.Begin(at)
		at += 100 * day
	}
	w.Begin(at)
	for _, back := range []Tick{0, second, 30 * day} {
		want := base.Add(1500*24*time.Hour - back.Duration())
		if got := w.t.Time(at - back); !got.Equal(want) {
			t.Errorf("%v before day 1500 it was %v, want %v", back.Duration(), got, want)
		}
	}
	p := proposal(flowTuple(tuple.UDP, 1))
	mustAdmit(t, w, p, data, at)
	w.t.Dump(func(f *Flow) bool {
		if want := base.Add(1500 * 24 * time.Hour); !f.Start.Equal(want) {
			t.Errorf("a flow of day 1500 began %v, want %v", f.Start, want)
		}
		return true
	})
}

// TestTimesFollowTheWallClock is about a gateway without a battery, which learns the
// time from the network that it makes.
func TestTimesFollowTheWallClock(t *testing.T) {
	wall := time.Unix(0, 0)
	table := newTable(t, Config{Max: 100, Base: wall, Wall: func() time.Time { return wall }, Timestamp: true})
	w := table.Worker(0)
	w.Begin(0)
	wall = time.Unix(1_700_000_000, 0)
	w.Begin(2 * second)
	if got := table.Time(2 * second); !got.Equal(wall) {
		t.Errorf("after the clock was set it is %v, want %v", got, wall)
	}
	if got, want := table.Time(second), wall.Add(-time.Second); !got.Equal(want) {
		t.Errorf("a second before it was %v, want %v", got, want)
	}
}
