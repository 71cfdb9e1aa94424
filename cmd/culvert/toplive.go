package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"example.com/culvert/control/api"
)

// live is culvert top on a terminal.
type live struct {
	client *api.Client
	ask    api.TopRequest
	term   *terminal
	keys   <-chan byte
	last   *api.Top // that is on the screen
	paused bool
}

// liveRows is how many rows are asked for: the terminal may grow.
const liveRows = 200

// liveTop shows what the gateway does until somebody presses q or ctx ends.
func liveTop(ctx context.Context, client *api.Client, ask api.TopRequest, in, out *os.File) error {
	ask.Rows = liveRows
	term, err := openTerminal(in, out)
	if err != nil {
		return err
	}
	defer term.restore() // also when something panics
	l := &live{client: client, ask: ask, term: term, keys: term.keys()}
	for goOn := true; goOn; {
		if goOn, err = l.watch(ctx); err != nil {
			return err
		}
	}
	return nil
}

// watch shows one view in one order. It reports false when it is time to end.
func (l *live) watch(ctx context.Context) (goOn bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	tops, ended := make(chan *api.Top), make(chan error, 1)
	go func() {
		ended <- l.client.Top(ctx, l.ask, func(t *api.Top) bool {
			select {
			case tops <- t:
				return true
			case <-ctx.Done():
				return false
			}
		})
	}()
	over := false
	defer func() {
		cancel()
		if !over {
			<-ended // the gateway has room for the next one
		}
	}()
	l.draw()
	for {
		select {
		case t := <-tops:
			if !l.paused {
				l.last = t
				l.draw()
			}
		case key, ok := <-l.keys:
			if !ok {
				return false, nil
			}
			switch l.press(key) {
			case pressedQuit:
				return false, nil
			case pressedView:
				return true, nil
			}
			l.draw()
		case <-l.term.resized:
			l.draw()
		case err := <-ended:
			over = true
			if ctx.Err() != nil {
				return false, nil
			}
			return false, err
		case <-ctx.Done():
			return false, nil
		}
	}
}

// pressed is what a key does.
type pressed uint8

const (
	pressedNothing pressed = iota // or something on this screen
	pressedView                   // another view or order
	pressedQuit
)

var viewKeys = map[byte]string{'f': api.ViewFlows, 't': api.ViewTalkers, 'r': api.ViewRules, 'd': api.ViewDrops, 'p': api.ViewPorts}

const (
	keyInterrupt = 3 // ^C
	keyHelp      = "f flows  t talkers  r rules  d drops  p ports  s sort  space pause  q quit"
)

func (l *live) press(key byte) pressed {
	switch key {
	case 'q', 'Q', keyInterrupt:
		return pressedQuit
	case ' ':
		l.paused = !l.paused
		return pressedNothing
	case 's':
		orders := api.TopOrders(l.ask.View)
		at := max(slices.Index(orders, l.ask.Sort), 0)
		l.ask.Sort = orders[(at+1)%len(orders)]
		l.paused, l.last = false, nil
		return pressedView
	}
	view := viewKeys[key]
	if view == "" || view == l.ask.View {
		return pressedNothing
	}
	l.ask.View, l.ask.Sort, l.paused, l.last = view, "", false, nil
	return pressedView
}

// draw shows the last look, as much of it as there is room for.
func (l *live) draw() {
	columns, lines := l.term.size()
	_, _ = l.term.out.WriteString(l.screen(columns, lines)) // an error: the terminal is gone, and so will the keys
}

// screen is what the terminal gets for its size.
func (l *live) screen(columns, lines int) string {
	var text bytes.Buffer
	if l.last == nil {
		fmt.Fprintf(&text, "%s: looking ...\n", l.ask.View)
	} else if err := topText(&text, l.last); err != nil {
		fmt.Fprintf(&text, "%v\n", err)
	}
	all := strings.Split(strings.TrimRight(text.String(), "\n"), "\n")
	all = all[:min(len(all), max(lines-1, 0))]
	var b strings.Builder
	b.WriteString(screenHome)
	for i, line := range all {
		if line = cut(line, columns); i == topHeader {
			line = boldOn + line + boldOff
		}
		b.WriteString(line + lineEnd)
	}
	state := keyHelp
	if l.paused {
		state = "PAUSED  " + keyHelp
	}
	b.WriteString(screenRest)
	fmt.Fprintf(&b, "\x1b[%d;1H%s\x1b[K", lines, cut(state, columns))
	return b.String()
}

// topHeader is the line of topText with the names of the columns.
const topHeader = 3

// cut returns as much of a line as fits.
func cut(line string, columns int) string {
	if utf8.RuneCountInString(line) <= columns {
		return line
	}
	return string([]rune(line)[:columns])
}
