package pressure_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/node/pressure"
	"github.com/brisk-project/brisk/test/containerdtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// watch runs Watch until stop, and counts its calls.
func watch(t *testing.T, cfg pressure.Config) (calls *atomic.Int64, stop func() error) {
	t.Helper()
	calls = new(atomic.Int64)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- cfg.Watch(ctx, func() { calls.Add(1) }) }()
	return calls, func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(10 * time.Second):
			return errors.New("it has not ended")
		}
	}
}

func writeMeminfo(t *testing.T, dir string, available int) {
	t.Helper()
	text := fmt.Sprintf("MemTotal:       16384000 kB\nMemFree:          100 kB\nMemAvailable:   %d kB\nBuffers: 1 kB\n", available)
	if err := os.WriteFile(filepath.Join(dir, "meminfo"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAvailableMemory(t *testing.T) {
	dir := t.TempDir()
	writeMeminfo(t, dir, 8<<20)
	calls, stop := watch(t, pressure.Config{Proc: dir, Interval: time.Millisecond})
	<-time.After(50 * time.Millisecond)
	if n := calls.Load(); n != 0 {
		t.Errorf("half of the memory can be had, and it was called %d times", n)
	}
	// Replaced, so that no half of it is read.
	other := t.TempDir()
	writeMeminfo(t, other, 100<<10)
	if err := os.Rename(filepath.Join(other, "meminfo"), filepath.Join(dir, "meminfo")); err != nil {
		t.Fatal(err)
	}
	containerdtest.Await(t, "it being called", 10*time.Second, func() bool { return calls.Load() > 1 })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

func TestUnreadableMemory(t *testing.T) {
	for _, text := range []string{"", "MemTotal: 1 kB\n", "MemTotal: x kB\nMemAvailable: 1 kB\n"} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "meminfo"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := (pressure.Config{Proc: dir}).Watch(t.Context(), func() {}); err == nil {
			t.Errorf("%q is no error", text)
		}
	}
}
