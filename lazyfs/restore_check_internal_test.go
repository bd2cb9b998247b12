package lazyfs

import (
	"errors"
	"testing"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/kernel"
)

// A mount that an earlier release has made goes on after an update, but for a tree: the
// kernel knows its files by numbers that this release gives to others.
func TestMountsOfEarlierReleasesAreFound(t *testing.T) {
	const root = "/target"
	id := block.Sum([]byte("image"))
	fs := &FS{cfg: Config{StateDir: "/state"}, records: &records{boot: "boot"}}
	earlier, current := "/state/rootfs/"+id.Hex()+".erofs", fs.MetadataPath(id)
	tests := []struct {
		name           string
		backend        Backend
		merge          int
		source, fsType string
		found          bool
	}{
		{"earlier erofs", Erofs, firstMerge, earlier, "erofs", true},
		{"current erofs", Erofs, erofs.MergeVersion, current, "erofs", true},
		{"earlier record of current metadata", Erofs, firstMerge, current, "erofs", false},
		{"current record of earlier metadata", Erofs, erofs.MergeVersion, earlier, "erofs", false},
		{"earlier tree", Tree, firstMerge, "/state", fuseType, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := &restorer{fs: fs, mounts: []kernel.MountInfo{{Point: root, Type: tt.fsType, Source: tt.source}}}
			record := mountRecord{envelope: envelope{Boot: "boot"}, ID: id, Backend: tt.backend, Target: root, Root: root, Merge: tt.merge}
			if err := r.there(&record); tt.found != (err == nil) || err != nil && !errors.Is(err, errGone) {
				t.Errorf("looking for the mount: %v, want found %v", err, tt.found)
			}
		})
	}
}
