//go:build netns

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/test/netns"
)

// Where the flow log and the files of events of the faulty house are: a file system
// with as much room.
const (
	logRoom   = 4 << 20
	flowLog   = "flows.log"
	eventsDir = "events"
)

// logDisk mounts a small file system until the test ends.
func logDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", logRoom)))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return dir
}

// logsOn has the house write what it can to a folder.
func logsOn(dir string) string {
	return fmt.Sprintf("[[flowlog]]\nfile = %q\nmax_size = 1\nkeep = 1\n\n[events]\nmemory = 1\ndisk = 1\nrecord = \"always\"\ndirectory = %q\n",
		filepath.Join(dir, flowLog), filepath.Join(dir, eventsDir))
}

// processFaults are those of the gateway's process and its machine.
var processFaults = []fault{
	{claim: "a broken file is reloaded again and again", strike: func(t *testing.T, s *steadily) {
		before := s.status(t).Generation
		path := filepath.Join(s.Dir(), "culvert.toml")
		good, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, append(good, "\n[gateway\n"...), 0o600))
		for range 5 {
			if _, err := s.gw.Ctl(t.Context(), "reload"); err == nil || !strings.Contains(err.Error(), path+":") {
				t.Errorf("reload says %v, want the place in %s", err, path)
			}
			must(t, s.gw.Process().Signal(unix.SIGHUP))
			s.says(t, path+":")
		}
		must(t, os.WriteFile(path, good, 0o600))
		if after := s.status(t).Generation; after != before {
			t.Errorf("generation %d, want %d as before", after, before)
		}
	}},
	{claim: "the process is stopped for a moment, and its rings overflow", loss: counted, strike: func(t *testing.T, s *steadily) {
		const packets = 6000
		before := s.tolls(t)
		received := countDatagrams(t, s.server)
		flood := bindUDP(t, s.second, at(ipv4.second, 0))
		flood.ask(t, at(ipv4.server, echoPort), "who is the gateway?") // it cannot answer later
		p := s.gw.Process()
		must(t, p.Signal(unix.SIGSTOP))
		until(t, "the process is stopped", func() bool { return stateOf(p.Pid()) == "T" })
		for range packets {
			_, err := flood.WriteToUDPAddrPort([]byte("flood"), at(ipv4.server, countPort))
			must(t, err)
		}
		must(t, p.Signal(unix.SIGCONT))
		s.troubles(t, "frames came faster than workers took them")
		until(t, "each packet of the flood has come or is counted", func() bool {
			return int(received.Load())+before.grown(s.tolls(t)) >= packets
		})
		if received.Load() == packets {
			t.Error("nothing of the flood was lost: the rings did not overflow")
		}
	}},
	{claim: "each worker stands still for a moment", strike: func(t *testing.T, s *steadily) {
		for _, tid := range workersOf(t, s.gw.Process().Pid()) {
			frozen(t, tid, func() { lasts(300 * time.Millisecond) })
			s.recover(t)
		}
	}},
	{claim: "a worker stands still for longer", loss: counted, strike: func(t *testing.T, s *steadily) {
		frozen(t, workersOf(t, s.gw.Process().Pid())[0], func() { s.says(t, `"worker stands still" worker=0`) })
		s.says(t, `"worker goes on" worker=0`)
		if n := s.metric(t, `culvert_worker_stalls_total{worker="0"}`); n != 1 {
			t.Errorf("%d stalls are counted, want 1", n)
		}
	}},
	{claim: "signals interrupt every system call", strike: func(t *testing.T, s *steadily) {
		pid := s.gw.Process().Pid()
		for range 500 {
			for _, tid := range threadsOf(t, pid) {
				for _, sig := range []unix.Signal{unix.SIGURG, unix.SIGCHLD, unix.SIGWINCH} {
					if err := unix.Tgkill(pid, tid, sig); err != nil && !errors.Is(err, unix.ESRCH) {
						t.Fatal(err)
					}
				}
			}
			lasts(time.Millisecond)
		}
	}},
	{claim: "there are no file descriptors left", strike: func(t *testing.T, s *steadily) {
		pid := s.gw.Process().Pid()
		var most unix.Rlimit
		must(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &most))
		few := most
		few.Cur = uint64(len(descriptors(t, pid))) + 4
		must(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &few, nil))
		var idle []net.Conn
		for range 64 {
			c, err := net.Dial("unix", s.gw.Socket())
			must(t, err)
			defer c.Close()
			idle = append(idle, c)
		}
		s.says(t, "too many open files")
		// What changes now cannot be looked at, or taken.
		s.exec(t, s.gw.Host, "ip", "address", "add", "10.99.0.1/24", "dev", "guest0")
		s.says(t, `"interface was not looked at; trying on" interface=`)
		must(t, s.gw.Netlink().LinkDel(ifname(t, s.gw.Host, "guest0")))
		s.exec(t, s.gw.Host, "ip", "link", "add", "guest0", "type", "veth", "peer", "name", "eth0", "netns", s.visitor.Namespace())
		s.exec(t, s.gw.Host, "ip", "link", "set", "guest0", "up")
		s.exec(t, s.visitor, "ip", "link", "set", "eth0", "up")
		s.restore(t, guestLink)
		s.says(t, `"interface left out" interface=guest0`)
		s.recover(t)
		must(t, unix.Prlimit(pid, unix.RLIMIT_NOFILE, &most, nil))
		for _, c := range idle {
			c.Close()
		}
		s.says(t, `"interface taken" interface=guest0`)
		s.served(t, "guest0", present)
		bindUDP(t, s.visitor, at(ipv4.visitor, 0)).ask(t, at(ipv4.server, echoPort), "a guest")
	}},
	{claim: "the disk of flow log and events is full", strike: func(t *testing.T, s *steadily) {
		ballast := filepath.Join(s.disk, "ballast")
		must(t, fill(ballast))
		begin(t, s.house, 2000)
		s.says(t, `"flow log can not be written; trying on"`)
		s.troubles(t, "flow log "+filepath.Join(s.disk, flowLog)+" takes nothing")
		s.troubles(t, "files of events takes nothing")
		s.recover(t)
		must(t, os.Remove(ballast))
		s.says(t, `"flow log is written again"`)
		until(t, "the status has no trouble any more", func() bool { return len(s.status(t).Failing) == 0 })
	}},
	{claim: "readers of the API never read", strike: func(t *testing.T, s *steadily) {
		missed := s.metric(t, "culvert_journal_missed_total")
		events := ask(t, s.house, "GET /v1/events HTTP/1.0\r\n\r\n")
		for range 4 {
			ask(t, s.house, "GET /v1/events HTTP/1.0\r\n\r\n")
			ask(t, s.house, strings.Repeat("GET /metrics HTTP/1.1\r\nHost: culvert\r\n\r\n", 50))
			ask(t, s.house, strings.Repeat("GET /v1/flows HTTP/1.1\r\nHost: culvert\r\n\r\n", 50))
		}
		begin(t, s.house, 8000)
		_, err := s.gw.Ctl(t.Context(), "conntrack", "-D", "-s", ipv4.second.String())
		must(t, err)
		s.recover(t)
		go io.Copy(io.Discard, events)
		until(t, "a reader that reads again is told what it has missed", func() bool { return s.metric(t, "culvert_journal_missed_total") > missed })
	}},
}

const (
	countPort = 7062
	echoPort  = 7063
)

// countDatagrams counts what arrives at countPort of a host.
func countDatagrams(t *testing.T, host *netns.Host) *atomic.Int64 {
	t.Helper()
	var n atomic.Int64
	c := roomy(t, host, at(ipv4.server, countPort))
	go func() {
		buf := make([]byte, 64)
		for {
			if _, _, err := c.ReadFromUDPAddrPort(buf); err != nil {
				return
			}
			n.Add(1)
		}
	}()
	return &n
}

// stateOf is the state of a process as ps prints it.
func stateOf(pid int) string {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	_, rest, _ := bytes.Cut(text, []byte(") "))
	state, _, _ := bytes.Cut(rest, []byte(" "))
	return string(state)
}

// threadsOf are the threads of a process.
func threadsOf(t *testing.T, pid int) (tids []int) {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	must(t, err)
	for _, e := range all {
		tid, err := strconv.Atoi(e.Name())
		must(t, err)
		tids = append(tids, tid)
	}
	return tids
}

// workersOf are the threads of the gateway's workers, in their order.
func workersOf(t *testing.T, pid int) (tids []int) {
	t.Helper()
	byName := map[string]int{}
	for _, tid := range threadsOf(t, pid) {
		name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/comm", pid, tid)) // an error: it has just ended
		byName[strings.TrimSpace(string(name))] = tid
	}
	for i := 0; byName[fmt.Sprintf("worker %d", i)] != 0; i++ {
		tids = append(tids, byName[fmt.Sprintf("worker %d", i)])
	}
	if len(tids) == 0 {
		t.Fatalf("no thread is called worker 0: %v", byName)
	}
	return tids
}

// frozen holds one thread of another process still while f runs.
func frozen(t *testing.T, tid int, f func()) {
	t.Helper()
	held, goOn, done := make(chan error, 1), make(chan struct{}), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the tracer is a thread
		defer runtime.UnlockOSThread()
		err := seize(tid)
		held <- err
		if err == nil {
			<-goOn
			done <- unix.PtraceDetach(tid)
		}
	}()
	must(t, <-held)
	defer func() {
		close(goOn)
		must(t, <-done)
	}()
	f()
}

func seize(tid int) error {
	if err := unix.PtraceSeize(tid); err != nil {
		return fmt.Errorf("seize thread %d: %w", tid, err)
	}
	if err := unix.PtraceInterrupt(tid); err != nil {
		return fmt.Errorf("interrupt thread %d: %w", tid, err)
	}
	var ws unix.WaitStatus
	_, err := unix.Wait4(tid, &ws, unix.WALL, nil)
	return err
}

// descriptors are the open files of a process.
func descriptors(t *testing.T, pid int) []os.DirEntry {
	t.Helper()
	all, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	must(t, err)
	return all
}

// fill writes a file until its file system has no more room.
func fill(path string) error {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(make([]byte, 4096))
		f.Close()
		if errors.Is(err, unix.ENOSPC) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// begin has the second host begin so many flows, not all at once.
func begin(t *testing.T, h *house, flows int) {
	t.Helper()
	d := bindUDP(t, h.second, at(ipv4.second, 0))
	for ports := range slices.Chunk(portsFrom(20000, flows), 100) {
		for _, port := range ports {
			_, err := d.WriteToUDPAddrPort([]byte("x"), at(ipv4.server, port))
			must(t, err)
		}
		lasts(5 * time.Millisecond)
	}
}

func portsFrom(first uint16, n int) []uint16 {
	all := make([]uint16, n)
	for i := range all {
		all[i] = first + uint16(i)
	}
	return all
}

// ask sends text to the control socket and reads nothing, until the test ends.
func ask(t *testing.T, h *house, text string) net.Conn {
	t.Helper()
	c, err := net.Dial("unix", h.gw.Socket())
	must(t, err)
	t.Cleanup(func() { c.Close() })
	_, err = io.WriteString(c, text)
	must(t, err)
	return c
}

// TestLogThatNobodyReadsHoldsUpNothing has the log go into a pipe that is full: packets
// pass, files are reloaded, what the kernel says is followed, and the gateway ends.
func TestLogThatNobodyReadsHoldsUpNothing(t *testing.T) {
	onlyCulvert(t, setup{}, func(t *testing.T, h *house) {
		must(t, h.gw.Stop())
		fifo := filepath.Join(h.Dir(), "log")
		must(t, unix.Mkfifo(fifo, 0o600))
		reader, err := unix.Open(fifo, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		must(t, err)
		defer unix.Close(reader)
		_, err = unix.FcntlInt(uintptr(reader), unix.F_SETPIPE_SZ, os.Getpagesize())
		must(t, err)
		path := filepath.Join(h.Dir(), "culvert.toml")
		p, err := h.gw.Host.Start("sh", "-c", `exec "$0" "$@" 2>`+fifo, h.gw.Binary(), "run", "--log-level", "debug", "-c", path, "--socket", h.gw.Socket())
		must(t, err)
		until(t, "the gateway is ready", func() bool {
			_, err := h.gw.Ctl(t.Context(), "status")
			return err == nil
		})
		service := at(ipv4.server, echoPort)
		serveUDP(t, h.server, service)
		d := bindUDP(t, h.first, at(ipv4.first, 0))
		full := func() bool {
			waits, err := unix.IoctlGetInt(reader, unix.TIOCINQ)
			must(t, err)
			return waits > os.Getpagesize()-512
		}
		for i := 0; !full(); i++ { // each of these logs something
			must(t, h.gw.Netlink().LinkSetMTU(ifname(t, h.gw.Host, "guest0"), 1400+i%2))
			_, err := h.gw.Ctl(t.Context(), "reload")
			must(t, err)
		}
		for range 5 {
			_, err := h.gw.Ctl(t.Context(), "reload")
			must(t, err)
			d.ask(t, service, "does it pass?")
		}
		must(t, h.gw.Netlink().LinkSetMTU(ifname(t, h.gw.Host, "guest0"), 1300))
		until(t, "the MTU is followed", func() bool {
			return slices.ContainsFunc(h.status(t).Interfaces, func(i ifStatus) bool { return i.Name == "guest0" && i.MTU == 1300 })
		})
		must(t, p.Stop()) // an error if it takes longer than a moment
	})
}
