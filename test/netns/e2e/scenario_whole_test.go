//go:build netns

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// TestLargeFramesLeaveAsTheyCame: from each kind of interface to each, TCP and UDP over
// both families leave in frames longer than the MTU, as they came, and only an interface
// that cannot take such a frame gets it in segments. The bytes are the same in any case.
func TestLargeFramesLeaveAsTheyCame(t *testing.T) {
	for _, kind := range netns.Kinds() {
		for _, from := range []string{veth, tun} {
			for _, to := range []string{veth, tun, plainTUN} {
				if from != veth && (to == plainTUN || kind == netns.Kernel) || to != veth && kind == netns.Kernel {
					continue // the kernel proves that the counting is right, one plain TUN that it can fail
				}
				t.Run(fmt.Sprintf("gateway=%v/inside %s/outside %s", kind, from, to), func(t *testing.T) {
					large(t, netns.ForTest(t, bulkTopology(kind, from, to)), to != plainTUN)
				})
			}
		}
	}
}

const (
	largeTCP   = 24 << 20
	largeLimit = 30 * time.Second
	sends      = 20   // of UDP
	sendSize   = 48e3 // bytes
	gsoSize    = 1200 // of them in a datagram
)

// large moves data both ways and counts the frames that arrive: outward in large ones if
// whole, and inward, where every interface takes them, if they came so.
func large(t *testing.T, lab *netns.Lab, whole bool) {
	client, server := lab.Host("client"), lab.Host("server")
	for _, f := range families {
		t.Run(f.name, func(t *testing.T) {
			service := at(f.server, 7060)
			serveTCP(t, server, service, bulkService)
			c := dial(t, client, at(f.first, 0), service)
			for _, way := range []struct {
				name string
				kind byte
				to   *netns.Host
			}{{"TCP out", upload, server}, {"TCP in", download, client}} {
				n := countFrames(t, way.to)
				if err := transfer(c, way.kind, largeTCP, largeLimit); err != nil {
					t.Errorf("%s: %v", way.name, err)
				}
				n.check(t, way.name, largeTCP, whole)
			}
			near, far := bindUDP(t, client, at(f.first, 0)), bindUDP(t, server, at(f.server, 7061))
			n := countFrames(t, server)
			seen := sendLarge(t, near, far, at(f.server, 7061))
			n.check(t, "UDP out", sends*sendSize, whole)
			n = countFrames(t, client)
			sendLarge(t, far, near, seen)
			n.check(t, "UDP in", sends*sendSize, whole)
		})
	}
}

// sendLarge has one socket send what its kernel makes one frame of, again and again, and
// the other one get all datagrams of it, in order. It returns whom that one sees.
func sendLarge(t *testing.T, from, to datagrams, dst netip.AddrPort) (seen netip.AddrPort) {
	t.Helper()
	raw, err := from.SyscallConn()
	must(t, err)
	var set error
	must(t, raw.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.IPPROTO_UDP, unix.UDP_SEGMENT, gsoSize) }))
	must(t, set)
	must(t, to.SetReadDeadline(time.Now().Add(patience)))
	buf := make([]byte, 1<<16)
	data := noise(sends * sendSize)
	for i := range sends {
		block := make([]byte, sendSize)
		_, err := io.ReadFull(data, block)
		must(t, err)
		_, err = from.WriteToUDPAddrPort(block, dst)
		must(t, err)
		var got []byte
		for len(got) < len(block) {
			n, sender, err := to.ReadFromUDPAddrPort(buf)
			if err != nil {
				t.Fatalf("send %d: %d bytes of %d arrived: %v", i, len(got), len(block), err)
			}
			seen = at(sender.Addr().Unmap(), sender.Port())
			got = append(got, buf[:n]...)
		}
		if !bytes.Equal(got, block) {
			t.Fatalf("send %d arrived damaged", i)
		}
	}
	return seen
}

// frameCount is two packet sockets that keep nothing: their kernel counts what passes
// their filters.
type frameCount struct{ large, small int }

// longest is the longest frame that is no super-packet: an MTU of 1500 and a link-layer
// header.
const longest = 1500 + ethernet

// countFrames begins to count the frames with data that arrive at a host, on its only
// interface.
func countFrames(t *testing.T, host *netns.Host) *frameCount {
	t.Helper()
	n := &frameCount{}
	n.large = frameSocket(t, host, longest+1, 1<<20)
	n.small = frameSocket(t, host, gsoSize/2, longest)
	return n
}

// frameSocket returns a packet socket for frames of from to to bytes that arrive.
func frameSocket(t *testing.T, host *netns.Host, from, to uint32) (fd int) {
	t.Helper()
	links, err := host.Netlink().LinkList()
	must(t, err)
	at := slices.IndexFunc(links, func(l netlink.Link) bool { return l.Attrs().Name != "lo" })
	const pktType = 0xfffff004 // SKF_AD_OFF + SKF_AD_PKTTYPE
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: pktType, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 4},
		bpf.LoadExtension{Num: bpf.ExtLen},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: from, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: to, SkipTrue: 1},
		bpf.RetConstant{Val: 1},
		bpf.RetConstant{Val: 0},
	})
	must(t, err)
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	must(t, host.Do(func() error {
		if fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}),
			unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: links[at].Attrs().Index}),
		)
	}))
	return fd
}

// frames ends a socket and returns how many frames passed its filter.
func frames(t *testing.T, fd int) int {
	t.Helper()
	defer unix.Close(fd)
	st, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	must(t, err)
	return int(st.Packets)
}

// check ends the counting of frames that carried so many bytes: nearly all of them in
// large frames if whole, else none.
func (n *frameCount) check(t *testing.T, what string, size int, whole bool) {
	t.Helper()
	large, small := frames(t, n.large), frames(t, n.small)
	t.Logf("%s: %d frames longer than the MTU, %d others with data, for %d bytes", what, large, small, size)
	switch {
	case whole && (large == 0 || small*gsoSize > size/5):
		t.Errorf("%s: %d frames longer than the MTU and %d others, want nearly all bytes in large ones", what, large, small)
	case !whole && large > 0:
		t.Errorf("%s: %d frames longer than the MTU on an interface that takes none", what, large)
	}
}
