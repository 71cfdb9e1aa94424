package config

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"example.com/culvert/nat"
	"example.com/culvert/rules"
)

// setDraft is a [[set]] while it is read.
type setDraft struct {
	rules.Set
	elements *node
	file     *node
}

// setKeys describe [[set]].
var setKeys = []key[setDraft]{
	{"name", "string", required, `"blocklist"`, "Name of the set, for rules as \"@blocklist\".",
		func(d *decoder, n *node, v *setDraft) { d.name(n, &v.Name) }},
	{"type", `"addresses", "ports" or "interfaces"`, `"addresses"`, `"ports"`, "What the set holds.",
		func(d *decoder, n *node, v *setDraft) { word(d, n, &v.Kind, "addresses", "ports", "interfaces") }},
	{"elements", "value or list", "", `["192.0.2.0/24", "2001:db8::1"]`, "Elements: addresses, prefixes or ranges; ports or ranges; names of interfaces.",
		func(_ *decoder, n *node, v *setDraft) { v.elements = n }},
	{"file", "path", "", `"blocklist.txt"`, "File with more elements, one a line; # begins a comment. The path begins at the directory of this file. It is read at start and at each reload.",
		func(_ *decoder, n *node, v *setDraft) { v.file = n }},
}

// Bounds of sets.
const (
	maxSetFile   = 256 << 20 // bytes
	maxSetErrors = 10        // told of one file
)

func (d *decoder) decodeSets(c *Config) {
	lines := map[string]int{}
	d.each("set", func(n *node) {
		if !need(d, n, "[[set]]", setKeys, "name") {
			return
		}
		var s setDraft
		before := len(d.errs)
		table(d, n, "[[set]]", setKeys, &s)
		if len(d.errs) > before {
			return
		}
		if line, again := lines[s.Name]; again {
			d.errorf(n.table["name"].at, "name: a set %q is in line %d already: rename one", s.Name, line)
			return
		}
		lines[s.Name] = n.key.Line
		if s.elements == nil && s.file == nil {
			d.errorf(n.key, "set %q has neither elements nor file: add one of them", s.Name)
			return
		}
		d.fillSet(c, &s)
		c.Rules.Sets = append(c.Rules.Sets, &s.Set)
	})
	d.sets = c.Rules.Sets
}

// fillSet reads the elements of a set.
func (d *decoder) fillSet(c *Config, s *setDraft) {
	var addrs []nat.AddrRange
	add := func(text string) error { return addElement(c, &s.Set, &addrs, text) }
	if s.elements != nil {
		d.about("elements", setKeys[2].example, func() {
			for _, item := range d.items(s.elements) {
				if text, ok := d.scalarText(item); ok {
					if err := add(text); err != nil {
						d.errorf(item.at, "%v", err)
					}
				}
			}
		})
	}
	if s.file != nil {
		d.about("file", setKeys[3].example, func() { d.readSetFile(s.file, add) })
	}
	if s.Kind == rules.SetAddrs {
		s.Addrs = rules.NewAddrSet(addrs)
	}
}

// addElement adds an element as it is written to a set; addresses to addrs.
func addElement(c *Config, s *rules.Set, addrs *[]nat.AddrRange, text string) error {
	switch s.Kind {
	case rules.SetAddrs:
		r, err := parseRange(text)
		if err != nil {
			return err
		}
		*addrs = append(*addrs, r)
	case rules.SetPorts:
		r, err := parsePorts(text)
		if err != nil {
			return err
		}
		s.Ports = append(s.Ports, r)
	case rules.SetInterfaces:
		if err := checkIfname(text); err != nil {
			return err
		}
		if !knownInterface(c, text) {
			return fmt.Errorf("interface %q is not declared; %s", text, suggest(text, interfaceNames(c)))
		}
		s.Names = append(s.Names, text)
	}
	return nil
}

// readSetFile adds the lines of the file that n names.
func (d *decoder) readSetFile(n *node, add func(string) error) {
	name, ok := d.text(n)
	if !ok {
		return
	}
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(d.file), path)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // a FIFO has nobody wait
	if err != nil {
		d.errorf(n.at, "%v", err)
		return
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && !info.Mode().IsRegular() {
		d.errorf(n.at, "%s is not a file", path)
		return
	}
	if err := d.readElements(path, io.LimitReader(f, maxSetFile+1), add); err != nil {
		d.errorf(n.at, "%s: %v", path, err)
	}
}

var errSetFile = fmt.Errorf("has more than %d MiB: split it", maxSetFile>>20)

// readElements reads one element a line. What is wrong with a line is reported
// where it is; the error returned is about the file.
func (d *decoder) readElements(path string, from io.Reader, add func(string) error) error {
	lines := bufio.NewScanner(from)
	wrong, size := 0, 0
	for line := 1; lines.Scan(); line++ {
		text := lines.Text()
		if size += len(text) + 1; size > maxSetFile {
			return errSetFile
		}
		text, _, _ = strings.Cut(text, "#")
		element := strings.TrimSpace(text)
		if element == "" {
			continue
		}
		if err := add(element); err != nil {
			if wrong++; wrong > maxSetErrors {
				return errors.New("has more errors than those told: is it the right file?")
			}
			column := 1 + len([]rune(text[:strings.Index(text, element)]))
			message := strings.Map(visible, err.Error())
			d.errs = append(d.errs, &Error{path, Pos{line, column}, message})
		}
	}
	return lines.Err()
}

// checkSet reports whether a condition may name a set.
func (d *decoder) checkSet(n *node, name string, kind rules.SetKind) bool {
	if kind == noSets {
		d.errorf(n.at, "@%s: sets hold addresses, ports or interfaces only: list the values here", name)
		return false
	}
	names := make([]string, 0, len(d.sets))
	for _, s := range d.sets {
		switch {
		case s.Name != name:
			names = append(names, s.Name)
		case s.Kind != kind:
			d.errorf(n.at, "@%s holds %s, not %s: name another set", name, s.Kind, kind)
			return false
		default:
			return true
		}
	}
	if len(names) == 0 {
		d.errorf(n.at, "@%s: there is no [[set]]: add one with name = %q", name, name)
	} else {
		d.errorf(n.at, "@%s: unknown set; %s", name, suggest(name, names))
	}
	return false
}
