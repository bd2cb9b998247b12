// Package scheduler is the plugin BlockLocality of kube-scheduler: it places pods where
// the blocks that they need to start are, or can be soonest.
//
// What the node agents report comes in through one watch of NodeBlocks and is kept in an
// index; what images are called comes from nodes and pods that have them. In a scheduling cycle
// nothing but memory is read. Nothing here ever is the reason that a pod
// is not placed, except that it requires acceleration: state that is missing, old or
// malformed is no opinion.
//
// In a cycle the plugin
//
//   - prepares one question about the images of the pod (PreFilter), and on a large cluster brings warm nodes
//     into it that the scheduler would not have looked at (see shortlist.go),
//   - keeps pods that require acceleration from nodes that do not have it (Filter),
//   - scores the time to ready (PreScore, Score), and
//   - remembers the load reserved on the chosen node (Reserve), so that the next
//     pod sees it.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"

	"github.com/brisk-project/brisk/api/compat"
	"github.com/brisk-project/brisk/api/config"
	"github.com/brisk-project/brisk/scheduler/estimate"
	"github.com/brisk-project/brisk/scheduler/index"
)

// Name is what the plugin is called in the configuration of a scheduler.
const Name = "BlockLocality"

// remembered bounds the pods that are remembered between their cycles.
const remembered = 10_000

// BlockLocality is the plugin in one profile of a scheduler.
type BlockLocality struct {
	*shared
	handle     framework.Handle
	namespaces corelisters.NamespaceLister
	args       *config.BlockLocalityArgs

	// looked are pods for which a shortlist was too short, by UID. They get none again.
	looked *lru.Cache[types.UID, struct{}]
	// rotation is where the next sample of other nodes starts. Cycles come one after the other.
	rotation int
}

var (
	_ framework.PreFilterPlugin   = (*BlockLocality)(nil)
	_ framework.FilterPlugin      = (*BlockLocality)(nil)
	_ framework.PostFilterPlugin  = (*BlockLocality)(nil)
	_ framework.PreScorePlugin    = (*BlockLocality)(nil)
	_ framework.ScorePlugin       = (*BlockLocality)(nil)
	_ framework.ReservePlugin     = (*BlockLocality)(nil)
	_ framework.EnqueueExtensions = (*BlockLocality)(nil)
)

// Factory returns what makes the plugin, for one scheduler. Its profiles share one view of the
// cluster. Metrics go to registerer unless it is nil.
func Factory(registerer prometheus.Registerer) frameworkruntime.PluginFactory {
	var (
		mu    sync.Mutex
		state *shared
		first *config.BlockLocalityArgs
	)
	return func(ctx context.Context, object runtime.Object, handle framework.Handle) (framework.Plugin, error) {
		args, ok := object.(*config.BlockLocalityArgs)
		if !ok {
			return nil, fmt.Errorf("arguments of %s are a %T", Name, object)
		}
		if err := args.Validate(field.NewPath("args")); err != nil {
			return nil, fmt.Errorf("checking arguments of %s: %w", Name, err)
		}
		mu.Lock()
		defer mu.Unlock()
		if first != nil && !reflect.DeepEqual(args, first) {
			return nil, errors.New("arguments of " + Name + " have to be the same in all profiles")
		}
		if state == nil {
			started, err := start(ctx, handle, args, registerer)
			if err != nil {
				return nil, err
			}
			state, first = started, args
		}
		looked, err := lru.New[types.UID, struct{}](remembered)
		if err != nil {
			return nil, err
		}
		return &BlockLocality{
			shared: state, handle: handle, args: args, looked: looked,
			namespaces: handle.SharedInformerFactory().Core().V1().Namespaces().Lister(),
		}, nil
	}
}

// Name implements [framework.Plugin].
func (p *BlockLocality) Name() string { return Name }

// wanted returns what a pod wants.
func (p *BlockLocality) wanted(ctx context.Context, pod *corev1.Pod) compat.Mode {
	var labels map[string]string
	if namespace, err := p.namespaces.Get(pod.Namespace); err == nil {
		labels = namespace.Labels
	} else {
		klog.FromContext(ctx).V(5).Info("Not asking the namespace of a pod", "pod", klog.KObj(pod), "err", err)
	}
	return compat.ModeOf(pod.Labels, pod.Annotations, labels)
}

// query prepares the question about the images of a pod. It is nil if nothing is known of any.
func (p *BlockLocality) query(pod *corev1.Pod) *index.Query {
	names := index.PodImages(pod)
	images := make([]index.Image, 0, len(names))
	for _, name := range names {
		if image := p.names.Image(name); len(image.Keys) > 0 {
			images = append(images, image)
		}
	}
	return p.index.Query(images)
}

// indexConfig turns arguments into what the index is made with.
func indexConfig(args *config.BlockLocalityArgs) index.Config {
	return index.Config{
		Model: estimate.Model{
			TimeConstant: args.TimeConstant.Duration, PeerBandwidth: args.PeerBandwidth, RegistryBandwidth: args.RegistryBandwidth,
		},
		FreshFor: args.FreshFor.Duration, GoneAfter: args.GoneAfter.Duration,
	}
}
