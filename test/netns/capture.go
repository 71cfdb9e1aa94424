package netns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"golang.org/x/sys/unix"
)

// Frame is one captured packet.
type Frame struct {
	gopacket.Packet
	// Outgoing frames were sent by the host, the others were received by it.
	Outgoing bool
	// Partial frames left their sender before anybody finished the transport
	// checksum, as offloads have it on a veth pair.
	Partial bool
}

// Capture collects the frames of one interface, all of them, from the moment it
// exists. Frames may be longer than the MTU: offloads are on.
type Capture struct {
	file *os.File
	name string
	link layers.LinkType
	done chan struct{} // the reader has ended

	mu     sync.Mutex
	frames []Frame
	grown  chan struct{} // closed and replaced when frames grows
	err    error         // why the reader ended, nil for Close
	closed bool
}

const (
	captureBuffer = 64 << 20 // bytes of socket memory: bulk transfers are captured whole
	captureFrame  = 1 << 17  // longest frame: 64 KB and headers
)

// Capture starts capturing on an interface of the host. It ends with the lab, if not closed before.
func (h *Host) Capture(ifname string) (*Capture, error) {
	link, err := h.nl.LinkByName(ifname)
	if err != nil {
		return nil, fmt.Errorf("host %s: capture on %s: %w", h.name, ifname, err)
	}
	c := &Capture{name: h.name + "/" + ifname, link: layers.LinkTypeEthernet, done: make(chan struct{}), grown: make(chan struct{})}
	if len(link.Attrs().HardwareAddr) == 0 {
		c.link = layers.LinkTypeRaw
	}
	err = h.Do(func() error {
		fd, err := captureSocket(link.Attrs().Index)
		if err == nil {
			c.file = os.NewFile(uintptr(fd), "capture "+c.name)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("host %s: capture on %s: %w", h.name, ifname, err)
	}
	go c.read()
	h.lab.onClose(c.Close)
	return c, nil
}

// captureSocket opens a packet socket that sees everything on an interface.
func captureSocket(ifindex int) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: hostToNet(unix.ETH_P_ALL), Ifindex: ifindex}),
	)
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func hostToNet(v uint16) uint16 {
	b := [2]byte{byte(v >> 8), byte(v)}
	return *(*uint16)(unsafe.Pointer(&b))
}

// read moves frames from the socket to c.frames until Close.
func (c *Capture) read() {
	defer close(c.done)
	raw, err := c.file.SyscallConn()
	if err != nil {
		c.fail(err)
		return
	}
	buf, oob := make([]byte, captureFrame), make([]byte, 256)
	for {
		err := raw.Read(func(fd uintptr) bool {
			return c.drain(int(fd), buf, oob)
		})
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				c.fail(err)
			}
			return
		}
	}
}

// drain takes everything the socket holds. It returns false to be called again
// when there is more, which is what RawConn.Read wants.
func (c *Capture) drain(fd int, buf, oob []byte) bool {
	for {
		n, oobn, _, from, err := unix.Recvmsg(fd, buf, oob, 0)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return false
		case err != nil:
			c.fail(err)
			return true
		}
		c.add(buf[:n], oob[:oobn], from)
	}
}

func (c *Capture) add(data, oob []byte, from unix.Sockaddr) {
	f := Frame{}
	if ll, ok := from.(*unix.SockaddrLinklayer); ok {
		f.Outgoing = ll.Pkttype == unix.PACKET_OUTGOING
	}
	var vlan, tpid uint16
	if aux := auxdata(oob); aux != nil {
		f.Partial = aux.Status&unix.TP_STATUS_CSUMNOTREADY != 0
		if aux.Status&unix.TP_STATUS_VLAN_VALID != 0 {
			vlan, tpid = aux.Vlan_tci, aux.Vlan_tpid
		}
	}
	f.Packet = gopacket.NewPacket(withTag(data, vlan, tpid), c.link, gopacket.NoCopy)
	f.Metadata().Timestamp = time.Now()
	f.Metadata().Length, f.Metadata().CaptureLength = len(data), len(data)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = append(c.frames, f)
	close(c.grown)
	c.grown = make(chan struct{})
}

// auxdata finds the PACKET_AUXDATA message.
func auxdata(oob []byte) *unix.TpacketAuxdata {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for _, m := range msgs {
		if m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= int(unsafe.Sizeof(unix.TpacketAuxdata{})) {
			return (*unix.TpacketAuxdata)(unsafe.Pointer(&m.Data[0]))
		}
	}
	return nil
}

// withTag copies a frame and puts the VLAN tag back that the kernel took off.
func withTag(data []byte, tci, tpid uint16) []byte {
	const macs = 12
	if tpid == 0 || len(data) < macs {
		return append([]byte(nil), data...)
	}
	out := make([]byte, 0, len(data)+4)
	out = append(out, data[:macs]...)
	out = append(out, byte(tpid>>8), byte(tpid), byte(tci>>8), byte(tci))
	return append(out, data[macs:]...)
}

func (c *Capture) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.err = errors.Join(c.err, fmt.Errorf("capture %s: %w", c.name, err))
	}
}

// Frames returns what was captured so far.
func (c *Capture) Frames() []Frame {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]Frame(nil), c.frames...)
}

// Count returns how many of the frames captured so far match.
func (c *Capture) Count(match func(Frame) bool) int {
	n := 0
	for _, f := range c.Frames() {
		if match(f) {
			n++
		}
	}
	return n
}

// Wait returns the first frame that matches, captured already or still to come.
func (c *Capture) Wait(ctx context.Context, match func(Frame) bool) (Frame, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for seen := 0; ; {
		c.mu.Lock()
		frames, grown, err := c.frames, c.grown, c.err
		c.mu.Unlock()
		for ; seen < len(frames); seen++ {
			if match(frames[seen]) {
				return frames[seen], nil
			}
		}
		if err != nil {
			return Frame{}, err
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return Frame{}, fmt.Errorf("capture %s: no frame of %d matched: %w", c.name, seen, ctx.Err())
		}
	}
}

// Close stops the capture after taking what the kernel had already put into
// the socket, so that "no such frame in Frames" holds for everything that passed
// before Close. It reports frames that the kernel had no room for. Frames
// remain readable.
func (c *Capture) Close() error {
	c.mu.Lock()
	again := c.closed
	c.closed = true
	c.mu.Unlock()
	if again {
		return nil
	}
	var lost uint32
	if raw, err := c.file.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { lost = detach(int(fd)) })
	}
	_ = c.file.SetReadDeadline(time.Now())
	<-c.done
	if raw, err := c.file.SyscallConn(); err == nil {
		buf, oob := make([]byte, captureFrame), make([]byte, 256)
		_ = raw.Control(func(fd uintptr) { c.drain(int(fd), buf, oob) })
	}
	err := c.file.Close()
	if lost > 0 {
		err = errors.Join(err, fmt.Errorf("capture %s: the kernel had no room for %d frames", c.name, lost))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Join(c.err, err)
}

// detach stops new frames from entering the socket and returns how many were lost.
func detach(fd int) uint32 {
	none := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	_ = unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &none[0]})
	st, err := unix.GetsockoptTpacketStats(fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0
	}
	return st.Drops
}

// TCP returns the TCP header of a frame, nil if it has none.
func (f Frame) TCP() *layers.TCP {
	t, _ := f.Layer(layers.LayerTypeTCP).(*layers.TCP)
	return t
}

// UDP returns the UDP header of a frame, nil if it has none.
func (f Frame) UDP() *layers.UDP {
	u, _ := f.Layer(layers.LayerTypeUDP).(*layers.UDP)
	return u
}
