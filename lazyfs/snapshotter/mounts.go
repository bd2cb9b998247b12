package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/brisk-project/brisk/lazyfs/kernel"
)

// unmountTimeout is how long unmounting may take before it is tried again some time
// later.
const unmountTimeout = 5 * time.Second

// keptGone is how many users that were are kept in mind before it is seen to which of
// them can be forgotten.
const keptGone = 64

// mountTable holds the mounts of lazy snapshots, each made for its first user and
// undone after its last one. Users are snapshots, by number.
type mountTable struct {
	root    string
	images  Images
	log     *slog.Logger
	metrics *metrics
	nudge   func() // asks for tidy

	adopted chan struct{} // closed when the mounts of a process before are known

	mu     sync.Mutex // guards the maps, and the users in them
	mounts map[string]*lazyMount
}

// lazyMount is the mount of one lazy snapshot.
type lazyMount struct {
	ref   lazyRef
	users map[string]struct{}
	gone  map[string]struct{} // users before; an overlay of theirs may still be mounted

	mu      sync.Mutex // held while mounting and unmounting; taken before the table's
	mounted Mounted    // nil if it is not
}

func newMountTable(cfg Config, m *metrics, nudge func()) *mountTable {
	return &mountTable{
		root: cfg.Root, images: cfg.Images, log: cfg.Logger, metrics: m, nudge: nudge,
		mounts: make(map[string]*lazyMount), adopted: make(chan struct{}),
	}
}

// adopt goes on with the mounts of a process before this one. Those that no snapshot
// uses any more are for tidy.
func (t *mountTable) adopt(restored map[string]Mounted) {
	t.mu.Lock()
	for target, mounted := range restored {
		snapshot := filepath.Base(filepath.Dir(target))
		if fsPath(t.root, snapshot) != target {
			continue
		}
		m := t.mounts[snapshot]
		if m == nil {
			m = &lazyMount{ref: lazyRef{snapshot: snapshot}, users: make(map[string]struct{}), gone: make(map[string]struct{})}
			t.mounts[snapshot] = m
		}
		m.mounted = mounted // nobody mounts before adopted is closed
		t.metrics.mounted(1)
	}
	t.mu.Unlock()
	close(t.adopted)
}

// use adds a user without mounting anything.
func (t *mountTable) use(ref lazyRef, user string) *lazyMount {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.mounts[ref.snapshot]
	if m == nil {
		m = &lazyMount{ref: ref, users: make(map[string]struct{}), gone: make(map[string]struct{})}
		t.mounts[ref.snapshot] = m
	}
	if m.ref.image == "" {
		m.ref = ref // it was adopted
	}
	m.users[user] = struct{}{}
	delete(m.gone, user)
	return m
}

// acquire adds a user and mounts the snapshot if it is not mounted.
func (t *mountTable) acquire(ctx context.Context, ref lazyRef, user string) error {
	m := t.use(ref, user)
	err := t.mount(ctx, m)
	if err != nil {
		t.release(ctx, ref.snapshot, user)
	}
	return err
}

func (t *mountTable) mount(ctx context.Context, m *lazyMount) error {
	select {
	case <-t.adopted:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mounted != nil {
		return nil
	}
	target := fsPath(t.root, m.ref.snapshot)
	if err := os.MkdirAll(target, 0o755); err != nil { //nolint:gosec // a mount point
		return fmt.Errorf("making the mount point of an image: %w", err)
	}
	// The mount is for everybody: one who does not wait for it must not break it off.
	mounted, err := t.images.Mount(context.WithoutCancel(ctx), m.ref.image, m.ref.layers, target)
	if err != nil {
		return fmt.Errorf("mounting %d layers of image %s: %w", m.ref.layers, m.ref.image, err)
	}
	m.mounted = mounted
	t.metrics.mounted(1)
	return nil
}

// swap makes one user of another.
func (t *mountTable) swap(snapshot, before, after string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.mounts[snapshot]; m != nil {
		delete(m.users, before)
		m.users[after] = struct{}{}
	}
}

// release removes a user. The mount is undone with the last one, unless somebody still
// has it mounted; then [mountTable.tidy] does it later.
func (t *mountTable) release(ctx context.Context, snapshot, user string) {
	t.mu.Lock()
	m := t.mounts[snapshot]
	crowded := false
	if m != nil {
		delete(m.users, user)
		m.gone[user] = struct{}{}
		crowded = len(m.gone) > keptGone
	}
	t.mu.Unlock()
	if m == nil {
		return
	}
	if crowded {
		t.forgetGone(ctx, m)
	}
	done, err := t.unmount(ctx, m)
	if err != nil {
		t.log.WarnContext(ctx, "an image that no snapshot uses stays mounted until it can be unmounted", "image", m.ref.image, "error", err)
	}
	if !done {
		t.nudge()
	}
}

// forgetGone forgets the users before whose overlays are not mounted any more.
func (t *mountTable) forgetGone(ctx context.Context, m *lazyMount) {
	all, err := kernel.Mounts()
	if err != nil {
		t.log.WarnContext(ctx, "the users before of an image are kept in mind", "image", m.ref.image, "error", err)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(m.gone, func(user string, _ struct{}) bool {
		upper := []string{fsPath(t.root, user)}
		return !slices.ContainsFunc(all, func(other kernel.MountInfo) bool {
			return other.Type == "overlay" && uses(other.Options, "", upper)
		})
	})
}

// drop removes a user from whichever mounts it uses.
func (t *mountTable) drop(ctx context.Context, user string) {
	t.mu.Lock()
	var used []string
	for id, m := range t.mounts {
		if _, ok := m.users[user]; ok {
			used = append(used, id)
		}
	}
	t.mu.Unlock()
	for _, id := range used {
		t.release(ctx, id, user)
	}
}

// unmount unmounts what has no users. It reports whether there is nothing left to do.
func (t *mountTable) unmount(ctx context.Context, m *lazyMount) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.used(m) {
		return true, nil
	}
	if m.mounted != nil {
		busy, err := t.busy(m)
		if busy || err != nil {
			return false, err
		}
		patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), unmountTimeout)
		defer cancel()
		if err := m.mounted.Unmount(patient); err != nil {
			return false, err
		}
		m.mounted = nil
		t.metrics.mounted(-1)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(m.users) == 0 && t.mounts[m.ref.snapshot] == m {
		delete(t.mounts, m.ref.snapshot)
	}
	return true, nil
}

func (t *mountTable) used(m *lazyMount) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(m.users) > 0
}

// busy reports whether something on top of the mount is still mounted. The kernel would
// not say: it lets lower directories of overlays be unmounted, and what is left
// of the image then loses its files.
func (t *mountTable) busy(m *lazyMount) (bool, error) {
	all, err := kernel.Mounts()
	if err != nil {
		return false, err
	}
	target := fsPath(t.root, m.ref.snapshot)
	uppers := t.uppers(m)
	var device string
	for _, other := range all {
		if other.Point == target {
			device = other.Device
		}
	}
	for _, other := range all {
		switch {
		case other.Point == target:
		case device != "" && other.Device == device:
			return true, nil
		case other.Type == "overlay" && uses(other.Options, target, uppers):
			return true, nil
		}
	}
	return false, nil
}

// uppers returns the upper directories of the users that were.
func (t *mountTable) uppers(m *lazyMount) []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var dirs []string
	for user := range m.gone {
		dirs = append(dirs, fsPath(t.root, user))
	}
	return dirs
}

// uses reports whether an overlay has one of the directories. The lower ones may go by
// other names, as they do in user namespaces; the upper one never does.
func uses(options, lower string, uppers []string) bool {
	for option := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch {
		case key == "upperdir" && slices.Contains(uppers, value),
			key == "lowerdir" && slices.Contains(strings.Split(value, ":"), lower),
			key == "lowerdir+" && value == lower:
			return true
		}
	}
	return false
}

// mounted reports whether a lazy snapshot is or may be mounted.
func (t *mountTable) mounted(snapshot string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.mounts[snapshot] != nil
}

// tidy unmounts what was busy when its last user went. It reports whether something
// still is.
func (t *mountTable) tidy(ctx context.Context) (bool, error) {
	t.mu.Lock()
	all := make([]*lazyMount, 0, len(t.mounts))
	for _, m := range t.mounts {
		if len(m.users) == 0 {
			all = append(all, m)
		}
	}
	t.mu.Unlock()
	var errs []error
	left := false
	for _, m := range all {
		done, err := t.unmount(ctx, m)
		left = left || !done
		errs = append(errs, err)
	}
	return left, errors.Join(errs...)
}
