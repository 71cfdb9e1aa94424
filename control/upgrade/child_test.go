package upgrade

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.com/culvert/internal/await"
)

// script starts a shell script as a new process.
func script(t *testing.T, text string) *Child {
	t.Helper()
	c, err := Start("/bin/sh", []string{"sh", "-c", text}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// A program that leaves a child behind, which has all that it had, is refused as soon as it
// ends, and the child is gone then.
func TestWrapperThatLeavesAChildIsRefusedAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	began := time.Now()
	c := script(t, fmt.Sprintf("sleep 600 & echo $! >%s; exit 1", file))
	if _, err := c.Receive(KindHello, &Hello{}, time.Minute); !errors.Is(err, ErrEnded) {
		t.Errorf("received %v, want %v", err, ErrEnded)
	}
	pid := number(t, file)
	if !c.Kill() {
		t.Error("somebody is left")
	}
	await.Until(t, "the child is gone", func() bool { return !lives(t, pid) })
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// number returns the number of a process that is in a file.
func number(t *testing.T, file string) int {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// lives reports whether a process runs: one that nobody has waited for does not.
func lives(t *testing.T, pid int) bool {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(after, "Z")
}

// One that has left the group still has the connection, and Kill says so.
func TestChildThatLeavesTheGroupIsNotGone(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	c := script(t, fmt.Sprintf("setsid sh -c 'echo $$ >%s; exec sleep 600' & while [ ! -s %[1]s ]; do sleep 0.01; done; exit 1", file))
	if _, err := c.Receive(KindHello, &Hello{}, time.Minute); !errors.Is(err, ErrEnded) {
		t.Errorf("received %v, want %v", err, ErrEnded)
	}
	defer unix.Kill(number(t, file), unix.SIGKILL)
	if c.Kill() {
		t.Error("nobody is left, they say")
	}
}

// What a process said before it ended is heard.
func TestLastWordOfAProcessIsHeard(t *testing.T) {
	ours, theirs := pair(t)
	p, err := os.StartProcess("/bin/true", []string{"true"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(p.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Wait(); err != nil {
		t.Fatal(err)
	}
	ours.Watch(pidfd)
	if err := theirs.Send(KindHello, Hello{Version: "last"}); err != nil {
		t.Fatal(err)
	}
	var hello Hello
	if _, err := ours.Receive(KindHello, &hello, time.Second); err != nil || hello.Version != "last" {
		t.Errorf("received %+v, %v", hello, err)
	}
	if _, err := ours.Receive(KindHello, &hello, time.Minute); !errors.Is(err, ErrEnded) {
		t.Errorf("received %v, want %v", err, ErrEnded)
	}
}
