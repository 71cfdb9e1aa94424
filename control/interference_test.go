//go:build !race

package control

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"example.com/culvert/control/api"
	"example.com/culvert/control/metrics"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
)

// What else a gateway does may make packets dearer by dearer, and hold one up for stall.
// Tests allow more: machines that run them do other things, too. What they log of the
// best of their tries is what counts.
const (
	dearer, dearest = 0.05, 0.12
	stall, longest  = time.Millisecond, 10 * time.Millisecond
)

// mill is a port that gives packets of so many flows for ever, and measures the thread of
// its only worker.
type mill struct {
	flows  int
	memory []byte
	at     int
	grind  atomic.Bool // else it is idle
	fresh  atomic.Bool // the first packet of each batch begins a flow
	others int         // flows begun like that
	window atomic.Pointer[window]

	last     time.Time // of Recv
	switches int64     // of the thread, against its will
}

// window is a time in which a mill measures.
type window struct {
	began   time.Time
	least   int           // packets
	also    atomic.Bool   // has to be true, too, before it ends
	cpu     time.Duration // of the thread
	packets int
	stall   time.Duration // the longest time between two batches that no other process took
	done    chan struct{}
}

const (
	millBatch = 64
	millSlot  = packet.Headroom + 64
	millBytes = 46 // of an IP packet
)

func newMill(flows int) *mill {
	m := &mill{flows: flows, memory: make([]byte, millBatch*millSlot)}
	for i := range millBatch {
		ip := m.memory[i*millSlot+packet.Headroom:]
		copy(ip, []byte{0x45, 0, 0, millBytes, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0, 10, 0, 0, 0, 203, 0, 113, 9})
		binary.BigEndian.PutUint16(ip[24:], millBytes-20)
	}
	return m
}

// Recv implements port.Queue: the next packets, of flows that lie far from each other.
func (m *mill) Recv(pkts []packet.Packet) int {
	if !m.grind.Load() {
		return 0
	}
	const stride = 7_368_787
	fresh := m.fresh.Load()
	for i := range min(len(pkts), millBatch) {
		n, service := m.at*stride%m.flows, uint16(53)
		if i == 0 && fresh {
			n, service = m.others, 54
			m.others = (m.others + 1) % (1 << 24)
		} else {
			m.at = (m.at + 1) % m.flows
		}
		mem := m.memory[i*millSlot : (i+1)*millSlot]
		ip := mem[packet.Headroom:]
		client, server := uint32(10<<24|5+n/60_000), uint32(198<<24|18<<16|n%4093)
		ip[8], ip[10], ip[11] = 64, 0, 0
		binary.BigEndian.PutUint32(ip[12:], client)
		binary.BigEndian.PutUint32(ip[16:], server)
		binary.BigEndian.PutUint16(ip[20:], uint16(1024+n%60_000))
		binary.BigEndian.PutUint16(ip[22:], service)
		sum := uint32(0)
		for j := 0; j < 20; j += 2 {
			sum += uint32(binary.BigEndian.Uint16(ip[j:]))
		}
		sum = sum>>16 + sum&0xffff
		binary.BigEndian.PutUint16(ip[10:], ^uint16(sum>>16+sum))
		p := &pkts[i]
		p.Mem, p.Off, p.End = mem, packet.Headroom, packet.Headroom+millBytes
		p.Offload, p.HasVLAN, p.Link, p.LinkKind = packet.Offload{Flags: packet.DataValid}, false, packet.LinkIP, 0
	}
	n := min(len(pkts), millBatch)
	if w := m.window.Load(); w != nil {
		m.measure(w, n)
	}
	return n
}

// measure goes on with a window; it runs on the worker's thread.
func (m *mill) measure(w *window, n int) {
	now := time.Now()
	if w.began.IsZero() {
		w.began, w.cpu = now, ownTime()
		_, m.switches = m.taken()
	} else if gap := now.Sub(m.last); gap > w.stall {
		if mine, switches := m.taken(); mine {
			w.stall = gap
		} else {
			m.switches = switches
		}
	}
	m.last = now
	w.packets += n
	if w.packets >= w.least && w.also.Load() {
		w.cpu = ownTime() - w.cpu
		m.window.Store(nil)
		close(w.done)
	}
}

// taken reports whether nobody else had the thread's processor since the last look.
func (m *mill) taken() (mine bool, switches int64) {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &ru); err != nil {
		panic(err)
	}
	return ru.Nivcsw == m.switches, ru.Nivcsw
}

// ownTime is what the calling thread has had of its processor.
func ownTime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return time.Duration(ts.Nano())
}

// watch measures for so many packets, and as long as f runs.
func (m *mill) watch(packets int, f func()) *window {
	w := &window{least: packets, done: make(chan struct{})}
	m.window.Store(w)
	f()
	w.also.Store(true)
	<-w.done
	return w
}

// each is what a packet costs.
func (w *window) each() time.Duration { return w.cpu / time.Duration(w.packets) }

// keep takes from another window what is better there.
func (w *window) keep(o *window) {
	if o.each() < w.each() {
		w.cpu, w.packets = o.cpu, o.packets
	}
	w.stall = min(w.stall, o.stall)
}

// dearer is by what part packets cost more than in another window.
func (w *window) dearer(than *window) float64 { return float64(w.each())/float64(than.each()) - 1 }

func (m *mill) Info() port.Info {
	return port.Info{Name: "lan0", Link: packet.LinkIP, MTU: 1500, Up: true, Driver: "mem", NumQueues: 1}
}
func (m *mill) Refresh() (port.Info, error)               { return m.Info(), nil }
func (m *mill) Queue(int) port.Queue                      { return m }
func (m *mill) NewSender() (port.Sender, error)           { return m, nil }
func (m *mill) Close() error                              { return nil }
func (m *mill) FD() int                                   { return -1 }
func (m *mill) Stats() port.Stats                         { return port.Stats{} }
func (m *mill) Release()                                  {}
func (m *mill) Send(*packet.Packet) port.Status           { return port.Sent }
func (m *mill) Flush() (refused [port.NumStatuses]uint32) { return refused }

// milledConfig is a gateway with so many flows, and room for others, which end soon.
func milledConfig(flows int) string {
	return strings.NewReplacer("10.0.0.1/24", "10.0.0.1/8", "workers = 1", "workers = 1\n\n[conntrack]\nmax = "+fmt.Sprint(2*flows)+
		"\ntimeouts = { udp = \"1h\" }\n\n[[route]]\nto = \"0.0.0.0/0\"\ninterface = \"wan0\"\n").Replace(masquerading) + `
[[filter]]
proto = "udp"
dport = 54
timeout = { udp = "1s" }
action = "accept"

[[filter]]
action = "accept"
in_area = "lan"
`
}

// milled is such a gateway, all of whose flows have begun.
func milled(t *testing.T, flows int) (b *bench, m *mill) {
	t.Helper()
	m = newMill(flows)
	b = newBench(t, milledConfig(flows), Options{Ports: map[string]port.Port{"lan0": m, "wan0": newMill(1)}})
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.grind.Store(true)
	eventually(t, "all flows have begun", func() bool { return b.Status().Flows == flows })
	return b, m
}

// many is a number of flows: a million, fewer with -short.
func many() int {
	if testing.Short() {
		return 100_000
	}
	return 1_000_000
}

// withRules adds ten thousand rules, no two times the same.
func withRules(text string, salt int) string {
	var b strings.Builder
	b.WriteString(text)
	for i := range 10_000 {
		fmt.Fprintf(&b, "\n[[filter]]\nproto = \"tcp\"\ndst = \"192.0.%d.%d\"\ndport = %d\naction = \"drop\"\n", i>>8, i&255, 1+(i+salt)%60000)
	}
	return b.String()
}

// again does something again and again until stopped.
func again(f func()) (stop func()) {
	var running sync.WaitGroup
	var end atomic.Bool
	running.Go(func() {
		for !end.Load() {
			f()
		}
	})
	return func() {
		end.Store(true)
		running.Wait()
	}
}

// TestOtherWorkCostsPacketsLittle: while a gateway with many flows reloads ten thousand
// rules, is scraped, or has readers of events that never read, packets cost their thread
// nearly what they cost beside work that has nothing to do with it, and none waits.
// Processors of one machine share caches and more: any other work costs something.
func TestOtherWorkCostsPacketsLittle(t *testing.T) {
	const tries = 6
	flows := many()
	b, m := milled(t, flows)
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(metrics.NewCollector(b.Gateway))
	handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
	client := api.NewClient(b.socket)
	defer client.Close()
	reloads, strange := 0, withRules(milledConfig(flows), 0)
	for _, tt := range []struct {
		claim string
		fresh bool // a packet of each batch begins a flow
		work  func(t *testing.T) (stop func())
	}{
		{"scrapes", false, func(t *testing.T) func() {
			return again(func() {
				answer := httptest.NewRecorder()
				handler.ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
				if want := fmt.Sprintf("\nculvert_flows %g\n", float64(flows)); !strings.Contains(answer.Body.String(), want) {
					t.Errorf("a scrape does not say%s", want)
				}
			})
		}},
		{"a reload of ten thousand rules", false, func(t *testing.T) func() {
			reloads++
			if err := b.Reload(parse(t, withRules(milledConfig(flows), reloads))); err != nil {
				t.Error(err)
			}
			return func() {}
		}},
		{"a flood of events that one reader reads and another one does not", true, func(t *testing.T) func() {
			stalls, err := client.Events(t.Context(), api.Format{Form: api.FormText})
			if err != nil {
				t.Fatal(err)
			}
			reads, err := client.Events(t.Context(), api.Format{Form: api.FormText})
			if err != nil {
				t.Fatal(err)
			}
			var told int64
			var reading sync.WaitGroup
			reading.Go(func() { told, _ = io.Copy(io.Discard, reads) })
			return func() {
				_ = stalls.Close()
				_ = reads.Close()
				reading.Wait()
				if told == 0 {
					t.Error("nobody was told of an event")
				}
			}
		}},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			m.fresh.Store(tt.fresh)
			worst := func() *window { return &window{cpu: time.Hour, packets: 1, stall: time.Hour} }
			alone, apart, beside := worst(), worst(), worst()
			slower := func() float64 { return min(beside.dearer(alone), beside.dearer(apart)) }
			for try := 0; try == 0 || try < tries && (slower() > dearer || beside.stall > max(stall, alone.stall)); try++ {
				alone.keep(m.watch(2*flows, func() {}))
				stop := again(func() { parse(t, strange) })
				apart.keep(m.watch(2*flows, func() {}))
				stop()
				var end func()
				beside.keep(m.watch(2*flows, func() { end = tt.work(t) }))
				end()
			}
			t.Logf("a packet takes %v alone, %v beside other work and %v beside %s, %.1f %% more; the longest wait is %v, %v and %v",
				alone.each(), apart.each(), beside.each(), tt.claim, 100*slower(), alone.stall, apart.stall, beside.stall)
			if s := slower(); s > dearest {
				t.Errorf("packets become dearer by %.1f %%, want %.0f %% at most", 100*s, 100*dearer)
			}
			if beside.stall > longest {
				t.Errorf("a packet waits for %v, want %v at most", beside.stall, stall)
			}
		})
	}
}

// TestIdleFlowsUseNoProcessor: a gateway whose flows are silent does next to nothing.
func TestIdleFlowsUseNoProcessor(t *testing.T) {
	const lasts, most = 2 * time.Second, 0.02 // of one processor
	_, m := milled(t, many())
	m.grind.Store(false)
	share := 1.0
	for try := 0; try < 5 && share > most/2; try++ {
		before := processTime(t)
		<-time.After(lasts)
		share = min(share, (processTime(t)-before).Seconds()/lasts.Seconds())
	}
	t.Logf("%d idle flows take %.2f %% of a processor", many(), 100*share)
	if share > most {
		t.Errorf("%d idle flows take %.2f %% of a processor, want %.0f %% at most", many(), 100*share, 100*most)
	}
}

// processTime is what all threads have had of the processors.
func processTime(t *testing.T) time.Duration {
	t.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		t.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}
