package node

import (
	"context"
	"io"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/pages"
)

// BundleStatus is the state of the bundle of an image.
type BundleStatus struct {
	// HeldBytes of its Bytes bytes of pages are on the disk, uncompressed. Bytes is 0 until the
	// bundle has begun to arrive, and once blocks have replaced it.
	Bytes     int64 `json:"bytes"`
	HeldBytes int64 `json:"heldBytes"`
	// Rejected says that it had other bytes than the layers of the image, and is not used.
	Rejected bool `json:"rejected,omitempty"`
}

// bundleStatus returns the state of the bundle of an image, nil if it has none.
func (n *Node) bundleStatus(image *Image) *BundleStatus {
	if image.Bundle == nil {
		return nil
	}
	status := &BundleStatus{Rejected: n.bundles.store.Rejected(image.Bundle.Table)}
	if set := n.bundleSet(image.Bundle.Table); set != nil {
		status.Bytes, status.HeldBytes = set.Bytes(), set.Held()
	}
	return status
}

// startBlocks returns a function that reports whether the node has what a start of an image reads
// of a block: the block, or the pages of the bundle.
func (n *Node) startBlocks(image *Image) func(k block.Key) bool {
	var set *pages.Set
	if image.Bundle != nil {
		set = n.bundleSet(image.Bundle.Table)
	}
	return func(k block.Key) bool { return n.disk.Has(k) || set != nil && set.Covers(k) }
}

type bundleMetrics struct {
	loads    *prometheus.CounterVec
	fetched  prometheus.Counter
	read     prometheus.Counter
	rejected prometheus.Counter
}

func newBundleMetrics(registerer prometheus.Registerer) bundleMetrics {
	factory := promauto.With(registerer)
	return bundleMetrics{
		loads: factory.NewCounterVec(prometheus.CounterOpts{
			Name: "brisk_bundle_loads_total", Help: "Bundles that were loaded from registries, by result: loaded, failed, or stopped because the image was removed.",
		}, []string{"result"}),
		fetched: factory.NewCounter(prometheus.CounterOpts{
			Name: "brisk_bundle_fetched_bytes_total", Help: "Bytes of bundles that registries have sent, compressed.",
		}),
		read: factory.NewCounter(prometheus.CounterOpts{
			Name: "brisk_bundle_read_bytes_total", Help: "Bytes that reads took from bundles, uncompressed.",
		}),
		rejected: factory.NewCounter(prometheus.CounterOpts{
			Name: "brisk_bundle_rejected_total", Help: "Bundles that were dropped because they had other bytes than the layers of their images.",
		}),
	}
}

// loaded counts a load that has ended, unless there was nothing to load.
func (m *bundleMetrics) loaded(ctx context.Context, bytes int64, err error) {
	switch {
	case err != nil && ctx.Err() != nil:
		m.loads.WithLabelValues("stopped").Inc()
	case err != nil:
		m.loads.WithLabelValues("failed").Inc()
	case bytes > 0:
		m.loads.WithLabelValues("loaded").Inc()
	}
}

// countedPages counts what reads take from a bundle.
type countedPages struct {
	*pages.Set

	node *Node
}

// ReadAt implements stream.Pages.
func (p countedPages) ReadAt(layer block.Digest, to []byte, off int64) error {
	err := p.Set.ReadAt(layer, to, off)
	if err == nil {
		p.node.bundles.metrics.read.Add(float64(len(to)))
		p.node.trafficCounters.change(layer, func(t *SourceStats) { t.Bundle += int64(len(to)) })
	}
	return err
}

// countedReader counts what a registry sends of a bundle.
type countedReader struct {
	io.Reader

	bundles *bundles
}

// Read implements [io.Reader].
func (r countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.bundles.fetched.Add(int64(n))
	r.bundles.metrics.fetched.Add(float64(n))
	return n, err
}
