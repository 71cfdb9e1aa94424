package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"example.com/culvert/control/api/apitest"
)

// A flow of gateway.flow, and an expectation that it may have.
const (
	flowTuple   = `{"proto":"udp","src":"10.0.0.5","dst":"192.0.2.53","sport":40000,"dport":53}`
	expectTuple = `{"proto":"udp","src":"192.0.2.53","dst":"10.0.0.5","sport":0,"dport":5000}`
	expectBody  = `{"tuple":` + expectTuple + `,"mask":{"sport":0},"master":` + flowTuple + `,"timeout":60,"class":0,"flags":["PERMANENT"]}`
)

// driven has a request that succeeds for each route, in an order in which they do.
var driven = []struct{ pattern, query, body string }{
	{"GET /v1/openapi.json", "", ""},
	{"GET /v1/status", "", ""},
	{"GET /v1/ready", "", ""},
	{"GET /v1/live", "", ""},
	{"GET /metrics", "", ""},
	{"GET /v1/flows", "limit=1&output=id,labels&labels=1=voice&family=ipv4&proto=udp&table=conntrack&format=json&cursor=1", ""},
	{"GET /v1/flows", `filter={"original":{"dport":53},"status":["UNREPLIED"]}`, ""},
	{"GET /v1/flows", "format=text", ""},
	{"GET /v1/flows", "format=xml", ""},
	{"GET /v1/flows", "table=dying", ""},
	{"GET /v1/flows/count", "", ""},
	{"GET /v1/flows/stats", "", ""},
	{"POST /v1/flows", "", `{"original":{"proto":"sctp","src":"10.0.0.5","dst":"192.0.2.53","sport":1,"dport":2},"reply_zone":0,` +
		`"src_nat":{"addr":"203.0.113.1","port":7},"state":"ESTABLISHED","status":["ASSURED"],"timeout":60,"mark":1,"labels":[3],"orig_tag":11,"reply_tag":12}`},
	{"POST /v1/flows/zero", "output=why", ""},
	{"POST /v1/flows/get", "", flowTuple},
	{"POST /v1/flows/update", "", `{"mark":{"value":7,"mask":4294967295},"timeout":60,"status":["ASSURED"],"add_labels":[],"clear_labels":[]}`},
	{"GET /v1/events", "", ""},
	{"POST /v1/expectations", "", expectBody},
	{"GET /v1/expectations", "", ""},
	{"GET /v1/expectations", "format=text&family=ipv4&proto=udp", ""},
	{"GET /v1/expectations/count", "", ""},
	{"POST /v1/expectations/get", "", expectTuple},
	{"GET /v1/expectations/events", "", ""},
	{"POST /v1/expectations/delete", "", expectTuple},
	{"DELETE /v1/expectations", "", ""},
	{"POST /v1/flows/delete", "", ""},
	{"DELETE /v1/flows", "", ""},
	{"GET /v1/explain", "packet=tcp 10.0.0.5:40000 > 198.51.100.7:443", ""},
	{"GET /v1/trace", "match=udp host 10.0.0.5&count=2&duration=1m&rate=10&buffer=64", ""},
	{"GET /v1/trace", "match=dropped&count=1", ""},
	{"GET /v1/capture", "snaplen=128&count=3", ""},
	{"GET /v1/snapshot", "", ""},
	{"POST /v1/snapshot", "", goodSnapshot},
	{"GET /v1/rules", "", ""},
	{"GET /v1/rules/counters", "", ""},
	{"GET /v1/config", "", ""},
	{"POST /v1/reload", "", ""},
	{"POST /v1/reload", "", `{"config":"/etc/culvert.toml","dry_run":true,"flows":2}`},
	{"POST /v1/upgrade", "", ""},
	{"POST /v1/upgrade", "", `{"binary":"/usr/local/bin/culvert"}`},
	{"GET /v1/counters", "", ""},
	{"GET /v1/helpers", "", ""},
	{"GET /v1/ports", "", ""},
	{"GET /v1/ports/requested", "", ""},
	{"GET /v1/log", "", ""},
	{"POST /v1/log", "", `{"level":"debug","components":["api"]}`},
	{"GET /v1/exports", "", ""},
	{"GET /v1/top", "count=1&interval=0.1&view=flows&sort=packets&rows=3&proto=udp", ""},
	{"GET /v1/top", "count=1&interval=0.1&view=talkers", ""},
	{"GET /v1/top", "count=1&interval=0.1&view=rules", ""},
	{"GET /v1/top", "count=1&interval=0.1&view=drops", ""},
	{"GET /v1/check", "", ""},
	{"GET /v1/interfaces", "", ""},
	{"POST /v1/interfaces", "", `{"name":"veth7","area":"guest","driver":"tun","addresses":["10.7.0.1/24"],"next_hops":["10.7.0.2"]}`},
	{"DELETE /v1/interfaces/{name}", "", ""},
}

// send makes a request of a route and returns its answer. Its transport holds both
// against openapi.json.
func send(t *testing.T, client *Client, pattern, query, body string) *http.Response {
	t.Helper()
	method, path, _ := strings.Cut(pattern, " ")
	path = strings.ReplaceAll(path, "{name}", "veth7")
	values, err := url.ParseQuery(query)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequestWithContext(t.Context(), method, "http://culvert"+path+encode(values), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", mediaTypeJSON)
	}
	if body == goodSnapshot {
		r.Header.Set("Content-Type", mediaTypeSnapshot)
	}
	answer, err := client.http.Do(r)
	if err != nil {
		t.Fatalf("%s: %v", pattern, err)
	}
	t.Cleanup(func() { answer.Body.Close() })
	return answer
}

func routesOf(g *gateway) []route { return (&Server{backend: g}).routes() }

func TestEveryRouteAnswersAsItsDescriptionSays(t *testing.T) {
	g, client, _ := serve(t)
	g.ready.Store(true)
	g.reload = func(string) (ReloadResult, error) {
		what := Change{What: "refused", Reason: "rule-denied", Old: &RuleRef{}, New: &RuleRef{}, Fate: "end"}
		return ReloadResult{Changes: Changes{Flows: 2, Ended: 1, Groups: []ChangedFlows{{what, 1}}, Sample: []ChangedFlow{{Change: what}}}}, nil
	}
	g.flow(t, 40000)
	g.flow(t, 40001)
	streams := make(map[string]*http.Response)
	for _, tt := range driven {
		answer := send(t, client, tt.pattern, tt.query, tt.body)
		if answer.StatusCode >= http.StatusBadRequest {
			text, err := io.ReadAll(answer.Body)
			t.Errorf("%s ?%s: status %d, %s, %v", tt.pattern, tt.query, answer.StatusCode, text, err)
			continue
		}
		if strings.HasSuffix(tt.pattern, "events") {
			streams[tt.pattern] = answer
			continue
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			t.Errorf("%s: %v", tt.pattern, err)
		}
	}
	for pattern, answer := range streams { // by now there are events
		if _, err := answer.Body.Read(make([]byte, 1<<16)); err != nil {
			t.Errorf("%s: %v", pattern, err)
		}
	}
	checker := client.http.Transport.(*apitest.Transport)
	for _, rt := range routesOf(g) {
		if checker.Used(rt.name) == 0 {
			t.Errorf("%s: nothing here asks for it with success", rt.pattern)
		}
	}
}

// refused has a value of each parameter that must be refused, so that we see it read.
var refused = map[string]string{
	"format": "yaml", "output": "everything", "labels": "128=x", "events": "OLD", "family": "ipx", "proto": "tpc",
	"table": "nat", "filter": `{"stats":[]}`, "limit": "0", "cursor": "here", "packet": "tcp",
	"view": "people", "sort": "age", "rows": "0", "interval": "0.01", "count": "-1",
	"about": "rules", "snapshot": "please",
	"match": "host everywhere", "duration": "long", "rate": "fast", "buffer": "0", "snaplen": "1",
}

func TestEveryParameterIsRead(t *testing.T) {
	g, client, _ := serve(t)
	for _, rt := range routesOf(g) {
		for _, p := range rt.params {
			bad, ok := refused[p.name]
			if !ok {
				t.Errorf("%s: parameter %s: no value here is refused", rt.pattern, p.name)
				continue
			}
			query := url.Values{p.name: {bad}}
			if p.name == paramCursor.name && slices.ContainsFunc(rt.params, func(p param) bool { return p.name == paramLimit.name }) {
				query.Set(paramLimit.name, "1")
			}
			body := ""
			if rt.needs {
				body = flowTuple
			}
			if answer := send(t, client, rt.pattern, query.Encode(), body); answer.StatusCode != http.StatusBadRequest {
				t.Errorf("%s: %s=%s: status %d, want %d: nothing reads it", rt.pattern, p.name, bad, answer.StatusCode, http.StatusBadRequest)
			}
		}
	}
}

// TestRefusalsSayWhatIsWrong: one shape, the right status, a code for programs.
func TestRefusalsSayWhatIsWrong(t *testing.T) {
	g, client, _ := serve(t)
	g.reload = func(string) (ReloadResult, error) { return ReloadResult{}, fmt.Errorf("reload %w", ErrRefused) }
	json := mediaTypeJSON
	for _, tt := range []struct {
		claim, method, target, kind, body string
		status                            int
		code, text                        string
	}{
		{"an unknown path", "GET", "/v1/flws", "", "", 404, "no-such-path", "did you mean /v1/flows?"},
		{"another version", "GET", "/v2/status", "", "", 404, "no-such-path", "did you mean /v1/status?"},
		{"a method that the path does not have", "PUT", "/v1/flows", "", "", 405, "method-not-allowed", "takes GET, POST, DELETE, not PUT"},
		{"a parameter that is misspelt", "GET", "/v1/flows?fromat=json", "", "", 400, "unknown-parameter", `unknown parameter "fromat"; did you mean format?`},
		{"a parameter of others", "GET", "/v1/explain?colour=red", "", "", 400, "unknown-parameter", "there are packet"},
		{"a parameter where there is none", "GET", "/v1/status?format=json", "", "", 400, "unknown-parameter", "takes none"},
		{"a parameter twice", "GET", "/v1/flows?format=json&format=text", "", "", 400, "bad-request", "2 times"},
		{"a query that is none", "GET", "/v1/flows?format=%zz", "", "", 400, "bad-request", "query"},
		{"an unknown field", "POST", "/v1/reload", json, `{"dryrun":true}`, 400, "unknown-field", `"dryrun"; did you mean dry_run?`},
		{"an unknown field within", "POST", "/v1/flows/update", json, `{"mark":{"valeu":1}}`, 400, "unknown-field", "did you mean value?"},
		{"an unknown field of the filter", "GET", "/v1/flows?filter=" + url.QueryEscape(`{"original":{"scr":"::1"}}`), "", "", 400, "unknown-field", `filter: unknown field "scr"; did you mean src?`},
		{"two values", "POST", "/v1/reload", json, `{} {}`, 400, "bad-request", "more than one JSON value"},
		{"no JSON", "POST", "/v1/reload", json, `{`, 400, "bad-request", "body"},
		{"another media type", "POST", "/v1/reload", "text/plain", `{}`, 415, "unsupported-media-type", mediaTypeJSON},
		{"no media type", "POST", "/v1/reload", "", `{}`, 415, "unsupported-media-type", mediaTypeJSON},
		{"a body where there is none", "DELETE", "/v1/flows", json, `{}`, 400, "bad-request", "takes none"},
		{"no body where there is one", "POST", "/v1/flows/get", json, ``, 400, "bad-request", "send JSON"},
		{"a body that is too large", "POST", "/v1/reload", json, `{"config":"` + strings.Repeat("x", maxBody) + `"}`, 413, "too-large", "1048576"},
		{"a flow that is not there", "POST", "/v1/flows/get", json, flowTuple, 404, "not-found", "exist"},
		{"an expectation that is not there", "POST", "/v1/expectations/get", json, expectTuple, 404, "not-found", ""},
		{"an expectation without its master", "POST", "/v1/expectations", json, expectBody, 404, "not-found", ""},
		{"a reload that is refused", "POST", "/v1/reload", json, `{}`, 422, "refused", "reload refused"},
		{"a snapshot that is damaged", "POST", "/v1/snapshot", mediaTypeSnapshot, "flow", 422, "refused", "damaged"},
		{"a snapshot that is too large", "POST", "/v1/snapshot", mediaTypeSnapshot, strings.Repeat("x", 65), 413, "too-large", "at most 64 bytes"},
		{"a snapshot of another media type", "POST", "/v1/snapshot", json, "flows", 415, "unsupported-media-type", mediaTypeSnapshot},
		{"no snapshot", "POST", "/v1/snapshot", "", "", 400, "bad-request", "send a snapshot"},
		{"a cursor without a limit", "GET", "/v1/flows?cursor=1", "", "", 400, "bad-request", "limit"},
		{"a page of a list that comes whole", "GET", "/v1/flows?limit=1&table=dying", "", "", 400, "bad-request", "whole"},
		{"the header of a stream", "HEAD", "/v1/events", "", "", 405, "", ""},
	} {
		r, err := http.NewRequestWithContext(t.Context(), tt.method, "http://culvert"+tt.target, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		if tt.kind != "" {
			r.Header.Set("Content-Type", tt.kind)
		}
		answer, err := client.http.Do(r)
		if err != nil {
			t.Errorf("%s: %v", tt.claim, err)
			continue
		}
		status, code, text := readRefusal(t, answer)
		if status != tt.status || code != tt.code || !strings.Contains(text, tt.text) {
			t.Errorf("%s: %d %q %q; want %d %q with %q", tt.claim, status, code, text, tt.status, tt.code, tt.text)
		}
		if status == http.StatusMethodNotAllowed && tt.code != "" && answer.Header.Get("Allow") != "GET, POST, DELETE" {
			t.Errorf("%s: Allow %q, want the methods", tt.claim, answer.Header.Get("Allow"))
		}
	}
}

// readRefusal returns what a refusal says.
func readRefusal(t *testing.T, answer *http.Response) (status int, code, text string) {
	t.Helper()
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	var f failure
	if len(b) > 0 {
		if err := json.Unmarshal(b, &f); err != nil {
			t.Errorf("status %d: %s is no refusal: %v", answer.StatusCode, b, err)
		}
	}
	return answer.StatusCode, f.Code, f.Error
}

// TestEveryCodeIsDescribed: the codes that refusals have are those that openapi.json
// lists, and each of them crosses the socket as the error it stands for.
func TestEveryCodeIsDescribed(t *testing.T) {
	for _, k := range kinds {
		if !bytes.Contains(openAPIFile, []byte(`"`+k.code+`"`)) {
			t.Errorf("code %s is not in the file", k.code)
		}
		if !(remoteError{code: k.code}).Is(k.err) {
			t.Errorf("code %s does not become %v again", k.code, k.err)
		}
	}
}

// TestPagesHaveEveryFlowOnce pages through the table while other flows come and go.
func TestPagesHaveEveryFlowOnce(t *testing.T) {
	const lasting, limit = 100, 7
	g, client, _ := serve(t)
	for i := range uint16(lasting) {
		g.flow(t, 1000+i)
	}
	query, seen := url.Values{"limit": {fmt.Sprint(limit)}}, make(map[uint16]int)
	for page := uint16(0); ; page++ {
		answer := send(t, client, "GET /v1/flows", query.Encode(), "")
		n := 0
		for dec := json.NewDecoder(answer.Body); dec.More(); n++ {
			var f Flow
			if err := dec.Decode(&f); err != nil {
				t.Fatal(err)
			}
			seen[*f.Original.Sport]++
		}
		next := answer.Header.Get(headerCursor)
		if n > limit || n < limit && next != "" {
			t.Errorf("page %d has %d flows, and then %q", page, n, next)
		}
		if next == "" {
			break
		}
		query.Set("cursor", next)
		g.flow(t, 5000+page) // comes, and goes again
		body, err := client.DeleteFlows(t.Context(), Format{Filter: &Filter{Original: Ends{Sport: new(5000 + page)}}})
		if err != nil {
			t.Fatal(err)
		}
		body.Close()
	}
	for i := range uint16(lasting) {
		if seen[1000+i] != 1 {
			t.Errorf("the flow from port %d is on %d pages", 1000+i, seen[1000+i])
		}
	}
}

func TestAStuckGatewayIsNotAlive(t *testing.T) {
	g, client, _ := serve(t)
	g.stuck = []string{"worker 1"}
	answer := send(t, client, "GET /v1/live", "", "")
	var l Liveness
	if err := json.NewDecoder(answer.Body).Decode(&l); err != nil || answer.StatusCode != http.StatusServiceUnavailable || !slices.Equal(l.Stuck, g.stuck) {
		t.Errorf("live of a stuck gateway: %d %+v, %v; want %d and what is stuck", answer.StatusCode, l, err, http.StatusServiceUnavailable)
	}
}
