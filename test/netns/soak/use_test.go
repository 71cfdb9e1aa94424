//go:build netns

package soak

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"example.com/culvert/test/netns"
)

// use is something that users, or who runs the gateway, do again and again.
type use struct {
	name     string
	pause    time.Duration // between two of them
	parallel int
	strict   bool // never excused: no change of an address touches it
	once     func(ctx context.Context) error

	done, interrupted, failed atomic.Int64
	mu                        sync.Mutex // guards errs
	errs                      []error    // the first ones
}

const (
	patience = 15 * time.Second // for one use
	tries    = 4                // of what may be lost on the way
	tryFor   = time.Second
)

// drive does it until ctx ends; what has begun then goes on.
func (s *lab) drive(ctx context.Context, u *use) {
	pause := time.NewTicker(u.pause)
	defer pause.Stop()
	for ctx.Err() == nil {
		began := time.Now()
		once, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
		err := u.once(once)
		cancel()
		switch {
		case err == nil:
			u.done.Add(1)
		case !u.strict && s.disturbed(began):
			u.interrupted.Add(1)
		default:
			u.failed.Add(1)
			u.mu.Lock()
			if len(u.errs) < 5 {
				u.errs = append(u.errs, err)
			}
			u.mu.Unlock()
		}
		select {
		case <-ctx.Done():
		case <-pause.C:
		}
	}
}

func (u *use) judge(t *testing.T) {
	for _, err := range u.errs {
		t.Errorf("%s: %v", u.name, err)
	}
	if u.done.Load() == 0 {
		t.Errorf("%s: not once", u.name)
	}
}

// uses starts the services and returns what is done with them.
func (s *lab) uses(t *testing.T) (all []*use) {
	t.Helper()
	for i, server := range servers {
		family, strict := [...]string{"IPv4", "IPv6"}[i], i == 1
		from := netip.MustParseAddr(inside[i])
		s.serveHTTP(t, netip.AddrPortFrom(server, 80))
		s.serveTCP(t, netip.AddrPortFrom(server, 7), copyBack)
		s.serveTCP(t, netip.AddrPortFrom(server, 13), func(c net.Conn) { fmt.Fprintln(c, "hello") })
		s.serveUDP(t, netip.AddrPortFrom(server, 7), func(b []byte) []byte { return b })
		s.serveUDP(t, netip.AddrPortFrom(server, 53), resolve)
		bulk := &bulk{host: s.second, to: netip.AddrPortFrom(server, 7)}
		t.Cleanup(bulk.close)
		all = append(all,
			&use{name: "HTTP, " + family, pause: 100 * time.Millisecond, parallel: 2, strict: strict, once: s.web(t, server)},
			&use{name: "DNS, " + family, pause: 50 * time.Millisecond, parallel: 2, strict: strict, once: s.lookup(server)},
			&use{name: "ping, " + family, pause: 100 * time.Millisecond, parallel: 1, strict: strict, once: s.ping(from, server)},
			&use{name: "bulk, " + family, pause: 200 * time.Millisecond, parallel: 1, strict: strict, once: bulk.once},
			&use{name: "connections, " + family, pause: 20 * time.Millisecond, parallel: 2, strict: strict, once: s.connect(netip.AddrPortFrom(server, 13))},
			&use{name: "datagrams, " + family, pause: 10 * time.Millisecond, parallel: 2, strict: strict, once: s.datagram(netip.AddrPortFrom(server, 7))},
		)
	}
	s.serveSIP(t)
	return append(all,
		&use{name: "FTP", pause: 500 * time.Millisecond, parallel: 1, once: s.ftp(t)},
		&use{name: "SIP", pause: 200 * time.Millisecond, parallel: 1, once: s.call},
		&use{name: "reload", pause: 1500 * time.Millisecond, parallel: 1, strict: true, once: s.reload()},
		&use{name: "another address", pause: 8 * time.Second, parallel: 1, strict: true, once: s.move()},
	)
}

// noise is n bytes that a seed makes.
func noise(seed, n uint64) io.Reader {
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], seed)
	return io.LimitReader(rand.NewChaCha8(key), int64(n))
}

func sumOf(from io.Reader) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	_, err = io.Copy(h, from)
	return [sha256.Size]byte(h.Sum(nil)), err
}

// serveTCP has a service on the server until the test ends.
func (s *lab) serveTCP(t *testing.T, on netip.AddrPort, handle func(net.Conn)) {
	t.Helper()
	l, err := s.server.Listen("tcp", on.String())
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.seen(c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr())
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
}

func (s *lab) serveUDP(t *testing.T, on netip.AddrPort, answer func([]byte) []byte) {
	t.Helper()
	c, err := s.server.ListenPacket("udp", on.String())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	go func() {
		for b := make([]byte, 2048); ; {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			s.seen(from.(*net.UDPAddr).AddrPort().Addr())
			_, _ = c.WriteTo(answer(b[:n]), from) // it asks again
		}
	}()
}

// copyBack answers with what it gets. Nobody tells it that an address has gone.
func copyBack(c net.Conn) {
	for b := make([]byte, 64<<10); ; {
		_ = c.SetDeadline(time.Now().Add(patience))
		n, err := c.Read(b)
		if err != nil {
			return
		}
		if _, err := c.Write(b[:n]); err != nil {
			return
		}
	}
}

// serveHTTP answers /SEED/N with N bytes of noise.
func (s *lab) serveHTTP(t *testing.T, on netip.AddrPort) {
	t.Helper()
	l, err := s.server.Listen("tcp", on.String())
	must(t, err)
	web := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.seen(netip.MustParseAddrPort(r.RemoteAddr).Addr())
		var seed, n uint64
		if _, err := fmt.Sscanf(r.URL.Path, "/%d/%d", &seed, &n); err != nil {
			http.NotFound(w, r)
			return
		}
		_, _ = io.Copy(w, noise(seed, n)) // the client has gone: it says so
	}), ReadHeaderTimeout: patience, WriteTimeout: patience, IdleTimeout: patience}
	t.Cleanup(func() { web.Close() })
	go func() { _ = web.Serve(l) }()
}

// web downloads something and compares its sum, over a new connection or an old one.
func (s *lab) web(t *testing.T, server netip.Addr) func(context.Context) error {
	client := &http.Client{Transport: &http.Transport{DialContext: s.first.Dial, MaxIdleConnsPerHost: 2, IdleConnTimeout: patience / 2}}
	t.Cleanup(client.CloseIdleConnections)
	return func(ctx context.Context) error {
		seed, n := rand.Uint64(), rand.Uint64N(512<<10)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://%s/%d/%d", netip.AddrPortFrom(server, 80), seed, n), nil)
		if err != nil {
			return err
		}
		req.Close = seed%2 == 0
		answer, err := client.Do(req)
		if err != nil {
			client.CloseIdleConnections() // they are of an address that has gone, too
			return err
		}
		defer answer.Body.Close()
		got, err := sumOf(answer.Body)
		if err != nil {
			return err
		}
		if want, err := sumOf(noise(seed, n)); got != want {
			return errors.Join(fmt.Errorf("%d bytes arrived damaged", n), err)
		}
		return nil
	}
}

// bulk is a connection that lasts, until it is interrupted.
type bulk struct {
	host *netns.Host
	to   netip.AddrPort
	c    net.Conn
}

func (b *bulk) close() {
	if b.c != nil {
		b.c.Close()
		b.c = nil
	}
}

// once sends two megabytes and compares what comes back.
func (b *bulk) once(ctx context.Context) (err error) {
	if b.c == nil {
		if b.c, err = b.host.Dial(ctx, "tcp", b.to.String()); err != nil {
			b.c = nil
			return err
		}
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	deadline, _ := ctx.Deadline()
	if err := b.c.SetDeadline(deadline); err != nil {
		return err
	}
	const n = 2 << 20
	seed, sent := rand.Uint64(), make(chan error, 1)
	go func(c net.Conn) {
		_, err := io.Copy(c, noise(seed, n))
		sent <- err
	}(b.c)
	got, err := sumOf(io.LimitReader(b.c, n))
	if err == nil {
		err = <-sent
	}
	if err != nil {
		return err
	}
	if want, err := sumOf(noise(seed, n)); got != want {
		return errors.Join(errors.New("the bulk arrived damaged"), err)
	}
	return nil
}

// connect makes a connection that is over at once.
func (s *lab) connect(to netip.AddrPort) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := s.first.Dial(ctx, "tcp", to.String())
		if err != nil {
			return err
		}
		defer c.Close()
		deadline, _ := ctx.Deadline()
		_ = c.SetDeadline(deadline)
		if text, err := io.ReadAll(c); err != nil || string(text) != "hello\n" {
			return fmt.Errorf("greeted with %q: %w", text, err)
		}
		return nil
	}
}

// ask sends a datagram from a new port until an answer comes that is right.
func (s *lab) ask(ctx context.Context, to netip.AddrPort, question []byte, right func([]byte) bool) error {
	c, err := s.first.Dial(ctx, "udp", to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	b := make([]byte, 2048)
	for range tries {
		if _, err = c.Write(question); err != nil {
			continue // the flow was ended with notice
		}
		_ = c.SetReadDeadline(time.Now().Add(tryFor))
		var n int
		if n, err = c.Read(b); err == nil {
			if !right(b[:n]) {
				return fmt.Errorf("wrong answer %q to %q", b[:n], question)
			}
			return nil
		}
	}
	return err
}

func (s *lab) datagram(to netip.AddrPort) func(context.Context) error {
	return func(ctx context.Context) error {
		question := make([]byte, 1+rand.IntN(1400))
		if _, err := io.ReadFull(noise(rand.Uint64(), uint64(len(question))), question); err != nil {
			return err
		}
		return s.ask(ctx, to, question, func(b []byte) bool { return bytes.Equal(b, question) })
	}
}

// resolve answers a question with the address that its name is the number of.
func resolve(b []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(b) != nil || len(m.Questions) != 1 {
		return nil
	}
	name := m.Questions[0].Name
	n, _ := strconv.ParseUint(strings.TrimSuffix(name.String(), ".example."), 10, 32)
	m.Response = true
	m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: 1},
		Body: &dnsmessage.AResource{A: [4]byte(binary.BigEndian.AppendUint32(nil, uint32(n)))}}}
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

// lookup asks for a name.
func (s *lab) lookup(server netip.Addr) func(context.Context) error {
	return func(ctx context.Context) error {
		n := rand.Uint32()
		name, err := dnsmessage.NewName(fmt.Sprintf("%d.example.", n))
		if err != nil {
			return err
		}
		q := dnsmessage.Message{Header: dnsmessage.Header{ID: uint16(n), RecursionDesired: true},
			Questions: []dnsmessage.Question{{Name: name, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
		b, err := q.Pack()
		if err != nil {
			return err
		}
		return s.ask(ctx, netip.AddrPortFrom(server, 53), b, func(b []byte) bool {
			var m dnsmessage.Message
			if m.Unpack(b) != nil || m.ID != uint16(n) || len(m.Answers) != 1 {
				return false
			}
			a, ok := m.Answers[0].Body.(*dnsmessage.AResource)
			return ok && binary.BigEndian.Uint32(a.A[:]) == n
		})
	}
}

// ping sends an echo request with the program that everybody uses.
func (s *lab) ping(from, server netip.Addr) func(context.Context) error {
	return func(ctx context.Context) error {
		out, err := s.first.Exec(ctx, "ping", "-n", "-c", "1", "-W", "4", "-s", strconv.Itoa(rand.IntN(1400)+16), "-I", from.String(), server.String())
		if err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		return nil
	}
}

// ftp fetches a file in passive mode and in active mode, one after the other.
func (s *lab) ftp(t *testing.T) func(context.Context) error {
	t.Helper()
	root := t.TempDir()
	for dir := root; strings.HasPrefix(dir, os.TempDir()) && dir != os.TempDir(); dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755)) // the anonymous user has to get there
	}
	_, err := user.Lookup("ftp")
	must(t, err)
	file, err := io.ReadAll(noise(21, 300<<10))
	must(t, err)
	must(t, os.WriteFile(filepath.Join(root, "file"), file, 0o644))
	conf := filepath.Join(t.TempDir(), "vsftpd.conf")
	must(t, os.WriteFile(conf, []byte("listen=YES\nlisten_address="+servers[0].String()+"\nbackground=NO\nanonymous_enable=YES\nno_anon_password=YES\nanon_root="+
		root+"\nconnect_from_port_20=YES\nseccomp_sandbox=NO\nsecure_chroot_dir="+t.TempDir()+"\nnopriv_user=nobody\n"), 0o600))
	_, err = s.server.Start("vsftpd", conf)
	must(t, err)
	to := net.JoinHostPort(servers[0].String(), "21")
	must(t, poll(t.Context(), "vsftpd listens", func() (bool, error) {
		c, err := s.server.Dial(t.Context(), "tcp", to)
		if err == nil {
			c.Close()
		}
		return err == nil, nil
	}))
	came, active := filepath.Join(t.TempDir(), "came"), false
	return func(ctx context.Context) error {
		args := []string{"curl", "-sS", "--max-time", "10", "-o", came, "ftp://" + to + "/file"}
		if active = !active; active {
			args = append(args, "--ftp-port", "-")
		}
		if out, err := s.first.Exec(ctx, args...); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
		if got, err := os.ReadFile(came); err != nil || !bytes.Equal(got, file) {
			return fmt.Errorf("a file of %d bytes came as %d others: %w", len(file), len(got), err)
		}
		return nil
	}
}

// reload loads one of two configurations, and every fourth time a broken file first.
func (s *lab) reload() func(context.Context) error {
	texts, n := [...]string{config + another, config}, 0
	return func(ctx context.Context) error {
		if n++; n%4 == 0 {
			if s.gw.Reload(ctx, config+"\n[[filter]]\naction = \"perhaps\"\n") == nil {
				return errors.New("a broken file was taken")
			}
		}
		return s.gw.Reload(ctx, texts[n%2])
	}
}

// move replaces the outside address by another one, and that one by the first.
func (s *lab) move() func(context.Context) error {
	from, to := outside[0], moved
	return func(ctx context.Context) error {
		err := s.readdress(ctx, from, to)
		from, to = to, from
		return err
	}
}
