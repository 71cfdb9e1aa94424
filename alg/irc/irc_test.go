package irc

import (
	"net/netip"
	"strings"
	"testing"

	"example.com/culvert/alg/algtest"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack/tuple"
)

// say makes a conversation; ^A stands for the byte 1.
func say(lines ...string) []algtest.Say {
	says := algtest.Lines(lines...)
	for i := range says {
		says[i].Text = strings.ReplaceAll(says[i].Text, "^A", "\x01")
	}
	return says
}

var begin = []string{"< :irc.example NOTICE * :hello", "> NICK alice", "> USER alice 0 * :Alice"}

const offered = "dcc tcp 0.0.0.0:* > 203.0.113.1:4000 = 10.0.0.5:4000"

func TestOffers(t *testing.T) {
	taken := algtest.Config{Taken: []uint16{4000}}
	const moved = "dcc tcp 0.0.0.0:* > 203.0.113.1:4001 = 10.0.0.5:4000"
	for _, tt := range []struct {
		claim     string
		cfg       algtest.Config
		lines     []string
		changed   map[int]string // by index into lines
		announced []string
	}{
		{claim: "a file is offered", lines: []string{"> PRIVMSG bob :^ADCC SEND song.ogg 167772165 4000 12345^A"},
			changed: map[int]string{0: "> PRIVMSG bob :^ADCC SEND song.ogg 3405803777 4000 12345^A"}, announced: []string{offered}},
		{claim: "its name has spaces", lines: []string{"> PRIVMSG bob :^ADCC SEND \"a song.ogg\" 167772165 4000^A"},
			changed: map[int]string{0: "> PRIVMSG bob :^ADCC SEND \"a song.ogg\" 3405803777 4000^A"}, announced: []string{offered}},
		{claim: "a chat is offered, tags, prefix and small letters", lines: []string{"> @a=b :alice privmsg bob :^Adcc chat chat 167772165 4000^A"},
			changed: map[int]string{0: "> @a=b :alice privmsg bob :^Adcc chat chat 3405803777 4000^A"}, announced: []string{offered}},
		{claim: "the client names its external address", lines: []string{"> PRIVMSG bob :^ADCC CHAT chat 3405803777 4000^A"}, announced: []string{offered}},
		{claim: "an offer is taken up in its middle", cfg: taken,
			lines: []string{"> PRIVMSG bob :^ADCC SEND f 167772165 4000 9^A", "< :bob!u@h PRIVMSG alice :^ADCC RESUME f 4001 5^A", "> PRIVMSG bob :^ADCC ACCEPT f 4000 5^A"},
			changed: map[int]string{0: "> PRIVMSG bob :^ADCC SEND f 3405803777 4001 9^A", 1: "< :bob!u@h PRIVMSG alice :^ADCC RESUME f 4000 5^A",
				2: "> PRIVMSG bob :^ADCC ACCEPT f 4001 5^A"},
			announced: []string{moved}},
		{claim: "the other one's offers are his", lines: []string{"< :bob!u@h PRIVMSG alice :^ADCC SEND f 3325256711 5000 9^A", "> PRIVMSG bob :^ADCC RESUME f 5000 3^A"}},
		{claim: "passive offers", lines: []string{"> PRIVMSG bob :^ADCC SEND f 167772165 0 9 77^A"}},
		{claim: "foreign addresses", lines: []string{"> PRIVMSG bob :^ADCC CHAT chat 167772166 4000^A"}},
		{claim: "privileged ports", lines: []string{"> PRIVMSG bob :^ADCC CHAT chat 167772165 22^A"}},
		{claim: "an offer inside of a text", lines: []string{"> PRIVMSG bob :look: ^ADCC CHAT chat 167772165 4000^A"}},
		{claim: "an offer without its end", lines: []string{"> PRIVMSG bob :^ADCC CHAT chat 167772165 4000"}},
		{claim: "an offer in another command", lines: []string{"> TOPIC #c :^ADCC CHAT chat 167772165 4000^A"}},
		{claim: "an unknown kind", lines: []string{"> PRIVMSG bob :^ADCC XMIT x 167772165 4000^A"}},
		{claim: "numbers that are none", lines: []string{"> PRIVMSG bob :^ADCC CHAT chat 10.0.0.5 4000^A", "> PRIVMSG bob :^ADCC CHAT chat 167772165 70000^A", "> PRIVMSG bob :^ADCC CHAT^A"}},
	} {
		t.Run(tt.claim, func(t *testing.T) {
			lines := append(begin[:len(begin):len(begin)], tt.lines...)
			wanted := append([]string(nil), lines...)
			for i, l := range tt.changed {
				wanted[len(begin)+i] = l
			}
			tt.cfg.Helper = Helper{}
			got, err := algtest.Everywhere(tt.cfg, say(lines...)...)
			if err != nil {
				t.Fatal(err)
			}
			differs(t, &got, wanted, tt.announced)
		})
	}
}

// differs compares what was heard with lines.
func differs(t *testing.T, got *algtest.Result, lines, announced []string) {
	t.Helper()
	text := algtest.Heard(say(lines...))
	if err := got.Differs(text[tuple.Original], text[tuple.Reply], announced...); err != nil {
		t.Error(err)
	}
}

func TestOfferInIPv6(t *testing.T) {
	addr := func(s string) tuple.Addr { return tuple.AddrFrom(netip.MustParseAddr(s)) }
	f := tuple.Tuple{Src: addr("fd00::5"), Dst: addr("2001:db8::7"), SrcPort: 40000, DstPort: 6667, Proto: tuple.TCP, Family: tuple.IPv6}
	back, _ := f.Inverse()
	back.Dst = addr("2001:db8:1::1")
	lines := append(begin[:len(begin):len(begin)], "> PRIVMSG bob :^ADCC SEND f fd00::5 4000 9^A")
	got, err := algtest.Everywhere(algtest.Config{Helper: Helper{}, Tuple: [tuple.NumDirections]tuple.Tuple{f, back}}, say(lines...)...)
	if err != nil {
		t.Fatal(err)
	}
	lines[len(begin)] = "> PRIVMSG bob :^ADCC SEND f 2001:db8:1::1 4000 9^A"
	differs(t, &got, lines, []string{"dcc tcp :::* > [2001:db8:1::1]:4000 = [fd00::5]:4000"})
}

func TestSessionsThatAreNotIRCAreLeft(t *testing.T) {
	const chat = "> PRIVMSG bob :^ADCC CHAT chat 167772165 4000^A"
	for claim, lines := range map[string][]string{
		"a web browser's request":    {"> POST / HTTP/1.1", "> Host: x", "> ", chat},
		"no registration":            {chat},
		"a line that is no command":  append(begin[:len(begin):len(begin)], "> x-y z", chat),
		"a line without end":         append(begin[:len(begin):len(begin)], "> "+strings.Repeat("x", maxLine), chat),
		"TLS after STARTTLS":         {"> STARTTLS", "< :s 670 a :ok", "> \x16\x03\x01", chat},
		"a server that is none":      {"< HTTP/1.1 200 OK", "> NICK a", chat},
		"tags that have no end":      append(begin[:len(begin):len(begin)], "> @a=b", chat),
		"a command that is too long": append(begin[:len(begin):len(begin)], "> ABCDEFGHIJKLMNOPQ x", chat),
	} {
		t.Run(claim, func(t *testing.T) {
			got, err := algtest.Everywhere(algtest.Config{Helper: Helper{}}, say(lines...)...)
			if err != nil {
				t.Fatal(err)
			}
			differs(t, &got, lines, nil)
		})
	}
	t.Run("a flow that was picked up in its middle", func(t *testing.T) {
		lines := append(begin[:len(begin):len(begin)], chat)
		got := algtest.Run(algtest.Config{Helper: Helper{}, History: stream.InMiddle}, say(lines...)...)
		differs(t, &got, lines, nil)
	})
}

func FuzzInspect(f *testing.F) {
	f.Add("PRIVMSG bob :\x01DCC SEND \"a b\" 167772165 4000 5\x01\r\n", ":b PRIVMSG a :\x01DCC RESUME f 4000 5\x01\r\n", 9)
	f.Add("@t=1 :x NOTICE bob :\x01DCC CHAT chat 167772165 4000\x01\r\n", "\r\n", 30)
	f.Fuzz(func(t *testing.T, said, answer string, cut int) {
		if len(said) > 2*maxLine || len(answer) > 2*maxLine {
			return
		}
		whole, err := algtest.Cut(algtest.Config{Helper: Helper{}}, say(begin...), said, answer, cut)
		if err != nil {
			t.Error(err)
		}
		for _, a := range whole.Announced {
			if !strings.HasSuffix(a, "= 10.0.0.5:4000") && !strings.Contains(a, "= 10.0.0.5:") {
				t.Errorf("announced %q", a)
			}
		}
	})
}

func TestWhatCannotBeReadIsCounted(t *testing.T) {
	session := func(lines ...string) []string { return append(begin[:len(begin):len(begin)], lines...) }
	for claim, tt := range map[string]struct {
		lines []string
		want  uint32
	}{
		"an offer":                  {session("> PRIVMSG bob :^ADCC CHAT chat 167772165 4000^A"), 0},
		"a passive offer":           {session("> PRIVMSG bob :^ADCC SEND f 167772165 0 9 77^A"), 0},
		"a kind that needs no help": {session("> PRIVMSG bob :^ADCC XMIT x y z^A"), 0},
		"numbers that are none":     {session("> PRIVMSG bob :^ADCC CHAT chat 10.0.0.5 4000^A", "< :b PRIVMSG a :^ADCC SEND f 167772165 70000^A", "> PRIVMSG bob :^ADCC CHAT^A"), 3},
		"a request of the web":      {[]string{"> POST / HTTP/1.1", "> Host: x"}, 1},
		"a line without end":        {session("> " + strings.Repeat("x", maxLine)), 1},
		"tags that have no end":     {session("> @a=b"), 1},
	} {
		got := algtest.Run(algtest.Config{Helper: Helper{}}, say(tt.lines...)...)
		if got.Events[stream.Unread] != tt.want {
			t.Errorf("%s: counted %d times, want %d", claim, got.Events[stream.Unread], tt.want)
		}
	}
}
