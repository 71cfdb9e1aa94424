package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"example.com/culvert/test/netns"
)

// stepTimeout is how long one step may take.
const stepTimeout = 30 * time.Second

// demo is a running demo.
type demo struct {
	lab    *netns.Lab
	out    *printer
	events *netns.Process // conntrack -E

	expected *netns.Process // conntrack -E expect

	closers []func() error
	wg      sync.WaitGroup
}

// result is what a step has to say.
type result struct {
	text  string   // after the step's name
	lines []string // below it: what was seen, and the flow as the table has it
}

// step is one thing that people do with a network.
type step struct {
	name string
	run  func(d *demo, ctx context.Context, f family) (result, error)
}

var steps = []step{
	{"ping", (*demo).ping},
	{"traceroute", (*demo).traceroute},
	{"DNS", (*demo).lookups},
	{"HTTP download", (*demo).download},
	{"forwarded port", (*demo).inbound},
	{"redirect", (*demo).redirected},
	{"FTP active", (*demo).ftpActive},
	{"FTP passive", (*demo).ftpPassive},
	{"bulk TCP", (*demo).bulk},
	{"events", (*demo).lifeOfAConnection},
}

// runSteps runs every step on every family until ctx ends, and returns the names
// of those that failed and how many it ran.
func (d *demo) runSteps(ctx context.Context) (failed []string, all int) {
	for _, f := range families {
		d.out.heading(f.name)
		for _, s := range steps {
			if ctx.Err() != nil {
				return failed, all
			}
			all++
			if err := d.runStep(ctx, s, f); err != nil {
				failed = append(failed, s.name+" on "+f.name)
			}
		}
	}
	return failed, all
}

func (d *demo) runStep(ctx context.Context, s step, f family) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	r, err := s.run(d, ctx, f)
	if err != nil {
		d.out.step(failure, s.name, err.Error())
		return err
	}
	d.out.step(success, s.name, r.text)
	for _, line := range r.lines {
		d.out.detail(line)
	}
	return nil
}

// flowOf returns the table's line for the flow of a protocol that source began.
// Steps ask before they close their connection: closed ones soon leave the table.
func (d *demo) flowOf(ctx context.Context, proto string, source netip.AddrPort) (string, error) {
	flow, err := d.lab.Gateway().WaitFlow(ctx, func(f netns.Flow) bool {
		return f.Proto == proto && f.Orig.Src == source
	})
	return flow.Line, err
}

// localAddr is the address that c speaks from.
func localAddr(c net.Conn) netip.AddrPort {
	switch a := c.LocalAddr().(type) {
	case *net.TCPAddr:
		return a.AddrPort()
	case *net.UDPAddr:
		return a.AddrPort()
	}
	return netip.AddrPort{}
}

// startServices starts everything that answers during the steps.
func (d *demo) startServices(ctx context.Context) error {
	gw := d.lab.Gateway()
	var err error
	if d.events, err = gw.Events(); err != nil {
		return err
	}
	if d.expected, err = gw.Events("expect"); err != nil {
		return err
	}
	if gw.Kind() == netns.Kernel {
		// Culvert has this one inside itself: see gatewayCommand.
		if err := d.listen(gw.Host, fmt.Sprintf(":%d", servicePort), greet); err != nil {
			return err
		}
	}
	serving, stop := context.WithCancel(ctx)
	d.closers = append(d.closers, func() error { stop(); return nil })
	for _, f := range families {
		if err := d.startFamily(serving, f); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return ctx.Err()
}

// startFamily starts the services of one family: at the server, and the web
// server of the client.
func (d *demo) startFamily(ctx context.Context, f family) error {
	return errors.Join(
		d.serveDNS(f),
		d.serveWeb(server, f.server.Addr()),
		d.serveWeb(client, f.client.Addr()),
		d.listen(d.lab.Host(server), hostPort(f.server.Addr(), ftpPort), d.serveFTP(ctx, f)),
		d.listen(d.lab.Host(server), hostPort(f.server.Addr(), bulkPort), serveBulk),
		d.listen(d.lab.Host(server), hostPort(f.server.Addr(), echoPort), echo),
	)
}

// listen serves TCP connections on a host, each on its own goroutine.
func (d *demo) listen(h *netns.Host, address string, serve func(net.Conn)) error {
	ln, err := h.Listen("tcp", address)
	if err != nil {
		return err
	}
	d.closers = append(d.closers, ln.Close)
	d.wg.Go(func() { acceptAll(ln, serve) })
	return nil
}

// acceptAll serves the connections of ln until it is closed, then closes those
// that are left and waits for them.
func acceptAll(ln net.Listener, serve func(net.Conn)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	for {
		c, err := ln.Accept()
		if err != nil {
			break
		}
		mu.Lock()
		open[c] = true
		mu.Unlock()
		wg.Go(func() {
			defer func() {
				mu.Lock()
				delete(open, c)
				mu.Unlock()
				c.Close()
			}()
			serve(c)
		})
	}
	mu.Lock()
	for c := range open {
		c.Close()
	}
	mu.Unlock()
	wg.Wait()
}

func (d *demo) stopServices() {
	for _, c := range slices.Backward(d.closers) {
		_ = c() // the namespaces go right after
	}
	d.wg.Wait()
}

// bound makes c's calls fail when ctx ends. The caller calls the function
// returned when it is done with c.
func bound(ctx context.Context, c interface{ SetDeadline(time.Time) error }) (release func() bool) {
	return context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
}

// printTable shows what the gateway remembers.
func (d *demo) printTable(ctx context.Context) {
	flows, err := d.lab.Gateway().Flows(ctx)
	if err != nil {
		d.out.text(err.Error())
		return
	}
	d.out.heading(fmt.Sprintf("The flow table now (%d flows, both tuples of each)", len(flows)))
	const most = 12
	for i, f := range flows {
		if i == most {
			d.out.detail(fmt.Sprintf("... and %d more", len(flows)-most))
			break
		}
		d.out.detail(f.Line)
	}
}

// printCounters shows what the gateway counted.
func (d *demo) printCounters(ctx context.Context) {
	gw := d.lab.Gateway()
	if gw.Kind() == netns.Kernel {
		return
	}
	for _, c := range []struct{ title, command string }{
		{"Status", "status"},
		{"Rules and how often each decided", "rules"},
		{"Packets that did not leave, by reason", "counters"},
	} {
		d.out.heading(c.title)
		text, err := gw.Ctl(ctx, c.command)
		if err != nil {
			text = err.Error()
		}
		for line := range strings.Lines(text) {
			d.out.detail(strings.TrimRight(line, "\n"))
		}
	}
}

// eventPoll is how often the output of a program is looked at.
const eventPoll = 50 * time.Millisecond

// wait waits for d, or fails when ctx ends first.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
