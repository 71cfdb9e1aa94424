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

// printer writes the demo's report.
type printer struct {
	w    io.Writer
	lost func() // called when nobody reads any more
}

func (p *printer) printf(format string, args ...any) {
	if _, err := fmt.Fprintf(p.w, format, args...); err != nil {
		p.lost()
	}
}

func (p *printer) heading(s string) { p.printf("\n%s\n\n", s) }

func (p *printer) text(s string) { p.printf("%s\n", strings.TrimRight(s, "\n")) }

func (p *printer) step(o outcome, name, text string) {
	p.printf("  %s %-15s %s\n", o, name, strings.ReplaceAll(text, "\n", "\n      "))
}

func (p *printer) detail(line string) { p.printf("      %s\n", line) }
