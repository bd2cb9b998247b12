package scheduler

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/brisk-project/brisk/api/v1alpha1"
)

// newReflector returns what keeps a store in step with the NodeBlocks of a cluster. While there is no
// such kind of object it tries again, at most every half minute.
func newReflector(client dynamic.Interface, into *store) *cache.Reflector {
	resource := client.Resource(v1alpha1.GroupVersion.WithResource("nodeblocks"))
	return cache.NewReflectorWithOptions(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			list, err := resource.List(ctx, options)
			into.refused(err)
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			watching, err := resource.Watch(ctx, options)
			into.refused(err)
			return watching, err
		},
	}, &unstructured.Unstructured{}, into, cache.ReflectorOptions{Name: "nodeblocks.brisk.dev"})
}

// store passes what a reflector sees to the index, which is the only copy that is kept. Objects come as
// they were sent, so one that is malformed does not keep the others from being read.
type store struct {
	*shared
	logger klog.Logger
	// first is closed by told once there is nothing to wait for any more.
	first chan struct{}
	told  func()
}

func newStore(s *shared, logger klog.Logger) *store {
	first := make(chan struct{})
	return &store{shared: s, logger: logger, first: first, told: sync.OnceFunc(func() { close(first) })}
}

// await waits for the first list, until it is known that there is none, or for a time.
func (s *store) await(ctx context.Context, longest time.Duration) {
	timer := time.NewTimer(longest)
	defer timer.Stop()
	select {
	case <-s.first:
	case <-timer.C:
		s.logger.Info("Starting without reports of nodes, which could not be listed in time", "waited", longest)
	case <-ctx.Done():
	}
}

// refused takes in why nothing can be listed. Without such a kind of object, or without
// the right to see it, waiting is useless.
func (s *store) refused(err error) {
	if apierrors.IsNotFound(err) || apierrors.IsForbidden(err) {
		s.told()
	}
}

// Add implements [cache.ReflectorStore].
func (s *store) Add(object any) error {
	s.set(object)
	return nil
}

// Update implements [cache.ReflectorStore].
func (s *store) Update(object any) error {
	s.set(object)
	return nil
}

// Delete implements [cache.ReflectorStore].
func (s *store) Delete(object any) error {
	name, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object)
	if err != nil {
		return err
	}
	if s.index.Delete(name) {
		s.wake()
	}
	return nil
}

// Replace implements [cache.ReflectorStore].
func (s *store) Replace(objects []any, _ string) error {
	there := make(map[string]struct{}, len(objects))
	for _, object := range objects {
		if report, ok := object.(*unstructured.Unstructured); ok {
			there[report.GetName()] = struct{}{}
		}
		s.set(object)
	}
	for _, name := range s.index.Names() {
		if _, ok := there[name]; !ok {
			s.index.Delete(name)
		}
	}
	s.told()
	s.wake()
	return nil
}

// Resync implements [cache.ReflectorStore].
func (s *store) Resync() error { return nil }

func (s *store) set(object any) {
	report, name, err := parse(object)
	if err != nil {
		s.logger.Info("Ignoring the report of a node", "node", name, "err", err)
		if s.index.Delete(name) {
			s.wake()
		}
		return
	}
	change, err := s.index.Set(report)
	if err != nil {
		s.logger.Info("Ignoring the report of a node", "node", name, "err", err)
	}
	s.metrics.finished(change.Starts)
	if change.Improved {
		s.wake()
	}
}

// parse reads a NodeBlocks object as it came from the API server.
func parse(object any) (*v1alpha1.NodeBlocks, string, error) {
	content, ok := object.(*unstructured.Unstructured)
	if !ok {
		return nil, "", fmt.Errorf("a %T is no NodeBlocks", object)
	}
	var report v1alpha1.NodeBlocks
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(content.Object, &report); err != nil {
		return nil, content.GetName(), fmt.Errorf("reading NodeBlocks: %w", err)
	}
	return &report, content.GetName(), nil
}
