//go:build netns

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"example.com/culvert/test/netns"
)

// ftpThrough gives every FTP session a helper, and forwards port 21 to the first
// host. An answer alone lets a data connection in: the kernel's policy drops, and so
// does Culvert's.
var ftpThrough = setup{
	config: `
[[dnat]]
in_area = "wan"
dst = "gateway"
family = "ipv4"
proto = "tcp"
dport = 21
action = "dnat"
to = "10.1.0.11"

[[dnat]]
in_area = "wan"
dst = "gateway"
family = "ipv6"
proto = "tcp"
dport = 21
action = "dnat"
to = "fd00:1::11"

[[filter]]
proto = "tcp"
dport = 21
action = "mark"
set_mark = 33
helper = "ftp"
`,
	objects: `
	ct helper ftp {
		type "ftp" protocol tcp
	}`,
	prerouting: `
		tcp dport 21 ct helper set "ftp"
		iifname "wan0" ip daddr 203.0.113.1 tcp dport 21 dnat ip to 10.1.0.11
		iifname "wan0" ip6 daddr 2001:db8:a::1 tcp dport 21 dnat ip6 to fd00:1::11`,
	forward: `
		tcp dport 21 ct state new ct mark set 33`,
}

// TestFTP has clients of several kinds fetch and store a file, with servers of two
// kinds, both ways of opening the data connection, through masquerade and through a
// forwarded port.
func TestFTP(t *testing.T) {
	eachGateway(t, ftpThrough, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			for _, server := range ftpServers {
				t.Run(server.name, func(t *testing.T) {
					t.Run("masquerade", func(t *testing.T) {
						fileTransfers(t, h, f, server, ftpSite{client: h.first, server: h.server, on: f.server, to: f.server})
					})
					t.Run("forwarded port", func(t *testing.T) {
						fileTransfers(t, h, f, server, ftpSite{client: h.server, server: h.first, on: f.first, to: f.outside})
					})
				})
			}
		})
	})
}

// TestFTPBehindBoth has client and server on one network, talking through the
// external address: both are translated. The kernel would need a rule for it.
func TestFTPBehindBoth(t *testing.T) {
	s := ftpThrough
	s.config = strings.ReplaceAll(s.config, "in_area = \"wan\"\n", "")
	onlyCulvert(t, s, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			fileTransfers(t, h, f, ftpServers[0], ftpSite{client: h.second, server: h.first, on: f.first, to: f.outside})
		})
	})
}

// ftpSite says who talks with whom.
type ftpSite struct {
	client, server *netns.Host
	on, to         netip.Addr // where the server listens, and what the client calls it
}

// ftpServer starts a daemon that serves a directory to anonymous users, for
// reading, and its directory "in" for writing.
type ftpServer struct {
	name  string
	start func(t *testing.T, host *netns.Host, on netip.Addr, root string) *netns.Process
}

var ftpServers = []ftpServer{{"vsftpd", startVsftpd}, {"pure-ftpd", startPureFTPd}}

func startVsftpd(t *testing.T, host *netns.Host, on netip.Addr, root string) *netns.Process {
	t.Helper()
	listen := "listen=YES\nlisten_address=" + on.String()
	if !on.Is4() {
		listen = "listen=NO\nlisten_ipv6=YES\nlisten_address6=" + on.String()
	}
	conf := filepath.Join(t.TempDir(), "vsftpd.conf")
	must(t, os.WriteFile(conf, []byte(listen+`
background=NO
anonymous_enable=YES
no_anon_password=YES
anon_root=`+root+`
write_enable=YES
anon_upload_enable=YES
anon_umask=022
connect_from_port_20=YES
seccomp_sandbox=NO
secure_chroot_dir=`+t.TempDir()+`
nopriv_user=nobody
`), 0o600))
	p, err := host.Start("vsftpd", conf)
	must(t, err)
	return p
}

// anonymous is the user that anonymous clients are to a server.
func anonymous(t *testing.T) *user.User {
	t.Helper()
	u, err := user.Lookup("ftp")
	must(t, err)
	return u
}

// startPureFTPd binds root over the home of that user: it serves nothing else.
func startPureFTPd(t *testing.T, host *netns.Host, on netip.Addr, root string) *netns.Process {
	t.Helper()
	server, err := netns.Tool("pure-ftpd")
	must(t, err)
	p, err := host.Start("unshare", "-m", "sh", "-c", `mkdir -p "$1" && mount --bind "$2" "$1" && exec "$3" -e -H -S "$4,21" -K -U 133:022`,
		"sh", anonymous(t).HomeDir, root, server, on.String())
	must(t, err)
	return p
}

// fileTransfers moves a file in every way that the clients know.
func fileTransfers(t *testing.T, h *house, f *family, server ftpServer, site ftpSite) {
	root := t.TempDir()
	letIn(t, root) // the anonymous user
	in := filepath.Join(root, "in")
	must(t, os.Mkdir(in, 0o755))
	must(t, os.Chmod(in, 0o777))
	home := anonymous(t)
	uid, err := strconv.Atoi(home.Uid)
	must(t, err)
	must(t, os.Chown(in, uid, -1))
	text := make([]byte, 300_000)
	_, _ = rand.Read(text)
	must(t, os.WriteFile(filepath.Join(root, "file"), text, 0o644))
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, text, 0o644))

	daemon := server.start(t, site.server, site.on, root)
	defer func() { must(t, daemon.Stop()) }()
	listens(t, server.name, site.server, at(site.on, 21))
	url := "ftp://" + at(site.to, 21).String() + "/"
	out := filepath.Join(t.TempDir(), "out")
	for _, way := range ftpWays(f, url, site.to.String(), file, out) {
		t.Run(way.name, func(t *testing.T) {
			_ = os.Remove(out)
			_ = os.Remove(filepath.Join(in, "file"))
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := site.client.ExecInput(ctx, way.input, way.args...)
			must(t, err)
			came := out
			if way.stores {
				came = filepath.Join(in, "file")
			}
			wantFile(t, came, text)
		})
	}
	if t.Failed() {
		t.Logf("%s:\n%s", server.name, daemon.Output())
		h.logGateway(t)
	}
}

// letIn lets other users into a directory of a test.
func letIn(t *testing.T, dir string) {
	t.Helper()
	for ; strings.HasPrefix(dir, os.TempDir()) && dir != os.TempDir(); dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
}

// wantFile waits until a file has come: a server may close it after its client has
// gone.
func wantFile(t *testing.T, path string, want []byte) {
	t.Helper()
	var got []byte
	until(t, "the file has come", func() bool {
		var err error
		got, err = os.ReadFile(path)
		return err == nil && len(got) == len(want)
	})
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes came, and they differ", len(got))
	}
}

// ftpWay is a command that moves the file.
type ftpWay struct {
	name   string
	args   []string
	input  string
	stores bool
}

func ftpWays(f *family, url, host, file, out string) []ftpWay {
	curl := []string{"curl", "-sS", "-g", "--max-time", "10"}
	with := func(args ...string) []string { return append(curl[:len(curl):len(curl)], args...) }
	lftp := func(script string) []string {
		return []string{"lftp", "-c", "set net:timeout 5; set net:max-retries 2; set ftp:use-feat no; " + script}
	}
	ways := []ftpWay{
		{name: "curl, extended passive", args: with("-o", out, url+"file")},
		{name: "curl, extended active", args: with("-o", out, "--ftp-port", "-", url+"file")},
		{name: "curl, extended active, stores", args: with("-T", file, "--ftp-port", "-", url+"in/"), stores: true},
		{name: "curl, extended passive, stores", args: with("-T", file, url+"in/"), stores: true},
		{name: "lftp, passive", args: lftp("set ftp:passive-mode yes; open " + url + "; get file -o " + out)},
		{name: "lftp, active", args: lftp("set ftp:passive-mode no; open " + url + "; get file -o " + out)},
		{name: "ftp, passive", args: []string{"ftp", "-o", out, url + "file"}},
		{name: "ftp, active", args: []string{"ftp", "-A", "-o", out, url + "file"}},
	}
	if f.is4() {
		ways = append(ways,
			ftpWay{name: "curl, passive", args: with("-o", out, "--disable-epsv", url+"file")},
			ftpWay{name: "curl, active", args: with("-o", out, "--disable-eprt", "--ftp-port", "-", url+"file")},
			ftpWay{name: "curl, active, stores", args: with("-T", file, "--disable-eprt", "--ftp-port", "-", url+"in/"), stores: true})
	}
	return ways
}

// logGateway logs what the gateway knows.
func (h *house) logGateway(t *testing.T) {
	for _, args := range [][]string{{"-L"}, {"-L", "expect"}} {
		out, err := h.conntrack(t, args...)
		t.Logf("conntrack %v: %v\n%s", args, err, out)
	}
	if h.gw.Kind() == netns.Culvert {
		out, _ := h.gw.Ctl(context.Background(), "counters")
		t.Log(out)
	}
}

// conntrack runs conntrack(8) or ours.
func (h *house) conntrack(t *testing.T, args ...string) (string, error) {
	if h.gw.Kind() == netns.Culvert {
		return h.gw.Ctl(context.Background(), append([]string{"conntrack"}, args...)...)
	}
	return h.gw.Exec(context.Background(), append([]string{"conntrack"}, args...)...)
}

// script is a control connection that both of its ends are written for.
type script struct {
	client, server *bufio.ReadWriter
}

func newScript(t *testing.T, site ftpSite, from netip.AddrPort) *script {
	t.Helper()
	c, s := pair(t, site.client, site.server, from, at(site.on, 21), at(site.to, 21))
	wrap := func(rw io.ReadWriter) *bufio.ReadWriter {
		return bufio.NewReadWriter(bufio.NewReader(rw), bufio.NewWriter(rw))
	}
	sc := &script{wrap(c), wrap(s)}
	sc.reply(t, "220 ready", "220 ready")
	sc.command(t, "USER x", "USER x")
	sc.reply(t, "331 who", "331 who")
	return sc
}

func pass(t *testing.T, from, to *bufio.ReadWriter, say, hear string) {
	t.Helper()
	_, err := from.WriteString(say + "\r\n")
	must(t, err)
	must(t, from.Flush())
	got, err := to.ReadString('\n')
	must(t, err)
	if got = strings.TrimRight(got, "\r\n"); got != hear {
		t.Fatalf("%q arrived, want %q", got, hear)
	}
}

func (s *script) command(t *testing.T, say, hear string) {
	t.Helper()
	pass(t, s.client, s.server, say, hear)
}
func (s *script) reply(t *testing.T, say, hear string) {
	t.Helper()
	pass(t, s.server, s.client, say, hear)
}

// TestFTPExpectationsAreListed compares the lines of expectations and of data flows
// with those of the kernel: one text for both.
func TestFTPExpectationsAreListed(t *testing.T) {
	eachGateway(t, ftpThrough, func(t *testing.T, h *house) {
		f := &ipv4
		events, err := h.gw.Events("expect")
		must(t, err)
		site := ftpSite{client: h.first, server: h.server, on: f.server, to: f.server}
		const master = "mask-src=255.255.255.255 mask-dst=255.255.255.255 sport=0 dport=65535 master-src=%v master-dst=%v sport=30100 dport=21 class=0 helper=ftp"
		tail := fmt.Sprintf(master, f.first, f.server)
		tries := 0
		until(t, "events are told", func() bool {
			tries++
			newScript(t, site, at(f.first, 0)).command(t, fmt.Sprintf("PORT 10,1,0,11,160,%d", tries), fmt.Sprintf("PORT 203,0,113,1,160,%d", tries))
			return strings.Contains(events.Output(), "[NEW]")
		})
		s := newScript(t, site, at(f.first, 30100))

		serveTCP(t, h.first, at(f.first, 40001), greet)
		s.command(t, "PORT 10,1,0,11,156,65", "PORT 203,0,113,1,156,65")
		s.reply(t, "200 fine", "200 fine")
		want := fmt.Sprintf("proto=6 src=%v dst=%v sport=0 dport=40001 %s", f.server, f.outside, tail)
		h.wantExpectation(t, want)
		wantEvent(t, events, "[NEW]", expectationLife, want)
		active := talk(t, h.server, at(f.server, 20), at(f.outside, 40001))
		if active.seen != at(f.server, 20) {
			t.Errorf("the client sees %v", active.seen)
		}
		h.wantFlow(t, fmt.Sprintf("tcp 6 431999 ESTABLISHED src=%v dst=%v sport=20 dport=40001 src=%v dst=%v sport=40001 dport=20 [ASSURED] mark=33 use=1",
			f.server, f.outside, f.first, f.server))
		wantEvent(t, events, "[DESTROY]", expectationLife, want)

		serveTCP(t, h.server, at(f.server, 50000), greet)
		s.command(t, "PASV", "PASV")
		s.reply(t, "227 Entering Passive Mode (198,51,100,9,195,80).", "227 Entering Passive Mode (198,51,100,9,195,80).")
		want = fmt.Sprintf("proto=6 src=%v dst=%v sport=0 dport=50000 %s", f.first, f.server, tail)
		h.wantExpectation(t, want)
		passive := talk(t, h.first, at(f.first, 30101), at(f.server, 50000))
		if passive.seen != at(f.outside, 30101) {
			t.Errorf("the server sees %v", passive.seen)
		}
		h.wantFlow(t, fmt.Sprintf("tcp 6 431999 ESTABLISHED src=%v dst=%v sport=30101 dport=50000 src=%v dst=%v sport=50000 dport=30101 [ASSURED] mark=33 use=1",
			f.first, f.server, f.server, f.outside))
	})
}

// sameExpectation reports whether the words of a line, after the seconds that are
// left, are those of want. It has about life seconds.
func sameExpectation(words []string, life, want string) bool {
	return len(words) > 1 && nearly(words[0], life) && strings.Join(words[1:], " ") == want
}

// expectationLife are the seconds that most helpers' expectations have.
const expectationLife = "300"

// wantEvent waits for an event of an expectation that has about life seconds.
func wantEvent(t *testing.T, events *netns.Process, kind, life, want string) {
	t.Helper()
	until(t, "event "+kind+" "+want, func() bool {
		for line := range strings.Lines(events.Output()) {
			if words := strings.Fields(line); len(words) > 0 && words[0] == kind && sameExpectation(words[1:], life, want) {
				return true
			}
		}
		return false
	})
}

// wantExpectation waits for a line of conntrack -L expect.
func (h *house) wantExpectation(t *testing.T, want string) {
	t.Helper()
	until(t, "expectation "+want, func() bool {
		for line := range strings.Lines(h.expected(t)) {
			if sameExpectation(strings.Fields(line), expectationLife, want) {
				return true
			}
		}
		return false
	})
}

// expected lists the expectations of both families: conntrack(8) shows one at a time.
func (h *house) expected(t *testing.T) string {
	t.Helper()
	all := ""
	for _, f := range families {
		out, err := h.conntrack(t, "-L", "expect", "-f", f.name)
		must(t, err)
		all += out
	}
	return all
}
