package fusefs

import (
	"fmt"
	"iter"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// Op is a kind of request of the kernel.
type Op uint8

// The requests that are counted.
const (
	OpLookup Op = iota
	OpGetAttr
	OpOpen
	OpOpenDir
	OpRead
	OpReadDir
	OpReadlink
	OpXAttr
	OpStatFs
	OpAccess
	opCount
)

// String names the request as metrics do.
func (o Op) String() string {
	names := []string{
		"lookup", "getattr", "open", "opendir", "read", "readdir", "readlink", "xattr", "statfs", "access",
	}
	if int(o) < len(names) {
		return names[o]
	}
	return fmt.Sprintf("op %d", uint8(o))
}

// Ops counts requests. The zero value is ready; it is safe for concurrent use.
type Ops struct {
	counts  [opCount]atomic.Int64
	metrics *prometheus.CounterVec
}

// Register makes the counts available as a metric as well; a nil registerer does
// nothing. Call it before the first request.
func (o *Ops) Register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	o.metrics = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "brisk_lazyfs_fuse_requests_total", Help: "Requests of the kernel that reached user space.",
	}, []string{"op"})
	if err := reg.Register(o.metrics); err != nil {
		return fmt.Errorf("registering the metrics of FUSE requests: %w", err)
	}
	return nil
}

// Count counts one request.
func (o *Ops) Count(op Op) {
	o.counts[op].Add(1)
	if o.metrics != nil {
		o.metrics.WithLabelValues(op.String()).Inc()
	}
}

// All yields every kind of request and how many there were.
func (o *Ops) All() iter.Seq2[Op, int64] {
	return func(yield func(Op, int64) bool) {
		for op := range opCount {
			if !yield(op, o.counts[op].Load()) {
				return
			}
		}
	}
}

// Total returns the number of requests of every kind together.
func (o *Ops) Total() int64 {
	var total int64
	for _, n := range o.All() {
		total += n
	}
	return total
}
