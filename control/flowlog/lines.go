package flowlog

// lines are what waits for a sink: whole lines, each with its event.
type lines struct {
	writer
	ends   []int // offset behind each line
	events []Event
}

// full reports whether it is time to write.
func (l *lines) full() bool { return len(l.b) >= batchBytes }

// close notes that a line about e has been appended.
func (l *lines) close(e Event) {
	l.ends = append(l.ends, len(l.b))
	l.events = append(l.events, e)
}

func (l *lines) len() int { return len(l.ends) }

// line returns line i without its newline.
func (l *lines) line(i int) []byte {
	begin := 0
	if i > 0 {
		begin = l.ends[i-1]
	}
	return l.b[begin : l.ends[i]-1]
}

// drop removes the first n lines.
func (l *lines) drop(n int) {
	if n == 0 {
		return
	}
	cut := l.ends[n-1]
	l.b = append(l.b[:0], l.b[cut:]...)
	l.ends = append(l.ends[:0], l.ends[n:]...)
	l.events = append(l.events[:0], l.events[n:]...)
	for i := range l.ends {
		l.ends[i] -= cut
	}
}
