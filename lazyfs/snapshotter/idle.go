package snapshotter

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// IdleMounts limits the mounts that no snapshot uses. An image that is started again soon can use
// the page cache of its mount.
type IdleMounts struct {
	// Max is the maximum number of idle mounts; zero keeps none.
	Max int
	// Timeout is the maximum time without a container.
	Timeout time.Duration
}

// Shortage is a resource that is short.
type Shortage string

// The reasons to call [Snapshotter.ReleaseIdleMounts].
const (
	MemoryPressure Shortage = "pressure"
	FullCache      Shortage = "cache" // the disk cache has to evict
)

// The other reasons to unmount idle mounts, as the metrics show them.
const (
	unwantedNumber  = "number"  // others were used later
	unwantedAge     = "age"     // it was not used for too long
	unwantedRemoved = "removed" // its snapshot has been removed
	unwantedFalse   = "false-index"
)

// IdleStatus is an image whose mount no snapshot uses.
type IdleStatus struct {
	Image  string    // its ID
	Layers int       // how many of its layers are mounted
	Since  time.Time // when the last snapshot was removed
}

// idleLocked returns the mounts without users, those that were used last first.
func (t *mountTable) idleLocked() []*lazyMount {
	var idle []*lazyMount
	for _, m := range t.mounts {
		if m.live && len(m.users) == 0 {
			idle = append(idle, m)
		}
	}
	slices.SortFunc(idle, func(a, b *lazyMount) int { return b.idleSince.Compare(a.idleSince) })
	return idle
}

func (t *mountTable) countIdleLocked() { t.metrics.idle(len(t.idleLocked())) }

// status returns the idle mounts, those that were used last first.
func (t *mountTable) status() []IdleStatus {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []IdleStatus
	for _, m := range t.idleLocked() {
		all = append(all, IdleStatus{Image: m.ref.image, Layers: m.ref.layers, Since: m.idleSince})
	}
	return all
}

// relieve gives up the half of the idle mounts that was not used for longest, but at least one.
// It reports whether there was any.
func (t *mountTable) relieve(of Shortage) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	idle := t.idleLocked()
	for _, m := range idle[len(idle)/2:] {
		m.unwanted = string(of)
	}
	return len(idle) > 0
}

// unused returns the mounts without users.
func (t *mountTable) unused() []*lazyMount {
	t.mu.Lock()
	defer t.mu.Unlock()
	var all []*lazyMount
	for _, m := range t.mounts {
		if len(m.users) == 0 {
			all = append(all, m)
		}
	}
	return all
}

// mark says of each idle mount whether it is kept. It returns those that are not, and when the
// next one of the others ages, if there are any. exist are the numbers of all snapshots: those that
// there were after unused was asked for.
func (t *mountTable) mark(unused []*lazyMount, exist map[string]string) (surplus []*lazyMount, next time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, kept := t.now(), 0
	for _, m := range t.idleLocked() {
		age := now.Sub(m.idleSince)
		switch {
		case m.unwanted != "" || !slices.Contains(unused, m):
		case exist[m.ref.snapshot] == "":
			m.unwanted = unwantedRemoved
		case kept >= t.idle.Max:
			m.unwanted = unwantedNumber
		case age >= t.idle.Timeout:
			m.unwanted = unwantedAge
		case t.check != nil && t.check(m.ref.image, m.ref.layers) != nil:
			m.unwanted = unwantedFalse
		default:
			kept++
			if left := t.idle.Timeout - age; next == 0 || left < next {
				next = left
			}
		}
	}
	for _, m := range unused {
		if len(m.users) == 0 && (m.unwanted != "" || !m.live) {
			surplus = append(surplus, m)
		}
	}
	return surplus, next
}

// tidy unmounts what has no users and is not kept. It reports whether something that is to be
// unmounted is still in use, and after what time there will be more to unmount.
func (t *mountTable) tidy(ctx context.Context, snapshots func(context.Context) (map[string]string, error)) (left bool, next time.Duration, err error) {
	select {
	case <-t.adopted:
	default:
		return false, 0, nil
	}
	unused := t.unused()
	if len(unused) == 0 {
		return false, 0, nil
	}
	exist, err := snapshots(ctx)
	if err != nil {
		return true, 0, err
	}
	surplus, next := t.mark(unused, exist)
	var errs []error
	for _, m := range surplus {
		done, err := t.unmount(ctx, m)
		left = left || !done
		errs = append(errs, err)
	}
	if look := t.graduateIdle(ctx); look > 0 && (next == 0 || look < next) {
		next = look
	}
	return left, next, errors.Join(errs...)
}

// writeIdleSince has the next process know since when a mount is idle.
func (t *mountTable) writeIdleSince(ctx context.Context, m *lazyMount) {
	t.mu.Lock()
	since := m.idleSince
	t.mu.Unlock()
	if err := os.Chtimes(filepath.Dir(fsPath(t.root, m.ref.snapshot)), since, since); err != nil {
		t.log.DebugContext(ctx, "it is not on record since when a mount is idle", "image", m.ref.image, "error", err)
	}
}

// readIdleSince returns since when a mount is idle that a process before this one has made.
func (t *mountTable) readIdleSince(snapshot string) time.Time {
	now := t.now()
	info, err := os.Stat(filepath.Dir(fsPath(t.root, snapshot)))
	if err != nil || info.ModTime().After(now) {
		return now
	}
	return info.ModTime()
}
