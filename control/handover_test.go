package control

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/control/api"
	"example.com/culvert/control/journal"
	"example.com/culvert/control/upgrade"
)

// peer is a successor in the same process, which speaks through the other end of a pair.
type peer struct {
	*upgrade.Conn
	killed func()
	once   sync.Once
}

func (p *peer) PID() int { return 4711 }

func (p *peer) Kill() bool {
	p.once.Do(func() {
		p.Conn.Close()
		p.killed()
	})
	return true
}

// succeededBy has upgrades of b end with what does at the other end.
func succeededBy(t *testing.T, b *bench, does func(*upgrade.Conn)) {
	t.Helper()
	b.handing.spawn = func(*Gateway, string) (successor, error) {
		ours, theirs, err := upgrade.Pair()
		if err != nil {
			return nil, err
		}
		var other sync.WaitGroup
		other.Go(func() {
			does(theirs)
			theirs.Close()
		})
		p := &peer{Conn: ours, killed: other.Wait}
		t.Cleanup(func() { p.Kill() })
		return p, nil
	}
}

// heirOf makes a gateway that takes over from b, with its ports.
func heirOf(t *testing.T, b *bench, c *upgrade.Conn, text string) *bench {
	t.Helper()
	next := newBench(t, text, Options{Predecessor: c, Socket: b.socket}, "lan0", "wan0")
	next.opts.Ports = b.opts.Ports
	next.ports, next.socket = b.ports, b.socket
	return next
}

func TestAnotherProcessGoesOn(t *testing.T) {
	one := start(t)
	one.send(t, 40000)
	one.received(t)
	one.send(t, 40001)
	one.received(t)
	was, stats := flowsOf(one), one.Engine().Stats()
	client := api.NewClient(one.socket)
	defer client.Close()

	started := make(chan error, 1)
	var two *bench
	succeededBy(t, one, func(c *upgrade.Conn) {
		two = heirOf(t, one, c, masquerading)
		started <- two.Start(t.Context())
	})
	result, err := client.Upgrade(t.Context(), api.UpgradeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if result.Flows != 2 || result.Lost != 0 || result.PID != 4711 || result.Pause <= 0 || result.Before != Version() {
		t.Errorf("the answer is %+v", result)
	}
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	select {
	case <-one.LeftTo():
	default:
		t.Error("the old one does not know that it is over")
	}
	why := "upgraded meanwhile, version " + Version() + " goes on in process 4711"
	if _, err := one.Upgrade(t.Context(), api.UpgradeRequest{}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), why) {
		t.Errorf("an upgrade that waited for this one: %v, want one that says %q", err, why)
	}
	if err := one.Close(t.Context()); err != nil {
		t.Error(err)
	}
	is := flowsOf(two)
	for i := range was {
		was[i].Timeout, is[i].Timeout = 0, 0
		was[i].Hint, is[i].Hint = [2]uint32{}, [2]uint32{}
		if is[i] != was[i] {
			t.Errorf("the flow is\n%+v, was\n%+v", is[i], was[i])
		}
	}
	if now := two.Engine().Stats(); now.Forwarded != stats.Forwarded {
		t.Errorf("counts %d forwarded packets, want %d", now.Forwarded, stats.Forwarded)
	}
	two.send(t, 40000)
	two.received(t)
	if n := two.Table().Len(); n != 2 {
		t.Errorf("%d flows, want 2", n)
	}
	for _, err := range two.Table().Check(two.Table().Now()) {
		t.Error(err)
	}
	again := api.NewClient(one.socket)
	defer again.Close()
	st, err := again.Status(t.Context())
	if err != nil || st.Generation != 2 {
		t.Errorf("the socket answers with generation %d, %v; want 2", st.Generation, err)
	}
	if done, failed, pause := two.Upgrades(); done != 1 || failed != 0 || pause <= 0 {
		t.Errorf("%d upgrades, %d failed, pause %v", done, failed, pause)
	}
}

// mortal is a successor whose predecessor, this process, says the last round, and then has
// what is after it happen to it.
type mortal struct {
	*peer
	after func()
}

func (m *mortal) Send(kind upgrade.Kind, content any, fds ...int) error {
	err := m.Conn.Send(kind, content, fds...)
	if kind == upgrade.KindFinal {
		m.after()
	}
	return err
}

// mortally has upgrades of b end with another gateway, and with what happens after the last
// round: it gets the process that has the flows until then, as the other gateway knows it.
func mortally(t *testing.T, b *bench, after func(*os.Process, *upgrade.Conn)) (other func() (*bench, error)) {
	t.Helper()
	var pidfd int
	before, err := os.StartProcess("/bin/sleep", []string{"sleep", "600"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{PidFD: &pidfd}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = before.Kill()
		_, _ = before.Wait() // an error: it was waited for
	})
	type outcome struct {
		two *bench
		err error
	}
	ended := make(chan outcome, 1)
	succeededBy(t, b, func(c *upgrade.Conn) {
		c.Watch(pidfd)
		two := heirOf(t, b, c, masquerading)
		ended <- outcome{two, two.Start(t.Context())}
	})
	spawn := b.handing.spawn
	b.handing.spawn = func(g *Gateway, binary string) (successor, error) {
		s, err := spawn(g, binary)
		if err != nil {
			return nil, err
		}
		p := s.(*peer)
		return &mortal{p, func() { after(before, p.Conn) }}, nil
	}
	return func() (*bench, error) {
		o := <-ended
		return o.two, o.err
	}
}

// The old process is killed when it has handed over all, and before it hears that packets
// go on: they do.
func TestHeirOutlivesWhoDiesAfterTheLastRound(t *testing.T) {
	one := start(t)
	one.send(t, 40000)
	one.received(t)
	other := mortally(t, one, func(before *os.Process, c *upgrade.Conn) {
		_ = before.Kill()
		c.Close()
		runtime.Goexit() // this is all that the old process has done
	})
	var died sync.WaitGroup
	died.Go(func() { _, _ = one.Upgrade(t.Context(), api.UpgradeRequest{}) })
	died.Wait()
	one.phase = left // a dead process takes nothing back
	for _, l := range one.services.listeners() {
		l.Keep(true)
	}
	two, err := other()
	if err != nil {
		t.Fatal(err)
	}
	two.send(t, 40000)
	two.received(t)
	two.send(t, 40001)
	two.received(t)
	if n := two.Table().Len(); n != 2 {
		t.Errorf("%d flows, want 2", n)
	}
	if done, failed, _ := two.Upgrades(); done != 1 || failed != 0 {
		t.Errorf("%d upgrades, %d failed", done, failed)
	}
	client := api.NewClient(one.socket)
	defer client.Close()
	if n, err := client.CountFlows(t.Context()); err != nil || n != 2 {
		t.Errorf("the socket says %d flows, %v", n, err)
	}
}

// Who has only let go of the connection may go on: the new one does not.
func TestHeirEndsBesideWhoLives(t *testing.T) {
	one := start(t)
	one.send(t, 40000)
	one.received(t)
	other := mortally(t, one, func(_ *os.Process, c *upgrade.Conn) { c.Close() })
	if _, err := one.Upgrade(t.Context(), api.UpgradeRequest{}); !errors.Is(err, ErrRefused) {
		t.Errorf("the upgrade ends with %v, want %v", err, ErrRefused)
	}
	if _, err := other(); !errors.Is(err, upgrade.ErrEnded) {
		t.Errorf("the new gateway starts with %v, want %v", err, upgrade.ErrEnded)
	}
}

// A reader of events who comes back to the next process gets what he has not had, and is
// told of no restart: with files as without.
func TestEventsGoOnInTheNextProcess(t *testing.T) {
	for claim, text := range map[string]string{
		"in memory": masquerading,
		"in files":  masquerading + fmt.Sprintf("\n[events]\ndirectory = %q\n", t.TempDir()),
	} {
		t.Run(claim, func(t *testing.T) {
			one := newBench(t, text, Options{}, "lan0", "wan0")
			if err := one.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			reader := one.Events().Tail()
			cursor := reader.Cursor()
			reader.Close()
			one.send(t, 40000)
			one.received(t)
			for n := range 2 {
				started := make(chan error, 1)
				var two *bench
				succeededBy(t, one, func(c *upgrade.Conn) {
					two = heirOf(t, one, c, text)
					started <- two.Start(t.Context())
				})
				if _, err := one.Upgrade(t.Context(), api.UpgradeRequest{}); err != nil {
					t.Fatal(err)
				}
				if err := <-started; err != nil {
					t.Fatal(err)
				}
				if err := one.Close(t.Context()); err != nil {
					t.Error(err)
				}
				one = two
				one.send(t, uint16(40001+n))
				one.received(t)
			}
			reader, err := one.Events().From(cursor)
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			var e journal.Entry
			for want := uint64(1); want <= 3; want++ {
				if err := reader.Wait(t.Context()); err != nil || !reader.Next(&e) {
					t.Fatalf("event %d: %v", want, err)
				}
				if e.Record.Seq != want || e.Record.Kind != conntrack.FlowNew || e.Record.Event.Flow.Tuple[0].SrcPort != uint16(39999+want) {
					t.Errorf("event %d is %+v", want, e)
				}
			}
			if s := one.Journal(); s.Events.Sum() != 3 || s.Failing {
				t.Errorf("the journal has counted %v", s)
			}
		})
	}
}

// Whatever the new process says or does not say, the old one goes on with its flows, and
// its socket answers.
func TestUpgradeThatFailsIsRolledBack(t *testing.T) {
	hello := upgrade.Hello{Version: "next", Protocol: upgrade.Protocol, Format: upgrade.Digest()}
	greet := func(c *upgrade.Conn) {
		_ = c.Send(upgrade.KindHello, hello)
		_, _ = c.Receive(upgrade.KindOffer, &upgrade.Offer{}, time.Second)
	}
	prepare := func(c *upgrade.Conn) {
		greet(c)
		_ = c.Send(upgrade.KindReady, upgrade.Ready{})
		for {
			last, _, err := c.ReceiveRound(&upgrade.Final{}, time.Second)
			if err != nil || last {
				return
			}
			_ = c.Send(upgrade.KindTaken, upgrade.Taken{})
		}
	}
	hang := func(c *upgrade.Conn) { // until it is killed
		_, _ = c.Receive(upgrade.KindLeave, &upgrade.Leave{}, time.Minute)
	}
	for claim, tt := range map[string]struct {
		does func(*upgrade.Conn)
		why  string
	}{
		"hangs at once":               {hang, "says nothing"},
		"hangs when it has the offer": {func(c *upgrade.Conn) { greet(c); hang(c) }, "says nothing"},
		"hangs when packets go on": {func(c *upgrade.Conn) {
			greet(c)
			_ = c.Send(upgrade.KindReady, upgrade.Ready{})
			_, _, _ = c.ReceiveRound(&upgrade.Final{}, time.Second)
			hang(c)
		}, "says nothing"},
		"hangs when packets wait":    {func(c *upgrade.Conn) { prepare(c); hang(c) }, "says nothing"},
		"ends at once":               {func(*upgrade.Conn) {}, "has ended"},
		"speaks another protocol":    {func(c *upgrade.Conn) { h := hello; h.Protocol++; _ = c.Send(upgrade.KindHello, h) }, fmt.Sprintf("protocol %d", upgrade.Protocol+1)},
		"has another format":         {func(c *upgrade.Conn) { h := hello; h.Format = "0123"; _ = c.Send(upgrade.KindHello, h) }, "digest 0123"},
		"says what it may not":       {func(c *upgrade.Conn) { _ = c.Send(upgrade.KindRunning, upgrade.Running{}) }, "running in place of hello"},
		"says why not":               {func(c *upgrade.Conn) { greet(c); _ = c.Send(upgrade.KindFailed, upgrade.FailedError{Why: "bad rule"}) }, "bad rule"},
		"ends when it has the offer": {greet, "has ended"},
		"ends when packets wait":     {prepare, "has ended"},
		"fails when packets wait":    {func(c *upgrade.Conn) { prepare(c); _ = c.Send(upgrade.KindFailed, upgrade.FailedError{Why: "no"}) }, "no"},
	} {
		t.Run(claim, func(t *testing.T) {
			b := start(t)
			b.send(t, 40000)
			b.received(t)
			client := api.NewClient(b.socket)
			defer client.Close()
			succeededBy(t, b, tt.does)
			if strings.HasPrefix(claim, "hangs") {
				b.handing.most = time.Second / 5
			}
			_, err := client.Upgrade(t.Context(), api.UpgradeRequest{})
			if !errors.Is(err, api.ErrRefused) || !strings.Contains(err.Error(), tt.why) {
				t.Fatalf("the answer is %v, want one that says %q", err, tt.why)
			}
			b.send(t, 40000)
			b.received(t)
			b.send(t, 40001)
			b.received(t)
			if n := b.Table().Len(); n != 2 {
				t.Errorf("%d flows, want 2", n)
			}
			if n, err := client.CountFlows(t.Context()); err != nil || n != 2 {
				t.Errorf("the socket says %d flows, %v", n, err)
			}
			if done, failed, _ := b.Upgrades(); done != 0 || failed != 1 {
				t.Errorf("%d upgrades and %d that failed are counted", done, failed)
			}
		})
	}
}

// A configuration that cannot be, or not without a restart, changes nothing.
func TestUpgradeIsRefusedByTheNewConfiguration(t *testing.T) {
	for claim, tt := range map[string]struct{ text, why string }{
		"another number of workers": {strings.Replace(masquerading, "workers = 1", "workers = 1\nname = \"other\"", 1), "gateway.name changed"},
		"an interface that is gone": {strings.Replace(masquerading, `"lan0"`, `"lan7"`, 1), "lan7"},
	} {
		t.Run(claim, func(t *testing.T) {
			b := start(t)
			b.send(t, 40000)
			b.received(t)
			failed := make(chan error, 1)
			succeededBy(t, b, func(c *upgrade.Conn) {
				next := heirOf(t, b, c, tt.text)
				next.opts.Ports = nil
				failed <- next.Start(t.Context())
			})
			_, err := b.Upgrade(t.Context(), api.UpgradeRequest{})
			if err == nil || !strings.Contains(err.Error(), tt.why) {
				t.Errorf("%v, want an error with %q", err, tt.why)
			}
			if err := <-failed; err == nil {
				t.Error("the new gateway has started")
			}
			b.send(t, 40000)
			b.received(t)
		})
	}
}
