package ctfmt

import (
	"fmt"

	"example.com/culvert/conntrack"
	"example.com/culvert/conntrack/tuple"
)

// savedStatus are the status bits that a saved line names, in their order.
const savedStatus = conntrack.Expected | conntrack.SeenReply | conntrack.Assured | conntrack.FixedTimeout

// AppendSave appends f as conntrack -L -o save prints it, without a newline. As there,
// it has no mark, labels, counters and helper.
func AppendSave(b []byte, f *conntrack.Flow) []byte { return appendSave(b, "-A", f) }

// AppendEventSave appends e as conntrack -E -o save prints it, without a newline.
// Of the options only PortID counts.
func AppendEventSave(b []byte, e *conntrack.Event, o Options) []byte {
	b = appendSave(b, [...]string{conntrack.EventNew: "-A", conntrack.EventUpdate: "-U", conntrack.EventDestroy: "-D"}[e.Type], &e.Flow)
	return appendCommanded(b, e, &o)
}

func appendSave(b []byte, command string, f *conntrack.Flow) []byte {
	o, r := &f.Tuple[tuple.Original], &f.Tuple[tuple.Reply]
	status := (f.Status & savedStatus).String()
	if status == "" {
		status = "UNSET"
	}
	b = fmt.Appendf(b, "%s -t %d -u %s ", command, int64(f.Timeout.Seconds()), status)
	switch {
	case o.Zone == r.Zone && o.Zone != 0:
		b = fmt.Appendf(b, "-w %d ", o.Zone)
	default:
		if o.Zone != 0 {
			b = fmt.Appendf(b, "--orig-zone %d ", o.Zone)
		}
		if r.Zone != 0 {
			b = fmt.Appendf(b, "--reply-zone %d ", r.Zone)
		}
	}
	src, dst := "-r", "-q"
	if f.Status&conntrack.DstNAT != 0 && o.Dst != r.Src {
		src = "-g"
	}
	if f.Status&conntrack.SrcNAT != 0 && o.Src != r.Dst {
		dst = "-n"
	}
	b = fmt.Appendf(b, "-s %v -d %v %s %v %s %v -p ", o.Src, o.Dst, src, r.Src, dst, r.Dst)
	return appendSavedProto(b, f)
}

// appendSavedProto appends the protocol and what it has besides addresses.
func appendSavedProto(b []byte, f *conntrack.Flow) []byte {
	o, r := &f.Tuple[tuple.Original], &f.Tuple[tuple.Reply]
	name := tuple.ProtoName(o.Proto)
	switch {
	case tuple.IsICMP(o.Proto):
		b = fmt.Appendf(b, "%s --%s-type %d --%s-code %d --%s-id %d", name, name, o.DstPort>>8, name, o.DstPort&0xff, name, o.SrcPort)
	case o.Proto == tuple.GRE:
		b = fmt.Appendf(b, "%s --srckey %d --dstkey %d --reply-key-src %d --reply-key-dst %d", name, o.SrcPort, o.DstPort, r.SrcPort, r.DstPort)
	case tuple.HasPorts(o.Proto):
		b = fmt.Appendf(b, "%s --sport %d --dport %d --reply-port-src %d --reply-port-dst %d", name, o.SrcPort, o.DstPort, r.SrcPort, r.DstPort)
	default:
		b = fmt.Appendf(b, "%d", o.Proto)
	}
	if conntrack.HasStates(o.Proto) {
		b = fmt.Appendf(b, " --state %s", f.State)
	}
	if o.Proto == tuple.SCTP {
		b = fmt.Appendf(b, " --orig-vtag %d --reply-vtag %d", f.Tags[tuple.Original], f.Tags[tuple.Reply])
	}
	return b
}
