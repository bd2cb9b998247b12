package rollout

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// TestOnThread: a first thread with other mounts would have the readiness probe of the pod
// run among the files of the machine.
func TestOnThread(t *testing.T) {
	for range 2000 {
		err := <-onThread(func() error {
			if unix.Gettid() == unix.Getpid() {
				return errors.New("on the first thread of the process")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
