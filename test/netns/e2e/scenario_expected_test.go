//go:build netns

package e2e

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"testing"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack/tuple"
	"example.com/culvert/test/netns"
)

// announcing forwards one port to the first host and marks its flows. The ports
// that scenarios announce lead to the second host by another rule: whoever asks it
// about an announced flow sends the flow there. The kernel takes expectations
// only for flows that have a helper.
var announcing = setup{
	config: `
[[dnat]]
in_area = "wan"
family = "ipv4"
dst = "gateway"
proto = "tcp"
dport = 21
action = "dnat"
to = "10.1.0.11"

[[dnat]]
in_area = "wan"
family = "ipv6"
dst = "gateway"
proto = "tcp"
dport = 21
action = "dnat"
to = "fd00:1::11"

[[dnat]]
in_area = "wan"
family = "ipv4"
dst = "gateway"
proto = "tcp"
dport = "2000-2009"
action = "dnat"
to = "10.1.0.12"

[[dnat]]
in_area = "wan"
family = "ipv6"
dst = "gateway"
proto = "tcp"
dport = "2000-2009"
action = "dnat"
to = "fd00:1::12"

[[filter]]
proto = "tcp"
dport = 21
action = "mark"
set_mark = 77
`,
	objects: `
	ct helper ftp {
		type "ftp" protocol tcp
	}`,
	prerouting: `
		tcp dport 21 ct helper set "ftp"
		iifname "wan0" ip daddr 203.0.113.1 tcp dport 21 dnat ip to 10.1.0.11
		iifname "wan0" ip6 daddr 2001:db8:a::1 tcp dport 21 dnat ip6 to fd00:1::11
		iifname "wan0" ip daddr 203.0.113.1 tcp dport 2000-2009 dnat ip to 10.1.0.12
		iifname "wan0" ip6 daddr 2001:db8:a::1 tcp dport 2000-2009 dnat ip6 to fd00:1::12`,
	forward: `tcp dport 21 ct state new ct mark set 77`,
}

// TestExpectedFlowsFollowTheirMaster announces flows in both directions of a flow
// through masquerade and of one through a forwarded port.
func TestExpectedFlowsFollowTheirMaster(t *testing.T) {
	eachGateway(t, announcing, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			const line = "tcp 6 431999 ESTABLISHED src=%v dst=%v sport=%d dport=%d src=%v dst=%v sport=%d dport=%d [ASSURED] mark=77 use=1"
			serveTCP(t, h.server, at(f.server, 21), greet)
			serveTCP(t, h.first, at(f.first, 21), greet)
			for port := range uint16(4) {
				serveTCP(t, h.first, at(f.first, 2000+port), greet)
				serveTCP(t, h.server, at(f.server, 2000+port), greet)
			}
			inward := func(t *testing.T, master *expecting, port uint16) {
				from := 30200 + port
				master.announce(t, h.gw, at(f.server, from), at(f.outside, port), at(f.first, port))
				if c := talk(t, h.server, at(f.server, from), at(f.outside, port)); c.seen != at(f.server, from) {
					t.Errorf("the inside sees %v, want the server", c.seen)
				}
				h.wantFlow(t, fmt.Sprintf(line, f.server, f.outside, from, port, f.first, f.server, port, from))
			}
			outward := func(t *testing.T, master *expecting, port uint16) {
				from := 30200 + port
				master.announce(t, h.gw, at(f.first, from), at(f.server, port), at(f.server, port))
				if c := talk(t, h.first, at(f.first, from), at(f.server, port)); c.seen != at(f.outside, from) {
					t.Errorf("the server sees %v, want the gateway", c.seen)
				}
				h.wantFlow(t, fmt.Sprintf(line, f.first, f.server, from, port, f.server, f.outside, port, from))
			}
			t.Run("masquerade", func(t *testing.T) {
				talk(t, h.first, at(f.first, 30021), at(f.server, 21))
				master := &expecting{from: at(f.first, 30021), to: at(f.server, 21)}
				t.Run("to the client", func(t *testing.T) { master.dir = tuple.Reply; inward(t, master, 2000) })
				t.Run("to the server", func(t *testing.T) { master.dir = tuple.Original; outward(t, master, 2001) })
			})
			t.Run("forwarded port", func(t *testing.T) {
				talk(t, h.server, at(f.server, 30022), at(f.outside, 21))
				master := &expecting{from: at(f.server, 30022), to: at(f.outside, 21)}
				t.Run("to the server inside", func(t *testing.T) { master.dir = tuple.Original; inward(t, master, 2002) })
				t.Run("to the client", func(t *testing.T) { master.dir = tuple.Reply; outward(t, master, 2003) })
			})
		})
	})
}

// expecting is a TCP flow that expectations are made for.
type expecting struct {
	from, to netip.AddrPort  // of its first packet
	dir      tuple.Direction // that the expected packets go in
}

// announce expects a flow that reaches the master's peer at real. conntrack(8)
// cannot tell the kernel that it is to follow the master, so the kernel is told
// over netlink; Culvert makes flows follow by itself.
func (m *expecting) announce(t *testing.T, gw *netns.Gateway, from, to, real netip.AddrPort) {
	t.Helper()
	if gw.Kind() == netns.Kernel {
		must(t, gw.Do(func() error { return m.tellKernel(from, to, real.Port()) }))
		return
	}
	ones := allOnes(from.Addr()).String()
	_, err := gw.Ctl(t.Context(), "conntrack", "-I", "expect", "-p", "tcp", "-t", "60",
		"-s", m.from.Addr().String(), "--sport", strconv.Itoa(int(m.from.Port())), "-d", m.to.Addr().String(), "--dport", strconv.Itoa(int(m.to.Port())),
		"--tuple-src", from.Addr().String(), "--tuple-port-src", strconv.Itoa(int(from.Port())),
		"--tuple-dst", to.Addr().String(), "--tuple-port-dst", strconv.Itoa(int(to.Port())),
		"--mask-src", ones, "--mask-dst", ones, "--mask-port-src", "65535", "--mask-port-dst", "65535")
	must(t, err)
}

// Of linux/netfilter/nfnetlink_conntrack.h.
const (
	expectSubsystem = 2

	expectMaster  = 1
	expectTuple   = 2
	expectMask    = 3
	expectTimeout = 4
	expectNAT     = 10
	expectFn      = 11

	expectNATDir   = 1
	expectNATTuple = 2
)

func (m *expecting) tellKernel(from, to netip.AddrPort, realPort uint16) error {
	req := nl.NewNetlinkRequest(expectSubsystem<<8, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	family := uint8(unix.AF_INET6)
	if from.Addr().Is4() {
		family = unix.AF_INET
	}
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: nl.NFNETLINK_V0})
	all := allOnes(from.Addr())
	req.AddData(tupleAttr(expectMaster, m.from, m.to))
	req.AddData(tupleAttr(expectTuple, from, to))
	req.AddData(tupleAttr(expectMask, at(all, 65535), at(all, 0)))
	req.AddData(nl.NewRtAttr(expectTimeout, binary.BigEndian.AppendUint32(nil, 60)))
	nat := nl.NewRtAttr(expectNAT|int(nl.NLA_F_NESTED), nil)
	nat.AddRtAttr(expectNATDir, binary.BigEndian.AppendUint32(nil, uint32(m.dir)))
	nat.AddChild(tupleAttr(expectNATTuple, netip.AddrPortFrom(to.Addr(), realPort), netip.AddrPortFrom(to.Addr(), 0)))
	req.AddData(nat)
	req.AddData(nl.NewRtAttr(expectFn, nl.ZeroTerminated("nat-follow-master")))
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	return err
}

// tupleAttr builds the attribute of a TCP tuple.
func tupleAttr(kind int, src, dst netip.AddrPort) *nl.RtAttr {
	srcKind, dstKind := nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	if !src.Addr().Is4() {
		srcKind, dstKind = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	a := nl.NewRtAttr(kind|int(nl.NLA_F_NESTED), nil)
	ip := a.AddRtAttr(nl.CTA_TUPLE_IP|int(nl.NLA_F_NESTED), nil)
	ip.AddRtAttr(srcKind, src.Addr().AsSlice())
	ip.AddRtAttr(dstKind, dst.Addr().AsSlice())
	proto := a.AddRtAttr(nl.CTA_TUPLE_PROTO|int(nl.NLA_F_NESTED), nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{unix.IPPROTO_TCP})
	proto.AddRtAttr(nl.CTA_PROTO_SRC_PORT, binary.BigEndian.AppendUint16(nil, src.Port()))
	proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, binary.BigEndian.AppendUint16(nil, dst.Port()))
	return a
}
