package nsthread

import (
	"errors"
	"testing"

	"github.com/vishvananda/netns"
)

func TestCurrentStaysInTheNamespaceOfItsCaller(t *testing.T) {
	here, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	thread, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	defer thread.Close()
	err = thread.Do(func() error {
		there, err := netns.Get()
		if err != nil {
			return err
		}
		defer there.Close()
		if !there.Equal(here) {
			t.Errorf("thread runs in %v, its maker in %v", there, here)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestDoReturnsTheErrorOfItsFunction(t *testing.T) {
	thread, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	defer thread.Close()
	want := errors.New("because")
	if got := thread.Do(func() error { return want }); got != want {
		t.Errorf("Do = %v, want %v", got, want)
	}
}

func TestDoAfterCloseIsRefused(t *testing.T) {
	thread, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	if err := thread.Close(); err != nil {
		t.Fatal(err)
	}
	if err := thread.Do(func() error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("Do on a closed thread = %v, want %v", err, ErrClosed)
	}
}

func TestUnknownNamespaceIsNamedInTheError(t *testing.T) {
	if _, err := Named("culvert-no-such-namespace"); err == nil {
		t.Error("a namespace that does not exist was entered")
	} else if got := err.Error(); got == "" {
		t.Error("the error says nothing")
	}
}
