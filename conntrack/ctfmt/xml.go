package ctfmt

import (
	"encoding/xml"
	"fmt"
	"strings"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// AppendXML appends f as conntrack -L -o xml prints it, without a newline. As there, it
// has no type, code and id of ICMP.
func AppendXML(b []byte, f *conntrack.Flow, o Options) []byte {
	b = append(b, "<flow>"...)
	b = appendXMLFlow(b, f, &o, fields{timeout: true, state: true, counters: o.Accounting, mark: true, labels: true, times: true, use: true})
	return append(appendXMLHelper(b, f), "</flow>"...)
}

// eventTypes are the events as XML calls them.
var eventTypes = [...]string{conntrack.EventNew: "new", conntrack.EventUpdate: "update", conntrack.EventDestroy: "destroy"}

// AppendEventXML appends e as conntrack -E -o xml prints it, without a newline.
func AppendEventXML(b []byte, e *conntrack.Event, o Options) []byte {
	b = fmt.Appendf(b, `<flow type="%s">`, eventTypes[e.Type])
	b = appendXMLFlow(b, &e.Flow, &o, shownIn(e, &o))
	if o.Timestamp {
		b = appendWhen(b, e.Time, o.Location)
	}
	b = append(appendXMLHelper(b, &e.Flow), "</flow>"...)
	return appendCommanded(b, e, &o)
}

// appendXMLFlow appends the parts of a flow but its helper.
func appendXMLFlow(b []byte, f *conntrack.Flow, o *Options, show fields) []byte {
	b = appendMeta(b, "original", f, tuple.Original, show)
	b = appendMeta(b, "reply", f, tuple.Reply, show)
	b = append(b, `<meta direction="independent">`...)
	if show.state && conntrack.HasStates(f.Tuple[tuple.Original].Proto) {
		b = appendElement(b, "state", f.State)
	}
	if show.timeout {
		b = appendElement(b, "timeout", int64(f.Timeout.Seconds()))
	}
	if show.mark {
		b = appendElement(b, "mark", f.Mark)
	}
	if show.labels && o.LabelName != nil {
		b = appendXMLLabels(b, f, o)
	}
	if zone := f.Tuple[tuple.Original].Zone; zone != 0 && zone == f.Tuple[tuple.Reply].Zone {
		b = appendElement(b, "zone", zone)
	}
	if show.use {
		b = appendElement(b, "use", 1)
	}
	b = appendElement(b, "id", f.ID)
	if f.Status&conntrack.Assured != 0 {
		b = append(b, "<assured/>"...)
	}
	if f.Status&conntrack.SeenReply == 0 {
		b = append(b, "<unreplied/>"...)
	}
	if show.times {
		b = appendXMLTimes(b, f, o)
	}
	return append(b, "</meta>"...)
}

// appendXMLHelper appends the helper, which comes last.
func appendXMLHelper(b []byte, f *conntrack.Flow) []byte {
	if f.Helper == "" {
		return b
	}
	return appendElement(b, "helper", f.Helper)
}

// appendXMLTimes appends when a flow that has times started and stopped, and its age.
func appendXMLTimes(b []byte, f *conntrack.Flow, o *Options) []byte {
	if f.Start.IsZero() {
		return b
	}
	if o.KTimestamp {
		b = append(b, "<timestamp>"...)
		b = appendElement(b, "start", f.Start.UnixNano())
		if !f.Stop.IsZero() {
			b = appendElement(b, "stop", f.Stop.UnixNano())
		}
		b = append(b, "</timestamp>"...)
	}
	return appendElement(b, "deltatime", age(f, o))
}

// appendWhen appends the time of an event.
func appendWhen(b []byte, t time.Time, in *time.Location) []byte {
	if in == nil {
		in = time.Local
	}
	t = t.In(in)
	return fmt.Appendf(b, "<when><hour>%d</hour><min>%d</min><sec>%d</sec><wday>%d</wday><day>%d</day><month>%d</month><year>%d</year></when>",
		t.Hour(), t.Minute(), t.Second(), int(t.Weekday())+1, t.Day(), int(t.Month()), t.Year())
}

// appendMeta appends one direction.
func appendMeta(b []byte, name string, f *conntrack.Flow, d tuple.Direction, show fields) []byte {
	t := &f.Tuple[d]
	b = fmt.Appendf(b, `<meta direction="%s"><layer3 protonum="%d" protoname="%s">`, name, t.Family, familyName(t.Family))
	b = appendElement(b, "src", t.Src)
	b = appendElement(b, "dst", t.Dst)
	b = fmt.Appendf(b, `</layer3><layer4 protonum="%d" protoname="%s">`, t.Proto, tuple.ProtoName(t.Proto))
	b = appendXMLPorts(b, t)
	b = append(b, "</layer4>"...)
	if t.Zone != 0 && t.Zone != f.Tuple[d.Other()].Zone {
		b = appendElement(b, "zone", t.Zone)
	}
	if show.counters {
		b = fmt.Appendf(b, "<counters><packets>%d</packets><bytes>%d</bytes></counters>", f.Packets[d], f.Bytes[d])
	}
	return append(b, "</meta>"...)
}

// appendXMLPorts appends what a tuple has besides addresses: nothing for ICMP.
func appendXMLPorts(b []byte, t *tuple.Tuple) []byte {
	switch {
	case t.Proto == tuple.GRE:
		b = fmt.Appendf(b, "<srckey>0x%x</srckey><dstkey>0x%x</dstkey>", t.SrcPort, t.DstPort)
	case tuple.HasPorts(t.Proto):
		b = appendElement(b, "sport", t.SrcPort)
		b = appendElement(b, "dport", t.DstPort)
	}
	return b
}

func appendElement(b []byte, name string, v any) []byte {
	return fmt.Appendf(b, "<%s>%v</%s>", name, v, name)
}

func appendXMLLabels(b []byte, f *conntrack.Flow, o *Options) []byte {
	var names strings.Builder
	for bit := range 128 {
		if name := o.LabelName(bit); f.Labels[bit/64]>>(bit%64)&1 != 0 && name != "" {
			names.WriteString("<label>")
			_ = xml.EscapeText(&names, []byte(name)) // a Builder takes everything
			names.WriteString("</label>")
		}
	}
	if names.Len() == 0 {
		return b
	}
	return appendElement(b, "labels", names.String())
}
