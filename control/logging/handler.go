package logging

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// handler is a slog.Handler of one component, with the attributes and groups that its
// logger was given. It keeps both forms of them, so that the form can change.
type handler struct {
	log       *Log
	component Component
	forms     [numForms]slog.Handler
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(_ context.Context, level slog.Level) bool {
	return int64(level) >= h.log.levels[h.component].Load()
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	if !records[h.component] && !h.log.repeats.admit(h.component, &r) {
		return nil
	}
	return h.forms[h.log.Form()].Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	for i := range h.forms {
		next.forms[i] = h.forms[i].WithAttrs(attrs)
	}
	for _, a := range attrs {
		if a.Key != componentKey || a.Value.Kind() != slog.KindString {
			continue
		}
		if c, err := ParseComponent(a.Value.String()); err == nil {
			next.component = c
		}
	}
	return &next
}

// WithGroup implements slog.Handler.
func (h *handler) WithGroup(name string) slog.Handler {
	next := *h
	for i := range h.forms {
		next.forms[i] = h.forms[i].WithGroup(name)
	}
	return &next
}

const (
	repeatWindow = 10 * time.Second
	repeatKeys   = 512 // messages told apart
)

// messageKey says which records are the same message.
type messageKey struct {
	component Component
	level     slog.Level
	text      string
}

// everyOther stands for the messages beyond repeatKeys.
var everyOther = messageKey{text: "various messages"}

// repeated is how often a message came in a window.
type repeated struct {
	since time.Time
	n     int // of them written
	held  uint64
}

// repeats holds back messages that come too often.
type repeats struct {
	log        *Log
	limit      atomic.Int64
	suppressed atomic.Uint64

	mu    sync.Mutex // guards the rest
	keys  map[messageKey]*repeated
	timer *time.Timer // nil unless something is held back
}

// admit reports whether a record is to be written.
func (p *repeats) admit(c Component, r *slog.Record) bool {
	limit := int(p.limit.Load())
	if limit == 0 {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.find(messageKey{c, r.Level, r.Message}, r.Time)
	if r.Time.Sub(m.since) >= repeatWindow && m.held == 0 {
		m.since, m.n = r.Time, 0
	}
	if m.n < limit {
		m.n++
		return true
	}
	m.held++
	p.suppressed.Add(1)
	if p.timer == nil {
		p.timer = time.AfterFunc(repeatWindow, p.flush)
	}
	return false
}

// find returns the account of a message. p.mu must be held.
func (p *repeats) find(k messageKey, now time.Time) *repeated {
	if m := p.keys[k]; m != nil {
		return m
	}
	if p.keys == nil {
		p.keys = make(map[messageKey]*repeated)
	}
	if len(p.keys) >= repeatKeys {
		for old, m := range p.keys {
			if m.held == 0 && now.Sub(m.since) >= repeatWindow {
				delete(p.keys, old)
			}
		}
	}
	if len(p.keys) >= repeatKeys {
		if k = everyOther; p.keys[k] != nil {
			return p.keys[k]
		}
	}
	m := &repeated{since: now}
	p.keys[k] = m
	return m
}

// flush tells what was held back and begins anew.
func (p *repeats) flush() {
	p.mu.Lock()
	keys := p.keys
	p.keys = nil
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
	p.mu.Unlock()
	for k, m := range keys {
		if m.held == 0 {
			continue
		}
		r := slog.NewRecord(time.Now(), k.level, "message repeated", 0)
		r.AddAttrs(slog.String(componentKey, k.component.String()), slog.String("message", k.text), slog.Uint64("suppressed", m.held))
		_ = p.log.forms[p.log.Form()].Handle(context.Background(), r) // there is nowhere else to tell
	}
}
