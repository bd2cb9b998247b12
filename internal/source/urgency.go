package source

import (
	"context"

	"github.com/brisk-project/brisk/internal/block"
)

// urgency is what a shared fetch tells those below of who waits for it, so that they
// do not hold up a read because the fetch was started by a fill.
type urgency struct {
	s  *SingleFlight
	f  *flight
	up *urgency // of the fetch that started this one
}

type urgencyKey struct{}

// urgencyOf returns nil outside of shared fetches.
func urgencyOf(ctx context.Context) *urgency {
	if u, ok := ctx.Value(urgencyKey{}).(*urgency); ok {
		return u
	}
	return nil
}

// withUrgency returns the context of a flight.
func withUrgency(ctx context.Context, s *SingleFlight, f *flight) context.Context {
	up := urgencyOf(ctx)
	return context.WithValue(ctx, urgencyKey{}, &urgency{s: s, f: f, up: up})
}

// urgent returns the most urgent class of all that wait for what is fetched with the
// context.
func urgent(ctx context.Context, class block.Class) block.Class {
	for u := urgencyOf(ctx); u != nil; u = u.up {
		u.s.mu.Lock()
		for w := range u.f.waiters {
			class = min(class, w.class)
		}
		u.s.mu.Unlock()
	}
	return class
}
