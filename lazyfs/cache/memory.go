package cache

import (
	"context"
	"errors"
	"math"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/brisk-project/brisk/internal/block"
)

// MemoryConfig configures [NewMemory].
type MemoryConfig struct {
	// MaxBytes bounds the memory of all blocks, with what it takes to keep them.
	// Required.
	MaxBytes int64
	// Registerer takes the metrics, nil for none.
	Registerer prometheus.Registerer
}

// entryOverhead is what a block takes in memory besides its data: entry of the
// list, entry of the map, allocation. Measured: 203 bytes with 200,000 blocks.
const entryOverhead = 256

// Memory keeps blocks in memory, those used last. It implements [block.Store] and
// [block.Holder].
type Memory struct {
	max     int64
	evicted prometheus.Counter

	mu     sync.Mutex
	blocks *simplelru.LRU[block.Key, []byte]
	bytes  int64
}

// NewMemory returns an empty cache.
func NewMemory(cfg MemoryConfig) (*Memory, error) {
	if cfg.MaxBytes <= 0 {
		return nil, errors.New("memory cache needs a bound in bytes")
	}
	m := &Memory{max: cfg.MaxBytes}
	metrics := promauto.With(cfg.Registerer)
	m.evicted = metrics.NewCounter(prometheus.CounterOpts{
		Name: "brisk_cache_memory_evicted_blocks_total", Help: "Blocks evicted from the memory cache.",
	})
	metrics.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "brisk_cache_memory_bytes", Help: "Bytes of memory that the blocks in the memory cache take.",
	}, func() float64 { return float64(m.Bytes()) })
	// The bound is in bytes: eviction is up to Put, not to a number of entries.
	blocks, err := simplelru.NewLRU(math.MaxInt, func(_ block.Key, data []byte) {
		m.bytes -= int64(len(data)) + entryOverhead
	})
	if err != nil {
		return nil, err
	}
	m.blocks = blocks
	return m, nil
}

// Fetch implements [block.Source]. The data passed to sink is that of the cache.
func (m *Memory) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	missing := false
	for i := range req.Count {
		if ctx.Err() != nil {
			return m.wrap(req.Range, context.Cause(ctx))
		}
		k := req.Key(i)
		m.mu.Lock()
		data, ok := m.blocks.Get(k)
		m.mu.Unlock()
		if !ok {
			missing = true
			continue
		}
		if err := sink(k, data); err != nil {
			return err
		}
	}
	if missing {
		return m.wrap(req.Range, block.ErrNotFound)
	}
	return nil
}

func (m *Memory) wrap(r block.Range, err error) error {
	return &block.Error{Source: "memory", Op: "reading", Range: r, Err: err}
}

// Put implements [block.Store]. It does not fail.
func (m *Memory) Put(_ context.Context, k block.Key, data []byte) error {
	if m.Has(k) {
		return nil
	}
	data = append(make([]byte, 0, len(data)), data...)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.blocks.Contains(k) {
		return nil
	}
	m.blocks.Add(k, data)
	m.bytes += int64(len(data)) + entryOverhead
	for m.bytes > m.max {
		m.blocks.RemoveOldest()
		m.evicted.Inc()
	}
	return nil
}

// Has implements [block.Holder].
func (m *Memory) Has(k block.Key) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.blocks.Contains(k)
}

// Bytes returns the memory that the blocks take, overhead included.
func (m *Memory) Bytes() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes
}
