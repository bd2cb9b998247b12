package snapshotter

import (
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

func TestRootOwner(t *testing.T) {
	t.Parallel()
	const u, g = snapshots.LabelSnapshotUIDMapping, snapshots.LabelSnapshotGIDMapping
	for name, c := range map[string]struct {
		labels   map[string]string
		uid, gid int
		mapped   bool
	}{
		"none":   {nil, 0, 0, false},
		"both":   {map[string]string{u: "0:1000:10", g: "0:2000:10"}, 1000, 2000, true},
		"one":    {map[string]string{u: "0:1000:10"}, 1000, 0, true},
		"second": {map[string]string{u: "5:7:2,0:1000:5", g: "0:0:4294967295"}, 1000, 0, true},
	} {
		uid, gid, mapped, err := rootOwner(c.labels)
		if uid != c.uid || gid != c.gid || mapped != c.mapped || err != nil {
			t.Errorf("%s: %d:%d, %v, %v", name, uid, gid, mapped, err)
		}
	}
	for _, bad := range []string{"0", "0:1", "0:1:2:3", "a:1:2", "-1:0:1", "1:1000:5", "0:1:0", "0:4294967295:2", "4294967296:0:1", ","} {
		if _, _, _, err := rootOwner(map[string]string{u: bad}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzRootOwner(f *testing.F) {
	for _, seed := range []string{"", "0:100000:65536", "1:2:3,0:5:1", "0:4294967295:1", ":::", "0:1:2,"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, mapping string) {
		uid, err := hostRoot(mapping)
		if err == nil && (uid < 0 || uid >= 1<<32-1) {
			t.Errorf("%q maps root to %d", mapping, uid)
		}
	})
}
