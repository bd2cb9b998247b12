package programs_test

import (
	"context"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/brisk-project/brisk/test/programs"
)

// TestProgramOutlivesTheThreadOfItsCaller starts a program from a thread that then ends.
func TestProgramOutlivesTheThreadOfItsCaller(t *testing.T) {
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	called := make(chan func() error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		wait, err := programs.Start(cmd)
		if err != nil {
			t.Error(err)
		}
		called <- wait
	}()
	wait := <-called
	if wait == nil {
		return
	}
	ended := make(chan error, 1)
	go func() { ended <- wait() }()
	select {
	case err := <-ended:
		t.Fatalf("it has ended: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("a program that was killed ended well")
	}
}
