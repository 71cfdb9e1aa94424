package flowlog

import (
	"strconv"
	"time"
	"unicode/utf8"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/nat"
)

// Form is how a line is written.
type Form uint8

const (
	Text Form = iota // key=value
	JSON             // an object
)

// Event is what a line is about. Its text is the value of the key event.
type Event uint8

const (
	New Event = iota
	Destroy
	BlockAllocated
	BlockReleased
	Refused
	Lost
	numEvents
)

var eventNames = [...]string{
	New: "new", Destroy: "destroy", BlockAllocated: "block-allocated", BlockReleased: "block-released", Refused: "refused", Lost: "lost",
}

var _ [numEvents]string = eventNames

func (e Event) String() string { return eventNames[e] }

// Block tells of a block of ports.
type Block struct {
	At      time.Time
	Event   Event // BlockAllocated or BlockReleased
	Client  tuple.Addr
	Zone    uint16
	Address tuple.Addr
	Ports   nat.PortRange
}

// Refusal tells of flows that found no port or no room.
type Refusal struct {
	At              time.Time
	Reason          string
	Client, Address tuple.Addr
	Zone            uint16
	Proto           uint8
	Dst             tuple.Addr
	DstPort         uint16
	Packets         uint64
}

// writer appends the keys of one line.
type writer struct {
	b    []byte
	form Form
}

const timeLayout = "2006-01-02T15:04:05.000000Z"

// begin starts a line.
func (w *writer) begin(at time.Time, e Event) {
	if w.form == JSON {
		w.b = append(w.b, `{"time":"`...)
	} else {
		w.b = append(w.b, `time=`...)
	}
	w.b = at.UTC().AppendFormat(w.b, timeLayout)
	if w.form == JSON {
		w.b = append(w.b, '"')
	}
	w.text("event", e.String())
}

// end ends it.
func (w *writer) end() {
	if w.form == JSON {
		w.b = append(w.b, '}')
	}
	w.b = append(w.b, '\n')
}

func (w *writer) key(name string) {
	if w.form == JSON {
		w.b = append(append(append(w.b, `,"`...), name...), `":`...)
		return
	}
	w.b = append(append(append(w.b, ' '), name...), '=')
}

// text appends a value that may be anything.
func (w *writer) text(name, value string) {
	w.key(name)
	switch {
	case w.form == JSON:
		w.b = appendJSON(w.b, value)
	case plain(value):
		w.b = append(w.b, value...)
	default:
		w.b = strconv.AppendQuote(w.b, value)
	}
}

// plain reports whether a value can stand without quotes.
func plain(value string) bool {
	for i := range len(value) {
		if c := value[i]; c <= ' ' || c == '"' || c == '=' || c == '\\' || c >= utf8.RuneSelf || c == 0x7f {
			return false
		}
	}
	return value != ""
}

// appendJSON appends a JSON string (RFC 8259 section 7), bytes that are no UTF-8 as
// U+FFFD.
func appendJSON(b []byte, value string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for _, r := range value {
		switch {
		case r == '"' || r == '\\':
			b = append(b, '\\', byte(r))
		case r < ' ' || r == 0x7f:
			b = append(b, `\u00`...)
			b = append(b, hex[r>>4], hex[r&15])
		default:
			b = utf8.AppendRune(b, r)
		}
	}
	return append(b, '"')
}

func (w *writer) number(name string, v uint64) {
	w.key(name)
	w.b = strconv.AppendUint(w.b, v, 10)
}

func (w *writer) addr(name string, a tuple.Addr) {
	w.key(name)
	if w.form == JSON {
		w.b = append(a.Netip().AppendTo(append(w.b, '"')), '"')
		return
	}
	w.b = a.Netip().AppendTo(w.b)
}

// flow appends the line of an event of a flow.
func (w *writer) flow(e *conntrack.Event, rule string) {
	f := &e.Flow
	what := New
	if e.Type == conntrack.EventDestroy {
		what = Destroy
	}
	w.begin(e.Time, what)
	o, r := &f.Tuple[tuple.Original], &f.Tuple[tuple.Reply]
	w.text("proto", tuple.ProtoName(o.Proto))
	if tuple.ProtoName(o.Proto) == "unknown" {
		w.number("protonum", uint64(o.Proto))
	}
	w.addr("src", o.Src)
	if tuple.IsICMP(o.Proto) {
		w.addr("dst", o.Dst)
		w.number("type", uint64(o.DstPort>>8))
		w.number("code", uint64(o.DstPort&0xff))
		w.number("icmp_id", uint64(o.SrcPort))
		w.addr("nat_src", r.Dst)
		w.addr("nat_dst", r.Src)
		w.number("nat_id", uint64(r.SrcPort))
	} else {
		w.number("sport", uint64(o.SrcPort))
		w.addr("dst", o.Dst)
		w.number("dport", uint64(o.DstPort))
		w.addr("nat_src", r.Dst)
		w.number("nat_sport", uint64(r.DstPort))
		w.addr("nat_dst", r.Src)
		w.number("nat_dport", uint64(r.SrcPort))
	}
	if rule != "" {
		w.text("rule", rule)
	}
	w.number("generation", uint64(f.Generation))
	w.number("id", uint64(f.ID))
	if o.Zone != 0 {
		w.number("zone", uint64(o.Zone))
	}
	if f.Mark != 0 {
		w.number("mark", uint64(f.Mark))
	}
	if what == Destroy {
		w.ending(e)
	}
	w.end()
}

// ending appends what is known when a flow is over.
func (w *writer) ending(e *conntrack.Event) {
	f := &e.Flow
	if !f.Start.IsZero() {
		stop := f.Stop
		if stop.IsZero() {
			stop = e.Time
		}
		w.key("duration")
		w.b = strconv.AppendFloat(w.b, max(stop.Sub(f.Start), 0).Seconds(), 'f', 6, 64)
	}
	w.number("packets", f.Packets[tuple.Original])
	w.number("bytes", f.Bytes[tuple.Original])
	w.number("reply_packets", f.Packets[tuple.Reply])
	w.number("reply_bytes", f.Bytes[tuple.Reply])
	w.text("end", endOf(e))
}

// endOf says why a flow ended.
func endOf(e *conntrack.Event) string {
	f := &e.Flow
	switch {
	case e.Cause != conntrack.Unspecified:
		return e.Cause.String()
	case f.Timeout > 0:
		return "ended"
	case f.Tuple[tuple.Original].Proto == tuple.TCP && (f.State == conntrack.TimeWait || f.State == conntrack.Closed):
		return "closed"
	}
	return "expired"
}

func (w *writer) block(b *Block) {
	w.begin(b.At, b.Event)
	w.addr("client", b.Client)
	w.addr("address", b.Address)
	w.text("ports", b.Ports.String())
	if b.Zone != 0 {
		w.number("zone", uint64(b.Zone))
	}
	w.end()
}

func (w *writer) refusal(r *Refusal) {
	w.begin(r.At, Refused)
	w.text("reason", r.Reason)
	w.addr("client", r.Client)
	w.addr("address", r.Address)
	w.text("proto", tuple.ProtoName(r.Proto))
	w.addr("dst", r.Dst)
	w.number("dport", uint64(r.DstPort))
	w.number("packets", r.Packets)
	if r.Zone != 0 {
		w.number("zone", uint64(r.Zone))
	}
	w.end()
}

func (w *writer) lost(at time.Time, n uint64) {
	w.begin(at, Lost)
	w.number("records", n)
	w.end()
}
