package upgrade

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"unsafe"

	"golang.org/x/sys/unix"

	"example.com/culvert/conntrack"
	"example.com/culvert/nat/ports"
)

// State is a round: flows as memory has them, in a file that both processes map.
//
//	"culvert state\n\0\0"     16 bytes
//	how many of each section  4 times 8 bytes
//	slots that have ended     4 bytes each, and so many more that what follows is aligned
//	flows                     conntrack.SavedSize bytes each
//	expectations              conntrack.SavedExpectSize
//	kept ports                ports.SavedSize
//	checksum                  CRC-32C of all before it, 4 bytes
//
// All numbers are in the byte order of the machine.
type State struct {
	Ended   []uint32
	Flows   []conntrack.Saved
	Expects []conntrack.SavedExpect
	Kept    []ports.Saved

	mapped []byte // what these lie in; nil: in the memory of Go
}

// ErrState is wrapped by errors for a state that is not whole.
var ErrState = errors.New("the state of flows is damaged")

const (
	stateMagic  = "culvert state\n\x00\x00"
	stateHeader = 16 + 4*8
	stateAlign  = 8
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sections returns where the sections of a state with such counts begin, and where the
// last one ends, which is where the checksum is.
func sections(counts *[4]uint64) (at [5]uint64, ok bool) {
	sizes := [4]uint64{4, uint64(conntrack.SavedSize), uint64(conntrack.SavedExpectSize), uint64(ports.SavedSize)}
	next := uint64(stateHeader)
	for i, n := range counts {
		at[i] = next
		if n > maxContent/sizes[i] {
			return at, false
		}
		next = (next + n*sizes[i] + stateAlign - 1) &^ (stateAlign - 1)
	}
	at[4] = next
	return at, next < maxContent
}

// view returns n elements of b from at on.
func view[T any](b []byte, at, n uint64) []T {
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&b[at])), n)
}

// bytesOf views s as memory has it.
func bytesOf[T any](s []T) []byte {
	var zero T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), len(s)*int(unsafe.Sizeof(zero)))
}

// append appends the file of s.
func (s *State) append(b []byte) []byte {
	counts := [4]uint64{uint64(len(s.Ended)), uint64(len(s.Flows)), uint64(len(s.Expects)), uint64(len(s.Kept))}
	at, _ := sections(&counts)
	b = append(b, stateMagic...)
	for _, n := range counts {
		b = binary.NativeEndian.AppendUint64(b, n)
	}
	for i, part := range [4][]byte{bytesOf(s.Ended), bytesOf(s.Flows), bytesOf(s.Expects), bytesOf(s.Kept)} {
		b = append(b, part...)
		b = append(b, make([]byte, at[i+1]-uint64(len(b)))...)
	}
	return binary.NativeEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// File writes s to a file in memory and returns its descriptor, which is the caller's.
func (s *State) File() (fd int, err error) {
	f, err := newFile("state")
	if err != nil {
		return -1, err
	}
	defer f.Close()
	size := stateHeader + 4 + 8*4 + len(s.Ended)*4 + len(s.Flows)*conntrack.SavedSize +
		len(s.Expects)*conntrack.SavedExpectSize + len(s.Kept)*ports.SavedSize
	if _, err := f.Write(s.append(make([]byte, 0, size))); err != nil {
		return -1, fmt.Errorf("state of flows: %w", err)
	}
	return unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
}

// OpenState maps the state in a file. Close unmaps it; the descriptor stays the caller's.
// The error wraps ErrState when it is not whole.
func OpenState(fd int) (*State, error) {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, fmt.Errorf("state of flows: %w", err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size < stateHeader+4 || st.Size > maxContent {
		return nil, fmt.Errorf("%w: no file, or one of %d bytes", ErrState, st.Size)
	}
	// Private: who takes a flow over moves its times.
	b, err := unix.Mmap(fd, 0, int(st.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("state of flows: %w", err)
	}
	s, err := parseState(b)
	if err != nil {
		return nil, errors.Join(err, unix.Munmap(b))
	}
	s.mapped = b
	return s, nil
}

// parseState views b, which begins at a multiple of stateAlign.
func parseState(b []byte) (*State, error) {
	if len(b) < stateHeader+4 || string(b[:16]) != stateMagic {
		return nil, fmt.Errorf("%w: it does not begin like one", ErrState)
	}
	var counts [4]uint64
	for i := range counts {
		counts[i] = binary.NativeEndian.Uint64(b[16+8*i:])
	}
	at, ok := sections(&counts)
	if !ok || at[4]+4 != uint64(len(b)) {
		return nil, fmt.Errorf("%w: %d bytes for %d records", ErrState, len(b), counts)
	}
	if sum := crc32.Checksum(b[:at[4]], castagnoli); sum != binary.NativeEndian.Uint32(b[at[4]:]) {
		return nil, fmt.Errorf("%w: its checksum is another one", ErrState)
	}
	return &State{
		Ended: view[uint32](b, at[0], counts[0]), Flows: view[conntrack.Saved](b, at[1], counts[1]),
		Expects: view[conntrack.SavedExpect](b, at[2], counts[2]), Kept: view[ports.Saved](b, at[3], counts[3]),
	}, nil
}

// Close gives back the memory of a state that OpenState has made.
func (s *State) Close() error {
	if s.mapped == nil {
		return nil
	}
	b := s.mapped
	*s = State{}
	return unix.Munmap(b)
}
