//go:build netns

package e2e

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"
)

// A bulk request is a byte that says which way, and the length, 8 bytes big
// endian. The side that receives the data answers with its sum.
const (
	upload   = 'u'
	download = 'd'
)

const block = 1 << 18 // bytes a write

// noise is n bytes that do not repeat, the same at every call.
func noise(n int64) io.Reader {
	return io.LimitReader(rand.NewChaCha8([32]byte{'c', 'u', 'l', 'v', 'e', 'r', 't'}), n)
}

// send writes n bytes and returns their sum.
func send(c io.Writer, n int64) ([]byte, error) {
	sum := sha256.New()
	_, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(c, sum)}, struct{ io.Reader }{noise(n)}, make([]byte, block))
	return sum.Sum(nil), err
}

// receive reads n bytes and returns their sum.
func receive(c io.Reader, n int64) ([]byte, error) {
	sum := sha256.New()
	got, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{io.LimitReader(c, n)}, make([]byte, block))
	if err == nil && got < n {
		err = fmt.Errorf("%d bytes of %d: %w", got, n, io.ErrUnexpectedEOF)
	}
	return sum.Sum(nil), err
}

// bulkService answers one bulk request after the other.
func bulkService(c net.Conn) {
	for {
		var request [9]byte
		if _, err := io.ReadFull(c, request[:]); err != nil {
			return
		}
		n := int64(binary.BigEndian.Uint64(request[1:]))
		var sum []byte
		var err error
		if request[0] == upload {
			sum, err = receive(c, n)
		} else {
			sum, err = send(c, n)
		}
		if err != nil {
			return
		}
		if _, err := c.Write(sum); err != nil {
			return
		}
	}
}

// transfer moves n bytes one way and compares the sums of both ends. The
// connection must make progress within limit in all.
func transfer(c net.Conn, way byte, n int64, limit time.Duration) error {
	if err := c.SetDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	if _, err := c.Write(binary.BigEndian.AppendUint64([]byte{way}, uint64(n))); err != nil {
		return err
	}
	var mine []byte
	var err error
	if way == upload {
		mine, err = send(c, n)
	} else {
		mine, err = receive(c, n)
	}
	if err != nil {
		return fmt.Errorf("transfer %c: %w", way, err)
	}
	var theirs [sha256.Size]byte
	if _, err := io.ReadFull(c, theirs[:]); err != nil {
		return fmt.Errorf("transfer %c: the other side's sum: %w", way, err)
	}
	if [sha256.Size]byte(mine) != theirs {
		return errors.New("the data arrived damaged: the sums of both ends differ")
	}
	return nil
}
