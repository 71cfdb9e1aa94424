package ctfmt

import (
	"encoding/xml"
	"fmt"
	"strings"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// AppendXML appends f as conntrack -L -o xml prints it, without a newline. As there, it
// has no type, code and id of ICMP.
func AppendXML(b []byte, f *conntrack.Flow, o Options) []byte {
	b = append(b, "<flow>"...)
	b = appendMeta(b, "original", f, tuple.Original, &o)
	b = appendMeta(b, "reply", f, tuple.Reply, &o)
	b = append(b, `<meta direction="independent">`...)
	if conntrack.HasStates(f.Tuple[tuple.Original].Proto) {
		b = appendElement(b, "state", f.State)
	}
	b = appendElement(b, "timeout", int64(f.Timeout.Seconds()))
	b = appendElement(b, "mark", f.Mark)
	if o.LabelName != nil {
		b = appendXMLLabels(b, f, &o)
	}
	if zone := f.Tuple[tuple.Original].Zone; zone != 0 && zone == f.Tuple[tuple.Reply].Zone {
		b = appendElement(b, "zone", zone)
	}
	b = appendElement(b, "use", 1)
	b = appendElement(b, "id", f.ID)
	if f.Status&conntrack.Assured != 0 {
		b = append(b, "<assured/>"...)
	}
	if f.Status&conntrack.SeenReply == 0 {
		b = append(b, "<unreplied/>"...)
	}
	return append(b, "</meta></flow>"...)
}

// appendMeta appends one direction.
func appendMeta(b []byte, name string, f *conntrack.Flow, d tuple.Direction, o *Options) []byte {
	t := &f.Tuple[d]
	b = fmt.Appendf(b, `<meta direction="%s"><layer3 protonum="%d" protoname="%s">`, name, t.Family, familyName(t.Family))
	b = appendElement(b, "src", t.Src)
	b = appendElement(b, "dst", t.Dst)
	b = fmt.Appendf(b, `</layer3><layer4 protonum="%d" protoname="%s">`, t.Proto, tuple.ProtoName(t.Proto))
	switch {
	case t.Proto == tuple.GRE:
		b = fmt.Appendf(b, "<srckey>0x%x</srckey><dstkey>0x%x</dstkey>", t.SrcPort, t.DstPort)
	case tuple.HasPorts(t.Proto):
		b = appendElement(b, "sport", t.SrcPort)
		b = appendElement(b, "dport", t.DstPort)
	}
	b = append(b, "</layer4>"...)
	if t.Zone != 0 && t.Zone != f.Tuple[d.Other()].Zone {
		b = appendElement(b, "zone", t.Zone)
	}
	if o.Accounting {
		b = fmt.Appendf(b, "<counters><packets>%d</packets><bytes>%d</bytes></counters>", f.Packets[d], f.Bytes[d])
	}
	return append(b, "</meta>"...)
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
