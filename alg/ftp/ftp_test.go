package ftp

import (
	"net/netip"
	"strings"
	"testing"

	"example.com/culvert/alg"
	"example.com/culvert/alg/algtest"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack/tuple"
)

const (
	client40001 = "data tcp 198.51.100.7:* > 203.0.113.1:40001 = 10.0.0.5:40001"
	server50000 = "data tcp 10.0.0.5:* > 198.51.100.7:50000"
)

// conversation is a session after its greeting and login. changed is the line that
// arrives in the place of the last one.
type conversation struct {
	claim     string
	cfg       algtest.Config
	lines     []string
	changed   string
	announced []string
}

// begin is how sessions begin.
var begin = []string{"< 220 ready", "> USER ftp", "< 331 password", "> PASS x", "< 230 hello"}

func (c *conversation) run(t *testing.T, lines []string) {
	t.Helper()
	says := algtest.Lines(lines...)
	want := says
	if c.changed != "" {
		want = append(says[:len(says)-1:len(says)-1], algtest.Lines(c.changed)...)
	}
	c.cfg.Helper = Helper{}
	got, err := algtest.Everywhere(c.cfg, says...)
	if err != nil {
		t.Fatal(err)
	}
	text := algtest.Heard(want)
	if err := got.Differs(text[tuple.Original], text[tuple.Reply], c.announced...); err != nil {
		t.Error(err)
	}
}

func addr(s string) tuple.Addr { return tuple.AddrFrom(netip.MustParseAddr(s)) }

// flow is a control connection, translated where inside and outside differ.
func flow(client, clientSeen, serverSeen, server string) [tuple.NumDirections]tuple.Tuple {
	f := tuple.Tuple{Src: addr(client), Dst: addr(serverSeen), SrcPort: 40000, DstPort: 21, Proto: tuple.TCP, Family: tuple.IPv4}
	if strings.Contains(client, ":") {
		f.Family = tuple.IPv6
	}
	back := f
	back.Src, back.Dst, back.SrcPort, back.DstPort = addr(server), addr(clientSeen), 21, 40000
	return [tuple.NumDirections]tuple.Tuple{f, back}
}

func TestDataConnectionsAreAnnounced(t *testing.T) {
	behindDNAT := algtest.Config{Tuple: flow("198.51.100.7", "198.51.100.7", "203.0.113.1", "10.0.0.9")}
	six := algtest.Config{Tuple: flow("2001:db8:1::5", "2001:db8:1::5", "2001:db8::7", "2001:db8::7")}
	nat66 := algtest.Config{Tuple: flow("fd00::5", "2001:db8:1::1", "2001:db8::7", "2001:db8::7")}
	both := algtest.Config{Tuple: flow("10.0.0.5", "192.0.2.1", "203.0.113.1", "10.9.0.9")}
	for _, c := range []conversation{
		{claim: "active: the client's address becomes the external one",
			lines: []string{"> PORT 10,0,0,5,156,65"}, changed: "> PORT 203,0,113,1,156,65", announced: []string{client40001}},
		{claim: "active: a taken port becomes a free one", cfg: algtest.Config{Taken: []uint16{40001}},
			lines: []string{"> PORT 10,0,0,5,156,65"}, changed: "> PORT 203,0,113,1,156,66",
			announced: []string{"data tcp 198.51.100.7:* > 203.0.113.1:40002 = 10.0.0.5:40001"}},
		{claim: "active: small letters, spaces around",
			lines: []string{"> port  10,0,0,5,156,65 "}, changed: "> port  203,0,113,1,156,65 ", announced: []string{client40001}},
		{claim: "extended active: any delimiter",
			lines: []string{"> EPRT !1!10.0.0.5!40001!"}, changed: "> EPRT !1!203.0.113.1!40001!", announced: []string{client40001}},
		{claim: "extended active, IPv6 behind NAT66", cfg: nat66,
			lines: []string{"> EPRT |2|fd00::5|40001|"}, changed: "> EPRT |2|2001:db8:1::1|40001|",
			announced: []string{"data tcp 2001:db8::7:* > [2001:db8:1::1]:40001 = [fd00::5]:40001"}},
		{claim: "extended active, IPv6 without NAT: only announced", cfg: six,
			lines: []string{"> EPRT |2|2001:db8:1::5|40001|"}, announced: []string{"data tcp 2001:db8::7:* > [2001:db8:1::5]:40001"}},
		{claim: "passive: the server's address is announced",
			lines: []string{"> PASV", "< 227 Entering Passive Mode (198,51,100,7,195,80)."}, announced: []string{server50000}},
		{claim: "passive without parentheses", lines: []string{"> PASV", "< 227 =198,51,100,7,195,80"}, announced: []string{server50000}},
		{claim: "passive, the server behind NAT", cfg: behindDNAT,
			lines: []string{"> PASV", "< 227 Entering Passive Mode (10,0,0,9,195,80)."}, changed: "< 227 Entering Passive Mode (203,0,113,1,195,80).",
			announced: []string{"data tcp 198.51.100.7:* > 203.0.113.1:50000 = 10.0.0.9:50000"}},
		{claim: "passive, the server behind NAT knows its external address", cfg: behindDNAT,
			lines:     []string{"> PASV", "< 227 Entering Passive Mode (203,0,113,1,195,80)."},
			announced: []string{"data tcp 198.51.100.7:* > 203.0.113.1:50000 = 10.0.0.9:50000"}},
		{claim: "passive, both behind NAT", cfg: both,
			lines: []string{"> PASV", "< 227 Entering Passive Mode (10,9,0,9,195,80)."}, changed: "< 227 Entering Passive Mode (203,0,113,1,195,80).",
			announced: []string{"data tcp 10.0.0.5:* > 203.0.113.1:50000 = 10.9.0.9:50000"}},
		{claim: "active, both behind NAT", cfg: both,
			lines: []string{"> PORT 10,0,0,5,156,65"}, changed: "> PORT 192,0,2,1,156,65",
			announced: []string{"data tcp 10.9.0.9:* > 192.0.2.1:40001 = 10.0.0.5:40001"}},
		{claim: "extended passive", lines: []string{"> EPSV", "< 229 Entering Extended Passive Mode (|||50000|)"}, announced: []string{server50000}},
		{claim: "extended passive, the server behind NAT, its port taken", cfg: algtest.Config{Tuple: behindDNAT.Tuple, Taken: []uint16{50000}},
			lines: []string{"> EPSV 1", "< 229 Entering Extended Passive Mode (|||50000|)"}, changed: "< 229 Entering Extended Passive Mode (|||50001|)",
			announced: []string{"data tcp 198.51.100.7:* > 203.0.113.1:50001 = 10.0.0.9:50000"}},
		{claim: "extended passive, IPv6", cfg: six, lines: []string{"> EPSV 2", "< 229 ok (|||50000|)"},
			announced: []string{"data tcp 2001:db8:1::5:* > [2001:db8::7]:50000"}},
		{claim: "after EPSV ALL only EPSV counts",
			lines:     []string{"> EPSV ALL", "< 200 ok", "> PORT 10,0,0,5,156,65", "< 501 no", "> EPSV", "< 229 ok (|||50000|)"},
			announced: []string{server50000}},
		{claim: "replies of several lines, with codes inside",
			lines:     []string{"> FEAT", "< 211-Features:", "< 227 Entering Passive Mode (198,51,100,7,195,80).", "<  PASV", "< 211 end", "> PASV", "< 227 x (198,51,100,7,195,80)"},
			announced: []string{server50000}},
		{claim: "replies are matched in order when commands do not wait for them",
			lines:     []string{"> CWD x", "> PASV", "> TYPE I", "< 250 ok", "< 227 x (198,51,100,7,195,80)", "< 200 ok"},
			announced: []string{server50000}},
		{claim: "a transfer has two replies",
			lines:     []string{"> RETR f", "< 150 here it comes", "< 226 done", "> PASV", "< 227 x (198,51,100,7,195,80)"},
			announced: []string{server50000}},
		{claim: "Telnet commands before ABOR are stepped over",
			lines:     []string{"> RETR f", "< 150 comes", "> \xff\xf4\xff\xf2ABOR", "< 426 ended", "< 226 ended", "> PASV", "< 227 x (198,51,100,7,195,80)"},
			announced: []string{server50000}},
		{claim: "a foreign server is announced if the rule is loose", cfg: algtest.Config{Options: alg.Options{Foreign: true}},
			lines:     []string{"> PASV", "< 227 Entering Passive Mode (192,0,2,99,195,80)."},
			announced: []string{"data tcp 10.0.0.5:* > 192.0.2.99:50000"}},
	} {
		t.Run(c.claim, func(t *testing.T) { c.run(t, append(begin[:len(begin):len(begin)], c.lines...)) })
	}
}

func TestNothingElseIsAnnounced(t *testing.T) {
	for claim, lines := range map[string][]string{
		"somebody else's address":                {"> PORT 10,0,0,9,156,65"},
		"the server's own address (bounce)":      {"> PORT 198,51,100,7,156,65"},
		"a foreign server":                       {"> PASV", "< 227 Entering Passive Mode (192,0,2,99,195,80)."},
		"a privileged port":                      {"> PORT 10,0,0,5,0,22"},
		"a privileged port of the server":        {"> EPSV", "< 229 x (|||25|)"},
		"port 0":                                 {"> PORT 10,0,0,5,0,0"},
		"numbers above 255":                      {"> PORT 10,0,0,5,256,65"},
		"five numbers":                           {"> PORT 10,0,0,5,156"},
		"seven numbers":                          {"> PORT 10,0,0,5,156,65,1"},
		"text behind the numbers":                {"> PORT 10,0,0,5,156,65 x"},
		"a command in an argument":               {"> STOR x PORT 10,0,0,5,156,65"},
		"a reply that nobody asked for":          {"< 227 Entering Passive Mode (198,51,100,7,195,80)."},
		"a second reply to one PASV":             {"> PASV", "< 227 x", "< 227 x (198,51,100,7,195,80)"},
		"227 for EPSV":                           {"> EPSV", "< 227 x (198,51,100,7,195,80)"},
		"a code in the middle of a line":         {"> PASV", "< 500 no 227 (198,51,100,7,195,80)"},
		"what follows AUTH":                      {"> AUTH TLS", "< 234 go on", "> PORT 10,0,0,5,156,65"},
		"EPRT of the other family":               {"> EPRT |2|2001:db8::5|40001|"},
		"EPRT whose family is not its address's": {"> EPRT |2|10.0.0.5|40001|"},
		"EPRT with a zone":                       {"> EPRT |2|fe80::1%eth0|40001|"},
		"EPRT without end":                       {"> EPRT |1|10.0.0.5|40001"},
		"EPRT with digits for delimiters":        {"> EPRT 11110.0.0.5140001 1"},
		"229 with different delimiters":          {"> EPSV", "< 229 x (||!50000|)"},
		"229 with an address":                    {"> EPSV", "< 229 x (|1|198.51.100.7|50000|)"},
		"after a line that is no command":        {"> Host: x", "> PORT 10,0,0,5,156,65"},
		"after a line without end":               {"> " + strings.Repeat("x", maxLine), "> PORT 10,0,0,5,156,65"},
		"after a line that is no reply":          {"< hello", "> PORT 10,0,0,5,156,65"},
		"after an empty command":                 {"> ", "> PORT 10,0,0,5,156,65"},
	} {
		t.Run(claim, func(t *testing.T) {
			(&conversation{}).run(t, append(begin[:len(begin):len(begin)], lines...))
		})
	}
}

func TestSessionsThatAreNotFTPAreLeft(t *testing.T) {
	const port = "> PORT 10,0,0,5,156,65"
	for claim, lines := range map[string][]string{
		"a web browser's request":            {"< 220 ready", "> POST / HTTP/1.1", "> Host: x", "> ", port},
		"a word that we do not know first":   {"< 220 ready", "> XYZ", port},
		"the client speaks first":            {"> USER x", "< 220 ready", port},
		"the server does not greet":          {"< 530 go away", "> USER x", port},
		"the server speaks another protocol": {"< HTTP/1.1 200 OK", "> USER x", port},
	} {
		t.Run(claim, func(t *testing.T) { (&conversation{}).run(t, lines) })
	}
	t.Run("a flow that was picked up in its middle", func(t *testing.T) {
		(&conversation{cfg: algtest.Config{History: stream.InMiddle}}).run(t, append(begin[:len(begin):len(begin)], port))
	})
}

func TestGreetingsThatTakeTime(t *testing.T) {
	(&conversation{changed: "> PORT 203,0,113,1,156,65", announced: []string{client40001}}).
		run(t, []string{"< 120 wait", "< 220-hello", "< 220-", "< 220 ready", "> USER x", "> PORT 10,0,0,5,156,65"})
}

// TestManyCommandsInOneSegment has replacements that grow and shrink.
func TestManyCommandsInOneSegment(t *testing.T) {
	const port = "PORT 10,0,0,5,156,65\r\n"
	says := append(algtest.Lines(begin...), algtest.Say{Text: strings.Repeat(port, 20)})
	got, err := algtest.Everywhere(algtest.Config{Helper: Helper{}}, says...)
	if err != nil {
		t.Fatal(err)
	}
	want := "USER ftp\r\nPASS x\r\n" + strings.Repeat("PORT 203,0,113,1,156,65\r\n", 20)
	if got.Got[tuple.Original][0] != want || len(got.Announced) != 20 {
		t.Errorf("got %q with %d announcements", got.Got[tuple.Original], len(got.Announced))
	}
}

func TestTooManyCommandsWithoutRepliesEndTheHelp(t *testing.T) {
	says := append(algtest.Lines(begin...), algtest.Say{Text: strings.Repeat("NOOP\r\n", 65)}, algtest.Say{Text: "PORT 10,0,0,5,156,65\r\n"})
	if got := algtest.Run(algtest.Config{Helper: Helper{}}, says...); len(got.Announced) != 0 || got.Helped {
		t.Errorf("announced %q, helped %v", got.Announced, got.Helped)
	}
}

func FuzzInspect(f *testing.F) {
	for _, lines := range []string{
		"PORT 10,0,0,5,156,65", "EPRT |1|10.0.0.5|40001|", "EPSV ALL", "PASV", "\xff\xf4\xff\xf2ABOR",
	} {
		f.Add(lines+"\r\n", "227 x (198,51,100,7,195,80)\r\n", 7)
	}
	f.Add("EPSV\r\n", "229 x (|||50000|)\r\n", 3)
	f.Fuzz(func(t *testing.T, commands, replies string, cut int) {
		if len(commands) > 2*maxLine || len(replies) > 2*maxLine {
			return
		}
		whole, err := algtest.Cut(algtest.Config{Helper: Helper{}}, algtest.Lines(begin...), commands, replies, cut)
		if err != nil {
			t.Error(err)
		}
		for _, a := range whole.Announced {
			if !strings.Contains(a, "10.0.0.5") {
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
		"a session":                       {session("> PORT 10,0,0,5,156,65", "< 200 ok", "> PASV", "< 227 x (198,51,100,7,195,80)"), 0},
		"a command that we do not know":   {session("> XYZZY"), 1}, // five letters
		"a port that is none":             {session("> PORT 10,0,0,5,156", "< 500 no", "> EPRT |2|2001:db8::5|40001|"), 2},
		"a reply without its port":        {session("> PASV", "< 227 Entering Passive Mode", "> EPSV", "< 229 x (|1|198.51.100.7|50000|)"), 2},
		"a privileged port, which is not": {session("> PORT 10,0,0,5,0,22"), 0},
		"a request of the web":            {[]string{"< 220 ready", "> POST / HTTP/1.1", "> PORT 10,0,0,5,156,65"}, 1},
		"a server of the web":             {[]string{"< HTTP/1.1 200 OK"}, 1},
		"a line without end":              {session("> " + strings.Repeat("x", maxLine)), 1},
		"a server that is full":           {[]string{"< 421 later"}, 0},
		"what is encrypted":               {session("> AUTH TLS", "< 234 go on", "> \x16\x03\x01"), 0},
	} {
		got := algtest.Run(algtest.Config{Helper: Helper{}}, algtest.Lines(tt.lines...)...)
		if got.Events[stream.Unread] != tt.want {
			t.Errorf("%s: counted %d times, want %d", claim, got.Events[stream.Unread], tt.want)
		}
	}
	got := algtest.Run(algtest.Config{Helper: Helper{}, History: stream.InMiddle}, algtest.Lines(session("> NOOP")...)...)
	if got.Events[stream.Unread] != 0 || got.Helped {
		t.Errorf("a flow that was picked up in its middle: %+v", got)
	}
}
