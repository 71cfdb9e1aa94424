//go:build netns

package box

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// gone waits until a process that is no child of ours has ended.
func gone(t *testing.T, pid int) {
	t.Helper()
	eventually(t, fmt.Sprintf("process %d has ended", pid), func() bool { return unix.Kill(pid, 0) == unix.ESRCH })
}

// Two processes later the one that is killed leaves its flows like the first one would
// have: in a folder that each of them has taken over.
func TestFlowsOutliveAnUpgradeAndAKill(t *testing.T) {
	lab := netns.ForTest(t, keptTopology(t, boxConfig))
	gw, client, server := lab.Gateway(), lab.Host("client"), lab.Host("server")
	leaky(t, gw)
	echo(t, server, "[::]:7")
	v6, v4 := dial(t, client, "", "[2001:db8::9]:7"), dial(t, client, "", "203.0.113.9:7")
	alive(t, v6)
	alive(t, v4)
	second := upgraded(t, gw.Host, gw.Binary(), gw.Socket())
	alive(t, v6)
	third := upgraded(t, gw.Host, gw.Binary(), gw.Socket())
	alive(t, v6)
	gone(t, second)
	must(t, unix.Kill(third, unix.SIGKILL))
	gone(t, third)
	must(t, gw.Stop())
	must(t, gw.Start(t.Context()))
	if did := recalled(t, gw); did.Flows != 2 || did.Refused != "" || did.Expired+did.Taken+did.Full+did.Torn != 0 {
		t.Errorf("the next gateway has taken over %+v, want two flows", did)
	}
	alive(t, v6)
	alive(t, v4)
}

// A gateway that is not root's goes on in a process with the same capabilities.
func TestUpgradeNeedsNoRoot(t *testing.T) {
	lab := unconfigured(t)
	client, box, server := lab.Host("client"), lab.Host("gateway"), lab.Host("server")
	echo(t, server, "[::]:7")
	runtime, err := os.MkdirTemp("", "culvert-user-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(runtime) })
	binary := copyFor(t, nobody, os.Getenv(netns.BinaryEnv), filepath.Join(runtime, "culvert"))
	config := copyFor(t, nobody, writeFile(t, lab, "user.toml", boxConfig, 0o644), filepath.Join(runtime, "culvert.toml"))
	must(t, os.Chown(runtime, nobody, nobody))
	socket, user := filepath.Join(runtime, "culvert.sock"), strconv.Itoa(nobody)
	const caps = "-all,+net_admin,+net_raw,+bpf"
	gw, err := box.Start("setpriv", "--reuid="+user, "--regid="+user, "--clear-groups", "--no-new-privs",
		"--inh-caps="+caps, "--ambient-caps="+caps, "--bounding-set="+caps, binary, "run", "-c", config, "--socket", socket)
	must(t, err)
	if out, err := box.Exec(t.Context(), binary, "status", "--wait", patience.String(), "--socket", socket); err != nil {
		t.Fatalf("%v\n%s%s", err, out, gw.Output())
	}
	c := dial(t, client, "", "203.0.113.9:7")
	alive(t, c)
	for range 2 { // the second process gives its capabilities on, too
		upgraded(t, box, binary, socket)
		alive(t, c)
	}
	if err := gw.Wait(t.Context()); err != nil {
		t.Errorf("the first process: %v\n%s", err, gw.Output())
	}
}
