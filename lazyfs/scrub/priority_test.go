package scrub_test

import (
	"context"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/scrub"
)

// ioClass returns the class of the I/O priority of a thread, 0 for the calling one.
func ioClass(t *testing.T, tid int) int {
	t.Helper()
	const process = 1 // IOPRIO_WHO_PROCESS
	priority, _, errno := unix.Syscall(unix.SYS_IOPRIO_GET, process, uintptr(tid), 0)
	if errno == unix.ESRCH {
		return 0 // it has ended
	}
	if errno != 0 {
		t.Fatal(errno)
	}
	return int(priority >> 13)
}

// The thread that reads the cache has the I/O priority "idle", and no other thread of the
// process ever gets it from there.
func TestIdleIOPriority(t *testing.T) {
	t.Parallel()
	const idle = 3 // IOPRIO_CLASS_IDLE
	s := newSetting(t, t.TempDir(), two())
	defer s.close(t)
	s.fill(t)
	var class atomic.Int64
	open := s.cfg.Open
	s.cfg.Open = func(ctx context.Context, layer block.Digest) (scrub.Layer, error) {
		class.Store(int64(ioClass(t, 0))) // called by the goroutine that then reads
		return open(ctx, layer)
	}
	var err error
	if s.scrubber, err = scrub.New(s.cfg); err != nil {
		t.Fatal(err)
	}
	stop := s.run(t)
	if err := s.scrubber.Start(); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if !s.scrubber.Status().LastPass.IsZero() {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	stop()
	if got := class.Load(); got != idle {
		t.Errorf("the cache is read with I/O priority class %d", got)
	}
	// The thread has ended, or ends now. The first thread of a process cannot end; the runtime
	// parks it for ever.
	left := 0
	for range 1000 {
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		left = 0
		for _, thread := range threads {
			tid, err := strconv.Atoi(thread.Name())
			if err != nil {
				t.Fatal(err)
			}
			if tid != os.Getpid() && ioClass(t, tid) == idle {
				left++
			}
		}
		if left == 0 {
			return
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Errorf("%d threads still have the I/O priority idle", left)
}
