package snapshotter

import (
	"context"
	"time"
)

const (
	// graduateAfter is how long a mount must have been idle before it graduates: a container
	// that restarts at once does not wait for that.
	graduateAfter = time.Second
	// graduateLook is how often idle mounts of incomplete images are looked at.
	graduateLook = time.Minute
	// warmTimeout bounds reading into the page cache again what it had before.
	warmTimeout = 10 * time.Second
)

// graduateIdle mounts complete images anew, so that their next containers read plain files.
// It returns after what time to look again, zero if there is nothing to look at.
func (t *mountTable) graduateIdle(ctx context.Context) (next time.Duration) {
	t.mu.Lock()
	now, idle := t.now(), t.idleLocked()
	var due []*lazyMount
	for _, m := range idle {
		look := graduateLook
		switch age := now.Sub(m.idleSince); {
		case m.graduated:
			continue
		case age < graduateAfter:
			look = graduateAfter - age
		default:
			due = append(due, m)
		}
		if next == 0 || look < next {
			next = look
		}
	}
	t.mu.Unlock()
	for _, m := range due {
		if err := t.graduate(ctx, m); err != nil {
			t.log.WarnContext(ctx, "an idle mount was not replaced by one of plain files", "image", m.ref.image, "error", err)
		}
	}
	return next
}

// graduate replaces an idle mount of a complete image.
func (t *mountTable) graduate(ctx context.Context, m *lazyMount) error {
	warm, err := t.remount(ctx, m)
	if warm != nil {
		patient, cancel := context.WithTimeout(ctx, warmTimeout)
		defer cancel()
		warm(patient)
	}
	return err
}

// remount is what containers wait for. It is tried once: what cannot be had now will not be
// had later.
func (t *mountTable) remount(ctx context.Context, m *lazyMount) (warm func(context.Context), err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mounted == nil || !t.isIdle(m) || !m.mounted.CanGraduate() {
		return nil, nil
	}
	if busy, err := t.busy(m); busy || err != nil {
		return nil, err
	}
	t.mu.Lock()
	m.graduated = true
	t.mu.Unlock()
	patient, cancel := context.WithTimeout(context.WithoutCancel(ctx), unmountTimeout)
	defer cancel()
	m.mounted, warm, err = m.mounted.Graduate(patient)
	if m.mounted == nil {
		t.setLive(m, false)
	}
	return warm, err
}

// isIdle reports whether a mount has no users.
func (t *mountTable) isIdle(m *lazyMount) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return m.live && len(m.users) == 0
}
