package rules

import (
	"fmt"
	"strings"
	"time"
)

// Window is a condition on the time of day. Both parts must hold, at the moment
// that the packet comes: of "22:00-06:00" on Mondays, the six hours after midnight
// are those with which Monday begins.
type Window struct {
	Hours    Match[HourRange]
	Weekdays Match[time.Weekday]
	Zone     *time.Location // nil: the machine's
}

// IsAny reports whether w holds at all times.
func (w *Window) IsAny() bool { return w.Hours.IsAny() && w.Weekdays.IsAny() }

// HourRange is a part of the day, from First on and until before Last, in seconds
// after midnight. When First is not less than Last it goes through midnight.
type HourRange struct {
	First, Last int32
}

// contains reports whether a second of the day is in r.
func (r HourRange) contains(second int32) bool {
	if r.First < r.Last {
		return r.First <= second && second < r.Last
	}
	return second >= r.First || second < r.Last
}

// String returns "hh:mm-hh:mm", with seconds if there are any.
func (r HourRange) String() string { return hourText(r.First) + "-" + hourText(r.Last) }

func hourText(second int32) string {
	if second%60 != 0 {
		return fmt.Sprintf("%02d:%02d:%02d", second/3600, second/60%60, second%60)
	}
	return fmt.Sprintf("%02d:%02d", second/3600, second/60%60)
}

// WeekdayName returns the name of d as rules spell it.
func WeekdayName(d time.Weekday) string { return strings.ToLower(d.String()[:3]) }

// open reports whether w holds at t.
func (w *Window) open(t time.Time) bool {
	zone := w.Zone
	if zone == nil {
		zone = time.Local
	}
	t = t.In(zone)
	hour, minute, sec := t.Clock()
	return holdsAny(&w.Hours, func(r HourRange) bool { return r.contains(int32(hour*3600 + minute*60 + sec)) }) &&
		holdsAny(&w.Weekdays, func(d time.Weekday) bool { return d == t.Weekday() })
}

// holdsAny reports whether m holds for a value that is reports on.
func holdsAny[T any](m *Match[T], is func(T) bool) bool {
	if m.IsAny() {
		return true
	}
	for _, v := range m.Values {
		if is(v) {
			return m.Sense == Is
		}
	}
	return m.Sense == IsNot
}

// text is the same for the same windows, "" for one that is always open.
func (w *Window) text() string {
	var b words
	if w.IsAny() {
		return ""
	}
	condition(&b, "hours", &w.Hours, HourRange.String)
	condition(&b, "weekdays", &w.Weekdays, WeekdayName)
	if w.Zone != nil {
		b.add("timezone " + w.Zone.String())
	}
	return b.String()
}
