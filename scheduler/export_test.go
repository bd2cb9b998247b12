package scheduler

import (
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
	return &store{shared: p.shared, logger: klog.Background()}
}

// IndexOf returns the index of a plugin.
func IndexOf(plugin framework.Plugin) *index.Index {
	p, ok := plugin.(*BlockLocality)
	if !ok {
		return nil
	}
	return p.index
}
