//go:build !race

package api

import (
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.com/culvert/conntrack"
)

// listSlowdown is how much dearer a list may make packets, while it lasts. How long that
// is, is a test of culvert conntrack.
const listSlowdown = 0.05

// listTries is how often packets are measured alone and beside a list, of which the best
// count: whatever else runs makes both dearer.
const listTries = 20

// pipe returns the end of a pipe to write to. What comes out at the other is counted and
// thrown away, n tells how much, once the end has been closed.
func pipe(t *testing.T) (w *os.File, n <-chan int64) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan int64, 1)
	go func() {
		n, _ := io.Copy(struct{ io.Writer }{io.Discard}, r)
		read <- n
		_ = r.Close()
	}()
	return w, read
}

// list writes all flows as conntrack(8) prints them to a pipe and returns how many bytes
// they are.
func list(t *testing.T, client *Client) int64 {
	t.Helper()
	w, n := pipe(t)
	body, err := client.Flows(t.Context(), Format{Form: FormText})
	if err != nil {
		t.Error(err)
		return 0
	}
	if _, err := io.Copy(w, body); err != nil {
		t.Error(err)
	}
	_ = body.Close()
	_ = w.Close()
	return <-n
}

func TestListOfAMillionFlowsCostsPacketsNothing(t *testing.T) {
	flows := 1_000_000
	if testing.Short() {
		flows = 200_000
	}
	g, _, path := serveTable(t, conntrack.Config{Max: flows, Timeouts: conntrack.Timeouts{UDP: time.Hour}})
	fillTable(t, g.table, flows)
	client := NewClient(path) // without a look at each line
	defer client.Close()

	runtime.LockOSThread() // the thread ends with the test
	alone, beside, slower := time.Hour, time.Hour, 1.0
	for try := 0; try < listTries && slower > listSlowdown; try++ {
		alone = min(alone, forward(t, g.table, flows, 100*time.Millisecond))
		var listing sync.WaitGroup
		var end atomic.Bool
		listing.Go(func() {
			for !end.Load() {
				if n, least := list(t, client), int64(flows)*100; n < least {
					t.Errorf("%d bytes about %d flows", n, flows)
				}
			}
		})
		beside = min(beside, forward(t, g.table, flows, 100*time.Millisecond))
		end.Store(true)
		listing.Wait()
		slower = float64(beside)/float64(alone) - 1
	}
	t.Logf("a packet %v alone, %v beside the list", alone, beside)
	if slower > listSlowdown {
		t.Errorf("a list makes packets dearer by %.1f %%, want %.0f %% at most", 100*slower, 100*listSlowdown)
	}
}
