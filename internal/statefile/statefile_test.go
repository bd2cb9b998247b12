package statefile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/brisk-project/brisk/internal/statefile"
)

func TestWriteReplacesTheFile(t *testing.T) {
	t.Parallel()
	for name, write := range map[string]func(string, []byte) error{"Write": statefile.Write, "WriteDurable": statefile.WriteDurable} {
		path := filepath.Join(t.TempDir(), "state")
		if content, err := statefile.Read(path, 10); content != nil || err != nil {
			t.Errorf("%s: a file that is not there is read as %q, %v", name, content, err)
		}
		for _, want := range []string{"the first", "next"} {
			// What a process that was killed has left is no obstacle.
			if err := os.WriteFile(path+statefile.TmpSuffix, []byte("half of something longer"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := write(path, []byte(want)); err != nil {
				t.Fatal(err)
			}
			if content, err := statefile.Read(path, 10); string(content) != want || err != nil {
				t.Errorf("%s: read %q, %v, want %q", name, content, err, want)
			}
		}
		if content, err := statefile.Read(path, 2); string(content) != "ne" || err != nil {
			t.Errorf("%s: with a limit of 2 bytes: %q, %v", name, content, err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != 0o600 {
			t.Errorf("%s: it has mode %v", name, info.Mode())
		}
		requireAlone(t, path)
	}
}

func TestWriteThatFailsLeavesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state")
	if err := os.Mkdir(path, 0o700); err != nil { // no file can be renamed to it
		t.Fatal(err)
	}
	for name, write := range map[string]func(string, []byte) error{"Write": statefile.Write, "WriteDurable": statefile.WriteDurable} {
		if err := write(path, []byte("content")); err == nil {
			t.Errorf("%s: no error for a directory", name)
		}
		if _, err := statefile.Read(path, 10); err == nil {
			t.Errorf("%s: a directory is read", name)
		}
		requireAlone(t, path)
	}
}

// requireAlone checks that nothing else is in the directory of a file.
func requireAlone(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("the directory has %v", entries)
	}
}
