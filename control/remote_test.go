package control

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/culvert/control/api"
	"example.com/culvert/control/api/apitest"
)

// remoteFiles are what a gateway with a TCP listener reads.
type remoteFiles struct{ dir, address, config string }

// withListener writes a configuration with a TCP listener, and what it names.
func withListener(t *testing.T) *remoteFiles {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // its port is free now
	f := &remoteFiles{dir: t.TempDir(), address: l.Addr().String()}
	f.config = filepath.Join(f.dir, "culvert.toml")
	f.renew(t, "the-first-token-of-the-gateway")
	f.write(t, "culvert.toml", masquerading+fmt.Sprintf("\n[api]\nlisten = %q\ntls_cert = %q\ntls_key = %q\ntoken_file = %q\n",
		f.address, f.path("api.crt"), f.path("api.key"), f.path("token")))
	return f
}

func (f *remoteFiles) path(name string) string { return filepath.Join(f.dir, name) }

func (f *remoteFiles) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(f.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// renew writes another certificate and token.
func (f *remoteFiles) renew(t *testing.T, token string) {
	t.Helper()
	apitest.Certificate(t, f.dir, "api", time.Now().Add(time.Hour))
	f.write(t, "token", token)
}

// client returns one that knows what is in the files now.
func (f *remoteFiles) client(t *testing.T) *api.Client {
	t.Helper()
	c := api.NewRemoteClient(api.Remote{URL: "https://" + f.address, TokenFile: f.path("token"), CAFile: f.path("api.crt")})
	t.Cleanup(c.Close)
	return c
}

func (f *remoteFiles) bench(t *testing.T) *bench {
	t.Helper()
	text, err := os.ReadFile(f.config)
	if err != nil {
		t.Fatal(err)
	}
	return newBench(t, string(text), Options{}, "lan0", "wan0")
}

func TestAReloadRenewsCertificateAndToken(t *testing.T) {
	f := withListener(t)
	b := f.bench(t)
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := f.client(t)
	if st, err := first.Status(t.Context()); err != nil || st.Generation != 1 {
		t.Fatalf("status: %+v, %v", st, err)
	}
	f.renew(t, "the-second-token-of-the-gateway")
	if _, err := first.Reload(t.Context(), api.ReloadRequest{Config: f.config, DryRun: true}); !errors.Is(err, api.ErrForbidden) {
		t.Errorf("who has the token names a file: %v, want %v", err, api.ErrForbidden)
	}
	if _, err := b.ReloadFile(t.Context(), api.ReloadRequest{Config: f.config, DryRun: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Status(t.Context()); err != nil {
		t.Errorf("a dry run has changed the token: %v", err)
	}
	if _, err := b.ReloadFile(t.Context(), api.ReloadRequest{Config: f.config}); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Status(t.Context()); !errors.Is(err, api.ErrUnauthorized) {
		t.Errorf("the first token after the reload: %v, want %v", err, api.ErrUnauthorized)
	}
	if st, err := f.client(t).Status(t.Context()); err != nil || st.Generation != 2 {
		t.Errorf("the second one: %+v, %v", st, err)
	}
}

func TestAReloadWithoutCredentialsIsRefused(t *testing.T) {
	f := withListener(t)
	b := f.bench(t)
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	client := f.client(t)
	if err := os.Remove(f.path("api.key")); err != nil {
		t.Fatal(err)
	}
	for _, dry := range []bool{true, false} {
		if _, err := b.ReloadFile(t.Context(), api.ReloadRequest{Config: f.config, DryRun: dry}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "api.tls_key") {
			t.Errorf("reload without the key, dry %v: %v, want a refusal", dry, err)
		}
	}
	if st, err := client.Status(t.Context()); err != nil || st.Generation != 1 {
		t.Errorf("after the refusals: %+v, %v; want generation 1 as before", st, err)
	}
}

func TestAStartWithoutCredentialsIsRefused(t *testing.T) {
	f := withListener(t)
	f.write(t, "token", "short")
	b := f.bench(t)
	if err := b.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "api.token_file") {
		t.Errorf("start with a short token: %v, want a refusal", err)
	}
	if c, err := net.Dial("tcp", f.address); err == nil {
		c.Close()
		t.Error("the listener is open after the refusal")
	}
}
