// Package scheduler_test runs the scheduler against a real API server: pods, nodes and
// reports are objects, and what is checked is where pods end up. Nodes have no kubelet.
package scheduler_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"
	_ "sigs.k8s.io/scheduler-plugins/apis/config/scheme"
	"sigs.k8s.io/scheduler-plugins/pkg/coscheduling"

	"github.com/brisk-project/brisk/api/compat"
	_ "github.com/brisk-project/brisk/api/config/scheme"
	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/scheduler"
	"github.com/brisk-project/brisk/test/controlplane"
)

const (
	// patience is how long anything may take on a busy machine.
	patience = time.Minute
	// poll is the time between two looks.
	poll = 20 * time.Millisecond
	mib  = 1 << 20
)

// cluster is an API server with a namespace, in which nodes are made by hand.
type cluster struct {
	*controlplane.ControlPlane
	client kubernetes.Interface
	any    dynamic.Interface
}

func newCluster(tb testing.TB) *cluster {
	tb.Helper()
	c := &cluster{ControlPlane: controlplane.Start(tb, "--feature-gates=ImageVolume=true")}
	cfg := rest.CopyConfig(c.Admin)
	cfg.QPS, cfg.Burst = 2000, 4000
	var err error
	if c.client, err = kubernetes.NewForConfig(cfg); err != nil {
		tb.Fatal(err)
	}
	if c.any, err = dynamic.NewForConfig(cfg); err != nil {
		tb.Fatal(err)
	}
	return c
}

// namespace makes a namespace.
func (c *cluster) namespace(tb testing.TB, name string, labels map[string]string) string {
	tb.Helper()
	_, err := c.client.CoreV1().Namespaces().Create(tb.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}, metav1.CreateOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return name
}

// schedule runs a scheduler until the end of the test, with a shipped configuration file.
func (c *cluster) schedule(tb testing.TB, file string) {
	tb.Helper()
	content, err := os.ReadFile(controlplane.Repository(tb, filepath.Join("deploy/scheduler", file)))
	if err != nil {
		tb.Fatal(err)
	}
	access := rest.CopyConfig(c.Admin)
	adapted := strings.Replace(string(content), "leaderElect: true", "leaderElect: false", 1) + fmt.Sprintf(
		"clientConnection: {kubeconfig: %q, qps: 5000, burst: 10000, contentType: application/vnd.kubernetes.protobuf}\n"+
			"podInitialBackoffSeconds: 1\n", controlplane.Kubeconfig(tb, access))
	path := filepath.Join(tb.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(adapted), 0o600); err != nil {
		tb.Fatal(err)
	}
	opts := options.NewOptions()
	for _, set := range opts.Flags.FlagSets {
		for name, value := range map[string]string{"config": path, "secure-port": "0"} {
			if set.Lookup(name) != nil {
				if err := set.Set(name, value); err != nil {
					tb.Fatal(err)
				}
			}
		}
	}
	if err := opts.ComponentGlobalsRegistry.Set(); err != nil {
		tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(tb.Context())
	completed, running, err := app.Setup(ctx, opts,
		app.WithPlugin(scheduler.Name, scheduler.Factory(prometheus.NewRegistry())),
		app.WithPlugin(coscheduling.Name, coscheduling.New))
	if err != nil {
		stop()
		tb.Fatal(err)
	}
	completed.EventBroadcaster.StartRecordingToSink(ctx.Done())
	completed.InformerFactory.Start(ctx.Done())
	completed.InformerFactory.WaitForCacheSync(ctx.Done())
	if completed.DynInformerFactory != nil {
		completed.DynInformerFactory.Start(ctx.Done())
		completed.DynInformerFactory.WaitForCacheSync(ctx.Done())
	}
	if err := running.WaitForHandlersSync(ctx); err != nil {
		stop()
		tb.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		running.Run(ctx)
	}()
	tb.Cleanup(func() {
		stop()
		<-ended
		completed.EventBroadcaster.Shutdown()
	})
}

// node makes a node for 20 pods.
func (c *cluster) node(tb testing.TB, name, group string, labels map[string]string) {
	tb.Helper()
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("32Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	all := map[string]string{"group": group, corev1.LabelHostname: name, corev1.LabelTopologyZone: "z1"}
	maps.Copy(all, labels)
	_, err := c.client.CoreV1().Nodes().Create(tb.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: all},
		Status: corev1.NodeStatus{
			Capacity: room, Allocatable: room,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := c.client.CoreV1().Nodes().Delete(context.WithoutCancel(tb.Context()), name, metav1.DeleteOptions{}); err != nil {
			tb.Error(err)
		}
	})
}

func accelerated() map[string]string { return map[string]string{compat.Accelerated: "true"} }

// digest is that of an image of a test.
func digest(image string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(image))) }

// pinned is the name of an image by its digest.
func pinned(image string) string { return "registry.test/" + image + "@" + digest(image) }

func has(tb testing.TB, image string, missing, cached int64) v1alpha1.ImageBlocks {
	tb.Helper()
	key, err := v1alpha1.KeyOf(digest(image))
	if err != nil {
		tb.Fatal(err)
	}
	return v1alpha1.ImageBlocks{Key: key, StartupMissing: missing, Cached: cached}
}

// healthy is a report of a node that has images.
func healthy(tb testing.TB, node string, images ...v1alpha1.ImageBlocks) *v1alpha1.NodeBlocks {
	tb.Helper()
	packed, err := v1alpha1.EncodeImages(images)
	if err != nil {
		tb.Fatal(err)
	}
	return &v1alpha1.NodeBlocks{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodeBlocks"},
		ObjectMeta: metav1.ObjectMeta{Name: node},
		Status: v1alpha1.NodeBlocksStatus{
			ObservedAt: metav1.Now(), Healthy: true, Zone: "z1", Backend: "erofs",
			Cache:     v1alpha1.CacheStatus{CapacityBytes: 20 << 30, FreeBytes: 10 << 30},
			Bandwidth: v1alpha1.BandwidthStatus{Peers: 100 * mib, Registry: 50 * mib}, ImageCount: int32(len(images)), Images: packed,
		},
	}
}

// report puts a report in place.
func (c *cluster) report(tb testing.TB, report *v1alpha1.NodeBlocks) {
	tb.Helper()
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(report)
	if err != nil {
		tb.Fatal(err)
	}
	content["metadata"] = map[string]any{"name": report.Name}
	c.reportRaw(tb, report.Name, content)
}

func (c *cluster) reportRaw(tb testing.TB, name string, content map[string]any) {
	tb.Helper()
	reports := c.any.Resource(v1alpha1.GroupVersion.WithResource("nodeblocks"))
	object := &unstructured.Unstructured{Object: content}
	if _, err := reports.Apply(tb.Context(), name, object, metav1.ApplyOptions{FieldManager: "agent", Force: true}); err != nil {
		tb.Fatalf("reporting for node %s: %v", name, err)
	}
	tb.Cleanup(func() {
		err := reports.Delete(context.WithoutCancel(tb.Context()), name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			tb.Error(err)
		}
	})
}

// pod returns a pod for the nodes of a group.
func pod(namespace, name, group string, images ...string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name},
		Spec: corev1.PodSpec{
			SchedulerName: "brisk-scheduler", NodeSelector: map[string]string{"group": group},
		},
	}
	for i, image := range images {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{
			Name: fmt.Sprint("c", i), Image: image,
			Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m")}},
		})
	}
	return p
}

func (c *cluster) create(tb testing.TB, p *corev1.Pod) {
	tb.Helper()
	if _, err := c.client.CoreV1().Pods(p.Namespace).Create(tb.Context(), p, metav1.CreateOptions{}); err != nil {
		tb.Fatal(err)
	}
}

// placed waits until pods are on nodes, and returns which.
func (c *cluster) placed(tb testing.TB, namespace string, pods ...string) map[string]string {
	tb.Helper()
	nodes := make(map[string]string)
	err := wait.PollUntilContextTimeout(tb.Context(), poll, patience, true, func(ctx context.Context) (bool, error) {
		list, err := c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return false, err
		}
		clear(nodes)
		for i := range list.Items {
			if p := &list.Items[i]; p.Spec.NodeName != "" && slices.Contains(pods, p.Name) {
				nodes[p.Name] = p.Spec.NodeName
			}
		}
		return len(nodes) == len(pods), nil
	})
	if err != nil {
		tb.Fatalf("%d of %d pods of %s are placed: %v\n%s", len(nodes), len(pods), namespace, err, c.why(tb, namespace))
	}
	return nodes
}

// place makes a pod and returns the node it goes to.
func (c *cluster) place(tb testing.TB, p *corev1.Pod) string {
	tb.Helper()
	c.create(tb, p)
	return c.placed(tb, p.Namespace, p.Name)[p.Name]
}

// why returns what the scheduler says of pods that are pending.
func (c *cluster) why(tb testing.TB, namespace string) string {
	tb.Helper()
	list, err := c.client.CoreV1().Pods(namespace).List(tb.Context(), metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	var lines strings.Builder
	for i := range list.Items {
		for _, condition := range list.Items[i].Status.Conditions {
			fmt.Fprintf(&lines, "%s: %s\n", list.Items[i].Name, condition.Message)
		}
	}
	return lines.String()
}

// unplaced waits until the scheduler has said why it cannot place a pod, and returns it.
func (c *cluster) unplaced(tb testing.TB, namespace, name string) string {
	tb.Helper()
	var message string
	err := wait.PollUntilContextTimeout(tb.Context(), poll, patience, true, func(ctx context.Context) (bool, error) {
		p, err := c.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		if p.Spec.NodeName != "" {
			return false, fmt.Errorf("pod %s is on node %s", name, p.Spec.NodeName)
		}
		for _, condition := range p.Status.Conditions {
			if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
				message = condition.Message
			}
		}
		return message != "", nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return message
}

// second waits for the second within which a report has to count.
func second(tb testing.TB) {
	tb.Helper()
	select {
	case <-time.After(time.Second):
	case <-tb.Context().Done():
	}
}
