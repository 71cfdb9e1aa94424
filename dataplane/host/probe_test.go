package host

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
)

func TestPingIsAnsweredAndOwned(t *testing.T) {
	j := join(t)
	for from, to := range map[string]string{"10.0.0.1": "10.0.0.2", "2001:db8::1": "2001:db8::2"} {
		for range 2 {
			if err := j.a.Ping(t.Context(), netip.MustParseAddr(from), netip.MustParseAddr(to)); err != nil {
				t.Error(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		nobody := netip.MustParseAddr(to).Next()
		if err := j.a.Ping(ctx, netip.MustParseAddr(from), nobody); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("ping of nobody: %v, want %v", err, context.DeadlineExceeded)
		}
		cancel()
	}
	if len(*j.a.services.listening.Load()) != 0 {
		t.Error("identifiers of pings that are over are still owned")
	}
	if err := j.a.Ping(t.Context(), netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("10.0.0.2")); !errors.Is(err, ErrAddress) {
		t.Errorf("ping from an address of somebody else: %v, want %v", err, ErrAddress)
	}
}

func TestKnockLeavesNoConnection(t *testing.T) {
	j := join(t)
	l, err := j.b.Listen("tcp", "10.0.0.2:80")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	from, to := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddrPort("10.0.0.2:80")
	for range 3 {
		if err := j.a.Knock(t.Context(), from, to); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.a.Knock(t.Context(), from, netip.MustParseAddrPort("10.0.0.2:81")); err == nil {
		t.Error("a closed port is open")
	}
	for port := range uint16(dialPortMax - dialPortMin + 1) {
		if j.a.Owns(tuple.TCP, tuple.AddrFrom(from), dialPortMin+port) {
			t.Fatalf("port %d is still in use", dialPortMin+port)
		}
	}
}

func TestVerifyAsksHoweverFreshTheAnswer(t *testing.T) {
	b := newBench(t, Config{})
	b.ask(client4)
	b.hear(arpAnswer(t, theirMAC)) // confirmed just now
	b.news.take()
	for _, tt := range []struct {
		claim string
		then  func()
		want  error
	}{
		{"an answer", func() { b.hear(arpAnswer(t, theirMAC)) }, nil},
		{"silence", func() {
			for range 2 * maxProbes {
				b.clock.Advance(probeEvery)
			}
		}, ErrSilent},
	} {
		got := make(chan error)
		go func() { got <- b.Verify(t.Context(), lan, client4) }()
		for asked := false; !asked; { // the question is on the wire
			asked = len(b.wire.take()) > 0
		}
		tt.then()
		if err := <-got; !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.claim, err, tt.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Verify(ctx, lan, client4); !errors.Is(err, context.Canceled) {
		t.Errorf("Verify = %v, want %v", err, context.Canceled)
	}
	if err := b.Verify(t.Context(), 9, client4); !errors.Is(err, ErrPort) {
		t.Errorf("Verify on a port that is not there: %v, want %v", err, ErrPort)
	}
}
