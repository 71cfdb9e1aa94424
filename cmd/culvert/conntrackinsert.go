package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/control/api"
)

// busy is what the kernel says to a status that it does not let users set.
const busy = "Device or resource busy"

// insert makes a flow. It reports how many: -A makes none where there is one.
func (l *conntrackLine) insert(cmd *cobra.Command, client *api.Client) (int, error) {
	if slices.Contains(l.filter.Status, "EXPECTED") {
		return 0, operationFailed(cmd, busy)
	}
	if !l.whole() {
		return 0, operationFailed(cmd, "invalid parameters")
	}
	_, err := client.InsertFlow(cmd.Context(), l.newFlow())
	switch {
	case err == nil:
		return 1, nil
	case errors.Is(err, api.ErrExists) && l.command == ctAdd:
		return 0, nil
	case errors.Is(err, api.ErrExists):
		return 0, operationFailed(cmd, "Such conntrack exists, try -U to update")
	case errors.Is(err, api.ErrInvalid):
		return 0, operationFailed(cmd, "invalid parameters")
	}
	return 0, failed(cmd, err)
}

// operationFailed tells what the real one would hear from the kernel.
func operationFailed(cmd *cobra.Command, why string) error {
	fmt.Fprintf(cmd.ErrOrStderr(), "%s: Operation failed: %s\n", conntrackName, why)
	return errReported
}

// whole reports whether no half of a reply tuple or of a zone is there.
func (l *conntrackLine) whole() bool {
	if l.has("zone") && (l.has("orig-zone") || l.has("reply-zone")) {
		return false
	}
	src, dst := l.has("reply-src"), l.has("reply-dst")
	if !src && !dst || !l.has("src") {
		return true
	}
	proto := protocolOf(l.proto)
	ported := proto.ends == complaints{} || l.has(proto.options[2].names[0]) && l.has(proto.options[3].names[0])
	return ported && (src || l.has("dst-nat")) && (dst || l.has("src-nat"))
}

// newFlow returns what -I and -A are about.
func (l *conntrackLine) newFlow() api.NewFlow {
	f := &l.filter
	x := api.NewFlow{Timeout: value(f.Timeout), State: f.State, Labels: l.update.AddLabels, OrigTag: value(l.tags[0]), ReplyTag: value(l.tags[1])}
	if f.Mark != nil {
		x.Mark = f.Mark.Value
	}
	for _, word := range f.Status { // of the others the kernel takes no notice
		if word == "SEEN_REPLY" || word == "ASSURED" || word == "FIXED_TIMEOUT" {
			x.Status = append(x.Status, word)
		}
	}
	hasOriginal := l.has("src") && l.has("dst")
	hasReply := l.has("reply-src") && l.has("reply-dst")
	x.Original = l.end(&f.Original)
	if hasReply {
		reply := l.end(&f.Reply)
		if tuple.IsICMP(l.proto) { // its options are about the original direction
			answer, _ := (&tuple.Tuple{Proto: l.proto, SrcPort: x.Original.Sport, DstPort: x.Original.Dport}).Inverse()
			reply.Sport, reply.Dport = answer.SrcPort, answer.DstPort
		}
		x.Reply = &reply
	}
	if !hasOriginal {
		x.Original, x.Reply = *x.Reply, nil
		x.Original.Src, x.Original.Dst = x.Original.Dst, x.Original.Src
		x.Original.Sport, x.Original.Dport = x.Original.Dport, x.Original.Sport
	}
	x.SrcNAT, x.DstNAT = l.translated(f.SrcNAT, f.Reply.Dport), l.translated(f.DstNAT, f.Reply.Sport)
	x.Original.Zone = value(f.OrigZone)
	x.ReplyZone = f.ReplyZone
	if f.Zone != nil {
		x.Original.Zone, x.ReplyZone = *f.Zone, f.Zone
	}
	if x.ReplyZone == nil {
		x.ReplyZone = new(uint16)
	}
	return x
}

// end returns a tuple that options name.
func (l *conntrackLine) end(e *api.Ends) api.Tuple {
	t := api.Tuple{Proto: strconv.Itoa(int(l.proto)), Src: e.Src.Addr(), Dst: e.Dst.Addr(), Sport: value(e.Sport), Dport: value(e.Dport)}
	if tuple.IsICMP(l.proto) {
		t.Sport, t.Dport = value(e.Ident), uint16(value(e.Type))<<8|uint16(value(e.Code))
	}
	return t
}

// translated is what -n or -g says, whose port may be that of the reply direction, as -o
// save writes it. The real one does not read that one back when both ends are translated.
func (l *conntrackLine) translated(n *api.NATFilter, port *uint16) *api.NATFilter {
	if n == nil || !n.Addr.IsValid() {
		return nil
	}
	if n.Port == 0 && port != nil && tuple.HasPorts(l.proto) {
		return &api.NATFilter{Addr: n.Addr, Port: *port}
	}
	return n
}
