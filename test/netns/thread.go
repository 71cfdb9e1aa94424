package netns

import (
	"fmt"
	"os"
	"runtime"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// onThread runs fn on a thread that nothing else will ever use: it dies with
// the goroutine, so fn may change its namespaces freely. The main thread cannot
// die and /proc/self shows its namespaces, so it is never the one.
func onThread(fn func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			fn()
			return
		}
		// As long as this goroutine holds the main thread, another gets another.
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread()
			fn()
		}()
		<-done
		runtime.UnlockOSThread()
	}()
}

// inNamespace runs fn on a throwaway thread inside ns and returns its error. A
// panic of fn becomes a panic of the caller.
func inNamespace(ns netns.NsHandle, fn func() error) error {
	type outcome struct {
		err   error
		panic any
	}
	result := make(chan outcome, 1)
	onThread(func() {
		o := outcome{err: fmt.Errorf("netns: the function ended its goroutine (t.FailNow does): return an error instead")}
		defer func() {
			if o.panic = recover(); o.panic != nil {
				o.err = nil
			}
			result <- o
		}()
		if err := netns.Set(ns); err != nil {
			o.err = fmt.Errorf("enter namespace: %w", err)
			return
		}
		o.err = fn()
	})
	o := <-result
	if o.panic != nil {
		panic(o.panic)
	}
	return o.err
}
