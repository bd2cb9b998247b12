package adopt

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"
)

// errNoDirectory says that a snapshotter has something else than directories.
var errNoDirectory = errors.New("its snapshotter keeps no directories that can be adopted")

// tree is a directory of a snapshotter.
type tree struct {
	dir   string
	whole bool // it has the files of all parents
}

// adoptable reports whether the snapshots of an image can be adopted.
func (p *Plan) adoptable(ctx context.Context, image *Image) (bool, error) {
	adoptable := false
	err := leased(ctx, p.client, func(ctx context.Context) error {
		_, err := treesOf(ctx, p.client.SnapshotService(image.Snapshotter), image.Chain)
		if errors.Is(err, errNoDirectory) {
			return nil
		}
		adoptable = err == nil
		return err
	})
	if err != nil {
		return false, fmt.Errorf("looking at image %s: %w", image, err)
	}
	return adoptable, nil
}

// treesOf returns the directories of snapshots, the lowest one first: one a layer, or,
// where a snapshotter copies parents, one for all layers up to each. The views that
// tell need a lease.
func treesOf(ctx context.Context, from snapshots.Snapshotter, chain []string) ([]tree, error) {
	top, err := lowersOf(ctx, from, chain[len(chain)-1])
	if err != nil {
		return nil, err
	}
	trees := make([]tree, len(chain))
	switch {
	case len(top) == len(chain):
		for i, dir := range top {
			trees[len(top)-1-i] = tree{dir: dir}
		}
	case len(top) == 1:
		for i, name := range chain {
			dirs, err := lowersOf(ctx, from, name)
			if err != nil {
				return nil, err
			}
			if len(dirs) != 1 {
				return nil, errNoDirectory
			}
			trees[i] = tree{dir: dirs[0], whole: i > 0}
		}
	default:
		return nil, errNoDirectory
	}
	for _, t := range trees {
		if !lasting(t.dir) {
			return nil, fmt.Errorf("%w: %s is none that stays", errNoDirectory, t.dir)
		}
	}
	return trees, nil
}

// lasting reports whether something is a directory that is there without its snapshotter:
// those that load lazily mount something on it.
func lasting(dir string) bool {
	var here, above unix.Stat_t
	if !filepath.IsAbs(dir) || unix.Lstat(dir, &here) != nil || unix.Lstat(filepath.Dir(dir), &above) != nil {
		return false
	}
	return here.Mode&unix.S_IFMT == unix.S_IFDIR && here.Dev == above.Dev
}

// lowersOf returns the directories that are mounted for a snapshot, the uppermost first.
func lowersOf(ctx context.Context, from snapshots.Snapshotter, name string) (dirs []string, err error) {
	key := "look-" + rand.Text() + " " + name
	mounts, err := from.View(ctx, key, name)
	if err != nil {
		return nil, fmt.Errorf("looking at snapshot %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, remove(ctx, from, key)) }()
	return directories(mounts)
}

// directories returns those of a read-only mount, the uppermost first.
func directories(mounts []mount.Mount) ([]string, error) {
	if len(mounts) != 1 {
		return nil, errNoDirectory
	}
	switch m := mounts[0]; m.Type {
	case "bind":
		return []string{m.Source}, nil
	case "overlay":
		for _, option := range m.Options {
			if lowers, ok := strings.CutPrefix(option, "lowerdir="); ok {
				return strings.Split(lowers, ":"), nil
			}
		}
	}
	return nil, errNoDirectory
}
