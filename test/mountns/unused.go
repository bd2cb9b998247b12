package mountns

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/lazyfs/kernel"
)

// RequireUnused checks that nothing below a directory is mounted, or the source of a
// mount, and that no loop device is attached to something in it.
func RequireUnused(tb testing.TB, dir string) {
	tb.Helper()
	mounts, err := kernel.Mounts()
	if err != nil {
		tb.Fatal(err)
	}
	for _, m := range mounts {
		if strings.Contains(m.Point+" "+m.Source+" "+m.Options, dir) {
			tb.Errorf("%s is still mounted on %s", m.Type, m.Point)
		}
	}
	backing, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		tb.Fatal(err)
	}
	for _, path := range backing {
		if file, err := os.ReadFile(path); err == nil && strings.Contains(string(file), dir) {
			tb.Errorf("%s is still attached to %s", path, file)
		}
	}
}
