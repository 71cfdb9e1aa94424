// Package apitest holds a server's answers against its OpenAPI file, in tests.
//
// A Transport stands between a client and the server. It finds the operation that a
// request is for and reports what the file does not say: the operation itself, a
// parameter, a status, a media type, a value that its schema refuses, a field that it
// does not have. Streams are looked at line by line, as they are read.
package apitest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// TB is what a Transport needs of a *testing.T.
type TB interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Transport is a http.RoundTripper that reports each deviation as an error of its test.
// It is safe for concurrent use.
type Transport struct {
	t    TB
	file file
	next http.RoundTripper

	mu       sync.Mutex // guards the rest
	compiler *jsonschema.Compiler
	schemas  map[string]*jsonschema.Schema // compiled, by their place in the file
	used     map[string]int                // answers below 400, by operationId
}

// file is what an OpenAPI file says, as far as it matters here.
type file struct {
	Paths      map[string]map[string]operation `json:"paths"`
	Components struct {
		Responses map[string]response `json:"responses"`
	} `json:"components"`
}

type operation struct {
	ID         string `json:"operationId"`
	Parameters []struct {
		Name string `json:"name"`
		In   string `json:"in"`
	} `json:"parameters"`
	Body      *json.RawMessage    `json:"requestBody"`
	Responses map[string]response `json:"responses"`
}

type response struct {
	Ref     string                     `json:"$ref"`
	Content map[string]json.RawMessage `json:"content"`
}

// resource is the name that the compiler of schemas knows the file by.
const resource = "openapi.json"

// New returns a Transport before next, which holds answers against the text of an
// OpenAPI file.
func New(t TB, text []byte, next http.RoundTripper) *Transport {
	t.Helper()
	c := &Transport{t: t, next: next, compiler: jsonschema.NewCompiler(), schemas: make(map[string]*jsonschema.Schema), used: make(map[string]int)}
	if err := json.Unmarshal(text, &c.file); err != nil {
		t.Fatalf("OpenAPI file: %v", err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("OpenAPI file: %v", err)
	}
	forbidOthers(doc)
	c.compiler.AssertFormat()
	if err := c.compiler.AddResource(resource, doc); err != nil {
		t.Fatalf("OpenAPI file: %v", err)
	}
	return c
}

// forbidOthers forbids fields that are not named, in every schema: clients must bear with
// new ones, tests must not.
func forbidOthers(v any) {
	switch v := v.(type) {
	case map[string]any:
		if _, ok := v["properties"].(map[string]any); ok && v["type"] == "object" {
			v["additionalProperties"] = false
		}
		for _, child := range v {
			forbidOthers(child)
		}
	case []any:
		for _, child := range v {
			forbidOthers(child)
		}
	}
}

// Used returns how often an operation was answered with a status below 400.
func (c *Transport) Used(operationID string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used[operationID]
}

// CloseIdleConnections is for http.Client.
func (c *Transport) CloseIdleConnections() {
	if next, ok := c.next.(interface{ CloseIdleConnections() }); ok {
		next.CloseIdleConnections()
	}
}

// RoundTrip implements http.RoundTripper.
func (c *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := c.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	what := r.Method + " " + r.URL.RequestURI()
	path, op := c.find(r)
	if op == nil {
		if answer.StatusCode != http.StatusNotFound && answer.StatusCode != http.StatusMethodNotAllowed {
			c.t.Errorf("%s: status %d, but there is no such operation in the file", what, answer.StatusCode)
		}
		return answer, nil
	}
	if answer.StatusCode < http.StatusBadRequest {
		c.request(what, r, op)
		c.mu.Lock()
		c.used[op.ID]++
		c.mu.Unlock()
	}
	c.answer(what, fmt.Sprintf("/paths/%s/%s/responses", escape(path), strings.ToLower(r.Method)), op, answer)
	return answer, nil
}

// find returns the operation that a request is for, nil if there is none.
func (c *Transport) find(r *http.Request) (string, *operation) {
	words := strings.Split(r.URL.Path, "/")
	best := ""
	for path := range c.file.Paths {
		pattern := strings.Split(path, "/")
		same := len(pattern) == len(words)
		for i := 0; same && i < len(words); i++ {
			same = pattern[i] == words[i] || strings.HasPrefix(pattern[i], "{")
		}
		if same && (best == "" || !strings.Contains(path, "{")) {
			best = path
		}
	}
	op, ok := c.file.Paths[best][strings.ToLower(r.Method)]
	if !ok {
		return "", nil
	}
	return best, &op
}

// request checks what was asked and not refused.
func (c *Transport) request(what string, r *http.Request, op *operation) {
	known := make(map[string]bool)
	for _, p := range op.Parameters {
		known[p.Name] = known[p.Name] || p.In == "query"
	}
	for name := range r.URL.Query() {
		if !known[name] {
			c.t.Errorf("%s: parameter %s was taken, but the file does not have it", what, name)
		}
	}
	if r.ContentLength != 0 && op.Body == nil {
		c.t.Errorf("%s: a body was taken, but the file does not have it", what)
	}
}

func (c *Transport) answer(what, place string, op *operation, answer *http.Response) {
	status := fmt.Sprint(answer.StatusCode)
	said, ok := op.Responses[status]
	if !ok {
		status = "default"
		if said, ok = op.Responses[status]; !ok || answer.StatusCode < http.StatusBadRequest {
			c.t.Errorf("%s: status %d is not in the file", what, answer.StatusCode)
			return
		}
	}
	place += "/" + status
	if said.Ref != "" {
		place = strings.TrimPrefix(said.Ref, "#")
		said = c.file.Components.Responses[place[strings.LastIndex(place, "/")+1:]]
	}
	if len(said.Content) == 0 {
		c.empty(what, answer)
		return
	}
	kind, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type"))
	if _, ok := said.Content[kind]; err != nil || !ok {
		c.t.Errorf("%s: media type %q of status %d is not in the file", what, answer.Header.Get("Content-Type"), answer.StatusCode)
		return
	}
	schema := c.schema(place + "/content/" + escape(kind) + "/schema")
	switch kind {
	case "application/json":
		body, err := io.ReadAll(answer.Body)
		answer.Body.Close()
		answer.Body = io.NopCloser(bytes.NewReader(body))
		if err == nil {
			c.value(what, schema, body)
		}
	case "application/x-ndjson":
		answer.Body = &lines{ReadCloser: answer.Body, each: func(line []byte) { c.value(what, schema, line) }}
	}
}

func (c *Transport) empty(what string, answer *http.Response) {
	body, err := io.ReadAll(answer.Body)
	answer.Body.Close()
	answer.Body = http.NoBody
	if err != nil || len(body) > 0 {
		c.t.Errorf("%s: body %q, %v; the file has none", what, body, err)
	}
}

// schema returns the schema at a place of the file.
func (c *Transport) schema(place string) *jsonschema.Schema {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.schemas[place]; s != nil {
		return s
	}
	s, err := c.compiler.Compile(resource + "#" + place)
	if err != nil {
		c.t.Errorf("schema at %s: %v", place, err)
	}
	c.schemas[place] = s
	return s
}

// value checks one value against a schema.
func (c *Transport) value(what string, schema *jsonschema.Schema, text []byte) {
	if schema == nil {
		return // reported
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err == nil {
		err = schema.Validate(v)
	}
	if err != nil {
		c.t.Errorf("%s: the answer %s is not as the file says: %v", what, text, err)
	}
}

// lines calls each with every line that is read through it.
type lines struct {
	io.ReadCloser
	begun []byte // of a line
	each  func([]byte)
}

// Read implements io.Reader.
func (l *lines) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	for rest := p[:n]; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		l.begun = append(l.begun, line...)
		if whole {
			l.each(l.begun)
			l.begun = l.begun[:0]
		}
		rest = after
	}
	return n, err
}

// escape makes a word one of a JSON pointer in a URL.
func escape(word string) string {
	return strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D").Replace(word)
}
