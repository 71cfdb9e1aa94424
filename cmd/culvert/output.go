package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// choice is the value of a flag that takes one of a few words.
type choice struct {
	word  string // the default, before the flags are parsed
	words []string
}

// Set implements pflag.Value.
func (c *choice) Set(word string) error {
	if !slices.Contains(c.words, word) {
		return fmt.Errorf("use %s%s", strings.Join(c.words, " or "), didYouMean(word, c.words))
	}
	c.word = word
	return nil
}

// String implements pflag.Value.
func (c *choice) String() string { return c.word }

// Type implements pflag.Value; the help text shows the default as that of a string.
func (c *choice) Type() string { return "string" }

// outputFlag adds -o and returns where its value will be.
func outputFlag(cmd *cobra.Command) *choice {
	form := &choice{"text", []string{"text", "json"}}
	cmd.Flags().VarP(form, "output", "o", "`FORM` of the answer: text or json")
	return form
}

// render prints v as JSON or by text, as form says.
func render(w io.Writer, form *choice, v any, text func(io.Writer) error) error {
	if form.word == "text" {
		return text(w)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// count returns "1 rule", "2 rules".
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return fmt.Sprintf("%d %s", n, noun)
}

// si returns a number in three or four digits with its prefix: "0.5", "12", "1.23 k",
// "45.6 M". An empty prefix leaves no blank behind it.
func si(v float64) string {
	prefix := ""
	for _, p := range []string{" k", " M", " G", " T"} {
		if v < 999.5 {
			break
		}
		v, prefix = v/1000, p
	}
	switch {
	case v == 0 || v >= 99.95 || v == math.Trunc(v) && prefix == "":
		return fmt.Sprintf("%.0f%s", v, prefix)
	case v >= 9.995:
		return fmt.Sprintf("%.1f%s", v, prefix)
	case prefix == "":
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f%s", v, prefix)
}

// bits returns an amount with its unit: "12 bit", "1.23 Mbit".
func bits(v float64) string {
	text := si(v)
	if strings.Contains(text, " ") {
		return text + "bit"
	}
	return text + " bit"
}

// table prints rows in columns.
func table(w io.Writer, rows func(row func(cells ...any))) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	rows(func(cells ...any) {
		for i, c := range cells {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, c)
		}
		fmt.Fprintln(t)
	})
	return t.Flush()
}
