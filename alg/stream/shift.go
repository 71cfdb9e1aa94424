package stream

// edit is a replacement of bytes [at, at+old) of the sender.
type edit struct {
	at, old uint32
	text    []byte
}

// end returns the sender's number behind the replaced bytes.
func (e *edit) end() uint32 { return e.at + e.old }

// grown is by how much the stream is longer behind the edit.
func (e *edit) grown() uint32 { return uint32(len(e.text)) - e.old }

// offset returns how many bytes of the text lie before x, which is not before the
// edit.
func (e *edit) offset(x uint32) uint32 {
	if !before(x, e.end()) {
		return uint32(len(e.text))
	}
	return min(x-e.at, uint32(len(e.text)))
}

// shift is how one direction's sequence numbers differ for its two sides.
type shift struct {
	base  uint32 // before the first edit
	edits []edit // in order, not overlapping, none empty on the sender's side
}

// toReceiver returns the receiver's number for the sender's x.
func (s *shift) toReceiver(x uint32) uint32 {
	y := s.base
	for i := range s.edits {
		e := &s.edits[i]
		if !before(e.at, x) {
			break
		}
		if before(x, e.end()) {
			return e.at + y + e.offset(x)
		}
		y += e.grown()
	}
	return x + y
}

// toSender returns the largest sender's number that is not beyond the receiver's y.
func (s *shift) toSender(y uint32) uint32 {
	base := s.base
	for i := range s.edits {
		e := &s.edits[i]
		at := e.at + base // receiver's
		if before(y, at) {
			break
		}
		if in := y - at; in < uint32(len(e.text)) {
			return e.at + min(in, e.old-1)
		}
		base += e.grown()
	}
	return y - base
}

// toSenderUp returns the smallest sender's number that is not before the receiver's y.
func (s *shift) toSenderUp(y uint32) uint32 {
	base := s.base
	for i := range s.edits {
		e := &s.edits[i]
		at := e.at + base // receiver's
		if !before(at, y) {
			break
		}
		if in := y - at; in <= uint32(len(e.text)) {
			return e.at + min(in, e.old)
		}
		base += e.grown()
	}
	return y - base
}

// retire forgets the edits that the receiver, who has everything before the
// sender's x, no longer needs.
func (s *shift) retire(x uint32) {
	n := 0
	for n < len(s.edits) && !before(x, s.edits[n].end()) {
		s.base += s.edits[n].grown()
		s.edits[n].text = nil
		n++
	}
	s.edits = append(s.edits[:0], s.edits[n:]...)
	if len(s.edits) == 0 {
		s.edits = nil
	}
}

// touches reports whether an edit has bytes in [from, to).
func (s *shift) touches(from, to uint32) bool {
	for i := range s.edits {
		if e := &s.edits[i]; before(e.at, to) && before(from, e.end()) {
			return true
		}
	}
	return false
}

// render appends to dst what the receiver gets for the sender's bytes raw, the first
// of which has number from.
func (s *shift) render(dst []byte, from uint32, raw []byte) []byte {
	to := from + uint32(len(raw))
	for i := range s.edits {
		e := &s.edits[i]
		if !before(e.at, to) {
			break
		}
		if !before(from, e.end()) {
			continue
		}
		if before(from, e.at) {
			n := e.at - from
			dst, raw, from = append(dst, raw[:n]...), raw[n:], e.at
		}
		stop := e.end()
		if before(to, stop) {
			stop = to
		}
		dst = append(dst, e.text[e.offset(from):e.offset(stop)]...)
		raw, from = raw[stop-from:], stop
	}
	return append(dst, raw...)
}

// before reports whether sequence number a lies before b.
func before(a, b uint32) bool { return int32(a-b) < 0 }

// latest returns the later one of two sequence numbers.
func latest(a, b uint32) uint32 {
	if before(a, b) {
		return b
	}
	return a
}

// earliest returns the earlier one of two sequence numbers.
func earliest(a, b uint32) uint32 {
	if before(b, a) {
		return b
	}
	return a
}
