package api

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite openapi.json")

// object is an object of JSON.
type object = map[string]any

// description makes openapi.json from routes and Go types.
type description struct {
	t       *testing.T
	docs    map[string]string // of types and, as Type.Field, of fields: their comments
	schemas object
	strict  map[string]bool // types that come in bodies: nothing else may be in them
}

func TestOpenAPIFileSaysWhatTheHandlersDo(t *testing.T) {
	d := description{t: t, docs: comments(t), schemas: object{}, strict: map[string]bool{}}
	got := d.file()
	if *update {
		if err := os.WriteFile("openapi.json", got, 0o644); err != nil {
			t.Fatal(err)
		}
	} else if !bytes.Equal(got, openAPIFile) {
		t.Errorf("openapi.json is not what the routes and types are; go test ./control/api -run TestOpenAPI -update accepts them, see what git diff says")
	}
}

func (d *description) file() []byte {
	paths := object{}
	for _, rt := range (&Server{backend: &gateway{}}).routes() {
		method, path, _ := strings.Cut(rt.pattern, " ")
		if paths[path] == nil {
			paths[path] = object{}
		}
		paths[path].(object)[strings.ToLower(method)] = d.operation(&rt, path)
	}
	d.schema(reflect.TypeFor[failure]())
	d.strictly()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	err := enc.Encode(struct {
		OpenAPI    string   `json:"openapi"`
		Info       object   `json:"info"`
		Servers    []object `json:"servers"`
		Security   []object `json:"security"`
		Paths      object   `json:"paths"`
		Components object   `json:"components"`
	}{
		"3.1.0",
		object{"title": "Culvert", "version": "1", "license": object{"name": "Apache-2.0", "identifier": "Apache-2.0"},
			"description": "The control interface of a running gateway: HTTP on a unix socket and, if the configuration says so, with TLS and a token. Fields may be added within a version; none goes or changes its meaning."},
		[]object{{"url": "http://culvert", "description": "the unix socket; the name does not matter: curl --unix-socket PATH http://culvert/v1/status"}},
		[]object{{}, {"token": []string{}}},
		paths,
		object{"schemas": d.schemas, "responses": object{"refused": answerOf("Refused: error says what is wrong and what to do, code is for programs", object{"$ref": "#/components/schemas/failure"})}, "securitySchemes": object{"token": object{
			"type": "http", "scheme": "bearer", "description": "On the TCP listener alone: what the file api.token_file holds."}}},
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return b.Bytes()
}

var pathParameter = regexp.MustCompile(`\{(\w+)\}`)

func (d *description) operation(rt *route, path string) object {
	if rt.doc == "" || strings.HasSuffix(rt.doc, ".") {
		d.t.Errorf("%s: doc %q: want a sentence without its full stop", rt.pattern, rt.doc)
	}
	op := object{"operationId": rt.name, "summary": rt.doc}
	params := []object{}
	for _, m := range pathParameter.FindAllStringSubmatch(path, -1) {
		params = append(params, object{"name": m[1], "in": "path", "required": true, "schema": object{"type": "string"}})
	}
	for i := range rt.params {
		params = append(params, d.parameter(&rt.params[i]))
	}
	if len(params) > 0 {
		op["parameters"] = params
	}
	if rt.body != nil {
		t := reflect.TypeOf(rt.body)
		d.strict[t.Name()] = true
		op["requestBody"] = object{"required": rt.needs, "content": object{mediaTypeJSON: object{"schema": d.schema(t)}}}
	}
	if rt.takes == mediaSnapshot {
		op["requestBody"] = object{"required": rt.needs, "content": object{mediaTypeSnapshot: object{"schema": object{"type": "string", "format": "binary"}}}}
	}
	op["responses"] = d.responses(rt)
	return op
}

func (d *description) parameter(p *param) object {
	out := object{"name": p.name, "in": "query", "description": p.doc + "."}
	t := reflect.TypeOf(p.gist)
	if t.Kind() == reflect.Struct {
		d.strict[t.Name()] = true
		out["content"] = object{mediaTypeJSON: object{"schema": d.schema(t)}}
		return out
	}
	schema := d.schema(t)
	switch {
	case p.list:
		words := "(" + strings.Join(p.enum, "|") + ")"
		schema["pattern"] = "^" + words + "(," + words + ")*$"
	case p.enum != nil:
		schema["enum"] = p.enum
	}
	out["schema"] = schema
	return out
}

// responses has those of every request under default.
func (d *description) responses(rt *route) object {
	out := object{"default": object{"$ref": "#/components/responses/refused"}}
	for _, status := range rt.fails {
		out[strconv.Itoa(status)] = object{"$ref": "#/components/responses/refused"}
	}
	if rt.media == mediaHealth {
		out["503"] = answerOf(http.StatusText(http.StatusServiceUnavailable), d.schema(reflect.TypeOf(rt.gives)))
	}
	switch {
	case rt.media == mediaCapture:
		out["200"] = object{"description": "A capture", "content": object{mediaTypeCapture: object{"schema": object{"type": "string", "format": "binary"}}}}
	case rt.media == mediaSnapshot:
		out["200"] = object{"description": "A snapshot", "content": object{mediaTypeSnapshot: object{"schema": object{"type": "string", "format": "binary"}}}}
	case rt.media == mediaMetrics:
		out["200"] = object{"description": "Text", "content": object{mediaTypeMetrics: object{"schema": object{"type": "string"}}}}
	case rt.gives == nil:
		out["204"] = object{"description": "Done"}
	case rt.media == mediaLines || rt.media == mediaStream:
		ok := answerOf("Lines: each is a value of the schema, or text", d.schema(reflect.TypeOf(rt.gives)))
		ok["content"] = object{
			mediaTypeLines: object{"schema": d.schema(reflect.TypeOf(rt.gives))},
			"text/plain":   object{"schema": object{"type": "string"}},
		}
		if slices.ContainsFunc(rt.params, func(p param) bool { return p.name == paramLimit.name }) {
			ok["headers"] = object{headerCursor: object{"description": "Where the next page begins; not there on the last one.", "schema": object{"type": "string"}}}
		}
		out["200"] = ok
	default:
		out["200"] = answerOf("OK", d.schema(reflect.TypeOf(rt.gives)))
	}
	return out
}

func answerOf(description string, schema object) object {
	return object{"description": description, "content": object{mediaTypeJSON: object{"schema": schema}}}
}

// schema returns the schema of a type; that of a struct is among the components.
func (d *description) schema(t reflect.Type) object {
	switch t {
	case reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case reflect.TypeFor[netip.Addr]():
		return object{"type": "string", "description": "IPv4 or IPv6 address"}
	case reflect.TypeFor[netip.Prefix]():
		return object{"type": "string", "description": "IPv4 or IPv6 prefix"}
	}
	switch t.Kind() {
	case reflect.Pointer:
		return d.schema(t.Elem())
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.String:
		return object{"type": "string"}
	case reflect.Float64:
		return object{"type": "number"}
	case reflect.Int, reflect.Int64:
		return object{"type": "integer"}
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return object{"type": "integer", "minimum": 0, "maximum": uint64(1)<<t.Bits() - 1}
	case reflect.Uint64:
		return object{"type": "integer", "minimum": 0}
	case reflect.Slice:
		return object{"type": "array", "items": d.schema(t.Elem())}
	case reflect.Map:
		if t.Elem().Kind() == reflect.Interface {
			return object{"type": "object"}
		}
		return object{"type": "object", "additionalProperties": d.schema(t.Elem())}
	case reflect.Struct:
		if d.schemas[t.Name()] == nil {
			s := object{"type": "object"}
			d.schemas[t.Name()] = s // before its fields: a type may be in itself
			if doc := d.docs[t.Name()]; doc != "" {
				s["description"] = doc
			}
			properties, required := object{}, []string{}
			d.fields(t, properties, &required)
			s["properties"] = properties
			if len(required) > 0 {
				s["required"] = required
			}
		}
		return object{"$ref": "#/components/schemas/" + t.Name()}
	}
	d.t.Fatalf("type %v: say what it is in JSON", t)
	return nil
}

func (d *description) fields(t reflect.Type, properties object, required *[]string) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, rest, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			d.fields(f.Type, properties, required)
			continue
		}
		if name == "" || name == "-" {
			d.t.Errorf("%v.%s has no name in JSON", t, f.Name)
			continue
		}
		schema := d.schema(f.Type)
		if enum := f.Tag.Get("enum"); enum != "" {
			at := schema
			if items, ok := schema["items"].(object); ok {
				at = items
			}
			at["enum"] = strings.Split(enum, ",")
		}
		if doc := d.docs[t.Name()+"."+f.Name]; doc != "" {
			schema["description"] = doc
		}
		properties[name] = schema
		if !strings.Contains(rest, "omitempty") && !strings.Contains(rest, "omitzero") {
			*required = append(*required, name)
		}
	}
}

// strictly says that types in bodies, and what is in them, have no other fields.
func (d *description) strictly() {
	var visit func(v any)
	visit = func(v any) {
		switch v := v.(type) {
		case object:
			if ref, ok := v["$ref"].(string); ok {
				s := d.schemas[strings.TrimPrefix(ref, "#/components/schemas/")].(object)
				if s["additionalProperties"] == nil {
					s["additionalProperties"] = false
					visit(s["properties"])
				}
			}
			for _, child := range v {
				visit(child)
			}
		}
	}
	for name := range maps.Keys(d.strict) {
		visit(object{"$ref": "#/components/schemas/" + name})
	}
}

// comments returns what the source says about types and their fields.
func comments(t *testing.T) map[string]string {
	t.Helper()
	files, err := fs.Glob(os.DirFS("."), "*.go")
	if err != nil {
		t.Fatal(err)
	}
	docs := make(map[string]string)
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range file.Decls {
			gen, ok := decl.(*ast.GenDecl)
			if !ok || gen.Tok != token.TYPE {
				continue
			}
			for _, spec := range gen.Specs {
				typ := spec.(*ast.TypeSpec)
				docs[typ.Name.Name] = oneLine(gen.Doc.Text() + typ.Doc.Text())
				fields, ok := typ.Type.(*ast.StructType)
				if !ok {
					continue
				}
				for _, f := range fields.Fields.List {
					for _, id := range f.Names {
						docs[typ.Name.Name+"."+id.Name] = oneLine(f.Doc.Text() + " " + f.Comment.Text())
					}
				}
			}
		}
	}
	return docs
}

func oneLine(text string) string { return strings.Join(strings.Fields(text), " ") }
