package config

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/BurntSushi/toml"
)

// node is a value of the file with its place. The TOML decoder gives values and
// syntax errors, but the place of no value inside an array of tables; locate
// finds those by a second, simpler walk over text that is known to be valid.
type node struct {
	key   Pos // of the key or table header
	at    Pos // of the value
	value any // string, int64, float64, bool, a date; nil for tables and arrays

	table map[string]*node // non-nil: a table
	order []string         // keys of table as they appear
	array []*node          // elements
	kind  kind
}

type kind uint8

const (
	kindScalar kind = iota
	kindTable
	kindArray
)

func newTable(key Pos) *node {
	return &node{key: key, at: key, kind: kindTable, table: map[string]*node{}}
}

// item is the place of element i of a list, or of n itself when it is one value.
func (n *node) item(i int) Pos {
	if i < len(n.array) {
		return n.array[i].at
	}
	return n.at
}

// set puts child under name, unless there is one already.
func (n *node) set(name string, child *node) {
	if n.table == nil || n.table[name] != nil {
		return
	}
	n.table[name] = child
	n.order = append(n.order, name)
}

// child returns the table under name, made if it is missing; for an array of
// tables that is the last one.
func (n *node) child(name string, key Pos) *node {
	c := n.table[name]
	if c == nil {
		c = newTable(key)
		n.set(name, c)
	}
	if c.kind == kindArray && len(c.array) > 0 {
		c = c.array[len(c.array)-1]
	}
	return c
}

// parseSource reads text. It reports syntax errors to r.
func parseSource(r *reporter, text string) *node {
	var values map[string]any
	if _, err := toml.Decode(text, &values); err != nil {
		var syntax toml.ParseError
		if errors.As(err, &syntax) {
			r.errorf(posAt(text, syntax.Position.Start), "%s", syntaxMessage(&syntax))
		} else {
			r.errorf(Pos{1, 1}, "%s", strings.TrimPrefix(err.Error(), "toml: "))
		}
		return nil
	}
	s := scanner{text: text, line: 1}
	root := s.document()
	root.fill(values)
	return root
}

// posAt is the place of a byte of text. The decoder's own columns count from the
// line before when an error is at the start of a line.
func posAt(text string, offset int) Pos {
	before := text[:min(max(offset, 0), len(text))]
	begin := strings.LastIndexByte(before, '\n') + 1
	return Pos{1 + strings.Count(before, "\n"), 1 + utf8.RuneCountInString(before[begin:])}
}

// syntaxMessage is the decoder's message on one line.
func syntaxMessage(e *toml.ParseError) string {
	msg := e.Message
	if msg == "" {
		msg = strings.TrimPrefix(e.Error(), "toml: ")
	}
	msg, _, _ = strings.Cut(msg, "\n")
	return "not valid TOML: " + strings.Map(visible, strings.TrimSuffix(msg, "."))
}

// fill copies decoded values into the tree. What the scanner did not find gets
// its parent's place.
func (n *node) fill(v any) {
	switch v := v.(type) {
	case map[string]any:
		if n.table == nil {
			n.kind, n.table = kindTable, map[string]*node{}
		}
		for name, value := range v {
			if n.table[name] == nil {
				n.set(name, &node{key: n.key, at: n.at})
			}
			n.table[name].fill(value)
		}
	case []map[string]any:
		n.fillArray(len(v), func(i int) any { return v[i] })
	case []any:
		n.fillArray(len(v), func(i int) any { return v[i] })
	default:
		n.kind, n.value = kindScalar, v
	}
}

func (n *node) fillArray(size int, value func(int) any) {
	n.kind = kindArray
	for i := range size {
		if i >= len(n.array) {
			n.array = append(n.array, &node{key: n.key, at: n.at})
		}
		n.array[i].fill(value(i))
	}
}

// scanner finds where keys and values stand in valid TOML. On anything else it
// ends without panicking; its result is then not used.
type scanner struct {
	text  string
	i     int // next byte
	line  int
	begin int // a byte of the line, at its beginning or behind it
	col   int // characters of the line before begin
}

// pos moves begin along, so that a long line is counted once.
func (s *scanner) pos() Pos {
	s.col += utf8.RuneCountInString(s.text[s.begin:s.i])
	s.begin = s.i
	return Pos{s.line, s.col + 1}
}

func (s *scanner) end() bool { return s.i >= len(s.text) }

func (s *scanner) has(prefix string) bool { return strings.HasPrefix(s.text[s.i:], prefix) }

// skip passes n bytes, counting lines.
func (s *scanner) skip(n int) {
	for ; n > 0 && !s.end(); n-- {
		if s.text[s.i] == '\n' {
			s.line++
			s.begin, s.col = s.i+1, 0
		}
		s.i++
	}
}

// blank passes blanks; with lines also line ends and comments.
func (s *scanner) blank(lines lines) {
	for !s.end() {
		switch c := s.text[s.i]; {
		case c == ' ' || c == '\t':
			s.skip(1)
		case lines == manyLines && (c == '\n' || c == '\r'):
			s.skip(1)
		case lines == manyLines && c == '#':
			s.until("\n")
		default:
			return
		}
	}
}

type lines uint8

const (
	oneLine lines = iota
	manyLines
)

// until passes bytes up to one of stops.
func (s *scanner) until(stops string) {
	for !s.end() && strings.IndexByte(stops, s.text[s.i]) < 0 {
		s.skip(1)
	}
}

func (s *scanner) document() *node {
	root := newTable(Pos{1, 1})
	current := root
	if s.has("\ufeff") {
		s.i += len("\ufeff")
		s.begin = s.i
	}
	for s.blank(manyLines); !s.end(); s.blank(manyLines) {
		switch at := s.pos(); {
		case s.has("[["):
			s.skip(2)
			current = root.header(s.keys(), at, kindArray)
			s.until("\n")
		case s.has("["):
			s.skip(1)
			current = root.header(s.keys(), at, kindTable)
			s.until("\n")
		default:
			s.pair(current)
			s.until("\n")
		}
	}
	return root
}

// header returns the table that a header opens.
func (n *node) header(path []string, at Pos, k kind) *node {
	if len(path) == 0 {
		return n
	}
	last := len(path) - 1
	for _, name := range path[:last] {
		n = n.child(name, at)
	}
	if k == kindTable {
		c := n.child(path[last], at)
		c.key, c.at = at, at
		return c
	}
	list := n.table[path[last]]
	if list == nil {
		list = &node{key: at, at: at, kind: kindArray}
		n.set(path[last], list)
	}
	list.array = append(list.array, newTable(at))
	return list.array[len(list.array)-1]
}

// pair reads "key = value" into table.
func (s *scanner) pair(table *node) {
	at := s.pos()
	path := s.keys()
	if len(path) == 0 || !s.has("=") {
		s.skip(1)
		return
	}
	s.skip(1)
	s.blank(oneLine)
	value := s.value()
	value.key = at
	last := len(path) - 1
	for _, name := range path[:last] {
		table = table.child(name, at)
	}
	table.set(path[last], value)
}

// keys reads a dotted key.
func (s *scanner) keys() (path []string) {
	for {
		s.blank(oneLine)
		start := s.i
		switch {
		case s.has(`"`), s.has("'"):
			s.quoted()
			path = append(path, unquoteKey(s.text[start:s.i]))
		default:
			s.until(" \t.=]\r\n#")
			if s.i == start {
				return path
			}
			path = append(path, s.text[start:s.i])
		}
		s.blank(oneLine)
		if !s.has(".") {
			return path
		}
		s.skip(1)
	}
}

// unquoteKey lets the decoder read a quoted key.
func unquoteKey(quoted string) string {
	var m map[string]any
	if _, err := toml.Decode(quoted+" = 1", &m); err == nil {
		for name := range m {
			return name
		}
	}
	return quoted
}

func (s *scanner) value() *node {
	n := &node{key: s.pos(), at: s.pos()}
	switch {
	case s.end():
	case s.has("["):
		n.kind = kindArray
		s.items("]", func() { n.array = append(n.array, s.value()) })
	case s.has("{"):
		n.kind, n.table = kindTable, map[string]*node{}
		s.items("}", func() { s.pair(n) })
	case s.has(`"`), s.has("'"):
		s.quoted()
	default:
		s.until(",]}#\r\n")
	}
	return n
}

// items reads the inside of an array or inline table.
func (s *scanner) items(closing string, item func()) {
	s.skip(1)
	for s.blank(manyLines); !s.end(); s.blank(manyLines) {
		if s.has(closing) {
			s.skip(1)
			return
		}
		if s.has(",") {
			s.skip(1)
			continue
		}
		start := s.i
		if item(); s.i == start {
			s.skip(1)
		}
	}
}

// quoted passes a string of any of the four kinds.
func (s *scanner) quoted() {
	quote := s.text[s.i : s.i+1]
	if long := strings.Repeat(quote, 3); s.has(long) {
		quote = long
	}
	s.skip(len(quote))
	for !s.end() && !s.has(quote) {
		if quote[0] == '"' && s.has(`\`) {
			s.skip(1)
		}
		s.skip(1)
	}
	s.skip(len(quote))
	for len(quote) == 3 && s.has(quote[:1]) { // """a"""" ends with a quote of its own
		s.skip(1)
	}
}

// visible replaces what a terminal would not show: messages quote the file.
func visible(r rune) rune {
	if !unicode.IsPrint(r) {
		return unicode.ReplacementChar
	}
	return r
}
