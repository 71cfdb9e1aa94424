package control

import (
	"errors"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/culvert/control/notify"
	"example.com/culvert/dataplane"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/internal/await"
)

// hanging is a port whose Recv hangs once it is told to, until it may go on.
type hanging struct {
	port.Port
	hang, goOn chan struct{} // hang is taken by Recv, goOn closed
}

func (h *hanging) Queue(i int) port.Queue { return &hangingQueue{h.Port.Queue(i), h} }

type hangingQueue struct {
	port.Queue
	h *hanging
}

func (q *hangingQueue) Recv(p []packet.Packet) int {
	select {
	case <-q.h.hang:
		<-q.h.goOn
	default:
	}
	return q.Queue.Recv(p)
}

func TestWatchdogIsSilentWhileAWorkerHangs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify.sock")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	// alive reports whether a sign of life came within patience.
	alive := func(patience time.Duration) bool {
		t.Helper()
		if err := manager.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 512)
		for {
			n, err := manager.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return false
			} else if err != nil {
				t.Fatal(err)
			}
			if string(buf[:n]) == "WATCHDOG=1" {
				return true
			}
		}
	}
	t.Setenv("WATCHDOG_USEC", "40000")
	lan := &hanging{newPort(t, "lan0"), make(chan struct{}), make(chan struct{})}
	g, err := New(parse(t, masquerading), Options{
		Ports: map[string]port.Port{"lan0": lan, "wan0": newPort(t, "wan0")}, Socket: NoSocket,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Notify: notify.To(path),
	})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close(t.Context())
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if !alive(10 * time.Second) {
			t.Fatal("an idle gateway gives no sign of life")
		}
	}
	goOn := sync.OnceFunc(func() { close(lan.goOn) })
	defer goOn() // or Close would wait for the worker
	lan.hang <- struct{}{}
	silent := false
	for range 20 { // signs that were under way, and naps before the worker looks
		if silent = !alive(500 * time.Millisecond); silent {
			break
		}
	}
	if !silent {
		t.Error("a gateway with a worker that hangs goes on giving signs of life")
	}
	if got := g.Stuck(t.Context()); len(got) != 1 || !strings.Contains(got[0], "one batch") {
		t.Errorf("stuck while a worker hangs: %q, want which one", got)
	}
	await.Until(t, "the status names the worker", func() bool { return len(g.Status().Still) == 1 })
	hung := g.Status().Still[0]
	goOn()
	if !alive(10 * time.Second) {
		t.Error("the gateway gives no sign of life after its worker goes on")
	}
	if got := g.Stuck(t.Context()); len(got) != 0 {
		t.Errorf("stuck after the worker goes on: %q", got)
	}
	await.Until(t, "the status does not name it any more", func() bool {
		return alive(10*time.Second) && len(g.Status().Still) == 0 // the manager reads on
	})
	if n := g.Workers()[hung].Stalls; n != 1 {
		t.Errorf("%d stalls are counted, want 1", n)
	}
}

func TestStandingStillIsToldOnceAndWithItsLength(t *testing.T) {
	var s stillWatch
	at := func(seconds int) time.Time { return time.Unix(int64(seconds), 0) }
	for i, tt := range []struct {
		still, stopped []int
		gone           map[int]time.Duration
	}{
		{nil, nil, nil},
		{[]int{0}, []int{0}, nil},
		{[]int{0, 1}, []int{1}, nil},
		{[]int{1}, nil, map[int]time.Duration{0: 3 * time.Second}},
		{nil, nil, map[int]time.Duration{1: 3 * time.Second}},
		{[]int{0}, []int{0}, nil},
	} {
		stopped, gone := s.look(tt.still, at(i))
		if !slices.Equal(stopped, tt.stopped) || !maps.Equal(gone, tt.gone) {
			t.Errorf("after %d s: stopped %v, gone on %v; want %v and %v", i, stopped, gone, tt.stopped, tt.gone)
		}
		if now := s.now(); !slices.Equal(now, tt.still) {
			t.Errorf("after %d s: %v stand still, want %v", i, now, tt.still)
		}
	}
	if all := s.count(make([]dataplane.WorkerStats, 2)); all[0].Stalls != 2 || all[1].Stalls != 1 {
		t.Errorf("%d and %d stalls are counted, want 2 and 1", all[0].Stalls, all[1].Stalls)
	}
}
