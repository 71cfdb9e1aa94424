package tftp

import (
	"testing"

	"example.com/culvert/alg/algtest"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack/tuple"
)

func TestRequestsAnnounceTheAnswer(t *testing.T) {
	const answer = "transfer udp 198.51.100.7:* > 203.0.113.1:40000 = 10.0.0.5:40000"
	for _, tt := range []struct {
		claim     string
		say       algtest.Say
		announced []string
		unread    uint32
	}{
		{"a file is read", algtest.Say{Text: "\x00\x01boot.img\x00octet\x00"}, []string{answer}, 0},
		{"a file is written", algtest.Say{Text: "\x00\x02log\x00NetASCII\x00"}, []string{answer}, 0},
		{"with options", algtest.Say{Text: "\x00\x01f\x00octet\x00blksize\x001428\x00tsize\x000\x00"}, []string{answer}, 0},
		{"the server asks for nothing", algtest.Say{Dir: tuple.Reply, Text: "\x00\x01f\x00octet\x00"}, nil, 0},
		{"data", algtest.Say{Text: "\x00\x03\x00\x01abc"}, nil, 0},
		{"no name", algtest.Say{Text: "\x00\x01\x00octet\x00"}, nil, 1},
		{"no mode", algtest.Say{Text: "\x00\x01f\x00"}, nil, 1},
		{"an unknown mode", algtest.Say{Text: "\x00\x01f\x00image\x00"}, nil, 1},
		{"no end", algtest.Say{Text: "\x00\x01f\x00octet"}, nil, 1},
		{"options without end", algtest.Say{Text: "\x00\x01f\x00octet\x00blksize"}, nil, 1},
		{"a question of STUN (RFC 8489), which a browser can be made to send", algtest.Say{Text: "\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl"}, nil, 1},
		{"one byte", algtest.Say{Text: "\x00"}, nil, 1},
		{"nothing", algtest.Say{}, nil, 0},
	} {
		got := algtest.Run(algtest.Config{Helper: Helper{}}, tt.say)
		want := [2]string{}
		want[tt.say.Dir] = tt.say.Text
		if err := got.Differs(want[0], want[1], tt.announced...); err != nil {
			t.Errorf("%s: %v", tt.claim, err)
		}
		if n := got.Events[stream.Unread]; n != tt.unread {
			t.Errorf("%s: counted as unread %d times, want %d", tt.claim, n, tt.unread)
		}
	}
}

func FuzzInspect(f *testing.F) {
	f.Add("\x00\x01f\x00octet\x00")
	f.Fuzz(func(t *testing.T, text string) {
		got := algtest.Run(algtest.Config{Helper: Helper{}}, algtest.Say{Text: text})
		if got.Got[0][0] != text || len(got.Announced) > 1 || got.Events[stream.Panicked]+got.Events[stream.Broken] != 0 {
			t.Errorf("%+v", got)
		}
	})
}
