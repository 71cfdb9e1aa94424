//go:build netns

package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"example.com/culvert/test/netns"
)

// TestConnectionsEndAsTheyDoInTheKernel looks at the flow line after each way in
// which a connection can end.
func TestConnectionsEndAsTheyDoInTheKernel(t *testing.T) {
	eachGateway(t, setup{}, func(t *testing.T, h *house) {
		for i, tt := range []struct {
			name string
			end  func(client, server *net.TCPConn) error
			line string // timeout and state
		}{
			{"the client has no more to say", func(c, _ *net.TCPConn) error { return c.CloseWrite() }, "59 CLOSE_WAIT"},
			{"the server has no more to say", func(_, s *net.TCPConn) error { return s.CloseWrite() }, "59 CLOSE_WAIT"},
			{"both have no more to say", func(c, s *net.TCPConn) error { return errors.Join(c.CloseWrite(), s.CloseWrite()) }, "119 TIME_WAIT"},
			{"the client resets", func(c, _ *net.TCPConn) error { return errors.Join(c.SetLinger(0), c.Close()) }, "9 CLOSE"},
			{"the server resets", func(_, s *net.TCPConn) error { return errors.Join(s.SetLinger(0), s.Close()) }, "9 CLOSE"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				eachFamily(t, func(t *testing.T, f *family) {
					service := at(f.server, 7060)
					ln, err := h.server.Listen("tcp", service.String())
					must(t, err)
					defer ln.Close()
					port := uint16(30100 + i)
					client := dial(t, h.first, at(f.first, port), service).(*net.TCPConn)
					server, err := ln.Accept()
					must(t, err)
					defer server.Close()
					line := fmt.Sprintf("tcp 6 %%s src=%v dst=%v sport=%d dport=7060 src=%v dst=%v sport=7060 dport=%d [ASSURED] mark=0 use=1",
						f.first, f.server, port, f.server, f.outside, port)
					h.wantFlow(t, fmt.Sprintf(line, "431999 ESTABLISHED"))
					must(t, tt.end(client, server.(*net.TCPConn)))
					h.wantFlow(t, fmt.Sprintf(line, tt.line))
				})
			})
		}
	})
}

// TestUnansweredAndSteadyDatagrams sees both ends of a datagram flow's life: asked
// once with no answer, and talked over for a while.
func TestUnansweredAndSteadyDatagrams(t *testing.T) {
	eachGateway(t, setup{}, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			t.Parallel() // a flow is steady after two seconds
			mute, err := h.server.ListenPacket("udp", at(f.server, 7061).String())
			must(t, err)
			defer mute.Close()
			_, err = bindUDP(t, h.first, at(f.first, 30061)).WriteToUDPAddrPort([]byte("hello?"), at(f.server, 7061))
			must(t, err)
			h.wantFlow(t, fmt.Sprintf("udp 17 29 src=%v dst=%v sport=30061 dport=7061 [UNREPLIED] src=%v dst=%v sport=7061 dport=30061 mark=0 use=1",
				f.first, f.server, f.server, f.outside))

			service := at(f.server, 7062)
			serveUDP(t, h.server, service)
			d := bindUDP(t, h.first, at(f.first, 30062))
			want := fmt.Sprintf("udp 17 119 src=%v dst=%v sport=30062 dport=7062 src=%v dst=%v sport=7062 dport=30062 [ASSURED] mark=0 use=1",
				f.first, f.server, f.server, f.outside)
			until(t, want, func() bool {
				d.ask(t, service, "still there?")
				flows, err := h.gw.Flows(t.Context(), "-p", "udp")
				must(t, err)
				for _, g := range flows {
					if sameFlow(g.Line, want) {
						return true
					}
				}
				return false
			})
		})
	})
}

// crowd is how many connections each of two clients opens at once; both use the
// same source ports.
const crowd = 250

// TestCrowd opens many connections at once. Each must be seen with an address of
// its own and get its own words back, and the table has exactly these flows.
func TestCrowd(t *testing.T) {
	eachGateway(t, setup{}, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			service := at(f.server, 7063)
			serveTCP(t, h.server, service, greet)
			type outcome struct {
				seen netip.AddrPort
				err  error
			}
			outcomes := make(chan outcome)
			for i := range uint16(crowd) {
				for host, from := range map[*netns.Host]netip.Addr{h.first: f.first, h.second: f.second} {
					go func() {
						seen, err := chat(t, host, at(from, 20000+i), service)
						outcomes <- outcome{seen, err}
					}()
				}
			}
			seen := map[netip.AddrPort]bool{}
			for range 2 * crowd {
				o := <-outcomes
				if o.err != nil {
					t.Error(o.err)
					continue
				}
				if seen[o.seen] || o.seen.Addr() != f.outside {
					t.Errorf("the server has seen %v more than once, or it is not the gateway's", o.seen)
				}
				seen[o.seen] = true
			}
			n := h.flowCount(t, func(g netns.Flow) bool { return g.Proto == "tcp" && g.Orig.Dst == service })
			if n != 2*crowd {
				t.Errorf("the table has %d flows, want %d", n, 2*crowd)
			}
		})
	})
}

// chat is talk for goroutines: it closes the connection and returns whom the
// server has seen.
func chat(t *testing.T, host *netns.Host, from, to netip.AddrPort) (seen netip.AddrPort, err error) {
	c, err := host.DialFrom(t.Context(), net.TCPAddrFromAddrPort(from), "tcp", to.String())
	if err != nil {
		return seen, err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return seen, err
	}
	in := bufio.NewReader(c)
	line, err := in.ReadString('\n')
	if err != nil {
		return seen, fmt.Errorf("%v: no greeting: %w", from, err)
	}
	if seen, err = netip.ParseAddrPort(strings.TrimSpace(line)); err != nil {
		return seen, err
	}
	words := fmt.Sprintf("I am %v\n", from)
	if _, err := c.Write([]byte(words)); err != nil {
		return seen, err
	}
	if echo, err := in.ReadString('\n'); err != nil || echo != words {
		return seen, fmt.Errorf("%v: the server echoes %q, %w", from, echo, err)
	}
	return seen, nil
}
