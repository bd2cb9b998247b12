package kernel

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseMounts(t *testing.T) {
	t.Parallel()
	const list = `22 27 0:21 / /proc rw,relatime - proc none rw
44 27 0:41 / /a\040b\134c ro shared:1 master:2 - erofs /state/x.erofs ro,device=/state/flat/1
45 27 0:42 / /m rw - fuse.brisk brisk rw,user_id=0
`
	got, err := parseMounts(strings.NewReader(list))
	if err != nil {
		t.Fatal(err)
	}
	want := []MountInfo{
		{Device: "0:21", Point: "/proc", Type: "proc", Source: "none", Options: "rw"},
		{Device: "0:41", Point: `/a b\c`, Type: "erofs", Source: "/state/x.erofs", Options: "ro,device=/state/flat/1"},
		{Device: "0:42", Point: "/m", Type: "fuse.brisk", Source: "brisk", Options: "rw,user_id=0"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []string{"nonsense", "1 2 3 - x y z", "1 2 3 4 5 6 - x"} {
		if _, err := parseMounts(strings.NewReader(bad)); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

func TestUnmountNothing(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{t.TempDir(), t.TempDir() + "/missing"} {
		if err := Unmount(t.Context(), dir, false); err != nil && !strings.Contains(err.Error(), "not permitted") {
			t.Errorf("unmounting a directory without a mount: %v", err)
		}
	}
}
