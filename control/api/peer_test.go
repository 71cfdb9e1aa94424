package api

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"

	"example.com/culvert/conntrack"
)

// TestOnlyTheGatewaysUserNamesFiles asks as the gateway's user, and as another one who may
// connect: what he names would be read, or run, with more rights than he has.
func TestOnlyTheGatewaysUserNamesFiles(t *testing.T) {
	g, client, path := serveTable(t, conntrack.Config{Max: 1024})
	var reloads []string
	g.reload = func(file string) (ReloadResult, error) {
		reloads = append(reloads, file)
		return ReloadResult{Changes: Changes{Groups: []ChangedFlows{}}}, nil
	}
	if _, err := client.Upgrade(t.Context(), UpgradeRequest{Binary: "/own"}); err != nil {
		t.Errorf("the gateway's user names a program: %v", err)
	}
	if _, err := client.Reload(t.Context(), ReloadRequest{Config: "/own"}); err != nil {
		t.Errorf("the gateway's user names a file: %v", err)
	}
	if os.Geteuid() != 0 {
		t.Log("not root: nobody else can be had")
		return
	}
	open(t, path)
	const other = 4713
	for _, tt := range []struct {
		claim, path, body string
		want              int
	}{
		{"another program", "/v1/upgrade", `{"binary":"/bin/true"}`, http.StatusForbidden},
		{"another file", "/v1/reload", `{"config":"/etc/shadow"}`, http.StatusForbidden},
		{"another file, to see what would be", "/v1/reload", `{"config":"/etc/shadow","dry_run":true}`, http.StatusForbidden},
		{"the gateway's own file", "/v1/reload", `{}`, http.StatusOK},
	} {
		reloads = nil
		f, err := dialAs(other, other, path)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(f, "POST %s HTTP/1.1\r\nHost: culvert\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", tt.path, len(tt.body), tt.body)
		answer, err := http.ReadResponse(bufio.NewReader(f), nil)
		if err != nil {
			t.Fatalf("%s: %v", tt.claim, err)
		}
		f.Close()
		if answer.StatusCode != tt.want {
			t.Errorf("somebody who may connect asks for %s: status %d, want %d", tt.claim, answer.StatusCode, tt.want)
		}
		if done := len(reloads) > 0; done != (tt.want == http.StatusOK) {
			t.Errorf("%s: the gateway has reloaded %q", tt.claim, reloads)
		}
	}
}

// open lets everybody connect to a socket in a t.TempDir, which is for its owner, as is
// the one that that is in.
func open(t *testing.T, path string) {
	t.Helper()
	err := errors.Join(os.Chmod(path, 0o666), os.Chmod(filepath.Dir(path), 0o755), os.Chmod(filepath.Dir(filepath.Dir(path)), 0o755))
	if err != nil {
		t.Fatal(err)
	}
}
