package snapshot

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/dataplane"
	"example.com/culvert/nat/ports"
)

// Version is the version of the format that this package writes, and the only one that
// it reads. It is another one whenever the meaning of a record is.
const Version = 1

const magic = "culvert flows\n"

// Kinds of records, in the order in which they are written.
const (
	kindEnd = iota
	kindFlow
	kindExpect
	kindPort
	numKinds
)

// sizes are those of records, by kind.
var sizes = [numKinds]int{kindFlow: conntrack.SavedSize, kindExpect: conntrack.SavedExpectSize, kindPort: ports.SavedSize}

// Header says when and where a snapshot was made, and what the numbers in it mean.
type Header struct {
	Program string        `json:"program"` // version of the program
	Boot    string        `json:"boot"`    // boot_id of the kernel
	Clock   time.Duration `json:"clock"`   // boot clock, ns
	Wall    time.Time     `json:"wall"`
	Order   string        `json:"order"` // of bytes in records: little or big
	Sizes   []int         `json:"sizes"` // of records by kind, bytes

	Policies []conntrack.Timeouts `json:"policies"` // timeouts by number
	Helpers  []string             `json:"helpers"`  // by number
}

// Here returns the part of a header that says when and where, for this moment.
// program is the version of the program.
func Here(program string) (Header, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return Header{}, fmt.Errorf("identity of the boot: %w", err)
	}
	return Header{Program: program, Boot: strings.TrimSpace(string(boot)), Clock: time.Duration(dataplane.BootClock()),
		Wall: time.Now().Round(0), Order: byteOrder(), Sizes: sizes[:]}, nil
}

// byteOrder names the order of bytes of this machine.
func byteOrder() string {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return "little"
	}
	return "big"
}

// Written says what a snapshot has.
type Written struct{ Flows, Expectations, Ports int }

// Write writes a snapshot of im to w. at says when and where (Here). The gateway goes on
// meanwhile; flows that begin or end while it is written may or may not be in it.
func Write(w io.Writer, at Header, im *dataplane.Image) (Written, error) {
	at.Policies, at.Helpers = im.Policies, im.Helpers
	head, err := json.Marshal(at)
	if err != nil {
		return Written{}, err
	}
	digest := sha256.New()
	f := file{out: bufio.NewWriterSize(io.MultiWriter(w, digest), 1<<16)}
	f.begin(head)
	for s := range im.Flows {
		if !f.record(kindFlow, s.Bytes()[:]) {
			break
		}
	}
	for x := range im.Expects {
		if !f.record(kindExpect, x.Bytes()[:]) {
			break
		}
	}
	for l := range im.Kept {
		if !f.record(kindPort, l.Bytes()[:]) {
			break
		}
	}
	if err := f.end(); err != nil {
		return Written{}, err
	}
	_, err = w.Write(digest.Sum(nil))
	return Written{int(f.count[kindFlow]), int(f.count[kindExpect]), int(f.count[kindPort])}, err
}

// file is a snapshot that is being written. The first error of out stays.
type file struct {
	out   *bufio.Writer
	count [numKinds]uint64
}

func (f *file) begin(head []byte) {
	var b bytes.Buffer
	b.WriteString(magic)
	b.Write(binary.BigEndian.AppendUint16(nil, Version))
	b.Write(binary.BigEndian.AppendUint32(nil, uint32(min(len(head), math.MaxUint32))))
	b.Write(head)
	_, _ = f.out.Write(b.Bytes()) // Flush tells
}

// record writes one record, and reports false when there is no use in more.
func (f *file) record(kind byte, b []byte) bool {
	_ = f.out.WriteByte(kind) // so does Write
	_, err := f.out.Write(b)
	f.count[kind]++
	return err == nil
}

func (f *file) end() error {
	_ = f.out.WriteByte(kindEnd) // Flush tells
	for _, n := range f.count[1:] {
		_, _ = f.out.Write(binary.BigEndian.AppendUint64(nil, n))
	}
	return f.out.Flush()
}
