package credential

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/registry"
)

// anonymousFor is for how long a repository that nothing is needed for is read
// without asking the sources.
const anonymousFor = 10 * time.Minute

// offered is a credential on its way to a registry and back.
type offered struct {
	Secret
	lease lease
}

// offer makes a credential of what may become the lease.
func offer(l lease) registry.Credential {
	return registry.Credential{Auth: &offered{Secret: l.secret, lease: l}, Expires: l.expires, Name: l.source}
}

// Current implements registry.Credentials.
func (s *Store) Current(ctx context.Context, repo name.Repository) (registry.Credential, error) {
	return s.pick(ctx, repo, time.Time{})
}

// Next implements registry.Credentials.
func (s *Store) Next(ctx context.Context, repo name.Repository, refused registry.Credential) (registry.Credential, error) {
	before, ok := refused.Auth.(*offered)
	if !ok {
		return registry.Credential{}, fmt.Errorf("%w: not a credential of the store", registry.ErrNoCredential)
	}
	s.metrics.refused.WithLabelValues(before.lease.source).Inc()
	now := time.Now()
	s.mu.Lock()
	r := s.repository(repo)
	for secret, refusal := range r.refused {
		if now.After(refusal.until) {
			delete(r.refused, secret)
		}
	}
	r.refused[before.lease.secret] = refusal{source: before.lease.source, until: now.Add(about(s.cfg.RefusedFor))}
	// The source may have a newer one, but is not asked without end.
	if a := r.answers[before.lease.source]; a != nil && now.Sub(a.asked) > s.cfg.NegativeFor {
		delete(r.answers, before.lease.source)
	}
	s.mu.Unlock()
	return s.pick(ctx, repo, now)
}

// Accepted implements registry.Credentials.
func (s *Store) Accepted(repo name.Repository, accepted registry.Credential) {
	o, ok := accepted.Auth.(*offered)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.repository(repo)
	delete(r.refused, o.lease.secret)
	now := time.Now()
	r.captured = slices.DeleteFunc(r.captured, func(c capture) bool { return now.Before(r.refused[c.secret].until) })
	if r.lease != nil && *r.lease == o.lease {
		return
	}
	l := o.lease
	r.replace(&l)
	s.changed()
}

// replace makes l the lease. The caller holds the mutex.
func (r *repository) replace(l *lease) {
	if r.lease != nil && r.lease.secret != l.secret {
		r.stale = r.lease
	}
	r.lease = l
}

// usable returns a copy of a lease that may be used now, even past its end.
func (r *repository) usable(l *lease, now time.Time) (lease, bool) {
	if l == nil || now.Before(r.refused[l.secret].until) {
		return lease{}, false
	}
	return *l, true
}

// round is one search for a credential.
type round struct {
	store  *Store
	repo   name.Repository
	after  time.Time
	failed map[string]error // sources that gave no answer
}

// pick returns the first credential that has not been refused: the one accepted
// last, one of kubelet, those of the sources in their order, the one accepted last
// although it is past its end, and none at all.
func (s *Store) pick(ctx context.Context, repo name.Repository, after time.Time) (registry.Credential, error) {
	search := &round{store: s, repo: repo, after: after, failed: make(map[string]error)}
	now := time.Now()
	s.mu.Lock()
	r := s.repository(repo)
	current, ok := r.usable(r.lease, now)
	s.mu.Unlock()
	if ok {
		if l, ok := search.confirm(ctx, current, now); ok {
			return offer(l), nil
		}
	}
	if l, ok := search.captured(now); ok {
		return offer(l), nil
	}
	for _, source := range s.order(current.source) {
		if l, ok := search.ask(ctx, source); ok {
			return offer(l), nil
		}
	}
	return search.last(now)
}

// confirm returns what to use of a source whose credential was accepted: that one,
// or a newer one if it is about to end.
func (t *round) confirm(ctx context.Context, l lease, now time.Time) (lease, bool) {
	due := l.ephemeral || !l.renewAt.IsZero() && now.After(l.renewAt)
	if !due {
		return l, true
	}
	if l.ephemeral {
		return t.ask(ctx, t.store.source(l.source))
	}
	alive := l.expires.IsZero() || now.Before(l.expires)
	if t.after.IsZero() {
		t.after = l.found
	}
	if newer, ok := t.ask(ctx, t.store.source(l.source)); ok {
		return newer, true
	}
	return l, alive && l.source != nothing
}

// lease is what becomes of an answer once a registry accepts it.
func (a Answer) lease(from Source) *lease {
	return &lease{
		secret: a.Secret, source: from.Name(), ephemeral: a.Ephemeral,
		found: a.found, expires: a.Expires, renewAt: a.renewAt,
	}
}

// captured returns the newest credential of kubelet.
func (t *round) captured(now time.Time) (lease, bool) {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	r := t.store.repository(t.repo)
	for _, c := range r.captured {
		if l, ok := r.usable(&lease{secret: c.secret, source: captured}, now); ok {
			return l, true
		}
	}
	return lease{}, false
}

// ask returns the first credential of a source.
func (t *round) ask(ctx context.Context, source Source) (lease, bool) {
	if source == nil {
		return lease{}, false
	}
	a := t.store.ask(ctx, source, t.repo, t.after)
	if a.err != nil {
		t.failed[source.Name()] = a.err
	}
	now := time.Now()
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	r := t.store.repository(t.repo)
	for _, found := range a.found {
		if l, ok := r.usable(found.lease(source), now); ok {
			return l, true
		}
	}
	return lease{}, false
}

// last returns what is left when nobody has a credential.
func (t *round) last(now time.Time) (registry.Credential, error) {
	t.store.mu.Lock()
	defer t.store.mu.Unlock()
	r := t.store.repository(t.repo)
	for _, old := range []*lease{r.lease, r.stale} {
		l, ok := r.usable(old, now)
		if ok && t.failed[l.source] != nil {
			// Its source does not answer, and may have said too short a life.
			l.renewAt = now.Add(about(t.store.cfg.NegativeFor))
			return offer(l), nil
		}
	}
	end := now.Add(anonymousFor)
	if l, ok := r.usable(&lease{source: nothing, expires: end, renewAt: end}, now); ok {
		return offer(l), nil
	}
	return registry.Credential{}, t.exhausted(r, now)
}

// exhausted says what has been tried. The caller holds the mutex.
func (t *round) exhausted(r *repository, now time.Time) error {
	var refused []string
	for _, refusal := range r.refused {
		if now.Before(refusal.until) {
			refused = append(refused, refusal.source)
		}
	}
	slices.Sort(refused)
	err := fmt.Errorf("%w for %s: refused were those of: %s",
		registry.ErrNoCredential, t.repo, strings.Join(slices.Compact(refused), ", "))
	for _, source := range t.store.cfg.Sources {
		if failure := t.failed[source.Name()]; failure != nil {
			err = fmt.Errorf("%w; %s: %w", err, source.Name(), failure)
		}
	}
	return err
}

// order returns the sources, the named one first.
func (s *Store) order(first string) []Source {
	sources := slices.Clone(s.cfg.Sources)
	slices.SortStableFunc(sources, func(a, b Source) int {
		switch {
		case a.Name() == first && b.Name() != first:
			return -1
		case b.Name() == first && a.Name() != first:
			return 1
		default:
			return 0
		}
	})
	return sources
}

// source returns the source of that name, nil if there is none.
func (s *Store) source(named string) Source {
	i := slices.IndexFunc(s.cfg.Sources, func(source Source) bool { return source.Name() == named })
	if i < 0 {
		return nil
	}
	return s.cfg.Sources[i]
}

// errSlow stands for an answer that has not come yet.
var errSlow = errors.New("no answer yet")
