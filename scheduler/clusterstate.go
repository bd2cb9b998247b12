package scheduler

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/scheduler/framework"

	"github.com/brisk-project/brisk/api/compat"
	"github.com/brisk-project/brisk/api/config"
	"github.com/brisk-project/brisk/scheduler/index"
)

// firstList is how long a scheduler that starts waits for what the node agents report.
// Pods placed before that go anywhere.
const firstList = 10 * time.Second

// shared is what all profiles of a scheduler have in common.
type shared struct {
	index    *index.Index
	names    *index.Names
	metrics  *metrics
	activate func(map[string]*corev1.Pod)

	mu sync.Mutex
	// waiting are pods that no node was good enough for, to be tried again when the agent of
	// a node reports something better. Pods that are gone in the meantime do no harm.
	waiting map[types.UID]*corev1.Pod
}

// start begins to watch the cluster, until ctx is done. A plugin gets no other occasion.
func start(ctx context.Context, handle framework.Handle, args *config.BlockLocalityArgs, registerer prometheus.Registerer) (*shared, error) {
	logger := klog.LoggerWithName(klog.FromContext(ctx), Name)
	names, err := index.NewNames(0, compat.AcceleratedSuffixes()...)
	if err != nil {
		return nil, err
	}
	s := &shared{index: index.New(indexConfig(args)), names: names, waiting: make(map[types.UID]*corev1.Pod)}
	s.activate = func(pods map[string]*corev1.Pod) { handle.Activate(logger, pods) }
	if s.metrics, err = newMetrics(registerer, s.index); err != nil {
		return nil, err
	}
	if err := s.learn(handle); err != nil {
		return nil, fmt.Errorf("watching nodes and pods: %w", err)
	}
	if handle.KubeConfig() == nil {
		return s, nil // a framework without a cluster, in a test
	}
	// The configuration of the scheduler asks for protobuf, which custom resources do not have.
	cfg := rest.CopyConfig(handle.KubeConfig())
	cfg.ContentType, cfg.AcceptContentTypes = "", ""
	client, err := dynamic.NewForConfig(cfg)
	if err != nil {
		return nil, fmt.Errorf("making a client: %w", err)
	}
	into := newStore(s, logger)
	go newReflector(client, into).RunWithContext(klog.NewContext(ctx, logger))
	into.await(ctx, firstList)
	return s, nil
}

// learn keeps the names of images up to date with what nodes and pods say.
func (s *shared) learn(handle framework.Handle) error {
	informers := handle.SharedInformerFactory().Core().V1()
	_, err := informers.Nodes().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) {
			if node, ok := object.(*corev1.Node); ok {
				s.learnNode(node)
			}
		},
		UpdateFunc: func(from, to any) {
			before, ok := from.(*corev1.Node)
			after, okAfter := to.(*corev1.Node)
			if ok && okAfter && !slices.EqualFunc(before.Status.Images, after.Status.Images, sameImage) {
				s.learnNode(after)
			}
		},
	})
	if err != nil {
		return err
	}
	_, err = informers.Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(object any) {
			if pod, ok := object.(*corev1.Pod); ok {
				s.learnPod(pod)
			}
		},
		UpdateFunc: func(_, to any) {
			if pod, ok := to.(*corev1.Pod); ok {
				s.learnPod(pod)
			}
		},
	})
	return err
}

func sameImage(a, b corev1.ContainerImage) bool { return slices.Equal(a.Names, b.Names) }

func (s *shared) learnNode(node *corev1.Node) {
	for i := range node.Status.Images {
		s.names.Add(node.Status.Images[i].Names...)
	}
}

// learnPod learns from the containers of a pod that run: what its image is called, and which digest it has.
func (s *shared) learnPod(pod *corev1.Pod) {
	for _, statuses := range [][]corev1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range statuses {
			if !strings.Contains(statuses[i].ImageID, "@") {
				continue
			}
			s.names.Add(imageOf(pod, statuses[i].Name), statuses[i].ImageID)
		}
	}
}

// imageOf returns the image of a container as the pod names it.
func imageOf(pod *corev1.Pod, container string) string {
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			if containers[i].Name == container {
				return containers[i].Image
			}
		}
	}
	return ""
}

// wait remembers a pod that is to be tried again when an agent reports something better.
func (s *shared) wait(pod *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.waiting) < remembered {
		s.waiting[pod.UID] = pod
	}
}

// wake has the scheduler try all pods that wait.
func (s *shared) wake() {
	s.mu.Lock()
	pods := make(map[string]*corev1.Pod, len(s.waiting))
	for _, pod := range s.waiting {
		pods[pod.Namespace+"/"+pod.Name] = pod
	}
	clear(s.waiting)
	s.mu.Unlock()
	if len(pods) > 0 {
		s.activate(pods)
	}
}
