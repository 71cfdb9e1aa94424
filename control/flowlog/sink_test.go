package flowlog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// some returns n lines numbered from first.
func some(first, n int) *lines {
	var l lines
	for i := range n {
		l.b = fmt.Appendf(l.b, "line %d\n", first+i)
		l.close(New)
	}
	return &l
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func mustWrite(t *testing.T, s Sink, l *lines) {
	t.Helper()
	if err := s.write(l); err != nil {
		t.Fatal(err)
	}
	if l.len() != 0 || len(l.b) != 0 {
		t.Errorf("%d lines are left", l.len())
	}
}

func TestFileHasItsModeWhateverTheUmask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	f := &File{Path: filepath.Join(t.TempDir(), "flows.log"), Mode: 0o640}
	mustWrite(t, f, some(1, 2))
	defer f.close()
	if info, err := os.Stat(f.Path); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if got := content(t, f.Path); got != "line 1\nline 2\n" {
		t.Errorf("content %q", got)
	}
}

func TestFileIsAppendedTo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "flows.log")
	if err := os.WriteFile(path, []byte("before\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := &File{Path: path, Mode: 0o640}
	mustWrite(t, f, some(1, 1))
	defer f.close()
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 || content(t, path) != "before\nline 1\n" {
		t.Errorf("mode %v, content %q, %v: want the mode that it had", info.Mode(), content(t, path), err)
	}
}

func TestFileStaysWithinItsBound(t *testing.T) {
	f := &File{Path: filepath.Join(t.TempDir(), "flows.log"), Mode: 0o600, Max: 20, Keep: 2}
	defer f.close()
	for i := range 5 {
		mustWrite(t, f, some(2*i, 2)) // 14 bytes
	}
	for name, want := range map[string]string{"": "line 8\nline 9\n", ".1": "line 6\nline 7\n", ".2": "line 4\nline 5\n"} {
		if got := content(t, f.Path+name); got != want {
			t.Errorf("%s has %q, want %q", f.Path+name, got, want)
		}
	}
	if _, err := os.Stat(f.Path + ".3"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("there are more files than are to be kept: %v", err)
	}
}

func TestFileWithNothingKeptBeginsAnew(t *testing.T) {
	f := &File{Path: filepath.Join(t.TempDir(), "flows.log"), Mode: 0o600, Max: 10}
	defer f.close()
	mustWrite(t, f, some(1, 1))
	mustWrite(t, f, some(2, 1))
	if got := content(t, f.Path); got != "line 2\n" {
		t.Errorf("content %q", got)
	}
}

func TestReopenFollowsWhoeverRotates(t *testing.T) {
	f := &File{Path: filepath.Join(t.TempDir(), "flows.log"), Mode: 0o600}
	mustWrite(t, f, some(1, 1))
	if err := os.Rename(f.Path, f.Path+".old"); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, f, some(2, 1))
	if err := f.reopen(); err != nil {
		t.Fatal(err)
	}
	defer f.close()
	mustWrite(t, f, some(3, 1))
	if old, now := content(t, f.Path+".old"), content(t, f.Path); old != "line 1\nline 2\n" || now != "line 3\n" {
		t.Errorf("old %q, new %q", old, now)
	}
}

func TestFullDiskKeepsTheLines(t *testing.T) {
	f := &File{Path: "/dev/full", Mode: 0o600}
	l := some(1, 3)
	if err := f.write(l); !errors.Is(err, syscall.ENOSPC) || l.len() != 3 {
		t.Errorf("%v with %d lines left, want all and %v", err, l.len(), syscall.ENOSPC)
	}
	f.close()
}

// Whoever opens a FIFO that nobody reads waits, and with it start and reload would.
func TestWhatIsNoFileIsRefusedAtOnce(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(fifo, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{fifo, link} {
		f := &File{Path: path, Mode: 0o600}
		opened := make(chan error, 1)
		go func() { opened <- f.ready() }()
		select {
		case err := <-opened:
			if !errors.Is(err, errNoFile) {
				t.Errorf("%s: %v, want %v", path, err, errNoFile)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("%s: still opening", path)
		}
	}
	if err := (&File{Path: dir}).ready(); err == nil {
		t.Error("a directory was taken")
	}
}

// A log of root's that goes to /dev/null must not take it away from everybody.
func TestDeviceIsNotRenamed(t *testing.T) {
	pty, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pty.Close()
	if err := unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	f := &File{Path: fmt.Sprint("/dev/pts/", n), Mode: 0o600, Max: 10, Keep: 1}
	defer f.close()
	for i := range 5 {
		mustWrite(t, f, some(i, 1))
	}
}

// serverOf returns a sink and what the server got.
func serverOf(t *testing.T, network string) (*Syslog, net.PacketConn) {
	t.Helper()
	address := "127.0.0.1:0"
	if network == "unixgram" {
		address = filepath.Join(t.TempDir(), "log")
	}
	conn, err := net.ListenPacket(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &Syslog{Network: network, Address: conn.LocalAddr().String(), Facility: 16, Dial: new(net.Dialer).DialContext, Name: "edge1"}, conn
}

// rfc5424 is a message of section 6, with what this package leaves out.
var rfc5424 = regexp.MustCompile(`^<(\d+)>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \S+ (\S+) (\d+) (\S+) - (.*)$`)

func expectMessage(t *testing.T, message, priority, id, line string) {
	t.Helper()
	m := rfc5424.FindStringSubmatch(message)
	if m == nil {
		t.Fatalf("%q is no message of RFC 5424", message)
	}
	if m[1] != priority || m[2] != "edge1" || m[3] != strconv.Itoa(os.Getpid()) || m[4] != id || m[5] != line {
		t.Errorf("message %q, want priority %s, id %s, line %q", message, priority, id, line)
	}
}

func TestDatagramsHoldOneMessageEach(t *testing.T) {
	for _, network := range []string{"udp", "unixgram"} {
		s, server := serverOf(t, network)
		l := some(1, 2)
		l.b = append(l.b, "bad\n"...)
		l.close(Lost)
		mustWrite(t, s, l)
		defer s.close()
		if err := server.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		for _, want := range [][3]string{{"134", "new", "line 1"}, {"134", "new", "line 2"}, {"132", "lost", "bad"}} {
			b := make([]byte, 2048)
			n, _, err := server.ReadFrom(b)
			if err != nil {
				t.Fatal(err)
			}
			expectMessage(t, string(b[:n]), want[0], want[1], want[2])
		}
	}
}

// readCounted reads a message with counted octets.
func readCounted(t *testing.T, r *bufio.Reader) string {
	t.Helper()
	length, err := r.ReadString(' ')
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.TrimSuffix(length, " "))
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestStreamCountsOctets(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := &Syslog{Network: "tcp", Address: l.Addr().String(), Facility: 3, Dial: new(net.Dialer).DialContext, Name: "edge1"}
	mustWrite(t, s, some(1, 3))
	defer s.close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(conn)
	for i := range 3 {
		expectMessage(t, readCounted(t, r), "30", "new", fmt.Sprint("line ", i+1))
	}
}

func TestServerThatIsNotThereKeepsTheLines(t *testing.T) {
	s := &Syslog{Network: "unixgram", Address: filepath.Join(t.TempDir(), "log"), Dial: new(net.Dialer).DialContext}
	l := some(1, 3)
	if err := s.write(l); err == nil || l.len() != 3 {
		t.Errorf("%v with %d lines left, want an error and all", err, l.len())
	}
	server, err := net.ListenPacket("unixgram", s.Address)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	mustWrite(t, s, l)
	s.close()
}

func TestServerThatBreaksOffGetsTheRestLater(t *testing.T) {
	var got []string
	fail := 2
	s := &Syslog{Network: "udp", Name: "edge1", Dial: func(context.Context, string, string) (net.Conn, error) {
		return &brokenConn{fail: &fail, got: &got}, nil
	}}
	l := some(1, 3)
	if err := s.write(l); err == nil || l.len() != 1 || string(l.line(0)) != "line 3" {
		t.Errorf("%v with %d lines left, want the third", err, l.len())
	}
	fail = 9
	mustWrite(t, s, l)
	if len(got) != 3 {
		t.Errorf("got %q", got)
	}
}

func TestStreamThatTheServerClosedIsNotWrittenTo(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	s := &Syslog{Network: "tcp", Address: server.Addr().String(), Dial: new(net.Dialer).DialContext, Name: "edge1"}
	defer s.close()
	mustWrite(t, s, some(1, 1))
	conn, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1024)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	<-s.gone // the sink has heard of it
	l := some(2, 3)
	if err := s.write(l); err == nil || l.len() != 3 {
		t.Errorf("%v with %d lines left, want all three for the next connection", err, l.len())
	}
	mustWrite(t, s, l)
}

func TestNamesInMessagesArePrintableAndShort(t *testing.T) {
	for _, tt := range []struct{ name, want string }{
		{"edge1", "edge1"}, {"my gateway", "my_gateway"}, {"größe", "gr__e"}, {"", "-"},
		{strings.Repeat("x", 60), strings.Repeat("x", 48)},
	} {
		s := &Syslog{Network: "udp", Name: tt.name}
		m := rfc5424.FindStringSubmatch(string(s.append(nil, []byte("line"), New, time.Now())))
		if m == nil || m[2] != tt.want {
			t.Errorf("%q is called %q, want %q", tt.name, m, tt.want)
		}
	}
}

// brokenConn fails after some writes.
type brokenConn struct {
	net.Conn
	fail *int
	got  *[]string
}

func (c *brokenConn) SetWriteDeadline(time.Time) error { return nil }
func (c *brokenConn) Close() error                     { return nil }
func (c *brokenConn) Write(b []byte) (int, error) {
	if *c.fail--; *c.fail < 0 {
		return 0, io.ErrClosedPipe
	}
	*c.got = append(*c.got, string(b))
	return len(b), nil
}
