//go:build netns

package box

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.com/culvert/control/api"
	"example.com/culvert/test/netns"
)

// keptTopology is the network with a gateway whose flows outlive it, in a folder on a
// tmpfs.
func keptTopology(t *testing.T, config string) netns.Topology {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "culvert-box-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return boxTopology(strings.Replace(config, "[gateway]",
		fmt.Sprintf("[conntrack]\nmax = 4096\ntcp_loose = false\nstate = %q\n[gateway]\non_exit = \"hold\"", filepath.Join(dir, "state")), 1))
}

// recalled returns what a gateway says it has taken over.
func recalled(t *testing.T, gw *netns.Gateway) api.Recalled {
	t.Helper()
	var st api.Status
	must(t, json.Unmarshal([]byte(exec(t, gw.Host, gw.Binary(), "status", "-o", "json", "--socket", gw.Socket())), &st))
	if st.Recalled == nil {
		t.Fatal("culvert status says nothing about flows of the last process")
	}
	return *st.Recalled
}

// Whatever went on when the gateway was killed goes on when the next one has started, and
// in between nothing gets past: the gateway takes no connection in its middle.
func TestKilledGatewayGoesOn(t *testing.T) {
	lab := netns.ForTest(t, keptTopology(t, boxConfig+`
		[[filter]]
		proto = "tcp"
		dport = 21
		action = "mark"
		set_mark = 33
		helper = "ftp"
	`))
	gw, client, server := lab.Gateway(), lab.Host("client"), lab.Host("server")
	leaky(t, gw)
	echo(t, server, "[::]:7")
	idle, busy := dial(t, client, "", "[2001:db8::9]:7"), dial(t, client, "", "203.0.113.9:7")
	alive(t, idle)
	alive(t, busy)
	stream := streamUDP(t, client, server)
	was := stream.external(t)
	session := ftpSession(t, client, server)
	session.announce(t)
	inside, outside := capture(t, client, "eth0"), capture(t, server, "eth0")

	const before, all = 4 << 20, 24 << 20 // by far more than a window
	must(t, busy.SetDeadline(time.Now().Add(2*patience)))
	sent, got := sha256.New(), sha256.New()
	failed := make(chan error, 1)
	go func() {
		_, err := io.CopyN(io.MultiWriter(busy, sent), rand.NewChaCha8([32]byte{1}), all)
		failed <- err
	}()
	_, err := io.CopyN(got, busy, before)
	must(t, err)
	for range 2 { // what was taken over is left again
		kill(t, gw)
		must(t, gw.Start(t.Context()))
		if r := recalled(t, gw); r.Flows != 4 || r.Expectations != 1 || r.Refused != "" || r.Expired+r.Taken+r.Full+r.Torn != 0 {
			t.Errorf("the next gateway has taken over %+v, want four flows, one expectation and no loss", r)
		}
	}
	_, err = io.CopyN(got, busy, all-before)
	must(t, errors.Join(err, <-failed))
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Error("the transfer that was under way came back changed")
	}
	alive(t, idle)
	if is := stream.external(t); is != was {
		t.Errorf("the stream leaves from %v, was %v", is, was)
	}
	session.fetch(t)

	none(t, inside, "a reset came inside", reset)
	none(t, outside, "the outside got what is not translated", func(f netns.Frame) bool {
		return reset(f) || received(f) && netip.MustParsePrefix("10.0.0.0/24").Contains(source(f))
	})
	must(t, gw.Stop())
	exec(t, gw.Host, gw.Binary(), "release")
}

// udpStream is a host that sends to another, which answers with what it sees.
type udpStream struct{ c net.Conn }

func streamUDP(t *testing.T, client, server *netns.Host) udpStream {
	t.Helper()
	pc, err := server.ListenPacket("udp", "203.0.113.9:9")
	must(t, err)
	t.Cleanup(func() { pc.Close() })
	go func() {
		b := make([]byte, 64)
		for {
			_, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo([]byte(from.String()), from)
		}
	}()
	c, err := client.Dial(t.Context(), "udp", "203.0.113.9:9")
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return udpStream{c}
}

// external returns where the server sees the stream.
func (s udpStream) external(t *testing.T) (seen string) {
	t.Helper()
	eventually(t, "the server answers", func() bool {
		_, err := s.c.Write([]byte("?"))
		must(t, err)
		must(t, s.c.SetReadDeadline(time.Now().Add(10*pollEvery)))
		b := make([]byte, 64)
		n, err := s.c.Read(b)
		seen = string(b[:n])
		return err == nil
	})
	return seen
}

// ftp is a session with vsftpd whose client has announced a port, and asks for a file
// later.
type ftp struct {
	client *netns.Host
	c      net.Conn
	r      *bufio.Reader
	data   net.Listener
	text   []byte
}

func ftpSession(t *testing.T, client, server *netns.Host) *ftp {
	t.Helper()
	root := t.TempDir()
	for dir := root; dir != os.TempDir(); dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755)) // for the anonymous user
	}
	s := &ftp{client: client, text: bytes.Repeat([]byte("kept\n"), 20_000)}
	must(t, os.WriteFile(filepath.Join(root, "file"), s.text, 0o644))
	if _, err := user.Lookup("ftp"); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(t.TempDir(), "vsftpd.conf")
	must(t, os.WriteFile(conf, []byte(`listen=YES
listen_address=203.0.113.9
background=NO
anonymous_enable=YES
no_anon_password=YES
anon_root=`+root+`
connect_from_port_20=YES
seccomp_sandbox=NO
secure_chroot_dir=`+t.TempDir()+`
nopriv_user=nobody
`), 0o600))
	daemon, err := server.Start("vsftpd", conf)
	must(t, err)
	t.Cleanup(func() { _ = daemon.Stop() })
	eventually(t, "vsftpd listens", func() bool {
		out, err := server.Exec(t.Context(), "ss", "-Hltn", "sport = :21")
		return err == nil && out != ""
	})
	s.c = dial(t, client, "", "203.0.113.9:21")
	must(t, s.c.SetDeadline(time.Now().Add(3*patience)))
	s.r = bufio.NewReader(s.c)
	s.want(t, "", "220")
	s.want(t, "USER anonymous", "230")
	return s
}

// want sends a command, if there is one, and waits for a reply with a code.
func (s *ftp) want(t *testing.T, command, code string) {
	t.Helper()
	if command != "" {
		_, err := io.WriteString(s.c, command+"\r\n")
		must(t, err)
	}
	line, err := s.r.ReadString('\n')
	must(t, err)
	if !strings.HasPrefix(line, code+" ") {
		t.Fatalf("the answer to %q is %q, want %s", command, line, code)
	}
}

// announce tells the server where the client will take a file.
func (s *ftp) announce(t *testing.T) {
	t.Helper()
	var err error
	s.data, err = s.client.Listen("tcp", "10.0.0.5:0")
	must(t, err)
	t.Cleanup(func() { s.data.Close() })
	port := s.data.Addr().(*net.TCPAddr).Port
	s.want(t, "PORT 10,0,0,5,"+strconv.Itoa(port>>8)+","+strconv.Itoa(port&0xff), "200")
}

// fetch has the server bring the file there.
func (s *ftp) fetch(t *testing.T) {
	t.Helper()
	s.want(t, "RETR file", "150")
	c, err := s.data.Accept()
	must(t, err)
	must(t, c.SetDeadline(time.Now().Add(patience)))
	got, err := io.ReadAll(c)
	must(t, errors.Join(err, c.Close()))
	if !bytes.Equal(got, s.text) {
		t.Errorf("%d bytes came, want the %d of the file", len(got), len(s.text))
	}
	s.want(t, "", "226")
}
