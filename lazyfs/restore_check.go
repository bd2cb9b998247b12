package lazyfs

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/lazyfs/kernel"
)

// errGone says that a recorded mount is not there any more.
var errGone = errors.New("it is not there any more")

// find returns what is mounted on a directory: the last of what is there.
func (r *restorer) find(point string) (found kernel.MountInfo, ok bool) {
	for _, m := range r.mounts {
		if m.Point == point {
			found, ok = m, true
		}
	}
	return found, ok
}

// reopen asks for the layers of a mount, and checks that they are the same.
func (r *restorer) reopen(ctx context.Context, m *revival) ([]*index.Layer, error) {
	if r.fs.cfg.Reopen == nil {
		if m.backend == Tree {
			return nil, errors.New("the layers of a tree are unknown")
		}
		return nil, nil
	}
	layers, err := r.fs.cfg.Reopen(ctx, m.Mount)
	if err != nil {
		return nil, fmt.Errorf("opening the layers of %s again: %w", m.name, err)
	}
	same := len(layers) == len(m.record.Layers)
	for i := 0; same && i < len(layers); i++ {
		same = layers[i].StreamID() == m.record.Layers[i].Stream && layers[i].StreamSize() == m.record.Layers[i].Size
	}
	if !same {
		return nil, fmt.Errorf("opening the layers of %s again: %w: they are not those that are mounted", m.name, errRecord)
	}
	return layers, nil
}

// there reports whether everything that a record speaks of is still there.
func (r *restorer) there(record *mountRecord) error {
	if record.Boot != r.fs.records.boot {
		return fmt.Errorf("%w: the machine has been started again", errGone)
	}
	root, ok := r.find(record.Root)
	switch {
	case !ok && !record.overlaid():
		return fmt.Errorf("%w: nothing is mounted on %s", errGone, record.Root)
	case record.overlaid() && filepath.Dir(record.Root) != filepath.Join(r.fs.cfg.StateDir, "mnt"):
		return fmt.Errorf("%w: the root is on %s", errRecord, record.Root)
	case record.Backend == Tree && root.Type != fuseType,
		record.Backend != Tree && (root.Type != "erofs" || backing(root) != r.fs.metadataPath(record.ID, record.Merge)):
		return fmt.Errorf("%w: %s of %q is on %s", errGone, root.Type, root.Source, record.Root)
	case record.Backend == Tree && record.Merge != erofs.MergeVersion:
		return fmt.Errorf("%w: another release has numbered the files of %s", errGone, record.Root)
	}
	if top, _ := r.find(record.Target); record.overlaid() && top.Type != "overlay" {
		return fmt.Errorf("%w: no overlay is on %s", errGone, record.Target)
	}
	if record.direct() {
		return nil
	}
	return r.connected(record)
}

// connected reports whether the connection of a mount has been kept.
func (r *restorer) connected(record *mountRecord) error {
	dir := r.fs.flat.dir
	if record.Backend == Tree {
		dir = record.Root
	} else if r.flat != "" && r.flat != record.Session {
		return fmt.Errorf("%w: its layers are on another connection", errGone)
	}
	session, ok := r.sessions[record.Session]
	_, held := r.held[record.Session]
	mounted, _ := r.find(dir)
	switch {
	case !held:
		return fmt.Errorf("%w: its connection has not been kept", errGone)
	case !ok:
		return fmt.Errorf("%w: its connection is not recorded", errRecord)
	case session.Dir != dir || mounted.Device != session.Device:
		return fmt.Errorf("%w: its connection is not that of %s", errGone, dir)
	case !session.Settings.Resumable():
		return errNotKept
	}
	return nil
}
