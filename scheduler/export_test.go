package scheduler

import (
	"context"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"github.com/brisk-project/brisk/scheduler/index"
)

// StoreOf returns what the watch of a plugin writes to.
func StoreOf(plugin framework.Plugin) cache.ReflectorStore {
	p, ok := plugin.(*BlockLocality)
	if !ok {
		return nil
	}
	return newStore(p.shared, klog.Background())
}

// Retried is the number of pods that a shortlist was too short for.
func Retried(plugin framework.Plugin) int {
	p, ok := plugin.(*BlockLocality)
	if !ok {
		return 0
	}
	return p.looked.Len()
}

// NewStore returns what a watch would write to, and the index behind it.
func NewStore() (cache.ReflectorStore, *index.Index) {
	x := index.New(index.Config{})
	return newStore(&shared{index: x}, klog.Background()), x
}

// Follow begins to follow the NodeBlocks of a cluster, and returns after the wait of a scheduler that
// starts.
func Follow(ctx context.Context, client dynamic.Interface, longest time.Duration) *index.Index {
	x := index.New(index.Config{})
	into := newStore(&shared{index: x}, klog.FromContext(ctx))
	go newReflector(client, into).RunWithContext(ctx)
	into.await(ctx, longest)
	return x
}
