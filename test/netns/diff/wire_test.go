//go:build netns

package diff

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// wire is a packet socket on the interface of a host, opposite of the gateway.
type wire struct {
	fd   int
	side side
	link [2]string // Ethernet addresses of a frame to the gateway
	buf  [1 << 16]byte
}

const wireBuffer = 32 << 20 // bytes; all frames of a burst fit by far

func openWire(h *netns.Host, s side) (*wire, error) {
	w := &wire{fd: -1, side: s}
	for i, text := range []string{macs[s].gateway, macs[s].host} {
		mac, err := net.ParseMAC(text)
		if err != nil {
			return nil, err
		}
		w.link[i] = string(mac)
	}
	dev, err := h.Netlink().LinkByName("eth0")
	if err != nil {
		return nil, err
	}
	err = h.Do(func() (err error) {
		if w.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(w.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, wireBuffer),
			unix.SetsockoptInt(w.fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
			unix.Bind(w.fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL), Ifindex: dev.Attrs().Index}),
		)
	})
	if err != nil {
		return nil, fmt.Errorf("wire of the %v: %w", s, err)
	}
	return w, nil
}

func bigEndian(v uint16) uint16 {
	b := [2]byte{byte(v >> 8), byte(v)}
	return *(*uint16)(unsafe.Pointer(&b))
}

func (w *wire) close() { unix.Close(w.fd) }

// send writes an IP packet towards the gateway.
func (w *wire) send(ip []byte, f family) error {
	frame := append([]byte(nil), w.link[0]...)
	frame = append(frame, w.link[1]...)
	if f == ipv4 {
		frame = append(frame, 0x08, 0x00)
	} else {
		frame = append(frame, 0x86, 0xdd)
	}
	_, err := unix.Write(w.fd, append(frame, ip...))
	return err
}

// receive hands every waiting frame's IP packet and addresses to got. The packet
// is valid until got returns.
func (w *wire) receive(got func(ip []byte, src, dst netip.Addr)) error {
	for {
		n, err := unix.Read(w.fd, w.buf[:])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EAGAIN):
			return nil
		case err != nil:
			return fmt.Errorf("wire of the %v: %w", w.side, err)
		}
		const ether = 14
		if ip := w.buf[min(ether, n):n]; len(ip) > 0 {
			if src, dst, ok := addresses(ip); ok {
				got(ip, src, dst)
			}
		}
	}
}

// lost reports frames that the socket had no room for.
func (w *wire) lost() error {
	st, err := unix.GetsockoptTpacketStats(w.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err == nil && st.Drops > 0 {
		err = fmt.Errorf("wire of the %v: the kernel had no room for %d frames", w.side, st.Drops)
	}
	return err
}

// addresses reads an IP header.
func addresses(ip []byte) (src, dst netip.Addr, ok bool) {
	switch {
	case ip[0]>>4 == 4 && len(ip) >= 20:
		return netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:])), true
	case ip[0]>>4 == 6 && len(ip) >= 40:
		return netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:])), true
	}
	return src, dst, false
}

// await waits until one of the sockets has something, or for a time.
func await(wires []*wire, atMost time.Duration) error {
	fds := make([]unix.PollFd, len(wires))
	for i, w := range wires {
		fds[i] = unix.PollFd{Fd: int32(w.fd), Events: unix.POLLIN}
	}
	_, err := unix.Poll(fds, int(atMost.Milliseconds()))
	if errors.Is(err, unix.EINTR) {
		return nil
	}
	return err
}
