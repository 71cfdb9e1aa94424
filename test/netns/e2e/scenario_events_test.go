//go:build netns

package e2e

import (
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// eventLines are what is watched, of both gateways at once. With -l the real one misses
// DESTROY, which the kernel tells without labels.
var eventLines = words(`
	-E
	-E -e NEW
	-E -e UPDATES
	-E -e DESTROY
	-E -e NEW,DESTROY -p udp
	-E -o timestamp
	-E -o extended,id
	-E -o ktimestamp
	-E -o labels
	-E -o labels,xml
	-E -l voip -e NEW,UPDATES
	-E -o xml
	-E -o xml,timestamp
	-E -o xml,ktimestamp,id
	-E -o save
	-E -b 100000
	-E -p tcp --dport 80
	-E -p icmp -e ALL
	-E -s 10.1.0.11
	-E -d 198.51.100.0/24 -p udp
	-E -f ipv6
	-E -m 21
	-E -n
	-E -g 10.1.0.11
	-E -j 10.1.0.11
	-E -q 203.0.113.1 -e DESTROY
	-E -w 3
	-E -s 10.250.0.0/16
	-E expect
	-E expect -o timestamp
	-E expect -o xml
	-E expect -o xml,timestamp
`)

// TestConntrackTellsEventsAsTheRealOne watches two gateways with the same traffic, and
// changes by command.
func TestConntrackTellsEventsAsTheRealOne(t *testing.T) {
	s := marking
	s.config += ftpThrough.config
	s.objects, s.prerouting, s.forward = ftpThrough.objects, s.prerouting+ftpThrough.prerouting, s.forward+ftpThrough.forward
	real, ours := s.build(t, netns.Kernel), s.build(t, netns.Culvert)
	for name, value := range map[string]string{"acct": "1", "timestamp": "1", "udp_timeout": "600", "icmp_timeout": "600", "icmpv6_timeout": "600"} {
		_, err := real.gw.Exec(t.Context(), "sh", "-c", "echo "+value+" >/proc/sys/net/netfilter/nf_conntrack_"+name)
		must(t, err)
	}
	nameLabels(t, real)
	nameLabels(t, ours)
	wants, gots := real.watchAll(t), ours.watchAll(t)
	happen(t, func(do func(h *house)) { // in both at nearly the same time
		do(real)
		do(ours)
	})
	until(t, "the last event has been told", func() bool {
		return strings.Contains(streamOf(wants[0]), lastEvent) && strings.Contains(streamOf(gots[0]), lastEvent)
	})
	for i, line := range eventLines {
		looks := 0
		until(t, "streams are not behind the first", func() bool {
			looks++
			return sameAnswer(streamOf(gots[i]), streamOf(wants[i])) || looks == 50
		})
		wantEnd, gotEnd := interrupt(t, wants[i]), interrupt(t, gots[i])
		want, got := streamOf(wants[i]), streamOf(gots[i])
		if !sameAnswer(got, want) || gotEnd != wantEnd {
			t.Errorf("conntrack %s\ngot %s\n%s\nwant %s\n%s", line, gotEnd, got, wantEnd, want)
		}
	}
}

// interrupt ends a command as a user does, and returns how it ended.
func interrupt(t *testing.T, p *netns.Process) string {
	t.Helper()
	must(t, p.Signal(unix.SIGINT))
	return fmt.Sprint(p.Wait(t.Context()))
}

// watchAll starts to watch, and returns when all who do will see everything.
func (h *house) watchAll(t *testing.T) (all []*netns.Process) {
	t.Helper()
	for _, line := range eventLines {
		p, err := h.gw.Events(strings.Fields(line)[1:]...)
		must(t, err)
		all = append(all, p)
	}
	until(t, "all watch", func() bool {
		if h.gw.Kind() == netns.Kernel {
			text, err := h.gw.Exec(t.Context(), "cat", "/proc/net/netlink")
			must(t, err)
			return len(regexp.MustCompile(`(?m)^[0-9a-f]+ 12 +[0-9]+ +0*[1-9a-f]`).FindAllString(text, -1)) == len(all)
		}
		return strings.Contains(h.metrics(t), fmt.Sprintf("\nculvert_journal_readers %d\n", len(all)))
	})
	return all
}

// metrics is what monitoring would read.
func (h *house) metrics(t *testing.T) string {
	t.Helper()
	c, err := net.Dial("unix", h.gw.Socket())
	must(t, err)
	defer c.Close()
	_, err = io.WriteString(c, "GET /metrics HTTP/1.0\r\n\r\n")
	must(t, err)
	text, err := io.ReadAll(c)
	must(t, err)
	return string(text)
}

// lastEvent is of a flow whose NEW is the last event.
const lastEvent = "sport=9 dport=4444"

// eventCommands are changes by command, without counters that are up to the hosts. The
// real one takes a status after the mark for the mark.
var eventCommands = words(`
	-I -p udp -s 10.250.0.50 -d 198.51.100.2 --sport 1 --dport 2 -t 100 -n 203.0.113.1
	-I -p udp -s 10.250.0.50 -d 198.51.100.2 --sport 2 --dport 2 -t 100 -u SEEN_REPLY,ASSURED -m 21
	-I -p tcp -s 10.250.0.50 -d 198.51.100.2 --sport 2 --dport 2 -t 100 --state ESTABLISHED
	-I -p udp -s 10.250.0.50 -d 198.51.100.2 --sport 3 --dport 2 -t 100 -w 3
	-U -p udp -s 10.250.0.50 --sport 1 --dport 2 -m 21
	-U -p udp -s 10.250.0.50 --sport 1 --dport 2 -m 0
	-U -p udp -s 10.250.0.50 --sport 1 --dport 2 -t 200
	-U -p tcp -s 10.250.0.50 -m 5
	-U -p udp -s 10.250.0.50 --sport 1 --dport 2 --label-add voip
	-U -p udp -s 10.250.0.50 --sport 1 --dport 2 --label-add voip
	-U -p udp -s 10.250.0.50 --sport 1 --dport 2 --label-add word
	-U -p udp -s 10.250.0.50 --sport 1 --dport 2 --label-del
	-I -p udp -s 10.250.0.50 -d 198.51.100.2 --sport 4 --dport 2 -t 100 --label-add voip,last
	-D -p udp -s 10.250.0.50 --sport 4 --dport 2
	-D -p udp -s 10.250.0.50 --sport 2 --dport 2
	-D -p udp -s 10.1.0.11 --sport 40002 --dport 53
	-D -p icmp
	-D -w 3
	-L -z
	-D -p tcp --dport 80
	-D -p tcp -s 10.250.0.50
	-F expect
	-I -p udp -s 10.250.0.50 -d 198.51.100.2 --sport 9 --dport 4444 -t 100
`)

// happen is everything that happens, a step at a time.
func happen(t *testing.T, each func(do func(h *house))) {
	t.Helper()
	for _, f := range families {
		each(func(h *house) { h.shortConnection(t, f) })
		each(func(h *house) {
			serveUDP(t, h.server, at(f.server, 53))
			bindUDP(t, h.first, at(f.first, 40002)).ask(t, at(f.server, 53), "a")
		})
		each(func(h *house) {
			_, err := bindUDP(t, h.first, at(f.first, 40003)).WriteToUDPAddrPort([]byte("b"), at(f.server, 9))
			must(t, err)
		})
		each(func(h *house) { openPing(t, h.first, f, f.first).ping(t, f.server, 77, 1) })
	}
	each(func(h *house) {
		pair(t, h.server, h.first, at(ipv4.server, 40004), at(ipv4.first, 80), at(ipv4.outside, 8080))
	})
	each(func(h *house) { h.announce(t) })
	for _, line := range eventCommands {
		each(func(h *house) {
			program := []string{"conntrack"}
			if h.gw.Kind() == netns.Culvert {
				program = []string{"env", "CULVERT_SOCKET=" + h.gw.Socket(), h.gw.Binary(), "conntrack"}
			}
			_, err := h.gw.Exec(t.Context(), slices.Concat(program, strings.Fields(line))...)
			must(t, err)
		})
	}
}

// shortConnection passes through all states, none of which depends on whether hosts
// acknowledge on their own.
func (h *house) shortConnection(t *testing.T, f *family) {
	t.Helper()
	near, far := pair(t, h.first, h.server, at(f.first, 40001), at(f.server, 80), at(f.server, 80))
	in := func(state string) {
		t.Helper()
		until(t, "the connection is in "+state, func() bool {
			flows, err := h.gw.Flows(t.Context(), "-p", "tcp", "--state", state)
			must(t, err)
			return slices.ContainsFunc(flows, func(x netns.Flow) bool { return strings.Contains(x.Line, "dst="+f.server.String()+" ") })
		})
	}
	in("ESTABLISHED")
	must(t, near.(*net.TCPConn).CloseWrite())
	in("CLOSE_WAIT")
	must(t, far.Close())
	in("TIME_WAIT")
}

// announce has a session of FTP announce a connection that comes, and one that does not.
func (h *house) announce(t *testing.T) {
	t.Helper()
	near, far := pair(t, h.first, h.server, at(ipv4.first, 40021), at(ipv4.server, 21), at(ipv4.server, 21))
	say := func(from, to net.Conn, text string) {
		t.Helper()
		_, err := io.WriteString(from, text)
		must(t, err)
		_, err = io.ReadFull(to, make([]byte, len(text)))
		must(t, err)
	}
	say(far, near, "220 ready\r\n")
	say(near, far, "PASV\r\n")
	say(far, near, "227 Entering Passive Mode (198,51,100,9,7,208)\r\n")
	pair(t, h.first, h.server, at(ipv4.first, 40022), at(ipv4.server, 2000), at(ipv4.server, 2000))
	say(near, far, "PASV\r\n")
	say(far, near, "227 Entering Passive Mode (198,51,100,9,7,209)\r\n")
}

// streamOf is what a command that watches has printed, sorted by flow.
func streamOf(p *netns.Process) string {
	text := p.Output()
	for _, m := range conntrackMasks {
		text = m.what.ReplaceAllString(text, m.by)
	}
	lines := strings.Split(strings.TrimSpace(text), "\n")
	slices.SortStableFunc(lines, func(a, b string) int { return strings.Compare(flowOf(a), flowOf(b)) })
	return strings.Join(lines, "\n")
}

// flowWords are an event's addresses and ports in the original direction.
var flowWords = regexp.MustCompile(`\b(src=\S+ dst=\S+ (?:sport=\S+ dport=\S+)?)|<src>(.*?</dst>).*?<sport>(.*?</dport>)|<src>(.*?</dst>)| -s (\S+ -d \S+).*? -p (\S+ --\S+ \S+ --\S+ \S+)`)

func flowOf(line string) string { return strings.Join(flowWords.FindStringSubmatch(line), " ") }
