package credential

import (
	"context"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

const (
	// saveDelay gathers what changes at about the same time into one write.
	saveDelay = time.Second
	// idle is how long Run waits when nothing is due.
	idle = time.Hour
	// renewPause is how long Run leaves a credential alone that it could not renew.
	renewPause = time.Minute
)

// Run renews credentials ahead of their end and keeps what changes on disk, until
// ctx ends. It then writes once more, and returns what came of that.
func (s *Store) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return s.Save()
		case <-s.wake:
			timer.Reset(saveDelay)
			continue
		case <-timer.C:
		}
		s.renew(ctx)
		err := s.Save()
		if err != nil && !failing {
			s.log.Warn("credentials will be lost at a restart", "error", err)
		}
		failing = err != nil
		wait := s.untilDue(time.Now())
		if failing {
			wait = min(wait, renewPause)
		}
		timer.Reset(wait)
	}
}

// due is a lease to renew.
type due struct {
	repo   name.Repository
	source Source
	lease  lease
}

// dues returns the leases to renew now.
func (s *Store) dues(now time.Time) []due {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []due
	for _, r := range s.repos.Values() {
		l := r.lease
		if l == nil || l.ephemeral || l.renewAt.IsZero() || now.Before(l.renewAt) {
			continue
		}
		if source := s.source(l.source); source != nil {
			all = append(all, due{r.name, source, *l})
		}
	}
	return all
}

// renew replaces the leases that are about to end by what their sources have now.
func (s *Store) renew(ctx context.Context) {
	for _, d := range s.dues(time.Now()) {
		if ctx.Err() != nil {
			return
		}
		newer, err := s.newer(ctx, d)
		result := "renewed"
		if err != nil {
			result = "failed"
			s.log.Debug("a credential could not be renewed", "repository", d.repo.String(), "from", d.source.Name(), "error", err)
		}
		s.metrics.renewals.WithLabelValues(result).Inc()
		s.mu.Lock()
		if r := s.repository(d.repo); r.lease != nil && *r.lease == d.lease {
			r.replace(&newer)
			s.dirty = true
		}
		s.mu.Unlock()
	}
}

// newer returns what takes the place of a lease: a newer credential, or, with an
// error, the same to be renewed a while later.
func (s *Store) newer(ctx context.Context, d due) (lease, error) {
	a := s.ask(ctx, d.source, d.repo, d.lease.found)
	now := time.Now()
	for _, found := range a.found {
		if found.renewAt.After(now) || found.renewAt.IsZero() {
			return *found.lease(d.source), nil
		}
	}
	later := d.lease
	later.renewAt = now.Add(about(renewPause))
	if a.err == nil {
		return later, fmt.Errorf("%s has none any more", d.source.Name())
	}
	return later, a.err
}

// untilDue is how long there is nothing to renew.
func (s *Store) untilDue(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := idle
	for _, r := range s.repos.Values() {
		if l := r.lease; l != nil && !l.ephemeral && !l.renewAt.IsZero() && s.source(l.source) != nil {
			wait = min(wait, max(saveDelay, l.renewAt.Sub(now)))
		}
	}
	return wait
}
