// Package pcapng writes captures whose packets have comments, and cuts such a capture
// into files. The format is that of draft-ietf-opsawg-pcapng; gopacket's writer knows no
// comments of packets.
package pcapng

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"
)

// LinkType says what frames of an interface begin with.
type LinkType uint16

// Link types, of the registry of the format.
const (
	Ethernet LinkType = 1
	RawIP    LinkType = 101
)

// Direction is that of a packet on its interface.
type Direction uint32

// Directions, as the flags of a packet have them.
const (
	Inbound  Direction = 1
	Outbound Direction = 2
)

// Types of blocks.
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockStats     = 5
	blockPacket    = 6
)

// Codes of options.
const (
	optEnd         = 0
	optComment     = 1
	optApplication = 4 // of a section
	optName        = 2 // of an interface
	optResolution  = 9 // of an interface
	optFlags       = 2 // of a packet
	optDropped     = 5 // of statistics: frames that found no room
	nanoseconds    = 9 // negative power of ten
	byteOrder      = 0x1a2b3c4d
	maxComment     = 0xffff // bytes
)

var le = binary.LittleEndian

// Writer writes one section. It is not safe for concurrent use.
type Writer struct {
	w          io.Writer
	buf        []byte
	interfaces uint32
}

// NewWriter begins a section on w, written by the program called application.
func NewWriter(w io.Writer, application string) (*Writer, error) {
	x := &Writer{w: w}
	x.begin(blockSection)
	x.buf = le.AppendUint32(x.buf, byteOrder)
	x.buf = le.AppendUint16(x.buf, 1) // version 1.0
	x.buf = le.AppendUint16(x.buf, 0)
	x.buf = le.AppendUint64(x.buf, ^uint64(0)) // nobody knows how long it gets
	x.option(optApplication, []byte(application))
	return x, x.end()
}

// Interface adds an interface and returns its number, from 0. snap is how many bytes of
// a frame may be written, 0: all.
func (x *Writer) Interface(name string, link LinkType, snap int) (int, error) {
	x.begin(blockInterface)
	x.buf = le.AppendUint16(x.buf, uint16(link))
	x.buf = le.AppendUint16(x.buf, 0)
	x.buf = le.AppendUint32(x.buf, uint32(snap))
	x.option(optName, []byte(name))
	x.option(optResolution, []byte{nanoseconds})
	x.interfaces++
	return int(x.interfaces) - 1, x.end()
}

// Packet is a packet of an interface.
type Packet struct {
	Interface int
	Time      time.Time
	Data      []byte // as much of it as was kept
	Length    int    // of it all
	Direction Direction
	Comment   string // "": none; of longer ones the first 65,535 bytes
}

// Packet writes a packet.
func (x *Writer) Packet(p *Packet) error {
	if p.Interface < 0 || uint32(p.Interface) >= x.interfaces {
		return fmt.Errorf("pcapng: there is no interface %d", p.Interface)
	}
	x.begin(blockPacket)
	x.buf = le.AppendUint32(x.buf, uint32(p.Interface))
	x.stamp(p.Time)
	x.buf = le.AppendUint32(x.buf, uint32(len(p.Data)))
	x.buf = le.AppendUint32(x.buf, uint32(p.Length))
	x.padded(p.Data)
	if p.Comment != "" {
		x.option(optComment, []byte(p.Comment))
	}
	if p.Direction != 0 {
		x.option(optFlags, le.AppendUint32(nil, uint32(p.Direction)))
	}
	return x.end()
}

// Stats says how many frames of an interface found no room, up to a time.
func (x *Writer) Stats(number int, at time.Time, dropped uint64, comment string) error {
	x.begin(blockStats)
	x.buf = le.AppendUint32(x.buf, uint32(number))
	x.stamp(at)
	if comment != "" {
		x.option(optComment, []byte(comment))
	}
	x.option(optDropped, le.AppendUint64(nil, dropped))
	return x.end()
}

func (x *Writer) stamp(t time.Time) {
	ns := uint64(t.UnixNano())
	x.buf = le.AppendUint32(x.buf, uint32(ns>>32))
	x.buf = le.AppendUint32(x.buf, uint32(ns))
}

func (x *Writer) begin(kind uint32) {
	x.buf = le.AppendUint32(x.buf[:0], kind)
	x.buf = le.AppendUint32(x.buf, 0) // length, see end
}

func (x *Writer) option(code uint16, value []byte) {
	value = value[:min(len(value), maxComment)]
	x.buf = le.AppendUint16(x.buf, code)
	x.buf = le.AppendUint16(x.buf, uint16(len(value)))
	x.padded(value)
}

// padded appends b up to a multiple of four bytes.
func (x *Writer) padded(b []byte) {
	x.buf = append(x.buf, b...)
	for len(x.buf)%4 != 0 {
		x.buf = append(x.buf, 0)
	}
}

// end writes the block.
func (x *Writer) end() error {
	x.buf = le.AppendUint32(x.buf, optEnd)
	n := uint32(len(x.buf) + 4)
	x.buf = le.AppendUint32(x.buf, n)
	le.PutUint32(x.buf[4:], n)
	_, err := x.w.Write(x.buf)
	return err
}
