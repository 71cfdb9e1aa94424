package main

import (
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

// terminal is a terminal in our hands: keys come as they are pressed and are not
// shown, and what was on the screen comes back with restore.
type terminal struct {
	in, out *os.File
	before  unix.Termios
	resized chan os.Signal
}

const (
	screenEnter = "\x1b[?1049h\x1b[?25l\x1b[2J" // the other screen, without cursor, empty
	screenLeave = "\x1b[?25h\x1b[?1049l"
	screenHome  = "\x1b[H"
	lineEnd     = "\x1b[K\n" // erases what was there before
	screenRest  = "\x1b[J"
	boldOn      = "\x1b[1m"
	boldOff     = "\x1b[m"
)

// openTerminal takes the terminal. The caller calls restore, whatever happens.
func openTerminal(in, out *os.File) (*terminal, error) {
	before, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	raw := *before
	raw.Lflag &^= unix.ICANON | unix.ECHO | unix.ISIG // ^C and ^Z are keys, too: the screen must come back first
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(in.Fd()), unix.TCSETS, &raw); err != nil {
		return nil, fmt.Errorf("terminal: %w", err)
	}
	t := &terminal{in: in, out: out, before: *before, resized: make(chan os.Signal, 1)}
	signal.Notify(t.resized, unix.SIGWINCH)
	_, err = out.WriteString(screenEnter)
	return t, err
}

// restore gives the terminal back as it was.
func (t *terminal) restore() {
	signal.Stop(t.resized)
	_, _ = t.out.WriteString(screenLeave)
	_ = unix.IoctlSetTermios(int(t.in.Fd()), unix.TCSETS, &t.before)
}

// size returns how many columns and lines there are.
func (t *terminal) size() (columns, lines int) {
	ws, err := unix.IoctlGetWinsize(int(t.out.Fd()), unix.TIOCGWINSZ)
	if err != nil || ws.Col == 0 || ws.Row == 0 {
		return 80, 24
	}
	return int(ws.Col), int(ws.Row)
}

// keys sends each key that is pressed, until the terminal is closed.
func (t *terminal) keys() <-chan byte {
	keys := make(chan byte)
	go func() {
		defer close(keys)
		var b [1]byte
		for {
			if n, err := t.in.Read(b[:]); n == 0 || err != nil {
				return
			}
			keys <- b[0]
		}
	}()
	return keys
}
