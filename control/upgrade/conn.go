package upgrade

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Errors of a Conn. What the other side may have meant is nobody's guess.
var (
	ErrEnded  = errors.New("the other process has ended")
	ErrSilent = errors.New("the other process says nothing")
	// ErrUnheard is ErrEnded of a process that has not received what it was told last.
	ErrUnheard  = fmt.Errorf("%w, and has not heard", ErrEnded)
	ErrProtocol = errors.New("the other process says what does not belong here")
)

const (
	headerLen  = 8
	maxFDs     = 250 // of one record: the kernel takes 253 (SCM_MAX_FD)
	maxAllFDs  = 1 << 14
	maxContent = 1 << 38 // bytes: the kernel has less
)

// Kind is that of a message.
type Kind uint32

// Kinds, in the order in which they are said.
const (
	KindHello Kind = iota + 1
	KindOffer
	KindReady
	KindRound
	KindTaken
	KindFinal
	KindRunning
	KindLeave
	KindFailed
	numKinds
)

var kindNames = [numKinds]string{
	KindHello: "hello", KindOffer: "offer", KindReady: "ready", KindRound: "round", KindTaken: "taken",
	KindFinal: "final", KindRunning: "running", KindLeave: "leave", KindFailed: "failed",
}

func (k Kind) String() string {
	if k == 0 || k >= numKinds {
		return fmt.Sprintf("message %d", uint32(k))
	}
	return kindNames[k]
}

// Conn is one end of the pair. One goroutine at a time may use it.
type Conn struct {
	fd      int
	process int // pidfd of who has the other end, 0 if that is not known
	group   int // process group of the predecessor, 0 if that is not known
}

// Pair returns both ends.
func Pair() (a, b *Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socket pair: %w", err)
	}
	return &Conn{fd: fds[0]}, &Conn{fd: fds[1]}, nil
}

// Watch tells the connection which process has the other end, by a pidfd that is the
// connection's from then on: when that one ends nothing is received any more, though its
// children may have the socket, too.
func (c *Conn) Watch(pidfd int) { c.process = pidfd }

// Gone reports whether the process that has the other end has ended for sure, for which it
// waits. It is false when nobody knows that process.
func (c *Conn) Gone(wait time.Duration) bool {
	if c.process == 0 {
		return false
	}
	n, err := poll([]unix.PollFd{{Fd: int32(c.process), Events: unix.POLLIN}}, time.Now().Add(wait))
	return err == nil && n > 0
}

// Close ends the end.
func (c *Conn) Close() error {
	if c.fd < 0 {
		return nil
	}
	if c.process > 0 {
		unix.Close(c.process)
		c.process = 0
	}
	fd := c.fd
	c.fd = -1
	return unix.Close(fd)
}

// Send says something, with descriptors that belong to it, which stay the caller's.
func (c *Conn) Send(kind Kind, content any, fds ...int) error {
	b, err := json.Marshal(content)
	if err != nil {
		return err
	}
	f, err := newFile(kind.String())
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write(b); err != nil {
		return fmt.Errorf("%v: %w", kind, err)
	}
	return c.send(kind, append([]int{int(f.Fd())}, fds...))
}

func (c *Conn) send(kind Kind, fds []int) error {
	var header [headerLen]byte
	binary.NativeEndian.PutUint32(header[:], uint32(kind))
	binary.NativeEndian.PutUint32(header[4:], uint32(len(fds)))
	for {
		n := min(len(fds), maxFDs)
		if err := unix.Sendmsg(c.fd, header[:], unix.UnixRights(fds[:n]...), nil, unix.MSG_NOSIGNAL); err != nil {
			if errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
				err = ErrEnded
			}
			return fmt.Errorf("%v: %w", kind, err)
		}
		if fds = fds[n:]; len(fds) == 0 {
			return nil
		}
	}
}

// Receive returns the next message of the other side, which must be of the given kind: its
// content goes to content, and its descriptors are the caller's. Errors wrap ErrEnded,
// ErrSilent (nothing came within wait), ErrProtocol, or are a *FailedError.
func (c *Conn) Receive(want Kind, content any, wait time.Duration) (fds []int, err error) {
	_, fds, err = c.receiveOne([]Kind{want}, content, wait)
	return fds, err
}

// ReceiveRound receives a Round, or the Final one, and reports which it is.
func (c *Conn) ReceiveRound(content *Final, wait time.Duration) (last bool, fds []int, err error) {
	kind, fds, err := c.receiveOne([]Kind{KindRound, KindFinal}, content, wait)
	return kind == KindFinal, fds, err
}

// receiveOne receives a message of one of some kinds.
func (c *Conn) receiveOne(want []Kind, content any, wait time.Duration) (kind Kind, fds []int, err error) {
	kind, fds, err = c.receive(time.Now().Add(wait))
	if err != nil {
		return 0, nil, fmt.Errorf("%v: %w", want[0], err)
	}
	defer func() {
		if err != nil {
			closeAll(fds)
			fds = nil
		}
	}()
	if kind == KindFailed {
		failed := &FailedError{}
		if err := readJSON(fds[0], failed); err != nil {
			return 0, fds, fmt.Errorf("%v: %w", kind, err)
		}
		return 0, fds, failed
	}
	if !slices.Contains(want, kind) {
		return 0, fds, fmt.Errorf("%w: %v in place of %v", ErrProtocol, kind, want[0])
	}
	if err := readJSON(fds[0], content); err != nil {
		return 0, fds, fmt.Errorf("%v: %w", kind, err)
	}
	unix.Close(fds[0])
	return kind, fds[1:], nil
}

// receive collects the records of a message, which has at least one descriptor.
func (c *Conn) receive(until time.Time) (kind Kind, fds []int, err error) {
	defer func() {
		if err != nil {
			closeAll(fds)
			fds = nil
		}
	}()
	for total := 1; len(fds) < total; {
		k, n, some, err := c.record(until)
		fds = append(fds, some...)
		switch {
		case err != nil:
			return 0, fds, err
		case n == 0 || n > maxAllFDs || kind != 0 && (k != kind || n != total) || len(some) == 0 || len(fds) > n:
			return 0, fds, fmt.Errorf("%w: %v with %d of %d descriptors", ErrProtocol, k, len(fds), n)
		}
		kind, total = k, n
	}
	return kind, fds, nil
}

// record receives one record.
func (c *Conn) record(until time.Time) (kind Kind, total int, fds []int, err error) {
	if err := c.wait(until); err != nil {
		return 0, 0, nil, err
	}
	header, oob := make([]byte, headerLen+1), make([]byte, unix.CmsgSpace(4*maxFDs)+unix.CmsgSpace(0))
	n, oobn, flags, _, err := unix.Recvmsg(c.fd, header, oob, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
	if err != nil {
		if errors.Is(err, unix.ECONNRESET) {
			err = ErrUnheard
		}
		return 0, 0, nil, err
	}
	cmsgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, 0, nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	for i := range cmsgs {
		if some, err := unix.ParseUnixRights(&cmsgs[i]); err == nil {
			fds = append(fds, some...)
		}
	}
	switch {
	case n == 0:
		return 0, 0, fds, ErrEnded
	case n != headerLen || flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0:
		return 0, 0, fds, fmt.Errorf("%w: a record of %d bytes", ErrProtocol, n)
	}
	return Kind(binary.NativeEndian.Uint32(header)), int(binary.NativeEndian.Uint32(header[4:])), fds, nil
}

// wait waits until there is something to receive.
func (c *Conn) wait(until time.Time) error {
	fds := []unix.PollFd{{Fd: int32(c.fd), Events: unix.POLLIN}}
	if c.process > 0 {
		fds = append(fds, unix.PollFd{Fd: int32(c.process), Events: unix.POLLIN})
	}
	for {
		n, err := poll(fds, until)
		switch {
		case err != nil:
			return err
		case n == 0:
			return ErrSilent
		case fds[0].Revents != 0:
			return nil
		}
		if n, err := poll(fds[:1], time.Now()); err != nil || n == 0 { // what it said last comes first
			return cmp.Or(err, ErrEnded)
		}
	}
}

// poll returns how many of fds are ready, 0 when none is until then.
func poll(fds []unix.PollFd, until time.Time) (int, error) {
	for {
		left := max(0, time.Until(until))
		n, err := unix.Poll(fds, int((left+time.Millisecond-1)/time.Millisecond))
		if err == nil || !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// FailedError is why the new process cannot go on.
type FailedError struct {
	Why string
}

func (e *FailedError) Error() string { return e.Why }

// newFile returns a file in memory.
func newFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate("culvert-"+name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("file in memory: %w", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// maxJSON bounds what is said besides flows.
const maxJSON = 256 << 20

// readJSON reads the whole of a file in memory.
func readJSON(fd int, to any) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxJSON {
		return fmt.Errorf("%w: no file, or one of %d bytes", ErrProtocol, st.Size)
	}
	b := make([]byte, st.Size)
	for at := 0; at < len(b); {
		n, err := unix.Pread(fd, b[at:], int64(at))
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n <= 0 && err == nil {
			return fmt.Errorf("%w: the file has become shorter", ErrProtocol)
		}
		at += max(n, 0)
	}
	if err := json.Unmarshal(b, to); err != nil {
		return fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}
