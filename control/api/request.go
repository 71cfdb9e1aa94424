package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"example.com/culvert/internal/nearest"
)

// Media types.
const (
	mediaTypeJSON    = "application/json"
	mediaTypeLines   = "application/x-ndjson"
	mediaTypeText    = "text/plain; charset=utf-8"
	mediaTypeMetrics = "text/plain"

	mediaTypeSnapshot = "application/octet-stream"
)

// mux returns the handler of all routes; more has those that others handle. It panics
// if more has one that is no route.
func (s *Server) mux(more map[string]http.Handler) http.Handler {
	mux := http.NewServeMux()
	var patterns []string
	for _, rt := range s.routes() {
		h := more[rt.pattern]
		if rt.handle != nil {
			h = s.handler(rt)
		}
		if h != nil {
			mux.Handle(rt.pattern, h)
			patterns = append(patterns, rt.pattern)
		}
	}
	for pattern := range more {
		if !slices.Contains(patterns, pattern) {
			panic("api: " + pattern + " is not among the routes")
		}
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { unrouted(w, r, mux, patterns) })
	return mux
}

// unrouted answers a request that no route is for.
func unrouted(w http.ResponseWriter, r *http.Request, mux *http.ServeMux, patterns []string) {
	var allowed, paths []string
	for _, pattern := range patterns {
		method, path, _ := strings.Cut(pattern, " ")
		other := r.Clone(r.Context())
		other.Method = method
		if _, found := mux.Handler(other); found == pattern {
			allowed = append(allowed, method)
		}
		paths = append(paths, path)
	}
	if len(allowed) > 0 {
		list := strings.Join(allowed, ", ")
		w.Header().Set("Allow", list)
		refuse(w, fmt.Errorf("%w: %s takes %s, not %s", errMethod, r.URL.Path, list, r.Method))
		return
	}
	refuse(w, fmt.Errorf("%w: %s%s; /v1/openapi.json has them all", errNoPath, r.URL.Path, didYouMean(r.URL.Path, paths)))
}

// handler checks a request by what its route says, and turns an error into an answer.
func (s *Server) handler(rt route) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		limit := int64(maxBody)
		if rt.takes == mediaSnapshot {
			limit = s.backend.SnapshotLimit()
		}
		r.Body = http.MaxBytesReader(w, r.Body, limit)
		err := rt.check(r)
		if err == nil {
			control := http.NewResponseController(w)
			if rt.body != nil || rt.takes != mediaJSON { // httptest's recorder has no deadlines, connections have
				_ = control.SetReadDeadline(time.Now().Add(bodyTime))
			}
			r.Body = &body{r.Body, control}
			err = s.handle(&rt, w, r)
		}
		if err != nil {
			s.log.Debug("request refused", "method", r.Method, "path", r.URL.Path, "error", err)
			refuse(w, err)
		}
	})
}

// handle answers a request, unless another process is about to.
func (s *Server) handle(rt *route, w http.ResponseWriter, r *http.Request) error {
	done, err := s.pass(rt, r)
	if err != nil {
		return err
	}
	defer done()
	return rt.handle(w, r)
}

// body lifts the deadline of a request's body when it has come.
type body struct {
	io.ReadCloser
	control *http.ResponseController
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// check refuses what the route does not take.
func (rt *route) check(r *http.Request) error {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return fmt.Errorf("%w: query: %w", errBadRequest, err)
	}
	names := make([]string, len(rt.params))
	for i := range rt.params {
		names[i] = rt.params[i].name
	}
	for key, values := range query {
		switch {
		case !slices.Contains(names, key):
			return fmt.Errorf("%w %q%s", errParameter, key, suggest(key, names, "this request takes none"))
		case len(values) > 1:
			return fmt.Errorf("%w: parameter %s is there %d times", errBadRequest, key, len(values))
		}
	}
	if rt.pattern[:4] == "GET " && r.Method == http.MethodHead && (rt.media == mediaStream || rt.media == mediaCapture) {
		return fmt.Errorf("%w: a stream has no end: use GET", errMethod)
	}
	if r.ContentLength == 0 {
		if rt.needs && rt.takes == mediaSnapshot {
			return fmt.Errorf("%w: body: there is none; send a snapshot", errBadRequest)
		}
		if rt.needs {
			return fmt.Errorf("%w: body: there is none; send JSON", errBadRequest)
		}
		return nil
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if rt.takes == mediaSnapshot {
		if err != nil || kind != mediaTypeSnapshot {
			return fmt.Errorf("%w: body: want Content-Type %s", errMedia, mediaTypeSnapshot)
		}
		return nil
	}
	if rt.body == nil {
		return fmt.Errorf("%w: body: this request takes none", errBadRequest)
	}
	if err != nil || kind != mediaTypeJSON {
		return fmt.Errorf("%w: body: want Content-Type %s (curl --json)", errMedia, mediaTypeJSON)
	}
	return nil
}

// suggest names the nearest of the words, or all of them.
func suggest(word string, words []string, none string) string {
	if s := didYouMean(word, words); s != "" {
		return s
	}
	if len(words) == 0 {
		return "; " + none
	}
	words = slices.Sorted(slices.Values(words))
	return "; there are " + strings.Join(words, ", ")
}

// didYouMean returns "; did you mean X?", or nothing when no word is near.
func didYouMean(word string, words []string) string {
	if best := nearest.To(word, words); best != "" {
		return fmt.Sprintf("; did you mean %s?", best)
	}
	return ""
}

// writeJSON ignores write errors: the peer is gone and nobody is left to tell.
func writeJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", mediaTypeJSON)
	w.WriteHeader(status)
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(body)
}

// readJSON decodes the body of a request; an empty body leaves into as it is.
func readJSON(r *http.Request, into any) error {
	err := decodeStrictly(r.Body, into)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if big, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fmt.Errorf("%w: body: at most %d bytes", errTooLarge, big.Limit)
	}
	if err != nil {
		return fmt.Errorf("%w: body: %w", errBadRequest, err)
	}
	return nil
}

// decodeStrictly decodes the one JSON value that from has. The error names the field
// that is nearest to an unknown one; io.EOF stands for no value.
func decodeStrictly(from io.Reader, into any) error {
	dec := json.NewDecoder(from)
	dec.DisallowUnknownFields()
	err := dec.Decode(into)
	if err == nil {
		if _, err = dec.Token(); errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil || !errors.As(err, new(*http.MaxBytesError)) {
			err = errors.New("more than one JSON value")
		}
		return err
	}
	if field, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		names := fieldsOf(reflect.TypeOf(into), nil)
		return fmt.Errorf("%w %s%s", errField, field, suggest(strings.Trim(field, `"`), names, "there is none"))
	}
	return err
}

// fieldsOf returns the names that fields of a type and of what is in it have in JSON.
func fieldsOf(t reflect.Type, names []string) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return names
	}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous || name != "" {
			names = fieldsOf(f.Type, names)
		}
		if name != "" && name != "-" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}
