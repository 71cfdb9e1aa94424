package conntrack

import (
	"testing"
	"time"

	"example.com/culvert/conntrack/tuple"
)

// What the kernel does in corners that no table shows. Each was found by
// comparing with it (test/netns/diff).

func TestSimultaneousOpenEndsWithAnyAnswer(t *testing.T) {
	x := newWire(t, Config{})
	x.expect(tuple.Original, SYN, 0, 0, 0, Accept, "SYN_SENT")
	x.expect(tuple.Reply, SYN, 0, 0, 0, Accept, "SYN_SENT2")
	x.expect(tuple.Reply, SYN|ACK, 0, 1, 0, Accept, "SYN_RECV")
	x.expect(tuple.Reply, ACK, 1, 1, 0, Accept, "ESTABLISHED")
}

func TestPlainOpenNeedsTheClientsACK(t *testing.T) {
	x := newWire(t, Config{})
	x.expect(tuple.Original, SYN, 0, 0, 0, Accept, "SYN_SENT")
	x.expect(tuple.Reply, SYN|ACK, 0, 1, 0, Accept, "SYN_RECV")
	x.expect(tuple.Reply, ACK, 1, 1, 0, Accept, "SYN_RECV")
}

func TestRSTNeedsNoNumberInAClosingConnection(t *testing.T) {
	x := established(t, Config{})
	x.expect(tuple.Original, FIN|ACK, 1, 1, 0, Accept, "FIN_WAIT")
	x.expect(tuple.Reply, RST, 1<<31, 0, 0, Accept, "CLOSE")
}

func TestRSTBehindAnIgnoredSegmentIsNotExact(t *testing.T) {
	x := established(t, Config{})
	x.expect(tuple.Original, ACK, 1002, 1, 1, Ignore, "ESTABLISHED")
	x.track(tuple.Reply, &Segment{Flags: ACK, Seq: replyISN + 1, Ack: origISN + 1, Window: 5000})
	x.expect(tuple.Original, RST, 1003, 0, 0, Accept, "ESTABLISHED")
}

// Of a connection that was joined in its middle no window is known, so that it is
// the number alone which tells that a RST comes behind the SYN.
func TestRSTBehindAnIgnoredSYNEndsAConnectionJoinedInItsMiddle(t *testing.T) {
	x := newWire(t, Config{})
	x.expect(tuple.Original, ACK, 1, 1, 0, Accept, "ESTABLISHED")
	x.expect(tuple.Reply, ACK, 1, 1, 0, Accept, "ESTABLISHED")
	x.expect(tuple.Original, SYN, 100001, 0, 0, Ignore, "ESTABLISHED")
	x.expect(tuple.Original, ACK, 91810, 1, 100, Accept, "ESTABLISHED")
	x.expect(tuple.Original, RST|ACK, 100002, 1, 0, Accept, "CLOSE")
}

func TestRSTThatAnswersAChallengeEndsAHalfOpenFlow(t *testing.T) {
	x := newWire(t, Config{})
	x.expect(tuple.Original, SYN, 0, 0, 0, Accept, "SYN_SENT")
	x.expect(tuple.Reply, ACK, 5000, 70000, 0, Ignore, "SYN_SENT") // of an older connection
	x.expect(tuple.Original, RST, 70000, 0, 0, Accept, "CLOSE")
}

func TestIgnoredReplyIsAReply(t *testing.T) {
	x := newWire(t, Config{})
	x.expect(tuple.Original, SYN, 0, 0, 0, Accept, "SYN_SENT")
	if x.w.Entry(x.r.Slot).Status().Has(SeenReply) {
		t.Fatal("replied before the reply")
	}
	x.expect(tuple.Reply, ACK, 5000, 70000, 0, Ignore, "SYN_SENT")
	if !x.w.Entry(x.r.Slot).Status().Has(SeenReply) {
		t.Error("the ignored ACK does not count as a reply")
	}
}

func TestAnsweredStrayFINShortensTheTimeout(t *testing.T) {
	x := established(t, Config{})
	x.expect(tuple.Original, FIN|ACK, 1, 9000, 0, InvalidAck, "ESTABLISHED")
	x.timeout(5 * 24 * time.Hour)
	x.expect(tuple.Reply, FIN|ACK, 1, 9000, 0, InvalidAck, "ESTABLISHED")
	x.timeout(300 * time.Second)
}

func TestRestartKeepsTheOptionsOfTheIgnoredSYN(t *testing.T) {
	for _, tt := range []struct {
		name  string
		reply uint8 // options of the SYN+ACK
		want  Verdict
	}{
		{"both scale: a window of 64000", OptWindowScale, Accept},
		{"one does not: a window of 1000", 0, Ignore},
	} {
		t.Run(tt.name, func(t *testing.T) {
			x := established(t, Config{})
			x.track(tuple.Original, &Segment{Flags: SYN, Seq: 50000, Window: 1000, Options: OptWindowScale, WindowScale: 6})
			x.track(tuple.Reply, &Segment{Flags: SYN | ACK, Seq: 90000, Ack: 50001, Window: 1000, Options: tt.reply})
			x.track(tuple.Original, &Segment{Flags: ACK, Seq: 50001, Ack: 90001, Window: 1000})
			got := x.track(tuple.Reply, &Segment{Flags: ACK, Seq: 90001 + 60000, Ack: 50001, Window: 1000, Payload: 100})
			if got != tt.want {
				t.Errorf("data 60000 ahead: %v, want %v", got, tt.want)
			}
		})
	}
}

func TestPickedUpFlowCountsWhatIsOutsideTheWindow(t *testing.T) {
	x := newWire(t, Config{})
	x.expect(tuple.Original, ACK, 500, 1<<31+5, 10, Accept, "ESTABLISHED")
}

func TestZeroWindowHoldsUntilTheNextACK(t *testing.T) {
	x := established(t, Config{Timeouts: Timeouts{TCPRetrans: 100 * time.Second}})
	x.track(tuple.Original, &Segment{Flags: ACK, Seq: origISN + 1, Ack: replyISN + 1})
	x.timeout(100 * time.Second)
	x.expect(tuple.Original, ACK, 1, 1, 0, Accept, "ESTABLISHED")
	x.timeout(5 * 24 * time.Hour)
}

func TestUnansweredPickupIsShort(t *testing.T) {
	x := newWire(t, Config{})
	x.track(tuple.Original, &Segment{Flags: ACK, Seq: 500, Window: 1000, Payload: 10})
	x.timeout(300 * time.Second)
}

func TestSYNAfterTheOtherSidesRSTDoesNotReopen(t *testing.T) {
	x := established(t, Config{})
	x.expect(tuple.Reply, RST, 1, 0, 0, Accept, "CLOSE")
	x.expect(tuple.Original, SYN, 50000, 0, 0, Ignore, "CLOSE")
}

func TestRestartWantsTheIgnoredSYNAcknowledged(t *testing.T) {
	x := established(t, Config{})
	x.expect(tuple.Original, SYN, 50000, 0, 0, Ignore, "ESTABLISHED")
	x.expect(tuple.Reply, SYN|ACK, 90000, 60001, 0, Ignore, "ESTABLISHED")
}

func TestChallengeACKIsNoAnswerToTheFIN(t *testing.T) {
	x := established(t, Config{})
	x.expect(tuple.Original, FIN|ACK, 1, 1, 0, Accept, "FIN_WAIT")
	x.expect(tuple.Reply, FIN|ACK, 1, 2, 0, Accept, "LAST_ACK")
	x.expect(tuple.Original, SYN, 50000, 0, 0, Ignore, "LAST_ACK")
	x.expect(tuple.Reply, ACK, 2, 2, 0, Ignore, "LAST_ACK")
	x.expect(tuple.Reply, ACK, 2, 2, 0, Accept, "TIME_WAIT")
}

func TestRSTBehindTheLastACKOfItsSenderIsExact(t *testing.T) {
	x := established(t, Config{})
	x.expect(tuple.Original, ACK, 1, 1, 100, Accept, "ESTABLISHED")
	x.expect(tuple.Original, RST, 101, 0, 0, Accept, "CLOSE")

	y := established(t, Config{})
	y.expect(tuple.Original, ACK, 1, 1, 100, Accept, "ESTABLISHED")
	y.expect(tuple.Reply, ACK, 1, 1, 0, Accept, "ESTABLISHED")
	y.expect(tuple.Original, RST, 101, 0, 0, Accept, "ESTABLISHED") // the other side has the word
}
