package afpacket

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"example.com/culvert/dataplane/port"
)

// socket is a packet socket, with its ring if it has one.
type socket struct {
	fd  int
	mem []byte // the ring, slot i at i times its size; nil without
}

func (s *socket) close() error {
	var errs []error
	if s.mem != nil {
		errs = append(errs, unix.Munmap(s.mem))
		s.mem = nil
	}
	if s.fd >= 0 {
		errs = append(errs, unix.Close(s.fd))
		s.fd = -1
	}
	return errors.Join(errs...)
}

// option is one call of setsockopt at level SOL_PACKET or SOL_SOCKET.
type option struct {
	name       string
	level, opt int
	value      int
}

func packetOption(name string, opt, value int) option {
	return option{name, unix.SOL_PACKET, opt, value}
}

// newSocket returns an unbound socket, which sees nothing, with the given options.
func newSocket(opts ...option) (*socket, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("packet socket (needs CAP_NET_RAW): %w", err)
	}
	s := &socket{fd: fd}
	for _, o := range opts {
		if err := unix.SetsockoptInt(fd, o.level, o.opt, o.value); err != nil {
			s.close()
			return nil, fmt.Errorf("packet socket: %s=%d: %w", o.name, o.value, err)
		}
	}
	return s, nil
}

// ring is the geometry of one: the size of a slot and of a block, in bytes, and how many
// slots fill a block.
type ring struct{ slot, block, blockLen int }

var ordinary = ring{slotSize, blockSize, blockLen}

// addRing maps a ring of n slots: PACKET_RX_RING or PACKET_TX_RING.
func (s *socket) addRing(kind int, r ring, n int) error {
	req := unix.TpacketReq{
		Block_size: uint32(r.block), Block_nr: uint32(n / r.blockLen),
		Frame_size: uint32(r.slot), Frame_nr: uint32(n),
	}
	if err := unix.SetsockoptTpacketReq(s.fd, unix.SOL_PACKET, kind, &req); err != nil {
		return fmt.Errorf("packet ring of %d slots: %w", n, err)
	}
	return s.mapRing(r, n)
}

// mapRing maps a ring that there is.
func (s *socket) mapRing(r ring, n int) error {
	mem, err := unix.Mmap(s.fd, 0, n*r.slot, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return fmt.Errorf("map packet ring of %d slots: %w", n, err)
	}
	s.mem = mem
	return nil
}

func (s *socket) bind(ifindex int, protocol uint16) error {
	sa := unix.SockaddrLinklayer{Ifindex: ifindex, Protocol: protocol<<8 | protocol>>8}
	if err := unix.Bind(s.fd, &sa); err != nil {
		return fmt.Errorf("bind packet socket to interface %d: %w", ifindex, err)
	}
	return nil
}

// newReceiver returns a bound socket with a ring, still behind a filter that takes nothing.
func newReceiver(ifindex int, r ring, slots int) (*socket, error) {
	opts := []option{
		packetOption("PACKET_VERSION", unix.PACKET_VERSION, unix.TPACKET_V2),
		packetOption("PACKET_VNET_HDR", unix.PACKET_VNET_HDR, 1),
		packetOption("PACKET_IGNORE_OUTGOING", unix.PACKET_IGNORE_OUTGOING, 1),
	}
	if r == ordinary { // what is longer than a slot comes in the socket's queue
		opts = append(opts, packetOption("PACKET_COPY_THRESH", unix.PACKET_COPY_THRESH, 1),
			option{"SO_RCVBUFFORCE", unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, rcvBuf})
	}
	s, err := newSocket(opts...)
	if err != nil {
		return nil, err
	}
	err = s.setFilter(takeNothing)
	if err == nil {
		err = s.addRing(unix.PACKET_RX_RING, r, slots)
	}
	if err == nil {
		err = s.bind(ifindex, unix.ETH_P_ALL)
	}
	if err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// newTransmitter returns a bound socket that receives nothing.
func newTransmitter(ifindex int, q Qdisc, opts ...option) (*socket, error) {
	opts = append(opts,
		packetOption("PACKET_VNET_HDR", unix.PACKET_VNET_HDR, 1),
		option{"SO_SNDBUFFORCE", unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, sndBuf},
	)
	if q == BypassQdisc {
		opts = append(opts, packetOption("PACKET_QDISC_BYPASS", unix.PACKET_QDISC_BYPASS, 1))
	} else {
		opts = append(opts, option{"SO_MARK", unix.SOL_SOCKET, unix.SO_MARK, int(port.OursMark)})
	}
	s, err := newSocket(opts...)
	if err != nil {
		return nil, err
	}
	if err := s.bind(ifindex, 0); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// Filters. A classic filter returns how many bytes to take.
var (
	takeNothing = []unix.SockFilter{
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
	takeForeign = []unix.SockFilter{ // all but what carries ReinjectMark
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: uint32(skfAdOff + skfAdMark)},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: port.ReinjectMark, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 1 << 20},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
	}
)

// Ancillary data of classic filters (linux/filter.h).
const (
	skfAdOff  = 1<<32 - 0x1000 // SKF_AD_OFF, -0x1000 as the kernel reads it
	skfAdMark = 20             // SKF_AD_MARK
)

// setFilter replaces the socket's filter; there is no moment without one.
func (s *socket) setFilter(prog []unix.SockFilter) error {
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if err := unix.SetsockoptSockFprog(s.fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &fprog); err != nil {
		return fmt.Errorf("packet socket: SO_ATTACH_FILTER: %w", err)
	}
	return nil
}

// newGroup asks joinFanout for a group of its own. (0 is a group like any other.)
const newGroup = -1

// joinFanout makes s one more member of group *id, or the first of a new one, whose
// id, free in the namespace, the kernel chooses and *id then holds.
func (s *socket) joinFanout(id *int, f Fanout) error {
	mode := map[Fanout]int{FanoutSteer: unix.PACKET_FANOUT_CBPF, FanoutHash: unix.PACKET_FANOUT_HASH,
		FanoutCPU: unix.PACKET_FANOUT_CPU, FanoutQM: unix.PACKET_FANOUT_QM}[f]
	mode |= unix.PACKET_FANOUT_FLAG_IGNORE_OUTGOING // the socket's own PACKET_IGNORE_OUTGOING ends with the group
	arg, first := *id, *id == newGroup
	if first {
		arg = 0
		mode |= unix.PACKET_FANOUT_FLAG_UNIQUEID
	}
	if err := unix.SetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_FANOUT, arg|mode<<16); err != nil {
		return fmt.Errorf("packet socket: PACKET_FANOUT: %w", err)
	}
	if first {
		v, err := unix.GetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_FANOUT)
		if err != nil {
			return fmt.Errorf("packet socket: read fanout group: %w", err)
		}
		*id = v & 0xffff
	}
	return nil
}

// fanout returns the id of the group that s belongs to, or newGroup.
func (s *socket) fanout() int {
	v, err := unix.GetsockoptInt(s.fd, unix.SOL_PACKET, unix.PACKET_FANOUT)
	if err != nil || v == 0 { // no group: the modes of ours are not 0, and 0 would be FANOUT_HASH
		return newGroup
	}
	return v & 0xffff
}

// steer replaces the program by which the sockets of s's group share frames. The kernel
// returns when nothing uses the old one any more.
func (s *socket) steer(prog []unix.SockFilter) error {
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if err := unix.SetsockoptSockFprog(s.fd, unix.SOL_PACKET, unix.PACKET_FANOUT_DATA, &fprog); err != nil {
		return fmt.Errorf("packet socket: PACKET_FANOUT_DATA: %w", err)
	}
	return nil
}

func (s *socket) addMembership(ifindex int, kind uint16, mac []byte) error {
	mreq := unix.PacketMreq{Ifindex: int32(ifindex), Type: kind, Alen: uint16(len(mac))}
	copy(mreq.Address[:], mac)
	if err := unix.SetsockoptPacketMreq(s.fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &mreq); err != nil {
		return fmt.Errorf("packet socket: PACKET_ADD_MEMBERSHIP: %w", err)
	}
	return nil
}
