package demo

import (
	"fmt"
	"io"
	"strings"
)

// outcome of a step.
type outcome string

const (
	success outcome = "✓"
	failure outcome = "✗"
)

// printer writes the demo's report. Errors of the writer are not its business:
// a broken pipe ends the demo through SIGPIPE.
type printer struct{ w io.Writer }

func (p *printer) heading(s string) { fmt.Fprintf(p.w, "\n%s\n\n", s) }

func (p *printer) text(s string) { fmt.Fprintln(p.w, strings.TrimRight(s, "\n")) }

func (p *printer) step(o outcome, name, text string) {
	fmt.Fprintf(p.w, "  %s %-15s %s\n", o, name, strings.ReplaceAll(text, "\n", "\n      "))
}

func (p *printer) detail(line string) { fmt.Fprintf(p.w, "      %s\n", line) }
