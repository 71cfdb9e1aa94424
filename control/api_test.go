package control

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"example.com/culvert/control/api/apitest"
)

// TestARunningGatewayAnswersAsItsDescriptionSays asks a real one all that changes
// nothing, before and after packets; the description is the one it serves.
func TestARunningGatewayAnswersAsItsDescriptionSays(t *testing.T) {
	b := start(t)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", b.socket)
	}}
	defer transport.CloseIdleConnections()
	get := func(over http.RoundTripper, target string) (int, []byte) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://culvert"+target, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := over.RoundTrip(r)
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatalf("%s: %v", target, err)
		}
		return answer.StatusCode, text
	}
	_, description := get(transport, "/v1/openapi.json")
	checked := apitest.New(t, description, transport)
	targets := []string{"/metrics", "/v1/status", "/v1/ready", "/v1/live", "/v1/flows", "/v1/flows?limit=1", "/v1/flows/count", "/v1/expectations",
		"/v1/expectations/count", "/v1/rules", "/v1/rules/counters", "/v1/config", "/v1/counters", "/v1/ports", "/v1/ports/requested",
		"/v1/check", "/v1/interfaces",
		"/v1/explain?packet=" + url.QueryEscape("udp 10.0.0.5:40000 > 203.0.113.9:53"),
		"/v1/explain?packet=" + url.QueryEscape("udp 10.0.0.5:40000 > 198.51.100.9:53 in lan0"),
	}
	for _, when := range []string{"at first", "with a flow"} {
		for _, target := range targets {
			if status, text := get(checked, target); status != http.StatusOK {
				t.Errorf("%s %s: %d %s", target, when, status, text)
			}
		}
		b.send(t, 40000)
		b.received(t)
	}
	for _, body := range []string{"{}", `{"dry_run":true,"config":"/nowhere/culvert.toml"}`} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://culvert/v1/reload", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		answer, err := checked.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("reload %s: status %d, want %d: there is no file", body, answer.StatusCode, http.StatusUnprocessableEntity)
		}
	}
}
