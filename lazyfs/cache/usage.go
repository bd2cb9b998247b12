package cache

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/brisk-project/brisk/internal/block"
)

// Usage is the usage of a cache.
type Usage struct {
	Bytes    int64 // of all blocks, and of what is kept beside them
	MaxBytes int64 // the bound, 0 for none
	Layers   int   // of which there are blocks or were
	MaxFiles int64 // the bound of their inodes, [LayerFiles] each, 0 for none
}

// LayerUsage is the usage of a cache by one layer.
type LayerUsage struct {
	Cached uint32 // blocks in the cache
	Blocks uint32 // blocks of the layer stream
	Bytes  int64  // of the blocks in the cache
	Size   int64  // of the layer stream in bytes
	Pinned bool   // as a whole
}

// Usage returns how full the cache is.
func (d *Disk) Usage() Usage {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return Usage{Bytes: d.bytes.Load(), MaxBytes: d.cfg.MaxBytes, Layers: len(d.layers), MaxFiles: d.cfg.MaxFiles}
}

// LayerUsage returns how much of a layer the cache holds, and whether it knows the
// layer at all.
func (d *Disk) LayerUsage(layer block.Digest) (LayerUsage, bool) {
	l := d.lookup(layer)
	if l == nil {
		return LayerUsage{}, false
	}
	bytes := l.bytes()
	l.mu.RLock()
	defer l.mu.RUnlock()
	return LayerUsage{
		Cached: l.present.count(), Blocks: l.count,
		Bytes: bytes, Size: l.size, Pinned: l.pins > 0 || l.stale,
	}, true
}

// Layers returns the layers of which there are blocks, or were, in no order.
func (d *Disk) Layers() []block.Digest {
	layers := d.all()
	ids := make([]block.Digest, len(layers))
	for i, l := range layers {
		ids[i] = l.id
	}
	return ids
}

type diskMetrics struct {
	evicted  prometheus.Counter
	corrupt  prometheus.Counter
	failures prometheus.Counter
}

func newDiskMetrics(reg prometheus.Registerer, d *Disk) diskMetrics {
	metrics := promauto.With(reg)
	metrics.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "brisk_cache_disk_bytes", Help: "Bytes in the disk cache: of blocks and of bundles.",
	}, func() float64 { return float64(d.bytes.Load()) })
	metrics.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "brisk_cache_disk_layers", Help: "Layers in the disk cache.",
	}, func() float64 { return float64(d.layerCount()) })
	return diskMetrics{
		evicted: metrics.NewCounter(prometheus.CounterOpts{
			Name: "brisk_cache_disk_evicted_blocks_total", Help: "Blocks evicted from the disk cache.",
		}),
		corrupt: metrics.NewCounter(prometheus.CounterOpts{
			Name: "brisk_cache_disk_corrupt_blocks_total",
			Help: "Blocks of the disk cache found wrong when they were hashed again, and taken out of it.",
		}),
		failures: metrics.NewCounter(prometheus.CounterOpts{
			Name: "brisk_cache_disk_failures_total", Help: "Reads and writes of the disk cache that failed.",
		}),
	}
}
