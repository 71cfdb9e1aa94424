package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/culvert/control"
	"example.com/culvert/control/api/apitest"
	"example.com/culvert/dataplane/packet"
	"example.com/culvert/dataplane/port"
	"example.com/culvert/rules/config"
)

func TestCommandsReachAGatewayByHTTPS(t *testing.T) {
	const token = "a-token-that-nobody-else-knows"
	dir := t.TempDir()
	ca, key := apitest.Certificate(t, dir, "api", time.Now().Add(time.Hour))
	tokenFile, wrong := filepath.Join(dir, "token"), filepath.Join(dir, "wrong")
	for path, text := range map[string]string{tokenFile: token, wrong: strings.Repeat("wrong", 4)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // its port is free now
	address := l.Addr().String()
	cfg, err := config.Parse("test.toml", []byte(relatedOnly+fmt.Sprintf("[api]\nlisten = %q\ntls_cert = %q\ntls_key = %q\ntoken_file = %q\n", address, ca, key, tokenFile)))
	if err != nil {
		t.Fatal(err)
	}
	g, err := control.New(cfg, control.Options{
		Log: slog.New(slog.DiscardHandler), Socket: control.NoSocket,
		Ports: map[string]port.Port{"lan0": memPort(t, "lan0", packet.LinkIP), "wan0": memPort(t, "wan0", packet.LinkIP)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(context.Background()); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	url := "https://" + address
	for _, args := range [][]string{{"status", "--wait", "5s"}, {"rules"}, {"conntrack", "-C"}, {"conntrack", "-L"}} {
		flags := append(args, "--socket", url, "--token-file", tokenFile, "--ca-file", ca)
		if stdout, stderr, code := culvert(t, flags...); code != exitDone {
			t.Errorf("%v: status %d, stdout %q, stderr %q", flags, code, stdout, stderr)
		}
	}
	for claim, tt := range map[string]struct {
		flags []string
		want  string
	}{
		"without a token":          {[]string{"--ca-file", ca}, "--token-file or CULVERT_TOKEN_FILE"},
		"with a wrong one":         {[]string{"--ca-file", ca, "--token-file", wrong}, "unauthorized"},
		"by an unknown authority":  {[]string{"--token-file", tokenFile}, "--ca-file or CULVERT_CA_FILE"},
		"where the token is a URL": {[]string{"--token-file", url}, "token"},
	} {
		_, stderr, code := culvert(t, append([]string{"status", "--socket", url}, tt.flags...)...)
		if code != exitFailed || !strings.Contains(stderr, tt.want) || strings.Contains(stderr, token) {
			t.Errorf("%s: status %d, stderr %q; want %d and %q", claim, code, stderr, exitFailed, tt.want)
		}
	}
	t.Setenv("CULVERT_SOCKET", url)
	t.Setenv("CULVERT_TOKEN_FILE", tokenFile)
	t.Setenv("CULVERT_CA_FILE", ca)
	if _, stderr, code := culvert(t, "status"); code != exitDone {
		t.Errorf("by the environment: status %d, stderr %q", code, stderr)
	}
	if _, stderr, code := culvert(t, "run", "--lan", "eth1", "--wan", "eth2"); code != exitMisused || !strings.Contains(stderr, "a path") {
		t.Errorf("run with a URL for its socket: status %d, stderr %q; want it refused", code, stderr)
	}
}
