package clusterview

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	"github.com/brisk-project/brisk/api/v1alpha1"
)

// gatherFor is how long changes are gathered, so that a large cluster costs little.
const gatherFor = 500 * time.Millisecond

// Watcher keeps up with the nodes of a cluster, and what they report.
type Watcher struct {
	nodes, reports cache.SharedInformer
	changed        chan struct{}
	running        sync.WaitGroup
}

// Watch keeps up until ctx ends. What goes wrong is logged and tried again.
func (c *Clients) Watch(ctx context.Context) *Watcher {
	f := &Watcher{changed: make(chan struct{}, 1)}
	f.nodes = f.start(ctx, &corev1.Node{}, &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			return c.core.Nodes().List(ctx, opts)
		},
		WatchFuncWithContext: c.core.Nodes().Watch,
	})
	f.reports = f.start(ctx, &v1alpha1.NodeBlocks{}, &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
			return c.reports.NodeBlocks().List(ctx, opts)
		},
		WatchFuncWithContext: c.reports.NodeBlocks().Watch,
	})
	return f
}

func (f *Watcher) start(ctx context.Context, kind runtime.Object, source cache.ListerWatcher) cache.SharedInformer {
	informer := cache.NewSharedInformer(source, kind, 0)
	signal := func() {
		select {
		case f.changed <- struct{}{}:
		default:
		}
	}
	//nolint:errcheck,gosec // fails in a stopped informer only
	informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { signal() },
		UpdateFunc: func(any, any) { signal() },
		DeleteFunc: func(any) { signal() },
	})
	f.running.Go(func() { informer.RunWithContext(ctx) })
	return informer
}

// Wait waits until something changes, the time is over, or ctx ends. It returns what is
// known of the cluster then, and nil until all of it has been read.
func (f *Watcher) Wait(ctx context.Context, atMost time.Duration) *View {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-f.changed:
		select {
		case <-ctx.Done():
		case <-time.After(gatherFor):
		}
	}
	if !f.nodes.HasSynced() || !f.reports.HasSynced() {
		return nil
	}
	return f.view()
}

// Close waits until nothing runs any more. The context of Follow must have ended.
func (f *Watcher) Close() { f.running.Wait() }

// view returns what is known of the cluster now.
func (f *Watcher) view() *View {
	var nodes []corev1.Node
	for _, node := range f.nodes.GetStore().List() {
		if node, ok := node.(*corev1.Node); ok {
			nodes = append(nodes, *node)
		}
	}
	var reports []v1alpha1.NodeBlocks
	for _, report := range f.reports.GetStore().List() {
		if report, ok := report.(*v1alpha1.NodeBlocks); ok {
			reports = append(reports, *report)
		}
	}
	return newView(time.Now(), nodes, reports)
}
