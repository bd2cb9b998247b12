package source_test

import (
	"context"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/internal/source"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store is a plain store for tests, run through the suite in TestStore.
type store struct {
	mu     sync.Mutex
	blocks map[block.Key][]byte
	refuse error // what Put returns, if not nil
}

func newStore() *store { return &store{blocks: make(map[block.Key][]byte)} }

func (s *store) Put(_ context.Context, k block.Key, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuse != nil {
		return s.refuse
	}
	s.blocks[k] = append([]byte(nil), data...)
	return nil
}

func (s *store) Has(k block.Key) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.blocks[k] != nil
}

func (s *store) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	missing := false
	for i := range req.Count {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		k := req.Key(i)
		s.mu.Lock()
		data := s.blocks[k]
		s.mu.Unlock()
		if data == nil {
			missing = true
			continue
		}
		if err := sink(k, data); err != nil {
			return err
		}
	}
	if missing {
		return &block.Error{Source: "store", Op: "reading", Range: req.Range, Err: block.ErrNotFound}
	}
	return nil
}

func TestStore(t *testing.T) {
	blocktest.TestStore(t, blocktest.Standard(), func(*testing.T, *blocktest.Fixture) block.Store { return newStore() })
}

// node stacks the decorators the way a node does.
func node(fx *blocktest.Fixture, upstream block.Source) block.Source {
	disk := newStore()
	verified := source.Verify(upstream, fx, source.VerifyConfig{Name: "registry"})
	fetch := source.Retry(source.NewPriority(verified, source.PriorityConfig{}), source.RetryConfig{})
	shared := source.NewSingleFlight(source.ReadThrough(disk, fetch, source.ReadThroughConfig{}), source.SingleFlightConfig{})
	return source.Chain(source.Tier{Name: "disk", Source: disk}, source.Tier{Name: "upstream", Source: shared})
}

func TestConformance(t *testing.T) {
	for _, test := range []struct {
		name string
		wrap func(fx *blocktest.Fixture, src block.Source) block.Source
	}{
		{"Verify", func(fx *blocktest.Fixture, src block.Source) block.Source {
			return source.Verify(src, fx, source.VerifyConfig{})
		}},
		{"Retry", func(_ *blocktest.Fixture, src block.Source) block.Source {
			return source.Retry(src, source.RetryConfig{})
		}},
		{"Chain", func(_ *blocktest.Fixture, src block.Source) block.Source {
			return source.Chain(source.Tier{Name: "empty", Source: newStore()}, source.Tier{Name: "full", Source: src})
		}},
		{"Fill", func(_ *blocktest.Fixture, src block.Source) block.Source {
			return source.ReadThrough(newStore(), src, source.ReadThroughConfig{})
		}},
		{"Priority", func(_ *blocktest.Fixture, src block.Source) block.Source {
			return source.NewPriority(src, source.PriorityConfig{})
		}},
		{"SingleFlight", func(_ *blocktest.Fixture, src block.Source) block.Source {
			return source.NewSingleFlight(src, source.SingleFlightConfig{Window: 7})
		}},
		{"Node", node},
	} {
		t.Run(test.name, func(t *testing.T) {
			blocktest.TestSource(t, blocktest.Standard(), func(_ *testing.T, fx *blocktest.Fixture) block.Source {
				return test.wrap(fx, blocktest.NewSource(fx))
			})
		})
		t.Run(test.name+"OverFrames", func(t *testing.T) {
			blocktest.TestSource(t, blocktest.Raw(), func(_ *testing.T, fx *blocktest.Fixture) block.Source {
				src := blocktest.NewSource(fx)
				src.Frame(4)
				return test.wrap(fx, src)
			})
		})
	}
}
