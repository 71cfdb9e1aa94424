package configs

import (
	"os"
	"strings"
	"testing"

	"example.com/culvert/rules/config"
)

func TestConfigurationOfTheREADMEIsValid(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "```toml\n")
	sample, _, closed := strings.Cut(rest, "```")
	if !found || !closed {
		t.Fatal("README.md has no toml block")
	}
	if _, err := config.Parse("README.md", []byte(sample)); err != nil {
		t.Error(err)
	}
}
