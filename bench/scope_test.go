//go:build !race

package bench

import (
	"os"
	"slices"
	"testing"
)

// scope ends what a single run of a benchmark has started when the run is over, and
// not with the benchmark.
type scope struct {
	testing.TB
	cleanups []func()
}

func newScope(tb testing.TB) *scope {
	tb.Helper()
	return &scope{TB: tb}
}

// Cleanup implements testing.TB.
func (s *scope) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// TempDir implements testing.TB.
func (s *scope) TempDir() string {
	s.Helper()
	dir, err := os.MkdirTemp("", "b-")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			s.Error(err)
		}
	})
	return dir
}

func (s *scope) close() {
	for _, f := range slices.Backward(s.cleanups) {
		f()
	}
	s.cleanups = nil
}
