//go:build netns

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"example.com/culvert/test/netns"
)

// sipDialogue is a call of a phone inside with one outside.
type sipDialogue struct {
	caller, called string // what each of the two has received and sent
	events         *netns.Process
	media          *mediaWatch
}

// converseBySIP has the first host call the server, each by its scenario, until both have
// come to its end.
func converseBySIP(t *testing.T, h *house, f *family, transport, call, answer string) *sipDialogue {
	t.Helper()
	d := &sipDialogue{media: watchMedia(t, h.first, h.server)}
	var err error
	d.events, err = h.gw.Events("expect")
	must(t, err)
	t.Cleanup(func() { must(t, d.events.Stop()) })
	called := sipPeer{host: h.server, on: at(f.server, 5060), media: calledMedia, scenario: answer, user: "bob"}
	answers := called.start(t, transport)
	caller := sipPeer{host: h.first, on: at(f.first, 5060), media: callerMedia, scenario: call, user: "bob", to: called.on}
	d.caller = caller.start(t, transport).finish(t)
	d.called = answers.finish(t)
	return d
}

// wantExpected waits for the events of the media that both sides have announced: RTP and
// RTCP of the caller, and of the called one for each of its ports.
func (d *sipDialogue) wantExpected(t *testing.T, f *family, ports ...int) {
	t.Helper()
	event := func(src, dst netip.Addr, port int) {
		wantEvent(t, d.events, "[NEW]", "180", fmt.Sprintf("proto=17 src=%v dst=%v sport=0 dport=%d mask-src=%v mask-dst=%v sport=0 dport=65535 "+
			"master-src=%v master-dst=%v sport=5060 dport=5060 class=1 helper=sip", src, dst, port, allOnes(src), allOnes(src), f.first, f.server))
	}
	for rtcp := range 2 {
		event(f.server, f.outside, callerMedia+rtcp)
		for _, port := range ports {
			event(f.first, f.server, port+rtcp)
		}
	}
}

// wantNoMediaExpected waits until nothing of the call is expected any more.
func (h *house) wantNoMediaExpected(t *testing.T, f *family) {
	t.Helper()
	until(t, "the end of the call ends what it announced", func() bool { return len(h.expectations(t, f, "class=1")) == 0 })
}

// TestSIPEarlyMedia has a phone hear the other one before it answers (183, which PRACK
// acknowledges), change the call meanwhile (UPDATE), be held and taken back by the other
// side, and hear the end from there.
func TestSIPEarlyMedia(t *testing.T) {
	eachGateway(t, sipThrough, func(t *testing.T, h *house) {
		eachFamily(t, func(t *testing.T, f *family) {
			transport := "udp"
			if !f.is4() {
				transport = "tcp"
			}
			d := converseBySIP(t, h, f, transport, "early_call", "early_answer")
			wantNothingOf(t, d.called, f.first)
			if n := strings.Count(d.called, fmt.Sprintf("m=audio %d ", callerMedia)); n != 4 {
				t.Errorf("the caller named its port %d times, want once in two offers and in two answers", n)
			}
			wantLines(t, d.called, "RAck: 1 1 INVITE", fmt.Sprintf("c=IN %s %v", sipVersion(f.outside), f.outside))
			wantLines(t, d.caller, fmt.Sprintf("INVITE sip:alice@%s:5060;transport=%s SIP/2.0", inURI(f.first), strings.ToUpper(transport)))
			d.wantExpected(t, f, calledMedia)
			d.media.wantBothWays(t)
			h.wantMedia(t, f, at(f.first, callerMedia), at(f.server, calledMedia))
			h.wantNoMediaExpected(t, f)
		})
	})
}

// TestSIPForkedCall has two phones announce media and answer one call: the caller ends it
// with the first one, and talks with the second. With that end the kernel forgets the media
// of both: if the called phone's come first, they take the port from the caller's.
func TestSIPForkedCall(t *testing.T) {
	const first = 50010 // as the scenario says
	eachGateway(t, sipThrough, func(t *testing.T, h *house) {
		f := &ipv4
		d := converseBySIP(t, h, f, "udp", "fork_call", "fork_answer")
		wantNothingOf(t, d.called, f.first)
		d.wantExpected(t, f, first, calledMedia)
		if h.gw.Kind() == netns.Culvert {
			d.media.wantBothWays(t)
			h.wantMedia(t, f, at(f.first, callerMedia), at(f.server, calledMedia))
		}
		h.wantNoMediaExpected(t, f)
	})
}

// TestSIPCancelledCall has a phone give up while the other one rings: the media of both are
// not expected any more.
func TestSIPCancelledCall(t *testing.T) {
	eachGateway(t, sipThrough, func(t *testing.T, h *house) {
		f := &ipv4
		d := converseBySIP(t, h, f, "udp", "cancel_call", "cancel_answer")
		wantNothingOf(t, d.called, f.first)
		wantLines(t, d.called, fmt.Sprintf("Via: SIP/2.0/UDP %v:5060;branch=z9hG4bK-cancelled;rport", f.outside))
		d.wantExpected(t, f, calledMedia)
		h.wantNoMediaExpected(t, f)
	})
}
