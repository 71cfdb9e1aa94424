package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"example.com/culvert/internal/nearest"
	"example.com/culvert/rules"
)

// Pos is a place in a configuration file. Lines and columns count from 1;
// columns count characters.
type Pos struct {
	Line, Column int
}

// Error is one thing that is wrong with a configuration file.
type Error struct {
	File    string
	Pos     Pos
	Message string // what is wrong, and what to do
}

// Error returns "file:line:column: message".
func (e *Error) Error() string {
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Pos.Line, e.Pos.Column, e.Message)
}

// Errors are all things that are wrong, in the order of the file.
type Errors []*Error

// Error returns one line for each error.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// reporter collects errors while a file is read.
type reporter struct {
	file string
	errs Errors
}

func (r *reporter) errorf(at Pos, format string, args ...any) {
	r.errs = append(r.errs, &Error{r.file, at, fmt.Sprintf(format, args...)})
}

// result returns the errors sorted by place, nil if there are none.
func (r *reporter) result() error {
	if len(r.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(r.errs, func(a, b *Error) int {
		if a.File != b.File { // those of sets follow
			return cmp.Or(r.rank(a)-r.rank(b), strings.Compare(a.File, b.File))
		}
		if a.Pos.Line != b.Pos.Line {
			return a.Pos.Line - b.Pos.Line
		}
		return a.Pos.Column - b.Pos.Column
	})
	return r.errs
}

func (r *reporter) rank(e *Error) int {
	if e.File == r.file {
		return 0
	}
	return 1
}

// location is at, in the form that rules and interfaces keep.
func (r *reporter) location(at Pos) rules.Location {
	return rules.Location{File: r.file, Line: at.Line}
}

// suggest returns what to do about a misspelt word: the nearest of known, or all.
func suggest(word string, known []string) string {
	if best := nearest.To(word, known); best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return "known are " + strings.Join(known, ", ")
}
