package flowlog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"
)

// Syslog is a sink that sends to a syslog server.
type Syslog struct {
	Network  string // "unixgram", "udp" or "tcp"
	Address  string
	Facility int // RFC 5424 table 1
	Dial     func(ctx context.Context, network, address string) (net.Conn, error)
	Name     string // APP-NAME

	conn    net.Conn
	gone    chan struct{} // closed when the server has ended a stream; a new one for each
	message []byte
}

const (
	syslogTimeout = 5 * time.Second // for a connection, and for a message
	severityWarn  = 4               // RFC 5424 table 2
	severityInfo  = 6
)

func (s *Syslog) String() string { return s.Network + ":" + s.Address }

// ready does not look whether the server is there: it may start after the gateway.
func (s *Syslog) ready() error { return nil }

func (s *Syslog) open() error {
	ctx, cancel := context.WithTimeout(context.Background(), syslogTimeout)
	defer cancel()
	conn, err := s.Dial(ctx, s.Network, s.Address)
	if err != nil {
		return err
	}
	s.conn = conn
	if s.Network == "tcp" {
		gone := make(chan struct{})
		s.gone = gone
		go func() { // a server says nothing, until it goes
			_, _ = io.Copy(io.Discard, conn) // the end is what counts, not why
			close(gone)
		}()
	}
	return nil
}

// errGone is of a stream that the server has ended. What is written there would be lost
// without an error.
var errGone = errors.New("the server closed the connection")

// ended reports whether the server has ended the stream.
func (s *Syslog) ended() bool {
	select {
	case <-s.gone: // never of datagrams: nil
		return true
	default:
		return false
	}
}

// write sends line after line. Those that are sent are dropped; the rest waits.
func (s *Syslog) write(l *lines) error {
	if s.conn == nil {
		if err := s.open(); err != nil {
			return err
		}
	}
	now := time.Now()
	for i := range l.len() {
		s.message = s.append(s.message[:0], l.line(i), l.events[i], now)
		err := s.conn.SetWriteDeadline(time.Now().Add(syslogTimeout))
		if s.ended() {
			err = errGone
		}
		if err == nil {
			_, err = s.conn.Write(s.message)
		}
		if err != nil {
			l.drop(i)
			_ = s.close() // the error that counts is the one before
			return err
		}
	}
	l.drop(l.len())
	return nil
}

// append appends the message of a line (RFC 5424 section 6).
func (s *Syslog) append(b, line []byte, e Event, now time.Time) []byte {
	severity := severityInfo
	if e == Lost {
		severity = severityWarn
	}
	start := len(b)
	b = append(b, '<')
	b = strconv.AppendInt(b, int64(s.Facility*8+severity), 10)
	b = append(b, ">1 "...)
	b = now.UTC().AppendFormat(b, timeLayout)
	b = fmt.Appendf(b, " %s %s %d %s - ", label(hostname(), 255), label(s.Name, 48), os.Getpid(), e)
	b = append(b, line...)
	if s.Network != "tcp" {
		return b
	}
	length := strconv.Itoa(len(b) - start) // counted octets
	b = append(b, length...)
	b = append(b, ' ')
	copy(b[start+len(length)+1:], b[start:len(b)-len(length)-1])
	copy(b[start:], length)
	b[start+len(length)] = ' '
	return b
}

// label makes a word of a header out of a name: at most so many printable characters
// of ASCII (RFC 5424 section 6).
func label(name string, most int) string {
	word := strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return '_'
		}
		return r
	}, name)
	return cmp.Or(word[:min(len(word), most)], "-")
}

// hostname returns that of the machine.
func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

func (s *Syslog) reopen() error {
	if err := s.close(); err != nil {
		return err
	}
	return s.open()
}

func (s *Syslog) close() error {
	if s.conn == nil {
		return nil
	}
	err := s.conn.Close()
	s.conn = nil
	return err
}
