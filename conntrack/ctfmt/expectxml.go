package ctfmt

import (
	"fmt"
	"math"
	"net/netip"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// AppendExpectXML appends x as conntrack -L expect -o xml prints it, without a newline.
func AppendExpectXML(b []byte, x *conntrack.Expect) []byte {
	b = append(b, "<flow>"...)
	b = appendXMLExpect(b, x)
	b = appendXMLFlags(b, x.Flags)
	return append(b, "</meta></flow>"...)
}

// AppendExpectEventXML appends e as conntrack -E expect -o xml prints it, without a
// newline. Of the options only Timestamp counts.
func AppendExpectEventXML(b []byte, e *conntrack.ExpectEvent, o Options) []byte {
	b = fmt.Appendf(b, `<flow type="%s">`, eventTypes[e.Type])
	b = appendXMLExpect(b, &e.Expect)
	if o.Timestamp {
		b = appendWhen(b, e.Time, o.Location)
	}
	b = appendXMLFlags(b, e.Expect.Flags)
	return append(b, "</meta></flow>"...)
}

// appendXMLExpect appends all but the flags, which come after the time.
func appendXMLExpect(b []byte, x *conntrack.Expect) []byte {
	t, m := &x.Tuple, &x.Master
	src, dst := maskAddrs(x)
	b = fmt.Appendf(b, `<layer3 protonum="%d" protoname="%s">`, t.Family, familyName(t.Family))
	b = appendXMLEnds(b, "expected", t.Src.Netip(), t.Dst.Netip())
	b = appendXMLEnds(b, "mask", src, dst)
	b = appendXMLEnds(b, "master", m.Src.Netip(), m.Dst.Netip())
	b = fmt.Appendf(b, `</layer3><layer4 protonum="%d" protoname="%s"><expected>`, t.Proto, tuple.ProtoName(t.Proto))
	b = appendXMLPorts(b, t)
	b = append(b, "</expected><mask>"...)
	b = appendXMLPorts(b, &tuple.Tuple{Proto: t.Proto, SrcPort: x.Mask.SrcPort, DstPort: math.MaxUint16})
	b = append(b, "</mask><master>"...)
	b = appendXMLPorts(b, m)
	b = append(b, "</master></layer4><meta>"...)
	if x.HelperName != "" {
		b = appendElement(b, "helper-name", x.HelperName)
	}
	b = appendElement(b, "timeout", int64(x.Timeout/time.Second))
	b = appendElement(b, "class", x.Class)
	if t.Zone != 0 {
		b = appendElement(b, "zone", t.Zone)
	}
	return b
}

func appendXMLEnds(b []byte, name string, src, dst netip.Addr) []byte {
	return fmt.Appendf(b, "<%s><src>%v</src><dst>%v</dst></%s>", name, src, dst, name)
}

func appendXMLFlags(b []byte, flags conntrack.ExpectFlags) []byte {
	for _, f := range [...]struct {
		bit  conntrack.ExpectFlags
		name string
	}{
		{conntrack.ExpectPermanent, "<permanent/>"},
		{conntrack.ExpectInactive, "<inactive/>"},
		{conntrack.ExpectUserspace, "<userspace/>"},
	} {
		if flags&f.bit != 0 {
			b = append(b, f.name...)
		}
	}
	return b
}
