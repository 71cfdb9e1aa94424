package ctfmt

import (
	"fmt"
	"strconv"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// Options say what to print besides the usual. The first group are conntrack(8)'s
// output options, the second what the kernel decides by sysctl.
type Options struct {
	Extended   bool                 // -o extended: the layer 3 columns
	ID         bool                 // -o id
	KTimestamp bool                 // -o ktimestamp: when the flow started and stopped
	Timestamp  bool                 // -o timestamp: when the event happened
	LabelName  func(bit int) string // -o labels: the name of a label, "" if it has none; nil: no labels

	Why func(b []byte, f *conntrack.Flow) []byte // ours: appends who decided, and a blank; nil: nothing

	Accounting bool           // nf_conntrack_acct: packets= and bytes=
	PortID     uint32         // of who carries commands out, for portid=
	Now        time.Time      // for delta-time= of flows that have a start and no stop
	Location   *time.Location // of printed times; nil: local
}

// fields says which parts of a flow a line shows.
type fields struct {
	timeout, state, counters, mark, labels, times, use bool
}

// AppendList appends the line of f as conntrack -L prints it, without a newline.
func AppendList(b []byte, f *conntrack.Flow, o Options) []byte {
	return appendFlow(b, f, &o, fields{
		timeout: true, state: true, counters: o.Accounting, mark: true, labels: true, times: true, use: true,
	})
}

// AppendEvent appends the line of e as conntrack -E prints it, without a newline.
func AppendEvent(b []byte, e *conntrack.Event, o Options) []byte {
	if o.Timestamp {
		b = fmt.Appendf(b, "[%08d.%06d]\t", e.Time.Unix(), e.Time.Nanosecond()/1000)
	}
	b = append(b, eventTags[e.Type]...)
	b = appendFlow(b, &e.Flow, &o, shownIn(e, &o))
	return appendCommanded(b, e, &o)
}

// appendCommanded appends, in every form, who did it if somebody asked for it.
func appendCommanded(b []byte, e *conntrack.Event, o *Options) []byte {
	if !e.Commanded {
		return b
	}
	b = append(b, " [USERSPACE] portid="...)
	return strconv.AppendUint(b, uint64(o.PortID), 10)
}

// eventTags begin the lines of events.
var eventTags = [...]string{conntrack.EventNew: "    [NEW] ", conntrack.EventUpdate: " [UPDATE] ", conntrack.EventDestroy: "[DESTROY] "}

// shownIn returns what the kernel would have put into the message of an event. After a
// command it does not say what has changed but all that could have.
func shownIn(e *conntrack.Event, o *Options) fields {
	show := fields{timeout: true, mark: e.Flow.Mark != 0 || e.Change&conntrack.ChangedMark != 0 || e.Commanded}
	show.labels = e.Type != conntrack.EventDestroy && (e.Change&conntrack.ChangedLabels != 0 || e.Commanded)
	switch e.Type {
	case conntrack.EventNew:
		show.state = true
	case conntrack.EventUpdate:
		show.state = e.Change&conntrack.ChangedState != 0 || e.Commanded
	case conntrack.EventDestroy:
		show.state, show.times, show.counters = true, true, o.Accounting
		show.timeout = e.Flow.Timeout >= time.Second
		show.mark = e.Flow.Mark != 0
	}
	return show
}

// appendFlow appends the fields in conntrack's order, each followed by a
// blank, and takes the last blank away.
func appendFlow(b []byte, f *conntrack.Flow, o *Options, show fields) []byte {
	proto := f.Tuple[tuple.Original].Proto
	if o.Extended {
		b = appendProto(b, familyName(f.Tuple[tuple.Original].Family), f.Tuple[tuple.Original].Family)
	}
	b = appendProto(b, tuple.ProtoName(proto), proto)
	if show.timeout {
		b = strconv.AppendInt(b, int64(f.Timeout/time.Second), 10)
		b = append(b, ' ')
	}
	if show.state && conntrack.HasStates(proto) {
		b = append(b, f.State.String()...)
		b = append(b, ' ')
	}
	b = appendDirection(b, f, tuple.Original, show)
	if f.Status&conntrack.SeenReply == 0 {
		b = append(b, "[UNREPLIED] "...)
	}
	b = appendDirection(b, f, tuple.Reply, show)
	switch {
	case f.Status&conntrack.HWOffload != 0:
		b = append(b, "[HW_OFFLOAD] "...)
	case f.Status&conntrack.Offload != 0:
		b = append(b, "[OFFLOAD] "...)
	case f.Status&conntrack.Assured != 0:
		b = append(b, "[ASSURED] "...)
	}
	if show.mark {
		b = appendUint(b, "mark=", uint64(f.Mark))
	}
	if zone := f.Tuple[tuple.Original].Zone; zone != 0 && zone == f.Tuple[tuple.Reply].Zone {
		b = appendUint(b, "zone=", uint64(zone))
	}
	if show.times {
		b = appendTimes(b, f, o)
	}
	if f.Helper != "" {
		b = append(b, "helper="...)
		b = append(b, f.Helper...)
		b = append(b, ' ')
	}
	if show.use {
		b = append(b, "use=1 "...) // one user: the table
	}
	if o.ID {
		b = appendUint(b, "id=", uint64(f.ID))
	}
	if show.labels && o.LabelName != nil {
		b = appendLabels(b, f, o)
	}
	if o.Why != nil {
		b = o.Why(b, f)
	}
	return b[:len(b)-1]
}

// appendProto appends a name and number in columns.
func appendProto(b []byte, name string, number uint8) []byte {
	b = append(b, name...)
	for i := len(name); i < 8; i++ {
		b = append(b, ' ')
	}
	b = append(b, ' ')
	b = strconv.AppendUint(b, uint64(number), 10)
	return append(b, ' ')
}

func familyName(family uint8) string {
	switch family {
	case tuple.IPv4:
		return "ipv4"
	case tuple.IPv6:
		return "ipv6"
	}
	return "unknown"
}

// appendDirection appends the tuple, zone and counters of one direction.
func appendDirection(b []byte, f *conntrack.Flow, d tuple.Direction, show fields) []byte {
	t := &f.Tuple[d]
	b = appendPrefixed(b, "", t)
	if t.Zone != 0 && t.Zone != f.Tuple[d.Other()].Zone {
		name := [tuple.NumDirections]string{"zone-orig=", "zone-reply="}
		b = appendUint(b, name[d], uint64(t.Zone))
	}
	if show.counters {
		b = appendUint(b, "packets=", f.Packets[d])
		b = appendUint(b, "bytes=", f.Bytes[d])
	}
	return b
}

// appendPorts appends what a tuple has besides addresses, by protocol.
func appendPorts(b []byte, t *tuple.Tuple) []byte {
	switch {
	case tuple.IsICMP(t.Proto):
		b = appendUint(b, "type=", uint64(t.DstPort>>8))
		b = appendUint(b, "code=", uint64(t.DstPort&0xff))
		b = appendUint(b, "id=", uint64(t.SrcPort))
	case t.Proto == tuple.GRE:
		b = append(b, "srckey=0x"...)
		b = strconv.AppendUint(b, uint64(t.SrcPort), 16)
		b = append(b, " dstkey=0x"...)
		b = strconv.AppendUint(b, uint64(t.DstPort), 16)
		b = append(b, ' ')
	case tuple.HasPorts(t.Proto):
		b = appendUint(b, "sport=", uint64(t.SrcPort))
		b = appendUint(b, "dport=", uint64(t.DstPort))
	}
	return b
}

// appendTimes appends the age and the start and stop of a flow that has them.
func appendTimes(b []byte, f *conntrack.Flow, o *Options) []byte {
	if f.Start.IsZero() {
		return b
	}
	b = appendUint(b, "delta-time=", age(f, o))
	if !o.KTimestamp {
		return b
	}
	b = appendTime(b, "[start=", f.Start, o.Location)
	if !f.Stop.IsZero() {
		b = appendTime(b, "[stop=", f.Stop, o.Location)
	}
	return b
}

// age returns how many seconds a flow lasted, or lasts now.
func age(f *conntrack.Flow, o *Options) uint64 {
	if f.Stop.IsZero() {
		return uint64(max(o.Now.Unix()-f.Start.Unix(), 0)) // conntrack(8) rounds both
	}
	return uint64(max(f.Stop.Sub(f.Start)/time.Second, 0))
}

// appendTime appends a time in the form of ctime(3).
func appendTime(b []byte, name string, t time.Time, in *time.Location) []byte {
	if in == nil {
		in = time.Local
	}
	b = append(b, name...)
	b = t.In(in).AppendFormat(b, time.ANSIC)
	return append(b, "] "...)
}

// appendLabels appends the names of the labels that have one.
func appendLabels(b []byte, f *conntrack.Flow, o *Options) []byte {
	separator := "labels="
	for bit := range 128 {
		if f.Labels[bit/64]>>(bit%64)&1 == 0 {
			continue
		}
		if name := o.LabelName(bit); name != "" {
			b = append(b, separator...)
			b = append(b, name...)
			separator = ","
		}
	}
	if separator == "," {
		b = append(b, ' ')
	}
	return b
}

// appendUint appends name, n and a blank.
func appendUint(b []byte, name string, n uint64) []byte {
	b = append(b, name...)
	b = strconv.AppendUint(b, n, 10)
	return append(b, ' ')
}
