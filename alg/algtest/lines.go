package algtest

import (
	"errors"
	"fmt"

	"example.com/culvert/alg/stream"
	"example.com/culvert/conntrack/tuple"
)

// Lines makes a conversation of lines that end with CR LF: those of the side that
// began the flow are written "> text", those of the other "< text".
func Lines(lines ...string) (says []Say) {
	for _, l := range lines {
		d := tuple.Original
		if l[0] == '<' {
			d = tuple.Reply
		}
		says = append(says, Say{Dir: d, Text: l[2:] + "\r\n"})
	}
	return says
}

// Heard is what the receivers of a conversation get when it stays as it is.
func Heard(says []Say) (text [tuple.NumDirections]string) {
	for _, s := range says {
		text[s.Dir] += s.Text
	}
	return text
}

// Cut lets the side that began say text at once and in two pieces, after begin and
// before the other side's answer, and returns what became of the whole. The error
// says that the cut makes a difference, or that the helper failed.
func Cut(c Config, begin []Say, text, answer string, cut int) (Result, error) {
	run := func(parts ...string) Result {
		says := begin[:len(begin):len(begin)]
		for _, p := range parts {
			says = append(says, Say{Text: p})
		}
		return Run(c, append(says, Say{Dir: tuple.Reply, Text: answer})...)
	}
	at := int(uint(cut) % uint(len(text)+1))
	whole, parts := run(text), run(text[:at], text[at:])
	if whole.Events[stream.Panicked]+whole.Events[stream.Broken] != 0 {
		return whole, errors.New("the helper failed")
	}
	if err := parts.Differs(whole.Got[tuple.Original][0], whole.Got[tuple.Reply][0], whole.Announced...); err != nil {
		return whole, fmt.Errorf("cut after %d: %w", at, err)
	}
	return whole, nil
}
