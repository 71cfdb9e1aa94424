//go:build netns

package box

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// unconfigured is the box without a gateway, where the server knows the way to the
// inside, as IPv6 is not translated by default.
func unconfigured(t *testing.T) *netns.Lab {
	t.Helper()
	topology := boxTopology("")
	topology.Gateway = nil
	server := &topology.Links[1].Ends[1]
	server.Routes = []netns.Route{{To: "fd00:a::/64", Via: "2001:db8::1"}}
	return netns.ForTest(t, topology)
}

// TestTwoInterfacesAreEnoughToRun starts a gateway without a file, and with no
// more capabilities than it asks for: IPv4 is masqueraded, IPv6 is routed, and
// nothing comes in.
func TestTwoInterfacesAreEnoughToRun(t *testing.T) {
	lab := unconfigured(t)
	client, box, server := lab.Host("client"), lab.Host("gateway"), lab.Host("server")
	serveHTTP(t, server, "[::]:80")
	serveHTTP(t, client, "[::]:80")
	echo(t, box, "[::]:2222")

	binary, err := netns.Binary(t.Context(), lab.Dir())
	must(t, err)
	socket := filepath.Join(lab.Dir(), "quick.sock")
	gw, err := box.Start("setpriv", "--bounding-set=-all,+net_admin,+net_raw,+bpf",
		binary, "run", "--lan", "lan0", "--wan", "wan0", "--socket", socket)
	must(t, err)
	exec(t, box, binary, "status", "--wait", patience.String(), "--socket", socket)

	seenAs(t, client, "http://203.0.113.9/", "203.0.113.1")
	seenAs(t, client, "http://[2001:db8::9]/", "fd00:a::5")
	exec(t, client, "ping", "-c", "1", "-W", "5", "10.0.0.1")
	for _, inside := range []string{"203.0.113.1:2222", "[fd00:a::5]:80", "[2001:db8::1]:2222"} {
		unheard(t, server, inside)
	}

	must(t, gw.Signal(unix.SIGTERM))
	if err := gw.Wait(t.Context()); err != nil {
		t.Errorf("SIGTERM ends it with %v, want status 0\n%s", err, gw.Output())
	}
	if n := programs(t, box, "lan0") + programs(t, box, "wan0"); n != 0 {
		t.Errorf("%d programs are left on the interfaces, want none", n)
	}
}

// TestRootGivesUpWhatItNeedsNot starts a gateway with all capabilities.
func TestRootGivesUpWhatItNeedsNot(t *testing.T) {
	lab := netns.ForTest(t, boxTopology(boxConfig+withKernel))
	p := lab.Gateway().Process()
	eventually(t, "only what is needed is left", func() bool { return excess(t, p.Pid()) == "" })
}

// excess names a thread of a process that has a capability which a running
// gateway can do without, and which. Each thread has its own.
func excess(t *testing.T, pid int) string {
	t.Helper()
	const needed = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_BPF
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	must(t, err)
	if len(threads) == 0 {
		t.Fatalf("process %d has no threads: it has ended", pid)
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // the thread has ended
		}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			if name != "CapEff" && name != "CapPrm" {
				continue
			}
			have, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			must(t, err)
			if have&^needed != 0 {
				return path + " " + line
			}
		}
	}
	return ""
}
