package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.com/culvert/conntrack"
	"example.com/culvert/control/api/apitest"
	"example.com/culvert/internal/await"
)

const goodToken = "correct-horse-battery-staple"

// syncBuffer is a bytes.Buffer that may be written to and read by several.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// remoteBench is a server with a TCP listener on the loopback.
type remoteBench struct {
	*Server
	dir, url, ca, token string // the last two are paths
	log                 *syncBuffer
}

func (b *remoteBench) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(b.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// use has the server use a certificate that ends at a time, and a token.
func (b *remoteBench) use(t *testing.T, end time.Time, token string) {
	t.Helper()
	cert, key := apitest.Certificate(t, b.dir, "api", end)
	b.ca, b.token = cert, b.write(t, "token", token+"\n")
	c, err := LoadCredentials(cert, key, b.token)
	if err != nil {
		t.Fatal(err)
	}
	b.SetCredentials(c)
}

func (b *remoteBench) client(t *testing.T) *Client {
	t.Helper()
	c := NewRemoteClient(Remote{URL: b.url, TokenFile: b.token, CAFile: b.ca})
	t.Cleanup(c.Close)
	return c
}

func serveRemotely(t *testing.T, limit int) *remoteBench {
	t.Helper()
	g := newGateway(t, conntrack.Config{Max: 1024})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := new(syncBuffer)
	s := NewServer(g, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})), nil)
	b := &remoteBench{Server: s, dir: t.TempDir(), url: "https://" + l.Addr().String(), log: log}
	b.use(t, time.Now().Add(time.Hour), goodToken)
	served := make(chan error, 1)
	go func() { served <- s.ServeTLS(l, limit) }()
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return b
}

func TestRemoteClientWithTheTokenIsServed(t *testing.T) {
	b := serveRemotely(t, 8)
	client := b.client(t)
	client.http.Transport = apitest.New(t, openAPIFile, client.http.Transport)
	if st, err := client.Status(t.Context()); err != nil || st.Name != "test" {
		t.Errorf("status: %+v, %v", st, err)
	}
	events, err := client.Events(t.Context(), Format{})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Close() // Shutdown ends it
}

func TestWhoDoesNotKnowTheTokenIsRefused(t *testing.T) {
	b := serveRemotely(t, 8)
	client := b.client(t)
	for claim, header := range map[string]string{
		"no token":           "",
		"a wrong token":      "Bearer " + strings.Repeat("x", len(goodToken)),
		"a part of it":       "Bearer " + goodToken[:len(goodToken)-1],
		"more than it":       "Bearer " + goodToken + "x",
		"an empty token":     "Bearer ",
		"a password with it": "Basic " + goodToken,
	} {
		for _, path := range []string{"/v1/status", "/v1/openapi.json", "/nowhere"} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			if header != "" {
				r.Header.Set("Authorization", header)
			}
			answer, err := client.http.Do(r)
			if err != nil {
				t.Fatalf("%s: %v", claim, err)
			}
			status, code, _ := readRefusal(t, answer)
			if status != http.StatusUnauthorized || code != "unauthorized" || answer.Header.Get("WWW-Authenticate") == "" || !answer.Close {
				t.Errorf("%s for %s: %d %q, header %v, close %v; want %d and an end", claim, path, status, code, answer.Header, answer.Close, http.StatusUnauthorized)
			}
		}
	}
	if _, n := b.Refused(); n != 18 {
		t.Errorf("%d requests are counted as unauthorized, want 18", n)
	}
	if n := strings.Count(b.log.String(), "without the token"); n != 1 {
		t.Errorf("the log tells of them %d times in a moment, want once", n)
	}
	if _, err := b.client(t).Status(t.Context()); err != nil {
		t.Errorf("who knows it, afterwards: %v", err)
	}
}

func TestTokensAreNeverTold(t *testing.T) {
	b := serveRemotely(t, 8)
	b.write(t, "token", strings.Repeat("wrong", 10))
	_, err := b.client(t).Status(t.Context())
	if !errors.Is(err, ErrUnauthorized) {
		t.Fatalf("with a wrong token: %v, want %v", err, ErrUnauthorized)
	}
	for what, text := range map[string]string{"error": err.Error(), "log": b.log.String()} {
		if strings.Contains(text, goodToken) || strings.Contains(text, "wrongwrong") {
			t.Errorf("the %s has a token: %s", what, text)
		}
	}
}

func TestOnlyTLS13IsSpoken(t *testing.T) {
	b := serveRemotely(t, 8)
	address := strings.TrimPrefix(b.url, "https://")
	config := b.client(t).http.Transport.(*http.Transport).TLSClientConfig.Clone()
	config.MinVersion, config.MaxVersion = tls.VersionTLS10, tls.VersionTLS12
	if c, err := tls.Dial("tcp", address, config); err == nil {
		c.Close()
		t.Error("a client that knows TLS 1.2 alone is served")
	}
	plain, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if _, err := io.WriteString(plain, request("/v1/status")); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(plain), nil)
	if err != nil || answer.StatusCode != http.StatusBadRequest {
		t.Errorf("plain HTTP: %+v, %v; want status %d", answer, err, http.StatusBadRequest)
	}
}

func TestAnExpiredCertificateIsRefusedByTheClient(t *testing.T) {
	b := serveRemotely(t, 8)
	b.use(t, time.Now().Add(-time.Hour), goodToken)
	if at, over := b.credentials.Load().Expired(time.Now()); !over || time.Since(at) < time.Hour-time.Minute {
		t.Errorf("expired: %v, %v; want true since an hour", at, over)
	}
	if _, err := b.client(t).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "expired") || !strings.Contains(err.Error(), b.url) {
		t.Errorf("status with an expired certificate: %v, want that it has expired, and where", err)
	}
}

func TestAnUnknownAuthorityIsRefusedByTheClient(t *testing.T) {
	b := serveRemotely(t, 8)
	b.ca, _ = apitest.Certificate(t, b.dir, "other", time.Now().Add(time.Hour))
	if _, err := b.client(t).Status(t.Context()); err == nil || !strings.Contains(err.Error(), "--ca-file") {
		t.Errorf("status with another authority: %v, want advice", err)
	}
}

func TestNewCredentialsHoldFromTheNextRequestOn(t *testing.T) {
	b := serveRemotely(t, 8)
	before := b.client(t)
	if _, err := before.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.use(t, time.Now().Add(2*time.Hour), "another-token-of-some-length")
	if _, err := before.Status(t.Context()); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("the old token on an open connection: %v, want %v", err, ErrUnauthorized)
	}
	if _, err := b.client(t).Status(t.Context()); err != nil {
		t.Errorf("the new certificate and token: %v", err)
	}
}

func TestConnectionsBeyondTheLimitAreClosedAtOnce(t *testing.T) {
	const limit = 3
	b := serveRemotely(t, limit)
	address := strings.TrimPrefix(b.url, "https://")
	var held []net.Conn
	for range limit { // these never even begin their handshake
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		held = append(held, c)
	}
	extra, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	if err := extra.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := extra.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection beyond the limit: %v, want its end", err)
	}
	if n, _ := b.Refused(); n != 1 {
		t.Errorf("%d connections are counted as refused, want one", n)
	}
	for _, c := range held {
		c.Close()
	}
	until(t, "there is room again", func() bool { _, err := b.client(t).Status(t.Context()); return err == nil })
}

func TestConnectionsBeyondTheLimitOfTheSocketAreTold(t *testing.T) {
	_, client, path := serve(t)
	var held []net.Conn
	for range localRoom {
		held = append(held, say(t, path, ""))
	}
	until(t, "there is no room", func() bool {
		_, err := client.Status(t.Context())
		return errors.Is(err, errBusy)
	})
	for _, c := range held {
		c.Close()
	}
	until(t, "there is room again", func() bool { _, err := client.Status(t.Context()); return err == nil })
}

func TestConnectionsComeAtARate(t *testing.T) {
	b, now := newBucket(2, 3), time.Now()
	for i, tt := range []struct {
		after time.Duration
		want  bool
	}{{0, true}, {0, true}, {0, true}, {0, false}, {time.Second / 2, true}, {0, false}, {time.Hour, true}, {0, true}, {0, true}, {0, false}} {
		now = now.Add(tt.after)
		if got := b.take(now); got != tt.want {
			t.Errorf("step %d: %v, want %v", i, got, tt.want)
		}
	}
}

// until waits for a condition.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	await.Until(t, what, ok)
}

func TestBadCredentialsAreRefused(t *testing.T) {
	b := &remoteBench{dir: t.TempDir()}
	cert, key := apitest.Certificate(t, b.dir, "api", time.Now().Add(time.Hour))
	_, other := apitest.Certificate(t, b.dir, "other", time.Now().Add(time.Hour))
	token := b.write(t, "token", goodToken)
	open := b.write(t, "open", goodToken)
	if err := os.Chmod(open, 0o644); err != nil {
		t.Fatal(err)
	}
	none := filepath.Join(b.dir, "none")
	for _, tt := range []struct{ claim, cert, key, token, want string }{
		{"no certificate", none, key, token, "api.tls_cert: open " + none},
		{"no key", cert, none, token, "api.tls_key: open " + none},
		{"a key of another certificate", cert, other, token, "private key does not match"},
		{"a certificate that is none", token, key, token, "api.tls_cert " + token},
		{"no token", cert, key, none, "api.token_file: open " + none},
		{"a token that everybody may read", cert, key, open, "mode 644"},
		{"an empty token", cert, key, b.write(t, "empty", "\n"), "want one word of 16 to 1024"},
		{"a short token", cert, key, b.write(t, "short", "secret"), "want one word of 16 to 1024"},
		{"a long token", cert, key, b.write(t, "long", strings.Repeat("x", mostToken+1)), "want one word of 16 to 1024"},
		{"two words", cert, key, b.write(t, "two", "correct horse battery staple"), "want one word of 16 to 1024"},
	} {
		_, err := LoadCredentials(tt.cert, tt.key, tt.token)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "horse") || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want an error with %q and without the token", tt.claim, err, tt.want)
		}
	}
}

func TestWrongRemotesAreSaid(t *testing.T) {
	b := &remoteBench{dir: t.TempDir()}
	token := b.write(t, "token", goodToken)
	for _, tt := range []struct {
		claim string
		r     Remote
		want  string
	}{
		{"no token", Remote{URL: "https://192.0.2.1:9465"}, "--token-file"},
		{"another scheme", Remote{URL: "http://192.0.2.1:9465", TokenFile: token}, "want https://HOST:PORT"},
		{"a path", Remote{URL: "https://192.0.2.1:9465/v1", TokenFile: token}, "want https://HOST:PORT"},
		{"a token that is not there", Remote{URL: "https://192.0.2.1:9465", TokenFile: token + "x"}, token + "x"},
		{"an authority that is none", Remote{URL: "https://192.0.2.1:9465", TokenFile: token, CAFile: token}, "no certificate"},
		{"nobody there", Remote{URL: "https://127.0.0.1:1", TokenFile: token}, "no gateway answers at https://127.0.0.1:1"},
	} {
		if _, err := NewRemoteClient(tt.r).Status(t.Context()); err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), goodToken) {
			t.Errorf("%s: %v, want %q", tt.claim, err, tt.want)
		}
	}
}
