package snmp

import (
	"strings"
	"testing"

	"example.com/culvert/alg/algtest"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack/tuple"
)

// element is an element of BER with a short length.
func element(tag byte, contents ...string) string {
	c := strings.Join(contents, "")
	return string([]byte{tag, byte(len(c))}) + c
}

// trap is a trap of an agent that calls itself addr, with so many bytes of variables.
func trap(version, addr string, variables int) string {
	pdu := element(tagOID, "\x2b\x06\x01\x04\x01\x01") + element(tagIPAddress, addr) +
		element(tagInteger, "\x06") + element(tagInteger, "\x01") + element(0x43, "\x05") + element(tagSequence, strings.Repeat("x", variables))
	return element(tagSequence, element(tagInteger, version), element(tagOctetString, "public"), element(tagTrap, pdu))
}

// long writes the lengths of s and of its trap in two bytes more.
func long(s string) string {
	head := 2 + 3 + 8
	inner := s[head:]
	pdu := string([]byte{tagTrap, 0x82, 0, inner[1]}) + inner[2:]
	rest := s[2:head] + pdu
	return string([]byte{tagSequence, 0x82, 0, byte(len(rest))}) + rest
}

func TestAgentAddressIsRewritten(t *testing.T) {
	const own, seen = "\x0a\x00\x00\x05", "\xcb\x00\x71\x01"
	plain := trap("\x00", own, 20)
	for _, tt := range []struct {
		claim, in, out string
		unread         uint32
	}{
		{"a trap", plain, trap("\x00", seen, 20), 0},
		{"a trap with long lengths", long(plain), long(trap("\x00", seen, 20)), 0},
		{"another agent's trap", trap("\x00", "\x0a\x00\x00\x06", 4), "", 0},
		{"a later version", trap("\x01", own, 4), "", 0},
		{"cut short", plain[:20], "", 1},
		{"a length beyond its end", strings.Replace(plain, "public", "publi\x7f", 1)[:len(plain)-1], "", 1},
		{"an address of five bytes", trap("\x00", own+"\x00", 4), "", 1},
		{"endless length", "\x30\x80" + plain[2:], "", 1},
		{"a question, not a trap", strings.Replace(plain, "\xa4", "\xa0", 1), "", 0},
		{"text", "hello", "", 1},
		{"nothing", "", "", 0},
	} {
		if tt.out == "" {
			tt.out = tt.in
		}
		got := algtest.Run(algtest.Config{Helper: Helper{}}, algtest.Say{Text: tt.in})
		if err := got.Differs(tt.out, ""); err != nil {
			t.Errorf("%s: %v", tt.claim, err)
		}
		if n := got.Events[stream.Unread]; n != tt.unread {
			t.Errorf("%s: counted as unread %d times, want %d", tt.claim, n, tt.unread)
		}
	}
	got := algtest.Run(algtest.Config{Helper: Helper{}}, algtest.Say{Dir: tuple.Reply, Text: plain})
	if err := got.Differs("", plain); err != nil {
		t.Errorf("from the manager: %v", err)
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(trap("\x00", "\x0a\x00\x00\x05", 9))
	f.Add(long(trap("\x00", "\x0a\x00\x00\x05", 9)))
	f.Fuzz(func(t *testing.T, text string) {
		got := algtest.Run(algtest.Config{Helper: Helper{}}, algtest.Say{Text: text})
		if len(got.Got[0][0]) != len(text) || len(got.Announced) > 0 || got.Events[stream.Panicked]+got.Events[stream.Broken] != 0 {
			t.Errorf("%+v", got)
		}
	})
}
