package main

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestSelftestOfTheRunningGateway(t *testing.T) {
	g := runGateway(t)
	stdout, stderr, code := culvert(t, "selftest", "--quick", "--socket", g.socket)
	if code != exitDone || stderr != "" {
		t.Fatalf("status %d, stderr %q", code, stderr)
	}
	for _, want := range []string{"ipv4 from lan0 to wan0\n", "complies with RFC 6888 REQ-2"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("no %q in\n%s", want, stdout)
		}
	}
}

func TestSelftestOfAFileAsJSON(t *testing.T) {
	stdout, stderr, code := culvert(t, "selftest", "-c", "../../configs/home-router.toml", "--quick", "-o", "json")
	if code != exitDone || stderr != "" {
		t.Fatalf("status %d, stderr %q", code, stderr)
	}
	var got struct {
		Inside  string
		Reports []struct {
			UDP struct{ Mapping, Filtering string }
		}
		Verdicts map[string][]struct{ Test, Result string }
	}
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Reports) == 0 || got.Reports[0].UDP.Mapping != "linux" || len(got.Verdicts["ipv4"]) == 0 {
		t.Errorf("%+v", got)
	}
}

func TestSelftestPointsAtMistakes(t *testing.T) {
	_, stderr, code := culvert(t, "selftest", "-c", "testdata/bad.toml")
	if code != exitFailed || !strings.HasPrefix(stderr, "testdata/bad.toml:") {
		t.Errorf("status %d, stderr %q", code, stderr)
	}
}

func TestSelftestWithoutAnOutsideFails(t *testing.T) {
	_, stderr, code := culvert(t, "selftest", "-c", "../../configs/home-router.toml", "--outside", "eth99")
	if code != exitFailed || !strings.Contains(stderr, `there is no interface "eth99"`) {
		t.Errorf("status %d, stderr %q", code, stderr)
	}
}
