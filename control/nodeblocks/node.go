package nodeblocks

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
)

// zoneLabel is the label of a node that holds its zone.
const zoneLabel = "topology.kubernetes.io/zone"

// watched is the metadata of the node as it was last seen.
type watched struct {
	cfg *Config

	mu   sync.Mutex // guards the fields below
	node *metav1.PartialObjectMetadata
	news chan struct{} // closed at the next change, nil until somebody asks
}

// get returns the node, nil if it is not known. It is not to be modified.
func (w *watched) get() *metav1.PartialObjectMetadata {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.node
}

func (w *watched) set(node *metav1.PartialObjectMetadata) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.node = node
	if w.news != nil {
		close(w.news)
		w.news = nil
	}
}

// changed returns a channel that is closed when the node has changed.
func (w *watched) changed() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.news == nil {
		w.news = make(chan struct{})
	}
	return w.news
}

// run watches the node until ctx ends.
func (w *watched) run(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; failures++ {
		if w.follow(ctx) {
			failures = 0
		}
		select {
		case <-time.After(pause(failures)):
		case <-ctx.Done():
		}
	}
}

// follow watches the node until the watch breaks. It says whether there was one.
func (w *watched) follow(ctx context.Context) bool {
	// Without a version the first event is the node as it is.
	watcher, err := w.cfg.Nodes.Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector(metav1.ObjectNameField, w.cfg.Node).String(),
	})
	if err != nil {
		w.cfg.Log.DebugContext(ctx, "watching the node", "error", err)
		return false
	}
	defer watcher.Stop()
	for {
		select {
		case <-ctx.Done():
			return true
		case event, ok := <-watcher.ResultChan():
			if !ok {
				return true
			}
			if node, ok := event.Object.(*metav1.PartialObjectMetadata); ok && (event.Type == watch.Added || event.Type == watch.Modified) {
				w.set(node)
			}
		}
	}
}
