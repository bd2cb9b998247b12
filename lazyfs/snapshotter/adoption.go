package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// The labels with which a snapshot is prepared that adopts a directory of another
// snapshotter. containerd passes labels on whose names begin like these.
const (
	// LabelAdopt is the directory, as an absolute path.
	LabelAdopt = "containerd.io/snapshot/dev.brisk.adopt"
	// LabelAdoptWhole, if not empty, says that the directory has the files of all
	// parents too, and takes their place.
	LabelAdoptWhole = "containerd.io/snapshot/dev.brisk.adopt.whole"
	// LabelAdoptUsage is what the directory takes, as bytes,inodes.
	LabelAdoptUsage = "containerd.io/snapshot/dev.brisk.adopt.usage"
)

// The labels of adopted snapshots. Nobody but the snapshotter can set them, so whoever has
// prepared one learns from LabelAdopted that it was understood.
const (
	LabelAdopted = "dev.brisk.snapshot.directory"
	LabelWhole   = "dev.brisk.snapshot.whole" // not empty if the directory has the files of all parents
)

// adoption is what the labels of a snapshot say of a directory to adopt.
type adoption struct {
	dir   string
	whole bool
	usage snapshots.Usage
}

// adoptionOf returns nil if there is no directory to adopt.
func adoptionOf(labels map[string]string) (*adoption, error) {
	dir, ok := labels[LabelAdopt]
	if !ok {
		return nil, nil
	}
	if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || strings.ContainsAny(dir, ",:\\") {
		return nil, fmt.Errorf("%w: %.200q cannot be adopted: it is not an absolute path that mount options can hold", errdefs.ErrInvalidArgument, dir)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: adopting a directory: %w", errdefs.ErrInvalidArgument, err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%w: adopting %s: it is not a directory", errdefs.ErrInvalidArgument, dir)
	}
	found := &adoption{dir: dir, whole: labels[LabelAdoptWhole] != ""}
	if text, ok := labels[LabelAdoptUsage]; ok {
		size, inodes, _ := strings.Cut(text, ",")
		var errs [2]error
		found.usage.Size, errs[0] = strconv.ParseInt(size, 10, 64)
		found.usage.Inodes, errs[1] = strconv.ParseInt(inodes, 10, 64)
		if err := errors.Join(errs[:]...); err != nil {
			return nil, fmt.Errorf("%w: reading the size of an adopted directory: %w", errdefs.ErrInvalidArgument, err)
		}
	}
	return found, nil
}

// labels returns those of the snapshot besides the ones that it is prepared with.
func (a *adoption) labels() map[string]string {
	own := map[string]string{LabelAdopted: a.dir}
	if a.whole {
		own[LabelWhole] = "true"
	}
	return own
}

// mounts are those of the snapshot before it is committed: nobody is to write to what
// belongs to another snapshotter.
func (a *adoption) mounts() []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: a.dir, Options: []string{"ro", "rbind"}}}
}

// prepareAdopted makes a snapshot whose directory is a link to that of another
// snapshotter. It keeps no files of its own, so nothing but the link is ever removed.
func (s *Snapshotter) prepareAdopted(ctx context.Context, key, parent string, given map[string]string, a *adoption) ([]mount.Mount, error) {
	marked := withoutOwn(given)
	maps.Copy(marked, a.labels())
	err := s.store.WithTransaction(ctx, true, func(ctx context.Context) error {
		made, err := storage.CreateSnapshot(ctx, snapshots.KindActive, key, parent, snapshots.WithLabels(marked))
		if err != nil {
			return err
		}
		return s.makeDir(made.ID, false, func(dir string) error {
			return errors.Join(os.Remove(dir), os.Symlink(a.dir, dir))
		})
	})
	if err != nil {
		return nil, fmt.Errorf("adopting %s: %w", a.dir, err)
	}
	return a.mounts(), nil
}
