package main

import (
	"fmt"
	"strings"
)

// takes says whether an option has an argument.
type takes uint8

const (
	nothing  takes = iota
	required       // attached, or the next word
	optional       // the next word, unless that is an option, too; never attached
)

// longOption is an option as conntrack(8) takes it: short forms can be joined,
// arguments attached, and long names cut off where they are still unique.
type longOption struct {
	names []string // the first is the one that messages use
	short byte     // 0: none
	takes takes
	help  string // with the name of the argument in back quotes
}

// getopt takes the options out of args one by one, as getopt_long(3) does.
type getopt struct {
	args  []string
	at    int
	joint string // short options of a word that are left
	known []longOption
}

// next returns the next option and its argument; nil at the end. Words that are no
// options are skipped. Known options may be added between two calls.
func (g *getopt) next() (o *longOption, arg string, err error) {
	for g.joint == "" {
		if g.at >= len(g.args) || g.args[g.at] == "--" {
			return nil, "", nil
		}
		word := g.args[g.at]
		g.at++
		if name, long := strings.CutPrefix(word, "--"); long {
			return g.long(word, name)
		}
		if len(word) > 1 && word[0] == '-' {
			g.joint = word[1:]
		}
	}
	short := g.joint[0]
	g.joint = g.joint[1:]
	for i := range g.known {
		if g.known[i].short == short && short != 0 {
			return g.short(&g.known[i])
		}
	}
	return nil, "", fmt.Errorf("unknown option `%s'", g.args[g.at-1])
}

// short takes the argument of a short option.
func (g *getopt) short(o *longOption) (*longOption, string, error) {
	attached := g.joint
	if o.takes == nothing {
		return o, "", nil
	}
	g.joint = ""
	return g.argument(o, attached, attached != "")
}

func (g *getopt) long(word, name string) (*longOption, string, error) {
	name, value, attached := strings.Cut(name, "=")
	var found *longOption
	several := false
	for i := range g.known {
		for _, n := range g.known[i].names {
			if n == name {
				return g.argument(&g.known[i], value, attached)
			}
			if strings.HasPrefix(n, name) {
				several = several || found != nil && found != &g.known[i]
				found = &g.known[i]
			}
		}
	}
	if found == nil || several {
		return nil, "", fmt.Errorf("unknown option `%s'", word)
	}
	return g.argument(found, value, attached)
}

func (g *getopt) argument(o *longOption, value string, attached bool) (*longOption, string, error) {
	word := g.args[g.at-1]
	switch {
	case attached && o.takes == nothing:
		return nil, "", fmt.Errorf("unknown option `%s'", word)
	case o.takes == nothing:
	case o.takes == optional:
		// As conntrack(8) does: what is attached is ignored.
		value = ""
		if g.at < len(g.args) && !strings.HasPrefix(g.args[g.at], "-") && !strings.HasPrefix(g.args[g.at], "!") {
			value = g.args[g.at]
			g.at++
		}
	case attached:
	case g.at >= len(g.args):
		return nil, "", fmt.Errorf("option `%s' requires an argument", word)
	default:
		value = g.args[g.at]
		g.at++
	}
	return o, value, nil
}
