//go:build netns

package e2e

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.com/culvert/test/netns"
)

// marking forwards a port and marks the flows to another one.
var marking = setup{
	config: `
[[dnat]]
in_area = "wan"
family = "ipv4"
dst = "gateway"
proto = "tcp"
dport = 8080
action = "dnat"
to = "10.1.0.11:80"

[[filter]]
proto = "udp"
dport = 53
action = "mark"
set_mark = 21
`,
	prerouting: `
		iifname "wan0" ip daddr 203.0.113.1 tcp dport 8080 dnat ip to 10.1.0.11:80`,
	forward: `udp dport 53 ct state new ct mark set 21`,
}

// conntrackMasks are all the words that may differ between the real conntrack(8) and
// ours.
var conntrackMasks = []struct {
	what *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`\buse=[0-9]+`), "use=N"},
	{regexp.MustCompile(`<(use|id)>[0-9]+`), "<$1>N"},
	{regexp.MustCompile(`\bid=[0-9]{6,}`), "id=N"}, // not that of a ping
}

// conntrackLines are command lines that the real conntrack(8) and ours answer alike
// about the same traffic, those that end flows last. Left out are those that the real
// one gets wrong: -F -f ends the flows of both families, -g finds pings that are
// not translated there, -u UNSET and -G by the reply tuple are invalid parameters, -G -o xml is not closed, and
// --state of SCTP with an unknown state is its end.
var conntrackLines = []string{
	"-L", "-L conntrack", "-L conn", "--dump", "-L -o extended", "-L -o id", "-L -o extended,id", "-L -oextended",
	"-L -f ipv4", "-L -f ipv6", "-L --family=ipv6", "-L expect", "-L exp -f ipv6", "-L dying", "-L -p tcp", "-L -p 17", "-L -p icmp",
	"-L -p icmpv6", "-L -p tcp --dport 80", "-L -p tcp --sport 40001 --dport 80", "-L -p tcp --orig-port-dst 80", "-L -p tcp --reply-port-src 80",
	"-L -p tcp --reply-port-dst 40001", "-L -p tcp --state ESTABLISHED", "-L -p tcp --state SYN_SENT", "-L -p tcp --state LISTEN",
	"-L -p icmp --icmp-type 8", "-L -p icmp --icmp-id 77", "-L -p icmp --icmp-id 78", "-L -p icmp --icmp-type 0 --icmp-code 0",
	"-L -p icmpv6 --icmpv6-type 128", "-L -s 10.1.0.11", "-L -s 10.1.0.0/24", "-L -s 10.9.0.0/16", "-L -d 198.51.100.9", "-L -d 0.0.0.0/0",
	"-L -s fd00:1::/64", "-L -d 2001:db8:b::9", "-L -r 198.51.100.9", "-L -q 203.0.113.1", "-L -q 203.0.113.9",
	"-L -s 10.1.0.11 -p udp --dport 53", "-L -m 21", "-L -m 0", "-L -m 1/1", "-L -m 0x15/0xff", "-L -m 2/2", "-L -u ASSURED", "-L -u assured",
	"-L -u UNREPLIED", "-L -u SEEN_REPLY", "-L -u SEEN_REPLY,ASSURED", "-L -n", "-L -j", "-L -n 203.0.113.1", "-L -n 203.0.113.2",
	"-L -g 10.1.0.11", "-L -g 10.1.0.11:80", "-L -g 10.1.0.11:81", "-L -j 10.1.0.11", "-L -w 0", "-L -w 3", "-L --orig-zone 0", "-L --reply-zone 7",
	"-C", "-C expect", "-V", "-L -o xml", "-L -p icmp -o xml", "-L -p tcp -o xml", "-L -o save", "-L -p udp -o save", "-L -o save,id", "-L -o save -o xml",
	"-U -s 10.9.9.9 -m 3", "-U expect", "-U -z", "-U -w 3",
	"-G -p udp -s 10.1.0.11 -d 198.51.100.9 --sport 40002 --dport 53", "-G -p tcp -s 10.1.0.11 -d 198.51.100.9 --sport 40001 --dport 80 -o extended",
	"-G -p icmp -s 10.1.0.11 -d 198.51.100.9 --icmp-type 8 --icmp-code 0 --icmp-id 77",
	"-G -p udp -s 10.1.0.11 -d 198.51.100.9 --sport 1 --dport 53",
	// Mistakes.
	"-L -L", "-L -D", "-D -C", "-L foo", "-D dying", "-E unc", "-F dying", "-L -s", "-s", "-L --foo", "--foo", "-L -y", "-L --s 10.1.0.11",
	"-L -p foo", "-L -p 300", "-L -f ipx", "-L -u FOO", "-L -o foo", "-L -s 1.2.3.4/33", "-L -s 1.2.3.4/a", "-L -s foo",
	"-L -s 1.2.3.4 -d ::1", "-L -s 1.2.3.4 -f ipv6", "-L -r 1.2.3.0/24", "-L -t 5", "-L -i 5", "-L -e NEW", "-L -b 5", "-C -f ipv4", "-F -p tcp", "-E -t 5",
	"-L expect -p tcp", "-E expect -e NEW", "-L --tuple-src 1.2.3.4", "-D -z", "-G", "-G -p tcp", "-G -p tcp -s 1.2.3.4", "-G -p tcp -r 1.2.3.4",
	"-G -p tcp -s 1.1.1.1 -d 2.2.2.2", "-G -p tcp -s 1.1.1.1 -d 2.2.2.2 --sport 1", "-G -p icmp -s 1.1.1.1 -d 2.2.2.2", "-G -p gre -s 1.1.1.1 -d 2.2.2.2",
	"-G -p udp -r 1.1.1.1 -q 2.2.2.2 --reply-port-src 1", "-G -p icmpv6 -s ::1 -d ::2", "-L -n 1.2.3.4:", "-L -n [::1", "-L -n []:5", "-L -n :80", "-L -n 1.2.3.4:99999",
	"-L -n 1.2.3.4:x", "-L -j -n", "-L --state FOO", "-L -p tcp --state FOO", "-L -p udp --state NONE", "-L -p tcp --icmp-type 1",
	"-L --sport 5", "-L --mask-src 255.0.0.0", "-D expect -s 1.2.3.4", "-I expect -s 1.2.3.4",
	// The end.
	"-L -a 1.2.3.4 -p icmp", "-D -p udp --dport 99", "-D -s 10.9.9.9", "-D -p udp --dport 53 -f ipv4", "-D -p tcp --state ESTABLISHED -s 10.1.0.11", "-L", "-D -p icmp -o extended",
	"-D -m 21", "-D", "-L", "-D", "-F", "-F expect",
}

// TestConntrackAnswersAsTheRealOne asks two gateways with the same traffic, ours by a
// program of the name conntrack.
func TestConntrackAnswersAsTheRealOne(t *testing.T) {
	real, ours := marking.build(t, netns.Kernel), marking.build(t, netns.Culvert)
	program := filepath.Join(t.TempDir(), "conntrack")
	must(t, os.Symlink(ours.gw.Binary(), program))
	real.settle(t)
	ours.settle(t)
	for _, line := range conntrackLines {
		want := real.answer(t, "conntrack", strings.Fields(line))
		got := ours.answer(t, program, strings.Fields(line))
		if !sameAnswer(got, want) {
			t.Errorf("conntrack %s\ngot\n%s\nwant\n%s", line, got, want)
		}
	}
}

// settle makes flows of every kind, which live until the end.
func (h *house) settle(t *testing.T) {
	for _, f := range families {
		web := at(f.server, 80)
		serveTCP(t, h.server, web, greet)
		talk(t, h.first, at(f.first, 40001), web)
		dns := at(f.server, 53)
		serveUDP(t, h.server, dns)
		client := bindUDP(t, h.first, at(f.first, 40002))
		client.ask(t, dns, "a")
		silent := bindUDP(t, h.first, at(f.first, 40003))
		_, err := silent.WriteToUDPAddrPort([]byte("b"), at(f.server, 9))
		must(t, err)
		openPing(t, h.first, f, f.first).ping(t, f.server, 77, 1)
	}
	serveTCP(t, h.first, at(ipv4.first, 80), greet)
	talk(t, h.server, at(ipv4.server, 40004), at(ipv4.outside, 8080))
	until(t, "both ends have acknowledged everything", func() bool {
		flows, err := h.gw.Flows(t.Context(), "-p", "tcp")
		must(t, err)
		return !slices.ContainsFunc(flows, func(f netns.Flow) bool { return strings.Contains(f.Line, " 299 ") || strings.Contains(f.Line, " 300 ") })
	})
}

// answer runs a command on the gateway's host and returns all that it said.
func (h *house) answer(t *testing.T, program string, args []string) string {
	t.Helper()
	const script = `exec 3>&1; text=$( { "$@"; echo "status $?" >&2; } 2>&1 >&3 | sed 's/^/stderr: /'); printf '%s\n' "$text"`
	out, err := h.gw.Exec(t.Context(), slices.Concat([]string{"env", "CULVERT_SOCKET=" + h.gw.Socket(), "bash", "-c", script, "bash", program}, args)...)
	must(t, err)
	for _, m := range conntrackMasks {
		out = m.what.ReplaceAllString(out, m.by)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	slices.SortFunc(lines, func(a, b string) int { return strings.Compare(withoutTimeout(a), withoutTimeout(b)) }) // tables have no order
	return strings.Join(lines, "\n")
}

// timeoutWord is the timeout in a line of text.
var timeoutWord = regexp.MustCompile(`^((?:ipv[46] +[0-9]+ )?[a-z0-9]+ +[0-9]+ |-A -t |.*<timeout>)([0-9]+)\b`)

func withoutTimeout(line string) string { return timeoutWord.ReplaceAllString(line, "${1}N") }

// sameAnswer compares lines, in which timeouts may differ by a second.
func sameAnswer(got, want string) bool {
	return slices.EqualFunc(strings.Split(got, "\n"), strings.Split(want, "\n"), func(g, w string) bool {
		gt, wt := timeoutWord.FindStringSubmatch(g), timeoutWord.FindStringSubmatch(w)
		if gt == nil || wt == nil {
			return g == w
		}
		return nearly(gt[2], wt[2]) && withoutTimeout(g) == withoutTimeout(w)
	})
}
