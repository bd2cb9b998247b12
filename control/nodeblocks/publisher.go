package nodeblocks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/brisk-project/brisk/api/compat"
	"github.com/brisk-project/brisk/api/v1alpha1"
)

const (
	// defaultPoll is the time between two looks at what the agent knows.
	defaultPoll = time.Second
	// requestTimeout bounds a request to the API server.
	requestTimeout = 10 * time.Second
	// partingTimeout bounds what is written when the agent ends.
	partingTimeout = 4 * time.Second
	// firstPause and lastPause are how long a failed request is not repeated.
	firstPause = time.Second
	lastPause  = time.Minute
)

// Reporter reports the state of the agent. One goroutine calls Report about once a second; it
// must not block.
type Reporter interface {
	Report(ctx context.Context) Report
}

// Client reads and writes NodeBlocks objects. [github.com/brisk-project/brisk/api/client]
// implements it.
type Client interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (*v1alpha1.NodeBlocks, error)
	Create(ctx context.Context, object *v1alpha1.NodeBlocks, opts metav1.CreateOptions) (*v1alpha1.NodeBlocks, error)
	Update(ctx context.Context, object *v1alpha1.NodeBlocks, opts metav1.UpdateOptions) (*v1alpha1.NodeBlocks, error)
}

// NodeClient reads and writes the metadata of nodes. k8s.io/client-go/metadata implements it.
type NodeClient interface {
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
	Patch(ctx context.Context, name string, kind types.PatchType, data []byte, opts metav1.PatchOptions, subresources ...string) (*metav1.PartialObjectMetadata, error)
}

// Config configures a [Publisher].
type Config struct {
	// Node is the name of the node.
	Node     string
	Reporter Reporter
	Objects  Client
	Nodes    NodeClient
	Schedule ScheduleConfig
	// Poll is the time between two looks at the state; zero means 1 s.
	Poll time.Duration
	// Log may be nil. Metrics may be nil: then there are none.
	Log     *slog.Logger
	Metrics prometheus.Registerer
}

// Publisher publishes the state of an agent while Run runs.
type Publisher struct {
	cfg    Config
	log    *slog.Logger
	writes *prometheus.CounterVec
	node   watched

	// All below belongs to Run.
	schedule *WriteSchedule
	object   *v1alpha1.NodeBlocks // as it was last written, nil if that is not known
	unmarked time.Time            // when the labels were last removed
	// What cannot be written keeps nothing else from being written.
	objects, labels retry
}

// retry says when to try again what failed.
type retry struct {
	failures int // in a row
	next     time.Time
}

// New returns a publisher. Nothing is written yet.
func New(cfg Config) (*Publisher, error) {
	if cfg.Node == "" || cfg.Reporter == nil || cfg.Objects == nil || cfg.Nodes == nil {
		return nil, errors.New("publishing needs the name of the node, its state, and clients of objects and nodes")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Poll == 0 {
		cfg.Poll = defaultPoll
	}
	p := &Publisher{
		cfg: cfg, log: cfg.Log, schedule: NewWriteSchedule(cfg.Schedule, nil),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "brisk", Subsystem: "nodeblocks", Name: "writes_total",
			Help: "Requests that wrote the NodeBlocks object of the node (object) or its labels (labels), by whether they failed.",
		}, []string{"of", "result"}),
	}
	p.node.cfg = &p.cfg
	if cfg.Metrics != nil {
		if err := cfg.Metrics.Register(p.writes); err != nil {
			return nil, fmt.Errorf("registering metrics: %w", err)
		}
	}
	return p, nil
}

// Zone returns the topology zone of the node, empty if it has none, and whether the node
// is known.
func (p *Publisher) Zone() (zone string, known bool) {
	node := p.node.get()
	if node == nil {
		return "", false
	}
	return node.Labels[zoneLabel], true
}

// Run publishes until ctx ends, then takes the labels off the node and says in the object
// that the agent has ended. An API server that cannot be reached is tried again, ever
// more rarely, and nothing else waits for it. Run returns nil; it must be called once.
func (p *Publisher) Run(ctx context.Context) error {
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		p.node.run(ctx)
	}()
	ticker := time.NewTicker(p.cfg.Poll)
	defer ticker.Stop()
	for ctx.Err() == nil {
		p.step(ctx, time.Now())
		select {
		case <-ticker.C:
		case <-p.node.changed():
		case <-ctx.Done():
		}
	}
	<-watching
	p.part(context.WithoutCancel(ctx))
	return nil
}

// step writes what is to be written.
func (p *Publisher) step(ctx context.Context, at time.Time) {
	node := p.node.get()
	if node == nil {
		return
	}
	report := p.cfg.Reporter.Report(ctx)
	if compat.NodeDisabled(node.Labels, node.Annotations) {
		report.Status.Healthy = false
		report.Status.Message = "acceleration is disabled on the node, with its label or annotation " + compat.Acceleration
	}
	p.try(ctx, at, &p.labels, func() error { return p.mark(ctx, at, node, report.Status.Healthy) })
	p.try(ctx, at, &p.objects, func() error { return p.publish(ctx, at, node, report) })
}

// try does what can fail, if it is time for that. The first of many failures is logged.
func (p *Publisher) try(ctx context.Context, at time.Time, again *retry, do func() error) {
	if at.Before(again.next) {
		return
	}
	err := do()
	switch {
	case ctx.Err() != nil:
	case err == nil:
		if again.failures > 0 {
			p.log.InfoContext(ctx, "reporting to the cluster works again")
		}
		again.failures = 0
	default:
		if again.failures == 0 {
			p.log.WarnContext(ctx, "reporting to the cluster failed; retrying", "error", err)
		}
		again.next = at.Add(pause(again.failures))
		again.failures++
	}
}

// pause returns how long to wait after a number of failures before the last one.
func pause(failures int) time.Duration {
	longest := min(lastPause, firstPause<<min(failures, 10))
	return time.Duration(float64(longest) * (1 - jitter*rand.Float64())) //nolint:gosec // nobody gains from guessing it
}

// mark puts the labels on the node, or takes them off.
func (p *Publisher) mark(ctx context.Context, at time.Time, node *metav1.PartialObjectMetadata, healthy bool) error {
	if compat.HasNodeLabels(node.Labels, healthy) || healthy && at.Sub(p.unmarked) < p.schedule.rules.MinInterval {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": compat.NodeLabels(healthy)}})
	if err != nil {
		return fmt.Errorf("encoding labels: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	patched, err := p.cfg.Nodes.Patch(ctx, p.cfg.Node, types.MergePatchType, patch, metav1.PatchOptions{})
	p.count("labels", err)
	if err != nil {
		return fmt.Errorf("labeling node %s: %w", p.cfg.Node, err)
	}
	p.node.set(patched)
	if !healthy {
		p.unmarked = at
	}
	p.log.InfoContext(ctx, "the labels of the node have changed", "accelerated", healthy)
	return nil
}

// publish writes the object if that is due.
func (p *Publisher) publish(ctx context.Context, at time.Time, node *metav1.PartialObjectMetadata, report Report) error {
	report.Status.Zone = node.Labels[zoneLabel]
	report.Status.Starts = p.schedule.Unreported(report.Status.Starts)
	if !p.schedule.Due(at, report) {
		return nil
	}
	if err := p.write(ctx, at, node, report); err != nil {
		return fmt.Errorf("writing NodeBlocks %s: %w", p.cfg.Node, err)
	}
	p.schedule.RecordWrite(at, report)
	return nil
}

func (p *Publisher) write(ctx context.Context, at time.Time, node *metav1.PartialObjectMetadata, report Report) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	object, exists := p.object, p.object != nil
	p.object = nil // until it is known how this ends
	if !exists {
		found, err := p.cfg.Objects.Get(ctx, p.cfg.Node, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		if exists = err == nil; exists {
			object = found
		} else {
			object = &v1alpha1.NodeBlocks{ObjectMeta: metav1.ObjectMeta{Name: p.cfg.Node}}
		}
	}
	if err := fill(object, report, at); err != nil {
		return err
	}
	// Without its node the object is useless: the cluster removes it.
	object.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: p.cfg.Node, UID: node.UID}}
	var err error
	if exists {
		object, err = p.cfg.Objects.Update(ctx, object, metav1.UpdateOptions{})
	} else {
		object, err = p.cfg.Objects.Create(ctx, object, metav1.CreateOptions{})
	}
	p.count("object", err)
	if err != nil {
		return err
	}
	p.object = object
	return nil
}

func (p *Publisher) count(of string, err error) {
	result := "ok"
	if err != nil {
		result = "failed"
	}
	p.writes.WithLabelValues(of, result).Inc()
}

// part says that the agent has ended, if the API server can be reached.
func (p *Publisher) part(ctx context.Context) {
	node := p.node.get()
	if node == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, partingTimeout)
	defer cancel()
	report := p.schedule.sent // the agent is ending, and is not asked any more
	report.Status.Healthy, report.Status.Message, report.Status.Peer = false, "the agent has ended", nil
	report.Status.Zone, report.Status.Starts = node.Labels[zoneLabel], nil
	at := time.Now()
	if err := errors.Join(p.mark(ctx, at, node, false), p.write(ctx, at, node, report)); err != nil {
		p.log.WarnContext(ctx, "the end of the agent is not reported to the cluster", "error", err)
	}
}
