package pptp

import (
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"example.com/culvert/alg"
	"example.com/culvert/alg/algtest"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack/tuple"
)

// msg is a control message of a kind with 16-bit words behind its header.
func msg(k kind, words ...uint16) string {
	b := make([]byte, layout[k].len)
	be.PutUint16(b, uint16(len(b)))
	be.PutUint16(b[typeAt:], control)
	be.PutUint32(b[cookieAt:], magicCookie)
	be.PutUint16(b[kindAt:], uint16(k))
	for i, w := range words {
		binary.BigEndian.PutUint16(b[headerLen+2*i:], w)
	}
	return string(b)
}

const yes = agreed << 8 // a result, before an error code

func client(texts ...string) (says []algtest.Say) {
	for _, text := range texts {
		says = append(says, algtest.Say{Text: text})
	}
	return says
}

func server(texts ...string) []algtest.Say {
	says := client(texts...)
	for i := range says {
		says[i].Dir = tuple.Reply
	}
	return says
}

// start is how a control connection begins.
var start = slices.Concat(client(msg(startRequest, 0x100)), server(msg(startReply, 0x100, yes)))

func join(says []algtest.Say) (texts [tuple.NumDirections]string) {
	for _, say := range says {
		texts[say.Dir] += say.Text
	}
	return texts
}

// TestCalls has messages between the client, whose call id 5 the server knows as
// 40000 (the port of the connection), and the server, whose id is 9.
func TestCalls(t *testing.T) {
	const (
		reserved = "call gre 198.51.100.7:* > 203.0.113.1:40000 = 10.0.0.5:5"
		complete = "call gre 203.0.113.1:40000 > 198.51.100.7:9"
	)
	ask := client(msg(outgoingRequest, 5))
	asIs := server(msg(outgoingReply, 9, 40000, yes))
	tests := []struct {
		name      string
		says      []algtest.Say
		original  string // of what comes after the start
		reply     string
		announced []string
	}{
		{"an outgoing call", slices.Concat(ask, asIs), msg(outgoingRequest, 40000), msg(outgoingReply, 9, 5, yes), []string{reserved, complete}},
		{"an incoming call", slices.Concat(server(msg(incomingRequest, 9)), client(msg(incomingReply, 5, 9, yes)), server(msg(connected, 40000))),
			msg(incomingReply, 40000, 9, yes), msg(incomingRequest, 9) + msg(connected, 5),
			[]string{"call gre 10.0.0.5:* > 198.51.100.7:9", "call gre 198.51.100.7:9 > 203.0.113.1:40000 = 10.0.0.5:5"}},
		{"messages about the call", slices.Concat(ask, asIs, client(msg(linkInfo, 9), msg(echoRequest), msg(clearRequest, 5)), server(msg(errorNotify, 40000), msg(disconnectNotify, 9))),
			msg(outgoingRequest, 40000) + msg(linkInfo, 9) + msg(echoRequest) + msg(clearRequest, 40000),
			msg(outgoingReply, 9, 5, yes) + msg(errorNotify, 5) + msg(disconnectNotify, 9), []string{reserved, complete, "withdraw call"}},
		{"messages about another call", slices.Concat(ask, asIs, client(msg(clearRequest, 6)), server(msg(errorNotify, 7))),
			msg(outgoingRequest, 40000) + msg(clearRequest, 6), msg(outgoingReply, 9, 5, yes) + msg(errorNotify, 7), []string{reserved, complete}},
		{"a call that is refused", slices.Concat(ask, server(msg(outgoingReply, 9, 40000, 2<<8))),
			msg(outgoingRequest, 40000), msg(outgoingReply, 9, 5, 2<<8), []string{reserved, "withdraw call"}},
		{"a reply to another request", slices.Concat(ask, server(msg(outgoingReply, 9, 5, yes))),
			msg(outgoingRequest, 40000), msg(outgoingReply, 9, 5, yes), []string{reserved}},
		{"a second reply", slices.Concat(ask, asIs, server(msg(outgoingReply, 8, 40000, yes))),
			msg(outgoingRequest, 40000), msg(outgoingReply, 9, 5, yes) + msg(outgoingReply, 8, 5, yes), []string{reserved, complete}},
		{"a reply without request", asIs, "", msg(outgoingReply, 9, 40000, yes), nil},
		{"a second call", slices.Concat(ask, asIs, client(msg(outgoingRequest, 6))),
			msg(outgoingRequest, 40000) + msg(outgoingRequest, 40000), msg(outgoingReply, 9, 5, yes),
			[]string{reserved, complete, "withdraw call", "call gre 198.51.100.7:* > 203.0.113.1:40000 = 10.0.0.5:6"}},
		{"the end of the connection", slices.Concat(ask, asIs, client(msg(stopRequest))),
			msg(outgoingRequest, 40000) + msg(stopRequest), msg(outgoingReply, 9, 5, yes), []string{reserved, complete, "withdraw call"}},
	}
	begin := join(start)
	for _, tt := range tests {
		got, err := algtest.Everywhere(algtest.Config{Helper: Helper{}}, slices.Concat(start, tt.says)...)
		if err = errors.Join(err, got.Differs(begin[0]+tt.original, begin[1]+tt.reply, tt.announced...)); err != nil || !got.Helped {
			t.Errorf("%s: helped %v, %v", tt.name, got.Helped, err)
		}
	}
}

// TestWhatIsNotPPTP: none of it announces anything, all of it passes as it came.
func TestWhatIsNotPPTP(t *testing.T) {
	bad := func(at int, b byte) string {
		m := []byte(msg(outgoingRequest, 5))
		m[at] = b
		return string(m)
	}
	tests := []struct {
		name string
		says []algtest.Say
	}{
		{"a call without start", client(msg(outgoingRequest, 5))},
		{"a call before the server agrees", client(msg(startRequest), msg(outgoingRequest, 5))},
		{"a start that is refused", slices.Concat(client(msg(startRequest)), server(msg(startReply, 0x100, 4<<8)), client(msg(outgoingRequest, 5)))},
		{"a start by the server", slices.Concat(server(msg(startRequest)), client(msg(startReply, 0x100, yes), msg(outgoingRequest, 5)))},
		{"a request of the web", client("POST / HTTP/1.1\r\n\r\n" + msg(outgoingRequest, 5))},
		{"another cookie", slices.Concat(start, client(bad(cookieAt, 1)))},
		{"another message type", slices.Concat(start, client(bad(typeAt+1, 2)))},
		{"a kind that is none", slices.Concat(start, client(bad(kindAt+1, numKinds)))},
		{"a wrong length", slices.Concat(start, client(bad(1, 167)))},
		{"a second start", slices.Concat(start, client(msg(startRequest), msg(outgoingRequest, 5)))},
	}
	for _, tt := range tests {
		got, err := algtest.Everywhere(algtest.Config{Helper: Helper{}}, tt.says...)
		same := join(tt.says)
		if err = errors.Join(err, got.Differs(same[0], same[1])); err != nil || got.Helped {
			t.Errorf("%s: helped %v, %v", tt.name, got.Helped, err)
		}
		want := uint32(1)
		if tt.name == "a start that is refused" { // which is what it says
			want = 0
		}
		if got := algtest.Run(algtest.Config{Helper: Helper{}}, tt.says...); got.Events[stream.Unread] != want {
			t.Errorf("%s: counted as unread %d times, want %d", tt.name, got.Events[stream.Unread], want)
		}
	}
}

func TestRefusedCallsPassAsTheyCame(t *testing.T) {
	says := slices.Concat(start, client(msg(outgoingRequest, 5)), server(msg(outgoingReply, 9, 5, yes)))
	got, err := algtest.Everywhere(algtest.Config{Helper: Helper{}, Refuse: alg.ErrLimit}, says...)
	same := join(says)
	if err = errors.Join(err, got.Differs(same[0], same[1])); err != nil || len(got.Refused) != 1 {
		t.Errorf("refused %q, %v", got.Refused, err)
	}
}

func TestCallIDThatIsTakenIsNotUsed(t *testing.T) {
	begin := join(start)
	got, err := algtest.Everywhere(algtest.Config{Helper: Helper{}, Taken: []uint16{40000}}, slices.Concat(start, client(msg(outgoingRequest, 5)))...)
	if err = errors.Join(err, got.Differs(begin[0]+msg(outgoingRequest, 40001), begin[1], "call gre 198.51.100.7:* > 203.0.113.1:40001 = 10.0.0.5:5")); err != nil {
		t.Error(err)
	}
}

// FuzzParser: whatever comes, the helper keeps its promises.
func FuzzParser(f *testing.F) {
	f.Add([]byte(msg(startRequest)), []byte(msg(startReply, 0x100, yes)), []byte(msg(outgoingRequest, 5)), []byte(msg(outgoingReply, 9, 40000, yes)))
	f.Add([]byte(msg(startRequest)), []byte(msg(startReply, 0x100, yes)), []byte(msg(clearRequest, 0)), []byte(msg(incomingRequest, 0)))
	f.Fuzz(func(t *testing.T, a, b, c, d []byte) {
		says := slices.Concat(client(string(a)), server(string(b)), client(string(c)), server(string(d)))
		got := algtest.Run(algtest.Config{Helper: Helper{}}, says...)
		for dir, text := range join(says) {
			if len(got.Got[dir][0]) != len(text) {
				t.Errorf("%v: %d bytes became %d", tuple.Direction(dir), len(text), len(got.Got[dir][0]))
			}
		}
		if n := got.Events[stream.Panicked] + got.Events[stream.Broken]; n != 0 {
			t.Errorf("the helper was taken away %d times", n)
		}
	})
}
