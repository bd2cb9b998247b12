package credential

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

const (
	// answerFor is for how long an answer holds that does not say so.
	answerFor = 10 * time.Minute
	// shortestRenewal keeps a source with very short-lived credentials from being
	// asked all the time.
	shortestRenewal = 5 * time.Second
)

// ask returns what a source says, from memory if that is recent enough. All that
// wait share one lookup, which outlives each of them: who has waited for long enough
// gets errSlow, and what comes of it is there for whoever asks next.
func (s *Store) ask(ctx context.Context, source Source, repo name.Repository, after time.Time) answer {
	now := time.Now()
	s.mu.Lock()
	known := s.repository(repo).answers[source.Name()]
	s.mu.Unlock()
	if known != nil && now.Before(known.until) {
		return *known
	}
	result := s.flights.DoChan(source.Name()+" "+repo.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.LookupTimeout)
		defer cancel()
		a := s.lookup(ctx, source, Query{Repository: repo, Image: imageName(repo), After: after})
		s.remember(repo, source, a)
		return a, nil
	})
	patience := time.NewTimer(s.cfg.SlowAfter)
	defer patience.Stop()
	select {
	case r := <-result:
		if a, ok := r.Val.(*answer); ok {
			return *a
		}
		return answer{err: errSlow, asked: now}
	case <-patience.C:
		s.metrics.lookups.WithLabelValues(source.Name(), "slow").Inc()
		slow := &answer{err: fmt.Errorf("%w after %s", errSlow, s.cfg.SlowAfter), asked: now, until: time.Now().Add(about(s.cfg.NegativeFor))}
		s.mu.Lock()
		defer s.mu.Unlock()
		if r := s.repository(repo); r.answers[source.Name()] == known {
			r.answers[source.Name()] = slow
		}
		return *slow
	case <-ctx.Done():
		return answer{err: context.Cause(ctx), asked: now}
	}
}

// lookup asks a source.
func (s *Store) lookup(ctx context.Context, source Source, q Query) *answer {
	permits := s.permits[source.Name()]
	asked := time.Now()
	select {
	case permits <- struct{}{}:
		defer func() { <-permits }()
	case <-ctx.Done():
		return &answer{err: fmt.Errorf("waiting for other lookups: %w", context.Cause(ctx)), asked: asked}
	}
	found, err := source.Lookup(ctx, q)
	found = slices.Clone(found) // the source may keep its own
	for i := range found {
		found[i].found, found[i].renewAt = time.Now(), renewal(asked, found[i].Expires)
	}
	return &answer{found: found, err: err, asked: asked}
}

// remember keeps an answer for as long as it holds.
func (s *Store) remember(repo name.Repository, source Source, a *answer) {
	now := time.Now()
	result := "found"
	switch {
	case a.err != nil:
		result = "failed"
		a.until = now.Add(about(s.cfg.NegativeFor))
		s.log.Debug("looking up a credential failed", "repository", repo.String(), "from", source.Name(), "error", a.err)
	case len(a.found) == 0:
		result = "none"
		a.until = now.Add(about(s.cfg.NegativeFor))
	default:
		a.until = now.Add(about(answerFor))
	}
	for _, found := range a.found {
		if found.Ephemeral {
			a.until = now
		}
		if !found.renewAt.IsZero() && found.renewAt.Before(a.until) {
			a.until = found.renewAt
		}
	}
	s.metrics.lookups.WithLabelValues(source.Name(), result).Inc()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.repository(repo).answers[source.Name()] = a
}

// renewal is when a credential is to be replaced that was found at one time and ends
// at another: between half and four fifths of its life, so that not all nodes come
// at once and there is time for failures. Zero if it has no end.
func renewal(found, expires time.Time) time.Time {
	if expires.IsZero() {
		return time.Time{}
	}
	return found.Add(max(shortestRenewal, about(max(0, expires.Sub(found)*16/25))))
}
