//go:build netns

package box

import (
	"encoding/json"
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
	keepsWhatItNeeds(t, gw.Pid())

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

// TestRootGivesUpWhatItNeedsNot starts a gateway with all capabilities. It keeps what a
// gateway needs, and so does the process that an upgrade starts.
func TestRootGivesUpWhatItNeedsNot(t *testing.T) {
	lab := netns.ForTest(t, boxTopology(boxConfig+withKernel))
	keepsWhatItNeeds(t, lab.Gateway().Process().Pid())
	keepsWhatItNeeds(t, upgraded(t, lab.Host("gateway"), lab.Gateway().Binary(), lab.Gateway().Socket()))
}

// upgraded has another process go on with a gateway, ends that one with the test, and
// returns its number.
func upgraded(t *testing.T, box *netns.Host, binary, socket string) int {
	t.Helper()
	var result struct{ PID int }
	must(t, json.Unmarshal([]byte(exec(t, box, binary, "upgrade", "-o", "json", "--socket", socket)), &result))
	t.Cleanup(func() {
		if unix.Kill(result.PID, unix.SIGTERM) == nil {
			eventually(t, "the gateway has ended", func() bool { return unix.Kill(result.PID, 0) == unix.ESRCH })
		}
	})
	return result.PID
}

// keepsWhatItNeeds waits until a process has the capabilities of a running gateway and
// no others, nor gives any to programs that it starts.
func keepsWhatItNeeds(t *testing.T, pid int) {
	t.Helper()
	wrong := ""
	t.Cleanup(func() {
		if t.Failed() && wrong != "" {
			t.Logf("process %d at last: %s", pid, wrong)
		}
	})
	eventually(t, "it has what it needs, and that alone", func() bool {
		wrong = otherCapabilities(t, pid)
		return wrong == ""
	})
}

// otherCapabilities names a thread of a process that has not the capabilities of a
// running gateway, and its set that is wrong. Each thread has its own.
func otherCapabilities(t *testing.T, pid int) string {
	t.Helper()
	const needed = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_BPF
	want := map[string]uint64{"CapInh": 0, "CapPrm": needed, "CapEff": needed, "CapBnd": needed, "CapAmb": 0}
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
		found := 0
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			set, ok := want[name]
			if !ok {
				continue
			}
			found++
			have, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
			must(t, err)
			if have != set {
				return fmt.Sprintf("%s: %s, want %x", path, strings.TrimSpace(line), set)
			}
		}
		if found != len(want) {
			t.Fatalf("%s has %d sets of capabilities, want %d", path, found, len(want))
		}
	}
	return ""
}
