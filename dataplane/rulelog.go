package dataplane

import (
	"time"

	"example.com/culvert/rules"
)

// RuleLine is what a rule with a log says about a packet.
type RuleLine struct {
	*rules.Line
	At      time.Time
	In, Out string // names of interfaces, "" if not known
}

// tellRules hands the lines that the rules of a worker log to Config.RuleLog,
// until the engine stops. The worker never waits for it.
func (e *Engine) tellRules(worker int) {
	defer e.done.Done()
	lines := e.view.Load().ledger.Lines(worker) // the same under every view
	for {
		select {
		case <-lines.Ready():
			lines.Read(e.tellRule)
		case <-e.quit:
			lines.Read(e.tellRule)
			return
		}
	}
}

func (e *Engine) tellRule(l *rules.Line) {
	v := e.view.Load()
	line := RuleLine{Line: l, At: e.cfg.Wall().Add(time.Duration(l.At - e.cfg.Clock()))}
	if in := v.portOf(l.Key.In); in != nil {
		line.In = in.name
	}
	if out := v.portOf(l.Key.Out); l.Key.Out != rules.NoPort && out != nil {
		line.Out = out.name
	}
	e.cfg.RuleLog(line)
}

// RuleLinesLost returns how many lines of rules were beyond their rate or found no
// place.
func (e *Engine) RuleLinesLost() (n uint64) {
	l := e.view.Load().ledger
	for i := range e.workers {
		n += l.Lines(i).Missed()
	}
	return n
}
