package demo

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
)

// echo sends back what it receives.
func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// lifeOfAConnection makes one short connection and shows what the gateway said
// about it, from NEW to DESTROY.
func (d *demo) lifeOfAConnection(ctx context.Context, f family) (result, error) {
	// Earlier steps have caused events: once there are any, the listener listens.
	if err := d.events.WaitOutput(ctx, "[NEW]"); err != nil {
		return result{}, err
	}
	port, err := d.shortConnection(ctx, f)
	if err != nil {
		return result{}, err
	}
	mine := fmt.Sprintf("sport=%d dport=%d ", port, echoPort)
	var lines []string
	for {
		// Flows that are over leave when somebody looks.
		if _, err := d.lab.Gateway().Flows(ctx); err != nil {
			return result{}, err
		}
		lines = lines[:0]
		for line := range strings.Lines(d.events.Output()) {
			if strings.Contains(line, mine) {
				lines = append(lines, strings.TrimSpace(line))
			}
		}
		if n := len(lines); n > 0 && strings.HasPrefix(lines[n-1], "[DESTROY]") {
			break
		}
		if err := wait(ctx, eventPoll); err != nil {
			return result{}, fmt.Errorf("no DESTROY among %q: %w", lines, err)
		}
	}
	if !strings.HasPrefix(lines[0], "[NEW]") {
		return result{}, fmt.Errorf("the first event is %q, want NEW", lines[0])
	}
	return result{text: fmt.Sprintf("%d events of one connection", len(lines)), lines: lines}, nil
}

// shortConnection says hello to the echo service and returns its own port.
func (d *demo) shortConnection(ctx context.Context, f family) (int, error) {
	c, err := d.lab.Host(client).Dial(ctx, "tcp", hostPort(f.server.Addr(), echoPort))
	if err != nil {
		return 0, err
	}
	defer c.Close()
	defer bound(ctx, c)()
	const hello = "hello"
	if _, err := io.WriteString(c, hello); err != nil {
		return 0, err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, err
	}
	back, err := io.ReadAll(c)
	if err != nil {
		return 0, err
	}
	if string(back) != hello {
		return 0, fmt.Errorf("the echo of %q is %q", hello, back)
	}
	return c.LocalAddr().(*net.TCPAddr).Port, nil
}
