package programs

import (
	"os/exec"
	"runtime"
	"sync"
)

// Start starts cmd and returns how to wait for its end. With a Pdeathsig the kernel kills a
// program when the thread ends that started it, which any thread does that a goroutine had
// locked at its end. So this one is kept until the program has ended. Wait may be called
// more than once, and concurrently.
func Start(cmd *exec.Cmd) (wait func() error, err error) {
	started, ended := make(chan error, 1), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread() // others may have been started from the same thread
		err := cmd.Start()
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return sync.OnceValue(func() error { return <-ended }), nil
}
