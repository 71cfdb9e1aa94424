package logging

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// output is a writer that may be read meanwhile.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// take returns the lines since the last call, without their times.
func (o *output) take() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	text := regexp.MustCompile(`(?m)^time=\S+ `).ReplaceAllString(o.b.String(), "")
	o.b.Reset()
	if text == "" {
		return nil
	}
	return strings.Split(strings.TrimSuffix(text, "\n"), "\n")
}

func (o *output) expect(t *testing.T, claim string, want ...string) {
	t.Helper()
	if got := o.take(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: logged\n%q, want\n%q", claim, got, want)
	}
}

func TestLevelsHoldForTheirComponentAtOnce(t *testing.T) {
	var out output
	l := New(&out, Settings{Levels: AllAt(slog.LevelInfo)}, Fixed{})
	log := l.Logger()
	pcp := For(log, PCP).With("client", "10.0.0.5") // made before the change
	log.Debug("no")
	pcp.Debug("no")
	out.expect(t, "at info")
	l.SetLevel(PCP, slog.LevelDebug)
	log.Debug("no")
	pcp.Debug("yes")
	out.expect(t, "debug of pcp", "level=DEBUG msg=yes component=pcp client=10.0.0.5")
	l.Apply(Settings{Levels: AllAt(slog.LevelError)})
	log.Warn("no")
	pcp.Warn("no")
	pcp.WithGroup("g").Error("yes", "a", 1)
	out.expect(t, "error of all", "level=ERROR msg=yes component=pcp client=10.0.0.5 g.a=1")
	if got := l.Levels(); got != AllAt(slog.LevelError) {
		t.Errorf("levels are %v", got)
	}
}

func TestFormChangesForLoggersThatExist(t *testing.T) {
	var out output
	l := New(&out, Settings{}, Fixed{})
	log := l.Logger().With("a", 1)
	log.Info("x")
	l.Apply(Settings{Form: JSON})
	log.Info("y")
	lines := out.take()
	var fields map[string]any
	if len(lines) != 2 || lines[0] != "level=INFO msg=x a=1" || json.Unmarshal([]byte(lines[1]), &fields) != nil || fields["msg"] != "y" || fields["a"] != 1.0 {
		t.Errorf("logged %q", lines)
	}
}

func TestWhatTheCommandLineSaysStays(t *testing.T) {
	var out output
	level, form := slog.LevelDebug, Text
	l := New(&out, Settings{Levels: AllAt(slog.LevelError), Form: JSON}, Fixed{Level: &level, Form: &form})
	l.Apply(Settings{Levels: AllAt(slog.LevelError), Form: JSON})
	l.Logger().Debug("x")
	out.expect(t, "fixed", "level=DEBUG msg=x")
}

func TestRepeatedMessagesAreCountedAndTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out output
		log := New(&out, Settings{Repeats: 2}, Fixed{})
		l := log.Logger()
		for i := range 5 {
			l.Warn("down", "i", i)
		}
		l.Error("down")
		l.Warn("up")
		out.expect(t, "in the window", "level=WARN msg=down i=0", "level=WARN msg=down i=1", "level=ERROR msg=down", "level=WARN msg=up")
		time.Sleep(repeatWindow)
		synctest.Wait()
		out.expect(t, "after it", "level=WARN msg=\"message repeated\" component=gateway message=down suppressed=3")
		l.Warn("down", "i", 9)
		out.expect(t, "in the next", "level=WARN msg=down i=9")
		if n := log.Suppressed(); n != 3 {
			t.Errorf("%d suppressed, want 3", n)
		}
	})
}

func TestSlowRepetitionIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out output
		l := New(&out, Settings{Repeats: 1}, Fixed{}).Logger()
		for range 3 {
			l.Info("x")
			time.Sleep(repeatWindow)
		}
		out.expect(t, "all of them", "level=INFO msg=x", "level=INFO msg=x", "level=INFO msg=x")
	})
}

func TestFlushTellsAtTheEnd(t *testing.T) {
	var out output
	log := New(&out, Settings{Repeats: 1}, Fixed{})
	l := For(log.Logger(), API)
	l.Info("x")
	l.Info("x")
	log.Flush()
	out.expect(t, "flushed", "level=INFO msg=x component=api", "level=INFO msg=\"message repeated\" component=api message=x suppressed=1")
	log.Flush()
	out.expect(t, "nothing twice")
}

func TestRecordsOfRulesAndBlocksAreNeverHeldBack(t *testing.T) {
	var out output
	log := New(&out, Settings{Repeats: 1}, Fixed{})
	for range 3 {
		For(log.Logger(), Rule).Info("dropped")
		For(log.Logger(), Port).Info("port block allocated")
	}
	if n := len(out.take()); n != 6 || log.Suppressed() != 0 {
		t.Errorf("%d lines, %d suppressed; want 6 and none", n, log.Suppressed())
	}
}

func TestManyMessagesShareOneAccount(t *testing.T) {
	var out output
	log := New(&out, Settings{Repeats: 1}, Fixed{})
	for i := range repeatKeys + 10 {
		log.Logger().Info(fmt.Sprint("message ", i))
	}
	if n := len(out.take()); n != repeatKeys+1 || log.Suppressed() != 9 {
		t.Errorf("%d lines and %d suppressed, want %d and 9", n, log.Suppressed(), repeatKeys+1)
	}
	log.Flush()
	out.expect(t, "told together", `level=INFO msg="message repeated" component=gateway message="various messages" suppressed=9`)
}

func TestUnknownNamesAreRefused(t *testing.T) {
	if _, err := ParseComponent("pcpp"); err == nil || !strings.Contains(err.Error(), "gateway, api, export") {
		t.Errorf("component: %v", err)
	}
	if _, err := ParseLevel("loud"); err == nil {
		t.Error("a level that is none is taken")
	}
	for _, name := range Names() {
		if c, err := ParseComponent(name); err != nil || c.String() != name {
			t.Errorf("%s: %v, %v", name, c, err)
		}
	}
}

func BenchmarkUnwantedRecord(b *testing.B) {
	l := New(&output{}, Settings{Levels: AllAt(slog.LevelInfo)}, Fixed{}).Logger()
	b.ReportAllocs()
	for b.Loop() {
		l.Debug("x")
	}
}
