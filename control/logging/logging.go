package logging

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// Component is a part of the gateway whose level can be set by itself.
type Component uint8

const (
	Gateway       Component = iota // life cycle, interfaces, reloads; all without another one
	API                            // the control socket
	Export                         // flow log and IPFIX
	Helper                         // what helpers announce
	PCP                            // ports that hosts ask for
	Port                           // ports and blocks of ports
	Rule                           // rules with a log
	Stack                          // the gateway's own stack
	Uplink                         // checks of uplinks
	NumComponents = int(iota)
)

var componentNames = [...]string{"gateway", "api", "export", "helper", "pcp", "port", "rule", "stack", "uplink"}

var _ [NumComponents]string = componentNames

func (c Component) String() string { return componentNames[c] }

// Names returns the names of all components, in alphabetical order but the first.
func Names() []string { return slices.Clone(componentNames[:]) }

// ParseComponent is the inverse of String.
func ParseComponent(name string) (Component, error) {
	i := slices.Index(componentNames[:], name)
	if i < 0 {
		return 0, fmt.Errorf("unknown component %q; use one of %s", name, strings.Join(componentNames[:], ", "))
	}
	return Component(i), nil
}

// For returns a logger for a component.
func For(log *slog.Logger, c Component) *slog.Logger { return log.With(componentKey, c.String()) }

const componentKey = "component"

// records are components whose lines are never held back.
var records = [NumComponents]bool{Rule: true, Port: true}

// Form is how records are written.
type Form uint8

const (
	Text Form = iota
	JSON
	numForms
)

var formNames = [...]string{Text: "text", JSON: "json"}

var _ [numForms]string = formNames

func (f Form) String() string { return formNames[f] }

// Levels is the least level that is logged of each component.
type Levels [NumComponents]slog.Level

// AllAt returns the same level for every component.
func AllAt(level slog.Level) (l Levels) {
	for i := range l {
		l[i] = level
	}
	return l
}

// ParseLevel reads debug, info, warn or error, in any case.
func ParseLevel(text string) (level slog.Level, err error) {
	if level.UnmarshalText([]byte(text)) != nil {
		return level, fmt.Errorf("unknown log level %q; use debug, info, warn or error", text)
	}
	return level, nil
}

// LevelName is the inverse of ParseLevel.
func LevelName(level slog.Level) string { return strings.ToLower(level.String()) }

// Settings are what can change.
type Settings struct {
	Levels  Levels
	Form    Form
	Repeats int // lines with the same message in ten seconds; 0: any number
}

// Fixed are settings that Apply leaves alone: those of the command line.
type Fixed struct {
	Level *slog.Level // of all components; nil: not fixed
	Form  *Form
}

// Log is a log. Its methods may be called by any goroutine.
type Log struct {
	levels  [NumComponents]atomic.Int64
	form    atomic.Uint32
	fixed   Fixed
	forms   [numForms]slog.Handler
	repeats repeats
	spool   *spool // nil: lines are written where they are logged
}

// NewSpooled is New for a w that may keep who writes waiting, such as a pipe: lines wait
// for it in memory, and those that find no room are lost and counted. Flush it at the
// end; its goroutine lives as long as the process.
func NewSpooled(w io.Writer, s Settings, fixed Fixed) *Log {
	spool := newSpool(w)
	l := New(spool, s, fixed)
	l.spool = spool
	direct := formsOf(w)
	spool.tell = func(lost uint64) {
		r := slog.NewRecord(time.Now(), slog.LevelError, "lines of the log were lost: whoever reads it was too slow", 0)
		r.AddAttrs(slog.Uint64("lines", lost))
		_ = direct[l.Form()].Handle(context.Background(), r) // there is nowhere else to tell
	}
	go spool.run()
	return l
}

// New returns a log that writes lines to w, one Write for each.
func New(w io.Writer, s Settings, fixed Fixed) *Log {
	l := &Log{fixed: fixed}
	l.forms = formsOf(w)
	l.repeats.log = l
	l.Apply(s)
	return l
}

// formsOf returns handlers that write everything to w, one for each form.
func formsOf(w io.Writer) [numForms]slog.Handler {
	every := &slog.HandlerOptions{Level: slog.LevelDebug - 4} // Log decides
	return [numForms]slog.Handler{Text: slog.NewTextHandler(w, every), JSON: slog.NewJSONHandler(w, every)}
}

// Apply puts s in force, for what is not fixed.
func (l *Log) Apply(s Settings) {
	for c := range s.Levels {
		level := s.Levels[c]
		if l.fixed.Level != nil {
			level = *l.fixed.Level
		}
		l.levels[c].Store(int64(level))
	}
	form := s.Form
	if l.fixed.Form != nil {
		form = *l.fixed.Form
	}
	l.form.Store(uint32(form))
	l.repeats.limit.Store(int64(s.Repeats))
}

// SetLevel changes the level of one component until the next Apply.
func (l *Log) SetLevel(c Component, level slog.Level) { l.levels[c].Store(int64(level)) }

// Levels returns the present levels.
func (l *Log) Levels() (all Levels) {
	for c := range all {
		all[c] = slog.Level(l.levels[c].Load())
	}
	return all
}

// Form returns the present form.
func (l *Log) Form() Form { return Form(l.form.Load()) }

// Suppressed returns how many lines were held back since New.
func (l *Log) Suppressed() uint64 { return l.repeats.suppressed.Load() }

// Lost returns how many lines found no room since NewSpooled.
func (l *Log) Lost() uint64 {
	if l.spool == nil {
		return 0
	}
	return l.spool.lost.Load()
}

// Flush tells at once of what was held back so far, and waits a second at most until
// all is written; the error says what is not.
func (l *Log) Flush() error {
	l.repeats.flush()
	if l.spool == nil {
		return nil
	}
	return l.spool.drain()
}

// Logger returns a logger of the gateway; see For.
func (l *Log) Logger() *slog.Logger { return slog.New(&handler{log: l, forms: l.forms}) }
