package journal

import (
	"encoding/binary"
	"errors"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// A record is its length and then, as unsigned varints unless they are of fixed size,
// the fields in the order of appendRecord. Who changes it changes frameMagic.

// kindLost marks a record that is Counts of lost events.
const kindLost = conntrack.NumKinds

var errRecord = errors.New("not a record")

// appendRecord appends the body of a record.
func appendRecord(b []byte, r *conntrack.Record) []byte {
	if r.Lost != (conntrack.Counts{}) {
		return appendCounts(append(b, byte(kindLost)), &r.Lost)
	}
	b = append(b, byte(r.Kind))
	b = binary.AppendUvarint(b, r.Mark.Note)
	b = binary.AppendUvarint(b, uint64(r.Mark.Slot))
	b = binary.AppendUvarint(b, uint64(r.Mark.Gen))
	if r.Kind >= conntrack.ExpectNew {
		b = appendTime(b, r.Expect.Time)
		return appendExpect(b, &r.Expect.Expect)
	}
	commanded := byte(0)
	if r.Event.Commanded {
		commanded = 1
	}
	b = append(b, byte(r.Event.Change), byte(r.Event.Cause), commanded)
	b = appendTime(b, r.Event.Time)
	return appendFlow(b, &r.Event.Flow)
}

func appendCounts(b []byte, c *conntrack.Counts) []byte {
	for _, n := range c {
		b = binary.AppendUvarint(b, n)
	}
	return b
}

// appendTime appends ns since 1970, and 0 for the zero time.
func appendTime(b []byte, t time.Time) []byte {
	ns := uint64(0)
	if !t.IsZero() {
		ns = uint64(t.UnixNano())
	}
	return binary.LittleEndian.AppendUint64(b, ns)
}

// appendTuple appends a tuple; IPv4 addresses take four bytes.
func appendTuple(b []byte, t *tuple.Tuple) []byte {
	b = append(b, t.Family, t.Proto)
	b = appendAddr(appendAddr(b, &t.Src), &t.Dst)
	b = binary.LittleEndian.AppendUint16(b, t.SrcPort)
	b = binary.LittleEndian.AppendUint16(b, t.DstPort)
	return binary.LittleEndian.AppendUint16(b, t.Zone)
}

func appendAddr(b []byte, a *tuple.Addr) []byte {
	if a.Is4() {
		return append(append(b, 4), a[12:]...)
	}
	return append(append(b, 16), a[:]...)
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendFlow(b []byte, f *conntrack.Flow) []byte {
	for d := range tuple.NumDirections {
		b = appendTuple(b, &f.Tuple[d])
		b = binary.AppendUvarint(b, f.Packets[d])
		b = binary.AppendUvarint(b, f.Bytes[d])
		b = binary.AppendUvarint(b, uint64(f.Hint[d]))
		b = binary.AppendUvarint(b, uint64(f.Seq[d].Pos))
		b = binary.AppendUvarint(b, uint64(f.Seq[d].Before))
		b = binary.AppendUvarint(b, uint64(f.Seq[d].After))
		b = binary.AppendUvarint(b, uint64(f.Tags[d]))
	}
	b = append(b, byte(f.State), f.Choice, f.Holds)
	for _, n := range [...]uint64{uint64(f.Status), uint64(f.User), uint64(f.Timeout), uint64(f.ID), uint64(f.Mark), uint64(f.Rule),
		uint64(f.Generation), uint64(f.Attached), f.Labels[0], f.Labels[1]} {
		b = binary.AppendUvarint(b, n)
	}
	b = appendTuple(b, &f.Master)
	b = appendText(b, f.Helper)
	return appendTime(appendTime(b, f.Start), f.Stop)
}

func appendExpect(b []byte, x *conntrack.Expect) []byte {
	b = appendTuple(b, &x.Tuple)
	b = appendTuple(b, &x.Master)
	b = append(b, x.Mask.Src[:]...)
	b = append(b, x.Class, byte(x.Flags))
	for _, n := range [...]uint64{uint64(x.Mask.SrcPort), uint64(x.Helper), uint64(x.Child), x.Data[0], x.Data[1], x.Data[2], x.Data[3],
		uint64(x.Timeout)} {
		b = binary.AppendUvarint(b, n)
	}
	return appendText(b, x.HelperName)
}

// decoder reads what was appended. After bad is set everything read is zero.
type decoder struct {
	b   []byte
	bad bool
}

// take returns the next n bytes.
func (d *decoder) take(n int) []byte {
	if n > len(d.b) {
		d.b, d.bad = nil, true
		return make([]byte, n)
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) byte() byte    { return d.take(1)[0] }
func (d *decoder) short() uint16 { return binary.LittleEndian.Uint16(d.take(2)) }
func (d *decoder) word() uint32  { return uint32(d.number()) }
func (d *decoder) number() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.b, d.bad = nil, true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) time() time.Time {
	ns := binary.LittleEndian.Uint64(d.take(8))
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(ns))
}

func (d *decoder) text() string {
	n := d.number()
	if n > uint64(len(d.b)) {
		d.b, d.bad = nil, true
		return ""
	}
	return string(d.take(int(n)))
}

func (d *decoder) addr() (a tuple.Addr) {
	switch d.byte() {
	case 4:
		a = tuple.AddrFrom4([4]byte(d.take(4)))
	case 16:
		a = tuple.Addr(d.take(16))
	default:
		d.bad = true
	}
	return a
}

func (d *decoder) tuple(t *tuple.Tuple) {
	t.Family, t.Proto = d.byte(), d.byte()
	t.Src, t.Dst = d.addr(), d.addr()
	t.SrcPort, t.DstPort, t.Zone = d.short(), d.short(), d.short()
}

func (d *decoder) counts(c *conntrack.Counts) {
	for k := range c {
		c[k] = d.number()
	}
}

// record reads a body into r, all of which it sets but the numbers.
func (d *decoder) record(r *conntrack.Record) error {
	*r = conntrack.Record{Kind: conntrack.Kind(d.byte())}
	switch {
	case r.Kind == kindLost:
		r.Kind = 0
		d.counts(&r.Lost)
		d.bad = d.bad || r.Lost == conntrack.Counts{}
	case r.Kind > kindLost:
		return errRecord
	default:
		r.Mark = conntrack.Mark{Note: d.number(), Slot: d.word(), Gen: d.word()}
		if r.Kind >= conntrack.ExpectNew {
			r.Expect.Type, r.Expect.Time = r.Kind.Type(), d.time()
			d.expect(&r.Expect.Expect)
			break
		}
		e := &r.Event
		e.Type, e.Change, e.Cause = r.Kind.Type(), conntrack.Change(d.byte()), conntrack.Cause(d.byte())
		commanded := d.byte()
		e.Commanded, e.Time = commanded == 1, d.time()
		d.flow(&e.Flow)
		d.bad = d.bad || int(e.Cause) >= conntrack.NumCauses || commanded > 1
	}
	if d.bad || len(d.b) > 0 {
		return errRecord
	}
	return nil
}

func (d *decoder) flow(f *conntrack.Flow) {
	for i := range tuple.NumDirections {
		d.tuple(&f.Tuple[i])
		f.Packets[i], f.Bytes[i], f.Hint[i] = d.number(), d.number(), d.word()
		f.Seq[i] = conntrack.Correction{Pos: d.word(), Before: d.word(), After: d.word()}
		f.Tags[i] = d.word()
	}
	f.State, f.Choice, f.Holds = conntrack.State(d.byte()), d.byte(), d.byte()
	f.Status, f.User = conntrack.Status(d.word()), conntrack.Status(d.word())
	f.Timeout = time.Duration(d.number())
	f.ID, f.Mark, f.Rule, f.Generation = d.word(), d.word(), d.word(), d.word()
	f.Attached = d.word()
	f.Labels = [2]uint64{d.number(), d.number()}
	d.tuple(&f.Master)
	f.Helper = d.text()
	f.Start, f.Stop = d.time(), d.time()
}

func (d *decoder) expect(x *conntrack.Expect) {
	d.tuple(&x.Tuple)
	d.tuple(&x.Master)
	x.Mask.Src = tuple.Addr(d.take(16))
	x.Class, x.Flags = d.byte(), conntrack.ExpectFlags(d.byte())
	x.Mask.SrcPort, x.Helper, x.Child = uint16(d.number()), d.word(), d.word()
	for i := range x.Data {
		x.Data[i] = d.number()
	}
	x.Timeout = time.Duration(d.number())
	x.HelperName = d.text()
}
