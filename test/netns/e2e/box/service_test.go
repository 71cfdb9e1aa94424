//go:build netns

package box

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

const (
	unitFile = "../../../../configs/culvert.service"
	nobody   = 65534
	// mostExposed is the worst mark, of 100, that the unit may get from
	// systemd-analyze: a gateway has to own interfaces.
	mostExposed = 23
)

// unit are the lines of the sample unit, without comments.
type unit []string

func readUnit(t *testing.T) (u unit) {
	t.Helper()
	text, err := os.ReadFile(unitFile)
	must(t, err)
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			u = append(u, line)
		}
	}
	return u
}

// words are those of all lines of a setting.
func (u unit) words(t *testing.T, setting string) (words []string) {
	t.Helper()
	for _, line := range u {
		if value, ok := strings.CutPrefix(line, setting+"="); ok {
			words = append(words, strings.Fields(value)...)
		}
	}
	if words == nil {
		t.Fatalf("%s has no %s", unitFile, setting)
	}
	return words
}

// TestUnitIsSound lets systemd look at the unit.
func TestUnitIsSound(t *testing.T) {
	lab := unconfigured(t)
	box := lab.Host("gateway")
	path := writeFile(t, lab, "culvert.service",
		strings.ReplaceAll(strings.Join(readUnit(t), "\n")+"\n", "/usr/local/bin/culvert", os.Getenv(netns.BinaryEnv)), 0o644)
	if out := exec(t, box, "systemd-analyze", "verify", path); out != "" {
		t.Errorf("systemd-analyze verify:\n%s", out)
	}
	if out, err := box.Exec(t.Context(), "systemd-analyze", "security", "--offline=true", "--no-pager",
		"--threshold="+strconv.Itoa(mostExposed), path); err != nil {
		t.Errorf("systemd-analyze security: %v\n%s", err, out)
	}
}

// TestServiceNeedsNoMoreThanItsUnitGives runs the service as its unit does, as a
// user with nothing but the unit's capabilities, records its system calls while it
// works and while another process takes over, and compares them with what the unit's
// sandbox lets through.
func TestServiceNeedsNoMoreThanItsUnitGives(t *testing.T) {
	u, lab := readUnit(t), unconfigured(t)
	client, box, server := lab.Host("client"), lab.Host("gateway"), lab.Host("server")
	serveHTTP(t, server, "[::]:80")
	runtime, err := os.MkdirTemp("", "culvert-service-")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(runtime) })
	binary := copyFor(t, nobody, os.Getenv(netns.BinaryEnv), filepath.Join(runtime, "culvert"))
	config := copyFor(t, nobody, writeFile(t, lab, "service.toml", boxConfig+withKernel, 0o644), filepath.Join(runtime, "culvert.toml"))
	must(t, os.Chown(runtime, nobody, nobody))
	socket, record := filepath.Join(runtime, "culvert.sock"), filepath.Join(runtime, "calls")
	// Where udev runs, everybody may open the TUN device.
	tun := filepath.Join(runtime, "tun")
	must(t, unix.Mknod(tun, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))))
	must(t, os.Chmod(tun, 0o666))

	caps := "-all"
	for _, c := range u.words(t, "AmbientCapabilities") {
		caps += ",+" + strings.ToLower(strings.TrimPrefix(c, "CAP_"))
	}
	user := strconv.Itoa(nobody)
	gw, err := box.Start("unshare", "--mount", "sh", "-c", `mount --bind "$0" /dev/net/tun && exec "$@"`, tun,
		"setpriv", "--reuid="+user, "--regid="+user, "--clear-groups", "--no-new-privs",
		"--inh-caps="+caps, "--ambient-caps="+caps, "--bounding-set="+caps,
		"strace", "-f", "-qq", "-e", "signal=none", "-y", "-o", record, binary, "run", "-c", config, "--socket", socket, "--state", filepath.Join(runtime, "state"))
	must(t, err)
	if out, err := box.Exec(t.Context(), binary, "status", "--wait", patience.String(), "--socket", socket); err != nil {
		t.Fatalf("%v\n%s%s", err, out, gw.Output())
	}
	seenAs(t, client, "http://203.0.113.9/", "203.0.113.1")
	seenAs(t, client, "http://[2001:db8::9]/", "2001:db8::1")
	exec(t, box, binary, "reload", "--socket", socket)
	exec(t, box, binary, "conntrack", "-L", "--socket", socket)
	seenAs(t, client, "http://203.0.113.9/", "203.0.113.1")
	pid, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", gw.Pid()))
	must(t, err)
	traced, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	must(t, err)
	keepsWhatItNeeds(t, traced)
	heir := upgraded(t, box, binary, socket)
	keepsWhatItNeeds(t, heir)
	seenAs(t, client, "http://203.0.113.9/", "203.0.113.1")
	must(t, unix.Kill(heir, unix.SIGTERM))
	if err := gw.Wait(t.Context()); err != nil {
		t.Errorf("SIGTERM ends it with %v, want status 0\n%s", err, gw.Output())
	}

	text, err := os.ReadFile(record)
	must(t, err)
	calls := 0
	filter := u.filter(t, box)
	families := u.words(t, "RestrictAddressFamilies")
	refused := map[string]bool{}
	for line := range strings.Lines(string(text)) {
		m := systemCall.FindStringSubmatch(line)
		if m == nil {
			continue // the end of a call that another thread interrupted, or of a thread
		}
		calls++
		name, args := m[1], m[2]
		switch {
		case !filter[name]:
			refused["SystemCallFilter refuses "+name] = true
		case name == "socket" && !slices.Contains(families, args[:strings.IndexByte(args, ',')]):
			refused["RestrictAddressFamilies refuses socket("+args] = true
		case (name == "mmap" || name == "mprotect") && strings.Contains(args, "PROT_WRITE|PROT_EXEC"):
			refused["MemoryDenyWriteExecute refuses "+name+"("+args] = true
		case name == "openat" && writing.MatchString(args) && !strings.Contains(args, `"/dev/net/tun"`) && !strings.Contains(args, `"`+runtime):
			refused["ProtectSystem refuses openat("+args] = true
		}
	}
	if calls < 100 {
		t.Errorf("%d system calls recorded: the gateway made more\n%s", calls, text)
	}
	for what := range refused {
		t.Error(what)
	}
}

var (
	systemCall = regexp.MustCompile(`^\d+ +([a-z0-9_]+)\((.*)`)
	writing    = regexp.MustCompile(`O_WRONLY|O_RDWR|O_CREAT|O_TRUNC`)
)

// filter returns the system calls that the unit lets through: SystemCallFilter
// lists groups and calls, and after ~ those that are taken away again.
func (u unit) filter(t *testing.T, h *netns.Host) map[string]bool {
	t.Helper()
	allowed := map[string]bool{}
	allow := true
	var set func(words []string)
	set = func(words []string) {
		for _, w := range words {
			if !strings.HasPrefix(w, "@") {
				allowed[w] = allow
				continue
			}
			for line := range strings.Lines(exec(t, h, "systemd-analyze", "syscall-filter", "--no-pager", w)) {
				if member := strings.TrimSpace(line); strings.HasPrefix(line, "    ") && !strings.HasPrefix(member, "#") {
					set([]string{member})
				}
			}
		}
	}
	for _, line := range u {
		value, ok := strings.CutPrefix(line, "SystemCallFilter=")
		if !ok {
			continue
		}
		value, deny := strings.CutPrefix(value, "~")
		allow = !deny
		set(strings.Fields(value))
	}
	return allowed
}

// copyFor copies a file for a user.
func copyFor(t *testing.T, uid int, from, to string) string {
	t.Helper()
	text, err := os.ReadFile(from)
	must(t, err)
	must(t, os.WriteFile(to, text, 0o700))
	must(t, os.Chown(to, uid, uid))
	return to
}
