package pcapng

import (
	"errors"
	"fmt"
	"io"
)

// maxBlock bounds a block that Split reads, bytes: a packet of 256 KB with its options.
const maxBlock = 1 << 20

// Split copies the section that r holds, packet by packet, to what next returns: at the
// first packet, and whenever full says of what was written that it is enough. Each of
// them begins with the section's header and all interfaces known by then. It returns nil
// at the end of r.
func Split(r io.Reader, full func(bytes int64) bool, next func() (io.Writer, error)) error {
	var head []byte // what every file begins with
	var to io.Writer
	var size int64
	for {
		block, kind, err := readBlock(r)
		if errors.Is(err, io.EOF) {
			if to == nil && len(head) > 0 { // no packet came
				return begin(next, &to, head)
			}
			return nil
		}
		if err != nil {
			return err
		}
		if kind == blockSection || kind == blockInterface {
			head = append(head, block...)
			if to == nil {
				continue
			}
		}
		if kind == blockPacket && (to == nil || full(size)) {
			if err := begin(next, &to, head); err != nil {
				return err
			}
			size = int64(len(head))
		}
		if to == nil {
			continue // statistics of no file
		}
		n, err := to.Write(block)
		size += int64(n)
		if err != nil {
			return err
		}
	}
}

// begin makes to the next file.
func begin(next func() (io.Writer, error), to *io.Writer, head []byte) (err error) {
	if *to, err = next(); err != nil {
		return err
	}
	_, err = (*to).Write(head)
	return err
}

// readBlock returns the next block of r, whole.
func readBlock(r io.Reader) ([]byte, uint32, error) {
	var h [8]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("capture ends in the middle of a block")
		}
		return nil, 0, err
	}
	kind, n := le.Uint32(h[:]), le.Uint32(h[4:])
	if n < 12 || n%4 != 0 || n > maxBlock {
		return nil, 0, fmt.Errorf("capture has a block of %d bytes", n)
	}
	block := make([]byte, n)
	copy(block, h[:])
	if _, err := io.ReadFull(r, block[8:]); err != nil {
		return nil, 0, errors.New("capture ends in the middle of a block")
	}
	return block, kind, nil
}
