package snapshotter

import (
	"context"
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

// mountTable holds the mounts of lazy snapshots, each made for its first user. After its
// last one it is idle: [mountTable.tidy] undoes it, at once or some time later. Users are
// snapshots, by number.
type mountTable struct {
	root    string
	images  Images
	idle    IdleMounts
	check   func(id string, layers int) error // nil if nothing is ever wrong
	now     func() time.Time
	log     *slog.Logger
	metrics *metrics
	nudge   func() // asks for tidy

	adopted chan struct{} // closed when the mounts of a process before are known

	mu     sync.Mutex // guards the map, and of its values what says so
	mounts map[string]*lazyMount
}

// lazyMount is the mount of one lazy snapshot.
type lazyMount struct {
	ref lazyRef

	// The lock of the table guards these.
	users     map[string]struct{}
	gone      map[string]struct{} // users before; an overlay of theirs may still be mounted
	live      bool                // whether it is mounted
	idleSince time.Time           // when the last user went, if there are none
	unwanted  string              // why an idle mount is not kept, empty if nothing speaks against it
	graduated bool                // whether graduating it has been tried

	mu      sync.Mutex // held while mounting and unmounting; taken before the table's
	mounted Mounted    // nil if it is not
}

func newMountTable(cfg Config, m *metrics, nudge func()) *mountTable {
	return &mountTable{
		root: cfg.Root, images: cfg.Images, idle: cfg.Idle, check: cfg.Check, now: cfg.Now,
		log: cfg.Logger, metrics: m, nudge: nudge,
		mounts: make(map[string]*lazyMount), adopted: make(chan struct{}),
	}
}

// adopt goes on with the mounts of a process before this one. Those without users are idle
// since the process before has said so; refs are the lazy snapshots that there are, by number.
func (t *mountTable) adopt(restored map[string]Mounted, refs map[string]lazyRef) {
	t.mu.Lock()
	for target, mounted := range restored {
		snapshot := filepath.Base(filepath.Dir(target))
		if fsPath(t.root, snapshot) != target {
			continue
		}
		m := t.mounts[snapshot]
		if m == nil {
			m = newLazyMount(lazyRef{snapshot: snapshot})
			m.idleSince = t.readIdleSince(snapshot)
			t.mounts[snapshot] = m
		}
		if ref, ok := refs[snapshot]; ok {
			m.ref = ref
		}
		m.mounted, m.live = mounted, true // nobody mounts before adopted is closed
		t.metrics.mounted(1)
	}
	t.countIdleLocked()
	t.mu.Unlock()
	close(t.adopted)
}

func newLazyMount(ref lazyRef) *lazyMount {
	return &lazyMount{ref: ref, users: make(map[string]struct{}), gone: make(map[string]struct{})}
}

// use adds a user without mounting anything.
func (t *mountTable) use(ref lazyRef, user string) *lazyMount {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.mounts[ref.snapshot]
	if m == nil {
		m = newLazyMount(ref)
		t.mounts[ref.snapshot] = m
	}
	if m.ref.image == "" {
		m.ref = ref // it was adopted
	}
	if m.live && len(m.users) == 0 {
		t.metrics.reused()
	}
	m.users[user] = struct{}{}
	m.unwanted = ""
	delete(m.gone, user)
	t.countIdleLocked()
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
	t.setLive(m, true)
	return nil
}

// setLive notes whether a mount is mounted. The caller holds the lock of the mount.
func (t *mountTable) setLive(m *lazyMount, live bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m.live = live
	if live {
		t.metrics.mounted(1)
	} else {
		t.metrics.mounted(-1)
		t.metrics.unmounted(m.unwanted)
	}
	t.countIdleLocked()
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

// release removes a user. If idle mounts are not kept the mount is undone with the last
// one, unless somebody still has it mounted; then [mountTable.tidy] does it later.
func (t *mountTable) release(ctx context.Context, snapshot, user string) {
	t.mu.Lock()
	m := t.mounts[snapshot]
	crowded, idle := false, false
	if m != nil {
		delete(m.users, user)
		m.gone[user] = struct{}{}
		crowded = len(m.gone) > keptGone
		idle = m.live && len(m.users) == 0 && t.idle.Max > 0
		m.idleSince = t.now()
		t.countIdleLocked()
	}
	t.mu.Unlock()
	if m == nil {
		return
	}
	if crowded {
		t.forgetGone(ctx, m)
	}
	if idle {
		t.writeIdleSince(ctx, m)
		t.nudge()
		return
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

// unmount unmounts what has no users and is not kept. It reports whether there is nothing left to do.
func (t *mountTable) unmount(ctx context.Context, m *lazyMount) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if t.wanted(m) {
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
		t.setLive(m, false)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(m.users) == 0 && t.mounts[m.ref.snapshot] == m {
		delete(t.mounts, m.ref.snapshot)
	}
	return true, nil
}

// wanted reports whether a mount has users or is kept without.
func (t *mountTable) wanted(m *lazyMount) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(m.users) > 0 || m.live && m.unwanted == "" && t.idle.Max > 0
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
