package sip

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"example.com/culvert/alg/algtest"
	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack/tuple"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// recorded reads a conversation as it was recorded at both of its ends: messages of the
// caller begin with "> ", those of the other side with "< ", and each ends with a line "%%".
func recorded(t *testing.T, path string) (says []algtest.Say) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for text := range strings.SplitSeq(strings.TrimSuffix(string(b), "%%\n"), "%%\n") {
		say := algtest.Say{Text: strings.ReplaceAll(text[len("> "):], "\n", "\r\n")}
		if text[0] == '<' {
			say.Dir = tuple.Reply
		}
		says = append(says, say)
	}
	return says
}

// TestRecordedCalls has the calls of test/netns/e2e come cut at every byte: neither side
// hears of the other's network, however they come, and what becomes of them is as in the
// golden files.
func TestRecordedCalls(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatal(paths, err)
	}
	for _, path := range paths {
		name := strings.TrimSuffix(path, ".txt")
		t.Run(filepath.Base(name), func(t *testing.T) {
			t.Parallel()
			got, err := algtest.Everywhere(algtest.Config{Helper: Helper{}, Proto: tuple.TCP, Tuple: flow(tuple.TCP, 5060)}, recorded(t, path)...)
			if err != nil {
				t.Fatal(err)
			}
			if !got.Helped || got.Events[stream.Unread] != 0 {
				t.Errorf("helped: %v, messages that were not read: %d", got.Helped, got.Events[stream.Unread])
			}
			text := strings.Join(got.Announced, "\n") + "\n"
			for d, foreign := range [...]string{tuple.Original: "10.0.0.5", tuple.Reply: "203.0.113.1"} {
				for line := range strings.SplitSeq(got.Got[d][0], "\r\n") {
					if strings.Contains(line, foreign) && !strings.HasPrefix(line, "Call-ID:") {
						t.Errorf("%v: %q", tuple.Direction(d), line)
					}
				}
				text += "\n%% " + tuple.Direction(d).String() + "\n" + strings.ReplaceAll(got.Got[d][0], "\r\n", "\n")
			}
			if *update {
				if err := os.WriteFile(name+".want", []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(name + ".want")
			if err != nil {
				t.Fatal(err)
			}
			if text != string(want) {
				t.Errorf("%s differs from %s.want; it is\n%s", path, name, text)
			}
		})
	}
}
