package pcap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Limits of what is read, so that a damaged file cannot ask for gigabytes.
const (
	maxFrame = 1 << 18 // bytes: the longest frame tcpdump and dumpcap write
	maxBlock = 1 << 24 // bytes, of a pcapng block: name tables and secrets are longer than frames
)

// Blocks of pcapng (draft-ietf-opsawg-pcapng, section 4).
const (
	blockSection  = 0x0a0d0d0a
	blockPacket   = 2 // obsolete, still written by old tools
	blockSimple   = 3
	blockEnhanced = 6

	sectionLittle = 0x1a2b3c4d // byte-order magic as a little-endian reader sees it
)

var errBlock = errors.New("damaged block")

// checkBlocks walks over the blocks of a pcapng file: pcapgo trusts the lengths in them.
// The end of a file that was cut off is the reader's business.
func checkBlocks(r io.ReaderAt) error {
	var order binary.ByteOrder = binary.LittleEndian
	var b [28]byte // enough for the length of the frame in every kind of block
	for at := int64(0); ; {
		n, err := r.ReadAt(b[:], at)
		if n < 12 {
			if err == io.EOF {
				return nil
			}
			return err
		}
		clear(b[n:])
		kind := order.Uint32(b[0:])
		if kind == blockSection { // the same in either order
			order = binary.LittleEndian
			if order.Uint32(b[8:]) != sectionLittle {
				order = binary.BigEndian
			}
		}
		length, frame, longest := order.Uint32(b[4:]), uint32(0), uint32(maxFrame)
		switch kind {
		case blockEnhanced, blockPacket:
			frame = order.Uint32(b[20:])
			longest = min(longest, length)
		case blockSimple:
			frame = order.Uint32(b[8:]) // on the wire: the block may hold less
		}
		if length < 12 || length > maxBlock || frame > longest {
			return fmt.Errorf("%w at byte %d: %d bytes with a frame of %d", errBlock, at, length, frame)
		}
		at += int64(length+3) &^ 3
	}
}
