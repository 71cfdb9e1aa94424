package conntrack

// EventTypes returns every type of event.
func EventTypes() []EventType { return []EventType{EventNew, EventUpdate, EventDestroy} }

// EventBacklog returns how many events wait to be put in order, and how many can: none
// before somebody has subscribed.
func (t *Table) EventBacklog() (waiting, room int) {
	for i := range t.events.rings {
		r := &t.events.rings[i]
		if notes := r.notes.Load(); notes != nil {
			tail := r.tail.Load() // before head, which is ahead of it
			waiting += int(r.head.Load() - tail)
			room += len(*notes)
		}
	}
	if notes := t.events.expects.notes.Load(); notes != nil {
		tail := t.events.expects.tail.Load()
		waiting += int(t.events.expects.head.Load() - tail)
		room += len(*notes)
	}
	return min(waiting, room), room
}
