package logging

import (
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"

	"example.com/culvert/internal/await"
)

// TestNobodyWaitsForWhoReadsTheLog has the log go into a pipe that nobody reads, until
// somebody does: the lines that found room come in order, and then how many did not.
func TestNobodyWaitsForWhoReadsTheLog(t *testing.T) {
	const beyond = 100
	in, out := io.Pipe()
	l := NewSpooled(out, Settings{Levels: AllAt(slog.LevelInfo)}, Fixed{})
	log := l.Logger()
	log.Info("line", "number", 0)
	await.Until(t, "the first line is being written", func() bool { return len(l.spool.lines) == 0 })
	for i := range spoolLines + beyond {
		log.Info("line", "number", i+1)
	}
	if n := l.Lost(); n != beyond {
		t.Errorf("%d lines were lost, want %d", n, beyond)
	}
	if err := l.Flush(); err == nil || !strings.Contains(err.Error(), fmt.Sprint(spoolLines)) {
		t.Errorf("Flush: %v, want how many lines are not written", err)
	}
	var text output
	go io.Copy(&text, in)
	var lines []string
	await.Until(t, "all is written", func() bool {
		lines = append(lines, text.take()...)
		return len(lines) == spoolLines+2
	})
	for i, line := range lines[:spoolLines+1] {
		if want := fmt.Sprintf("level=INFO msg=line number=%d", i); line != want {
			t.Fatalf("line %d is %q, want %q", i, line, want)
		}
	}
	if last := lines[spoolLines+1]; !strings.Contains(last, "lines of the log were lost") || !strings.HasSuffix(last, fmt.Sprintf("lines=%d", beyond)) {
		t.Errorf("in the end it says %q, want that %d were lost", last, beyond)
	}
}

func TestFlushWaitsForWhatWasLogged(t *testing.T) {
	var out output
	l := NewSpooled(&out, Settings{Levels: AllAt(slog.LevelInfo)}, Fixed{})
	for i := range spoolLines {
		l.Logger().Info("line", "number", i)
	}
	if err := l.Flush(); err != nil {
		t.Error(err)
	}
	if n := len(out.take()); n+int(l.Lost()) != spoolLines || n == 0 {
		t.Errorf("%d lines are written and %d lost of %d", n, l.Lost(), spoolLines)
	}
}
