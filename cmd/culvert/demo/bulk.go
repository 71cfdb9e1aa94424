package demo

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"time"
)

const (
	bulkTime  = 2 * time.Second // each way
	bulkBlock = 1 << 20         // bytes a write
)

// What the first byte of a connection asks serveBulk for.
const (
	askSink   = 's' // read everything, then answer with the number of bytes, 8 bytes big endian
	askSource = 'd' // send zeros until the connection is closed
)

func serveBulk(c net.Conn) {
	var ask [1]byte
	if _, err := io.ReadFull(c, ask[:]); err != nil {
		return
	}
	switch ask[0] {
	case askSink:
		n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c}, make([]byte, bulkBlock))
		if err == nil {
			_ = binary.Write(c, binary.BigEndian, n)
		}
	case askSource:
		block := make([]byte, bulkBlock)
		for {
			if _, err := c.Write(block); err != nil {
				return
			}
		}
	}
}

// bulk moves as much as it can for a while, up and then down.
func (d *demo) bulk(ctx context.Context, f family) (result, error) {
	up, upFlow, err := d.measure(ctx, f, askSink, upload)
	if err != nil {
		return result{}, fmt.Errorf("up: %w", err)
	}
	down, downFlow, err := d.measure(ctx, f, askSource, download)
	if err != nil {
		return result{}, fmt.Errorf("down: %w", err)
	}
	return result{
		text:  fmt.Sprintf("up %v, down %v", up, down),
		lines: []string{upFlow, downFlow},
	}, nil
}

// rate is bits in a second.
type rate float64

func rateOf(bytes int64, d time.Duration) rate { return rate(float64(bytes) * 8 / d.Seconds()) }

func (r rate) String() string {
	if r >= 1e9 {
		return fmt.Sprintf("%.2f Gbit/s", float64(r)/1e9)
	}
	return fmt.Sprintf("%.1f Mbit/s", float64(r)/1e6)
}

// measure runs one transfer with the server's bulk service and returns its rate
// and its flow.
func (d *demo) measure(ctx context.Context, f family, what byte, transfer func(net.Conn) (int64, error)) (rate, string, error) {
	c, err := d.lab.Host(client).Dial(ctx, "tcp", hostPort(f.server.Addr(), bulkPort))
	if err != nil {
		return 0, "", err
	}
	defer c.Close()
	defer bound(ctx, c)()
	if _, err := c.Write([]byte{what}); err != nil {
		return 0, "", err
	}
	flow, err := d.flowOf(ctx, "tcp", localAddr(c))
	if err != nil {
		return 0, "", err
	}
	start := time.Now()
	n, err := transfer(c)
	return rateOf(n, time.Since(start)), flow, err
}

// upload sends for a while and returns how much the server says it got.
func upload(c net.Conn) (int64, error) {
	block := make([]byte, bulkBlock)
	var sent int64
	for start := time.Now(); time.Since(start) < bulkTime; {
		n, err := c.Write(block)
		sent += int64(n)
		if err != nil {
			return 0, err
		}
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, err
	}
	var received int64
	if err := binary.Read(c, binary.BigEndian, &received); err != nil {
		return 0, fmt.Errorf("no receipt for %d bytes: %w", sent, err)
	}
	if received != sent {
		return 0, fmt.Errorf("the server got %d bytes of %d", received, sent)
	}
	return received, nil
}

// download receives for a while.
func download(c net.Conn) (int64, error) {
	block := make([]byte, bulkBlock)
	var got int64
	for start := time.Now(); time.Since(start) < bulkTime; {
		n, err := c.Read(block)
		got += int64(n)
		if err != nil {
			return 0, err
		}
	}
	return got, nil
}
