package demo

import (
	"bufio"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// The file that the server offers.
const (
	ftpFile = "noise"
	ftpSize = 1 << 20 // bytes
)

func ftpNoise() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{2}), ftpSize) }

// ftpMode says who opens the data connection.
type ftpMode uint8

const (
	ftpActive  ftpMode = iota // the server, to a port that the client has named
	ftpPassive                // the client
)

// ftpControl is one end of a control connection (RFC 959).
type ftpControl struct {
	net.Conn
	in *bufio.Reader
}

func newFTPControl(c net.Conn) *ftpControl { return &ftpControl{c, bufio.NewReader(c)} }

func (c *ftpControl) say(format string, args ...any) error {
	_, err := fmt.Fprintf(c, format+"\r\n", args...)
	return err
}

func (c *ftpControl) hear() (string, error) {
	line, err := c.in.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}

// ask sends a command and expects a reply that begins with a code.
func (c *ftpControl) ask(code, format string, args ...any) (string, error) {
	if err := c.say(format, args...); err != nil {
		return "", err
	}
	reply, err := c.hear()
	if err == nil && !strings.HasPrefix(reply, code) {
		err = fmt.Errorf("the server says %q to %s", reply, fmt.Sprintf(format, args...))
	}
	return reply, err
}

// sixNumbers writes a socket as PORT and 227 do.
func sixNumbers(a netip.AddrPort) string {
	h := a.Addr().As4()
	return fmt.Sprintf("%d,%d,%d,%d,%d,%d", h[0], h[1], h[2], h[3], a.Port()>>8, a.Port()&0xff)
}

// parseSix reads the six numbers in a text.
func parseSix(text string) (netip.AddrPort, error) {
	var h [4]byte
	var high, low uint8
	start := strings.IndexAny(text, "0123456789")
	if start < 0 {
		return netip.AddrPort{}, fmt.Errorf("no address in %q", text)
	}
	_, err := fmt.Sscanf(text[start:], "%d,%d,%d,%d,%d,%d", &h[0], &h[1], &h[2], &h[3], &high, &low)
	return netip.AddrPortFrom(netip.AddrFrom4(h), uint16(high)<<8|uint16(low)), err
}

// serveFTP is the server of one session: as much of it as the demo's client needs. Data
// connections end with ctx, whoever does not come to them.
func (d *demo) serveFTP(ctx context.Context, f family) func(net.Conn) {
	host := d.lab.Host(server)
	return func(conn net.Conn) {
		c := newFTPControl(conn)
		var passive net.Listener
		var active netip.AddrPort
		defer func() {
			if passive != nil {
				passive.Close()
			}
		}()
		data := func() (net.Conn, error) {
			if passive != nil {
				defer context.AfterFunc(ctx, func() { passive.Close() })()
				return passive.Accept()
			}
			from := net.TCPAddrFromAddrPort(netip.AddrPortFrom(f.server.Addr(), ftpDataPort))
			return host.DialFrom(ctx, from, "tcp", active.String())
		}
		if c.say("220 ready") != nil {
			return
		}
		for {
			line, err := c.hear()
			if err != nil {
				return
			}
			verb, argument, _ := strings.Cut(line, " ")
			answer := "200 fine"
			switch verb {
			case "USER":
				answer = "230 welcome"
			case "PORT":
				active, err = parseSix(argument)
			case "EPRT":
				var addr netip.Addr
				var port uint64
				parts := strings.Split(argument, "|")
				if len(parts) == 5 {
					if addr, err = netip.ParseAddr(parts[2]); err == nil {
						port, err = strconv.ParseUint(parts[3], 10, 16)
					}
				}
				active = netip.AddrPortFrom(addr, uint16(port))
			case "PASV", "EPSV":
				if passive, err = host.Listen("tcp", hostPort(f.server.Addr(), 0)); err == nil {
					at := passive.Addr().(*net.TCPAddr).AddrPort()
					answer = fmt.Sprintf("229 go on (|||%d|)", at.Port())
					if verb == "PASV" {
						answer = "227 go on (" + sixNumbers(at) + ")"
					}
				}
			case "RETR":
				if c.say("150 here it comes") != nil {
					return
				}
				var to net.Conn
				if to, err = data(); err == nil {
					release := bound(ctx, to)
					_, err = io.Copy(to, ftpNoise())
					release()
					to.Close()
				}
				answer = "226 that was all"
			case "QUIT":
				_ = c.say("221 bye") // the session is over either way
				return
			default:
				answer = "502 not here"
			}
			if err != nil {
				answer = "425 " + err.Error()
			}
			if c.say("%s", answer) != nil {
				return
			}
		}
	}
}

func (d *demo) ftpActive(ctx context.Context, f family) (result, error) {
	return d.ftp(ctx, f, ftpActive)
}

func (d *demo) ftpPassive(ctx context.Context, f family) (result, error) {
	return d.ftp(ctx, f, ftpPassive)
}

// ftp fetches a file and shows what the gateway expected for it.
func (d *demo) ftp(ctx context.Context, f family, mode ftpMode) (result, error) {
	host := d.lab.Host(client)
	conn, err := host.Dial(ctx, "tcp", hostPort(f.server.Addr(), ftpPort))
	if err != nil {
		return result{}, err
	}
	defer conn.Close()
	defer bound(ctx, conn)()
	c := newFTPControl(conn)
	if _, err := c.hear(); err != nil {
		return result{}, err
	}
	if _, err := c.ask("230", "USER anonymous"); err != nil {
		return result{}, err
	}
	said, port, open, err := d.openData(ctx, f, c, mode)
	if err != nil {
		return result{}, err
	}
	if _, err := c.ask("150", "RETR "+ftpFile); err != nil {
		return result{}, err
	}
	data, err := open()
	if err != nil {
		return result{}, err
	}
	defer data.Close()
	defer bound(ctx, data)()
	got, want := sha256.New(), sha256.New()
	size, err := io.Copy(got, data)
	if err != nil {
		return result{}, err
	}
	_, _ = io.Copy(want, ftpNoise()) // neither fails
	if string(got.Sum(nil)) != string(want.Sum(nil)) {
		return result{}, fmt.Errorf("%d bytes came, and they are not the %d that were sent", size, ftpSize)
	}
	source := localAddr(data)
	if mode == ftpActive {
		source = netip.AddrPortFrom(f.server.Addr(), ftpDataPort)
	}
	flow, err := d.flowOf(ctx, "tcp", source)
	if err != nil {
		return result{}, err
	}
	events, err := d.expectations(ctx, port)
	return result{text: said, lines: append(events, flow)}, err
}

// openData agrees on a data connection. It returns what was said, the port that is
// expected, and how the client gets its end.
func (d *demo) openData(ctx context.Context, f family, c *ftpControl, mode ftpMode) (said string, port uint16, open func() (net.Conn, error), err error) {
	host := d.lab.Host(client)
	if mode == ftpActive {
		ln, err := host.Listen("tcp", hostPort(f.client.Addr(), 0))
		if err != nil {
			return "", 0, nil, err
		}
		at := ln.Addr().(*net.TCPAddr).AddrPort()
		said = fmt.Sprintf("EPRT |2|%v|%d|", at.Addr(), at.Port())
		if at.Addr().Is4() {
			said = "PORT " + sixNumbers(at)
		}
		_, err = c.ask("200", "%s", said)
		return said, at.Port(), func() (net.Conn, error) {
			defer ln.Close()
			defer context.AfterFunc(ctx, func() { ln.Close() })()
			return ln.Accept()
		}, err
	}
	to := netip.AddrPortFrom(f.server.Addr(), 0)
	if to.Addr().Is4() {
		if said, err = c.ask("227", "PASV"); err == nil {
			to, err = parseSix(strings.TrimPrefix(said, "227"))
		}
	} else if said, err = c.ask("229", "EPSV"); err == nil {
		var port uint16
		_, rest, _ := strings.Cut(said, "(")
		_, err = fmt.Sscanf(rest, "|||%d|)", &port)
		to = netip.AddrPortFrom(to.Addr(), port)
	}
	return said, to.Port(), func() (net.Conn, error) { return host.Dial(ctx, "tcp", to.String()) }, err
}

// expectations waits for the events of the expectation of a port: it began, and was met.
func (d *demo) expectations(ctx context.Context, port uint16) ([]string, error) {
	mine := fmt.Sprintf("dport=%d ", port)
	for {
		var lines []string
		for line := range strings.Lines(d.expected.Output()) {
			if strings.Contains(line, mine) {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		if len(lines) >= 2 {
			return lines, nil
		}
		if err := wait(ctx, eventPoll); err != nil {
			return nil, fmt.Errorf("the events of port %d are %q: %w", port, lines, err)
		}
	}
}
