package config

import (
	"fmt"
	"strings"

	"example.com/culvert/rules"
)

// decoder turns the tree of a file into a Config. Its methods report what is
// wrong and leave the target alone then, so that one run finds everything.
type decoder struct {
	reporter
	root *node
	sets []*rules.Set // for rules that name them
}

// key describes one key of a table: how it is read, and how the reference shows
// it.
type key[T any] struct {
	name    string
	typ     string // for people: "integer 0-256"
	def     string // default, "" for none
	example string // the right side of an assignment
	doc     string // a sentence
	read    func(d *decoder, n *node, v *T)
}

// table reads the keys of n into v by their descriptions.
func table[T any](d *decoder, n *node, title string, keys []key[T], v *T) {
	if n.kind != kindTable {
		d.errorf(n.at, "%s must be a table, not %s: write it as a header on its own line", title, n.what())
		return
	}
	for _, name := range n.order {
		child := n.table[name]
		i := indexKey(keys, name)
		if i < 0 {
			d.errorf(child.key, "unknown key %q in %s; %s", name, title, suggest(name, keyNames(keys)))
			continue
		}
		k := &keys[i]
		d.about(k.name, k.example, func() { k.read(d, child, v) })
	}
}

// about runs read for a key and makes the errors it finds say which key, and how
// it looks.
func (d *decoder) about(name, example string, read func()) {
	before := len(d.errs)
	read()
	for _, e := range d.errs[before:] {
		if e.File != d.file {
			continue // about a line of a set
		}
		e.Message = fmt.Sprintf("%s: %s", name, strings.ReplaceAll(e.Message, exampleMark, name+" = "+example))
	}
}

// exampleMark in a message is replaced by the example of the key.
const exampleMark = "\x00"

func indexKey[T any](keys []key[T], name string) int {
	for i := range keys {
		if keys[i].name == name {
			return i
		}
	}
	return -1
}

func keyNames[T any](keys []key[T]) []string {
	names := make([]string, len(keys))
	for i := range keys {
		names[i] = keys[i].name
	}
	return names
}

// what names the type of a value for people.
func (n *node) what() string {
	switch n.kind {
	case kindTable:
		return "a table"
	case kindArray:
		return "a list"
	}
	switch n.value.(type) {
	case string:
		return "a string"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case bool:
		return "a boolean"
	}
	return "a date or time"
}

func (d *decoder) wrongType(n *node, want string) {
	d.errorf(n.at, "want %s, got %s; write it like %s", want, n.what(), exampleMark)
}

func (d *decoder) text(n *node) (string, bool) {
	s, ok := n.value.(string)
	if !ok {
		d.wrongType(n, "a string")
		return "", false
	}
	if s == "" {
		d.errorf(n.at, "is empty: leave the key out for its default, or write it like %s", exampleMark)
		return "", false
	}
	return s, true
}

func (d *decoder) integer(n *node, v *int, low, high int) {
	i, ok := n.value.(int64)
	switch {
	case !ok:
		d.wrongType(n, "an integer")
	case i < int64(low) || i > int64(high):
		d.errorf(n.at, "%d is out of range: give %d to %d", i, low, high)
	default:
		*v = int(i)
	}
}

// number is integer for an unsigned value that has room for high.
func number[T uint8 | uint16 | uint32](d *decoder, n *node, v *T, low, high int) {
	i := int(*v)
	d.integer(n, &i, low, high)
	*v = T(i)
}

func (d *decoder) boolean(n *node, v *bool) {
	b, ok := n.value.(bool)
	if !ok {
		d.wrongType(n, "true or false")
		return
	}
	*v = b
}

// word reads one of a closed set of words: its position in words.
func word[T ~uint8](d *decoder, n *node, v *T, words ...string) {
	s, ok := d.text(n)
	if !ok {
		return
	}
	for i, w := range words {
		if w == s {
			*v = T(i)
			return
		}
	}
	d.errorf(n.at, "unknown value %q; %s", s, suggest(s, words))
}

// mssClamp reads a word or a number of bytes: at least what any TCP must take, less
// room for options (RFC 9293 section 3.7.1), at most what fits into IPv4.
func (d *decoder) mssClamp(n *node, v *MSSClamp) {
	if _, isWord := n.value.(string); !isWord {
		var bytes int
		if d.integer(n, &bytes, 200, 65495); bytes != 0 {
			*v = MSSClamp(bytes)
		}
		return
	}
	var i uint8
	before := len(d.errs)
	if word(d, n, &i, "mtu", "off"); len(d.errs) == before {
		*v = [...]MSSClamp{ClampMTU, ClampOff}[i]
	}
}

// name reads a name that goes into metrics, sockets and rules.
func (d *decoder) name(n *node, v *string) {
	s, ok := d.text(n)
	if !ok {
		return
	}
	if len(s) > 64 || strings.Trim(s, nameBytes) != "" {
		d.errorf(n.at, "%q is not a name: use at most 64 letters, digits, '-', '_' and '.'", s)
		return
	}
	*v = s
}

const nameBytes = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

// ifname reads the name of an interface, or a pattern with a trailing *.
func (d *decoder) ifname(n *node, v *string) {
	s, ok := d.text(n)
	if !ok {
		return
	}
	if err := checkIfname(s); err != nil {
		d.errorf(n.at, "%v", err)
		return
	}
	*v = s
}

// checkIfname accepts what the kernel does (dev_valid_name), and a trailing *.
func checkIfname(s string) error {
	bare := strings.TrimSuffix(s, "*")
	switch {
	case len(bare) > 15:
		return fmt.Errorf("%q is too long for an interface: at most 15 bytes", s)
	case bare == "." || bare == ".." || strings.ContainsAny(bare, "/:*! \t\n\v\f\r\x00") || s == "":
		return fmt.Errorf("%q is not the name of an interface; a pattern ends in one *", s)
	}
	return nil
}

// items returns the scalars of a value or a list of values.
func (d *decoder) items(n *node) []*node {
	switch n.kind {
	case kindScalar:
		return []*node{n}
	case kindArray:
		if len(n.array) == 0 {
			d.errorf(n.at, "is an empty list: leave the key out, or write it like %s", exampleMark)
		}
		return n.array
	}
	d.wrongType(n, "a value or a list")
	return nil
}

// list reads a value or a list of values.
func list[T any](d *decoder, n *node, v *[]T, parse func(string) (T, error)) {
	var out []T
	seen := map[string]bool{}
	for _, item := range d.items(n) {
		s, ok := d.text(item)
		if !ok {
			continue
		}
		x, err := parse(s)
		if err != nil {
			d.errorf(item.at, "%v", err)
			continue
		}
		if seen[fmt.Sprint(x)] {
			d.errorf(item.at, "%s is listed twice: delete one", s)
		}
		seen[fmt.Sprint(x)] = true
		out = append(out, x)
	}
	*v = out
}

// scalarText is the text of a string or integer.
func (d *decoder) scalarText(n *node) (string, bool) {
	switch v := n.value.(type) {
	case int64:
		return fmt.Sprint(v), true
	case string:
		return d.text(n)
	}
	d.wrongType(n, "a string or an integer")
	return "", false
}
