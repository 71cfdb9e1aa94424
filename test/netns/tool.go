package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Tool finds a program that tests run: an installed one, or the one that
// scripts/install-test-tools has put into bin/tools of the repository, which the working
// directory is in.
func Tool(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	dir, wd := "", error(nil)
	for dir, wd = os.Getwd(); wd == nil; dir = filepath.Dir(dir) {
		path := filepath.Join(dir, "bin", "tools", name)
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil || dir == filepath.Dir(dir) {
			break
		}
	}
	return "", fmt.Errorf("%w; scripts/install-test-tools installs it", errors.Join(err, wd))
}
