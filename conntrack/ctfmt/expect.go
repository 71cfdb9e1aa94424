package ctfmt

import (
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// AppendExpect appends the line of x as conntrack -L expect prints it, without
// a newline.
func AppendExpect(b []byte, x *conntrack.Expect) []byte {
	b = strconv.AppendInt(b, int64(x.Timeout/time.Second), 10)
	b = append(b, " proto="...)
	b = strconv.AppendUint(b, uint64(x.Tuple.Proto), 10)
	b = append(b, ' ')
	b = appendPrefixed(b, "", &x.Tuple)
	b = appendMask(b, x)
	b = appendPrefixed(b, "master-", &x.Master)
	if x.Tuple.Zone != 0 {
		b = appendUint(b, "zone=", uint64(x.Tuple.Zone))
	}
	b = appendFlags(b, x.Flags)
	b = appendUint(b, "class=", uint64(x.Class))
	if x.HelperName != "" {
		b = append(b, "helper="...)
		b = append(b, x.HelperName...)
		b = append(b, ' ')
	}
	return b[:len(b)-1]
}

// AppendExpectEvent appends the line of e as conntrack -E expect prints it,
// without a newline. Of the options only Timestamp counts.
func AppendExpectEvent(b []byte, e *conntrack.ExpectEvent, o Options) []byte {
	if o.Timestamp { // not padded as in the stream of flows
		b = fmt.Appendf(b, "[%-8d.%-6d]\t", e.Time.Unix(), e.Time.Nanosecond()/1000)
	}
	tag := "    [NEW] "
	if e.Type == conntrack.EventDestroy {
		tag = "[DESTROY] "
	}
	b = append(b, tag...)
	return AppendExpect(b, &e.Expect)
}

// appendPrefixed appends addresses, with a prefix to their names, and ports.
func appendPrefixed(b []byte, prefix string, t *tuple.Tuple) []byte {
	b = appendAddrs(b, prefix, t.Src.Netip(), t.Dst.Netip())
	return appendPorts(b, t)
}

func appendAddrs(b []byte, prefix string, src, dst netip.Addr) []byte {
	b = append(append(b, prefix...), "src="...)
	b = src.AppendTo(b)
	b = append(append(append(b, ' '), prefix...), "dst="...)
	b = dst.AppendTo(b)
	return append(b, ' ')
}

// appendMask appends which bits of the tuple matter; of the destination all do.
func appendMask(b []byte, x *conntrack.Expect) []byte {
	src, dst := maskAddrs(x)
	b = appendAddrs(b, "mask-", src, dst)
	ports := tuple.Tuple{Proto: x.Tuple.Proto, SrcPort: x.Mask.SrcPort, DstPort: math.MaxUint16}
	return appendPorts(b, &ports)
}

func maskAddrs(x *conntrack.Expect) (src, dst netip.Addr) {
	if x.Tuple.Family == tuple.IPv4 {
		return netip.AddrFrom4(x.Mask.Src.As4()), netip.AddrFrom4([4]byte{0xff, 0xff, 0xff, 0xff})
	}
	return netip.AddrFrom16(x.Mask.Src), netip.AddrFrom16(conntrack.WholeMask(0).Src)
}

// appendFlags appends the flags as one word, nothing when there are none.
func appendFlags(b []byte, flags conntrack.ExpectFlags) []byte {
	separator := ""
	for _, f := range [...]struct {
		bit  conntrack.ExpectFlags
		name string
	}{
		{conntrack.ExpectPermanent, "PERMANENT"},
		{conntrack.ExpectInactive, "INACTIVE"},
		{conntrack.ExpectUserspace, "USERSPACE"},
	} {
		if flags&f.bit != 0 {
			b = append(append(b, separator...), f.name...)
			separator = ","
		}
	}
	if separator != "" {
		b = append(b, ' ')
	}
	return b
}
