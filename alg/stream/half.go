package stream

// Limits bound what a session keeps of one direction. Zero fields mean the defaults.
type Limits struct {
	Edits int // replacements that the receiver has not acknowledged; default 1024
	Late  int // bytes behind a hole; default 64 KB
}

const (
	defaultEdits = 1024
	defaultLate  = 64 << 10
	latePiece    = 2 << 10 // bytes: as many pieces as Late has room for of these
)

// half is one direction of a stream. See the package comment for its positions.
type half struct {
	shift
	begun bool
	gap   bool   // the parser has not seen everything
	first uint32 // number of the first byte that was seen

	acked, sent, settled, told uint32

	at   uint32 // number of the first byte of buf
	buf  []byte // [at, end)
	owed []byte // [told-len(owed), told): acknowledged by us alone
	late []piece
}

// piece is a run of bytes that has come out of order.
type piece struct {
	seq  uint32
	data []byte
}

func (p *piece) end() uint32 { return p.seq + uint32(len(p.data)) }

// begin says that the first byte has number x.
func (h *half) begin(x uint32, gap bool) {
	*h = half{begun: true, gap: gap, first: x, acked: x, sent: x, settled: x, told: x, at: x}
}

// end returns the number behind the bytes that have come without a hole.
func (h *half) end() uint32 { return h.at + uint32(len(h.buf)) }

// store puts bytes in order behind what is there, or into late. It reports false when
// there is no room for them: late bounds the bytes behind a hole.
func (h *half) store(seq uint32, b []byte, late int) bool {
	if before(h.end(), seq) {
		return h.storeLate(seq, b, late)
	}
	h.extend(seq, b)
	for n := 0; n < len(h.late); n++ {
		if p := &h.late[n]; before(h.end(), p.seq) {
			h.late = append(h.late[:0], h.late[n:]...)
			return true
		}
		h.extend(h.late[n].seq, h.late[n].data)
	}
	h.late = nil
	return true
}

// extend appends what of b is new.
func (h *half) extend(seq uint32, b []byte) {
	if known := h.end() - seq; known < uint32(len(b)) {
		h.buf = append(h.buf, b[known:]...)
	}
}

// storeLate keeps bytes behind a hole, ordered by their first one. Where they overlap
// with others the ones that come first in order win when the hole is filled.
func (h *half) storeLate(seq uint32, b []byte, limit int) bool {
	if len(b) == 0 {
		return true // a FIN, which will come again
	}
	size, at := 0, len(h.late)
	for i := range h.late {
		p := &h.late[i]
		size += len(p.data)
		if at == len(h.late) && before(seq, p.seq) {
			at = i
		}
		if !before(seq, p.seq) && !before(p.end(), seq+uint32(len(b))) {
			return true // all of it is there
		}
	}
	if len(h.late) >= max(1, limit/latePiece) || size+len(b) > limit || seq-h.end() > 1<<30 {
		return false
	}
	h.late = append(h.late, piece{})
	copy(h.late[at+1:], h.late[at:])
	h.late[at] = piece{seq, append([]byte(nil), b...)}
	return true
}

// raw appends the sender's bytes [from, to) to dst: those that are kept as they were
// shown to the parser, the others from the segment b at seq.
func (h *half) raw(dst []byte, from, to, seq uint32, b []byte) []byte {
	first := h.told - uint32(len(h.owed))
	for from != to {
		stop := to
		switch {
		case !before(from, h.at) && before(from, h.end()):
			stop = earliest(stop, h.end())
			dst = append(dst, h.buf[from-h.at:stop-h.at]...)
		case !before(from, first) && before(from, h.told):
			stop = earliest(stop, h.told)
			dst = append(dst, h.owed[from-first:stop-first]...)
		case !before(from, seq) && before(from, seq+uint32(len(b))):
			stop = earliest(stop, seq+uint32(len(b)))
			if before(from, h.at) {
				stop = earliest(stop, h.at)
			}
			dst = append(dst, b[from-seq:stop-seq]...)
		default:
			return dst // nobody has it: the receiver asks for what is missing
		}
		from = stop
	}
	return dst
}

// trim forgets the bytes that nobody needs any more.
func (h *half) trim() {
	if keep := earliest(h.sent, h.settled); before(h.at, keep) {
		n := copy(h.buf, h.buf[keep-h.at:])
		h.buf, h.at = h.buf[:n], keep
		if n == 0 {
			h.buf = nil
		}
	}
	if left := h.told - h.acked; !before(h.acked, h.told) {
		h.owed = nil
	} else if left < uint32(len(h.owed)) {
		h.owed = h.owed[uint32(len(h.owed))-left:]
	}
}

// tell makes us answer for all bytes that are held, if the receiver has everything
// before them, and reports whether the sender can be told something new.
func (h *half) tell() bool {
	if before(h.acked, h.sent) || !before(h.told, h.end()) || !before(h.sent, h.end()) {
		return false
	}
	from := latest(h.told, h.sent)
	h.owed = append(h.owed, h.buf[from-h.at:]...)
	h.told = h.end()
	return true
}

// memory returns how many bytes the direction keeps.
func (h *half) memory() int {
	n := cap(h.buf) + cap(h.owed)
	for i := range h.late {
		n += cap(h.late[i].data)
	}
	for i := range h.edits {
		n += cap(h.edits[i].text)
	}
	return n
}
