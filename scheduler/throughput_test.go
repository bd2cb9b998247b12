//go:build !race

package scheduler_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	kubescheduler "k8s.io/kubernetes/pkg/scheduler"
	schedulerconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/scheme"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/metrics"

	_ "github.com/brisk-project/brisk/api/config/scheme"
	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/scheduler"
)

const (
	stock = "stock"
	mib   = 1 << 20
	// catalog is the number of images that pods are made of.
	catalog = 2000
)

// bench is a scheduler with a stock profile and ours, on a cluster in memory: binding costs nothing, so
// what is measured is the scheduler alone.
type bench struct {
	*kubescheduler.Scheduler
	client kubernetes.Interface
	store  cache.ReflectorStore
	plugin framework.Plugin
	close  func()
	nodes  int
	images int // of each node
	pods   int // made so far

	// What pods are made with.
	nominated string
	ports     []corev1.ContainerPort

	mu    sync.Mutex
	bound map[types.UID]string
}

func digest(image int) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(strconv.Itoa(image))))
}

func tag(image int) string { return fmt.Sprintf("registry.test/team/app-%d:v1", image) }

func nodeName(i int) string { return fmt.Sprintf("node-%05d", i) }

// profile is one of the shipped configuration, under a name.
func profile(tb testing.TB, name string, change func(*schedulerconfig.KubeSchedulerProfile)) schedulerconfig.KubeSchedulerProfile {
	tb.Helper()
	content, err := os.ReadFile("../deploy/scheduler/config.yaml")
	if err != nil {
		tb.Fatal(err)
	}
	object, _, err := scheme.Codecs.UniversalDecoder().Decode(content, nil, nil)
	if err != nil {
		tb.Fatal(err)
	}
	cfg, ok := object.(*schedulerconfig.KubeSchedulerConfiguration)
	if !ok {
		tb.Fatalf("a %T", object)
	}
	p := cfg.Profiles[0]
	p.SchedulerName = name
	if change != nil {
		change(&p)
	}
	return p
}

func stockProfile(tb testing.TB) schedulerconfig.KubeSchedulerProfile {
	tb.Helper()
	object, _, err := scheme.Codecs.UniversalDecoder().Decode(
		[]byte("apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"), nil, nil)
	if err != nil {
		tb.Fatal(err)
	}
	cfg, ok := object.(*schedulerconfig.KubeSchedulerConfiguration)
	if !ok {
		tb.Fatalf("a %T", object)
	}
	cfg.Profiles[0].SchedulerName = stock
	return cfg.Profiles[0]
}

func newBench(tb testing.TB, nodes, images int, profiles ...schedulerconfig.KubeSchedulerProfile) *bench {
	tb.Helper()
	metrics.Register()
	b := &bench{nodes: nodes, images: images, bound: make(map[types.UID]string)}
	objects := make([]runtime.Object, nodes)
	for i := range objects {
		objects[i] = b.node(i)
	}
	client := fake.NewClientset(objects...)
	client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		create, ok := action.(clienttesting.CreateAction)
		if !ok || action.GetSubresource() != "binding" {
			return false, nil, nil
		}
		if binding, ok := create.GetObject().(*corev1.Binding); ok {
			b.mu.Lock()
			b.bound[binding.UID] = binding.Target.Name
			b.mu.Unlock()
		}
		return true, nil, nil
	})
	b.client = client
	factory := informers.NewSharedInformerFactory(client, 0)
	ours := scheduler.Factory(nil)
	var err error
	b.Scheduler, err = kubescheduler.New(tb.Context(), client, factory, nil,
		func(string) events.EventRecorder { return &events.FakeRecorder{} },
		kubescheduler.WithProfiles(append(profiles, stockProfile(tb))...),
		kubescheduler.WithPodInitialBackoffSeconds(0),
		kubescheduler.WithFrameworkOutOfTreeRegistry(frameworkruntime.Registry{
			scheduler.Name: func(ctx context.Context, args runtime.Object, handle framework.Handle) (framework.Plugin, error) {
				made, err := ours(ctx, args, handle)
				if err == nil {
					b.plugin, b.store = made, scheduler.StoreOf(made)
				}
				return made, err
			},
		}))
	if err != nil {
		tb.Fatal(err)
	}
	factory.Start(tb.Context().Done())
	factory.WaitForCacheSync(tb.Context().Done())
	if err := b.WaitForHandlersSync(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	b.SchedulingQueue.Run(klog.Background())
	b.close = sync.OnceFunc(b.SchedulingQueue.Close)
	tb.Cleanup(b.close)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range nodes {
		b.report(tb, random, i)
	}
	return b
}

// node makes a node that lists 50 of its images, as kubelet does.
func (b *bench) node(i int) *corev1.Node {
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("16"), corev1.ResourceMemory: resource.MustParse("64Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), UID: types.UID(nodeName(i)), Labels: map[string]string{
			corev1.LabelHostname: nodeName(i), corev1.LabelTopologyZone: fmt.Sprint("z", i%3), "brisk.dev/accelerated": "true",
		}},
		Status: corev1.NodeStatus{Capacity: room, Allocatable: room},
	}
	for k := range 50 {
		image := (i*50 + k) % catalog
		node.Status.Images = append(node.Status.Images, corev1.ContainerImage{
			Names: []string{"registry.test/team/app-" + strconv.Itoa(image) + "@" + digest(image), tag(image)}, SizeBytes: 300 * mib,
		})
	}
	return node
}

// report changes what a node has.
func (b *bench) report(tb testing.TB, random *rand.Rand, node int, more ...v1alpha1.ImageBlocks) {
	tb.Helper()
	have := make(map[v1alpha1.ImageKey]v1alpha1.ImageBlocks, b.images)
	for len(have) < b.images {
		key, err := v1alpha1.KeyOf(digest(random.IntN(catalog)))
		if err != nil {
			tb.Fatal(err)
		}
		missing := random.Int64N(100 * mib)
		if random.IntN(2) == 0 {
			missing = 0
		}
		have[key] = v1alpha1.ImageBlocks{Key: key, StartupMissing: missing, Cached: 100*mib - missing + random.Int64N(200*mib)}
	}
	list := more
	for _, image := range have {
		list = append(list, image)
	}
	packed, err := v1alpha1.EncodeImages(list)
	if err != nil {
		tb.Fatal(err)
	}
	report := v1alpha1.NodeBlocks{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName(node)},
		Status: v1alpha1.NodeBlocksStatus{
			ObservedAt: metav1.Now(), Healthy: true, Zone: fmt.Sprint("z", node%3), Images: packed, ImageCount: int32(len(list)),
			Cache: v1alpha1.CacheStatus{CapacityBytes: 1 << 40, FreeBytes: 1 << 39},
		},
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&report)
	if err != nil {
		tb.Fatal(err)
	}
	if err := b.store.Update(&unstructured.Unstructured{Object: content}); err != nil {
		tb.Fatal(err)
	}
}

// churn changes a hundred reports a second until ctx is done.
func (b *bench) churn(ctx context.Context, tb testing.TB) {
	tb.Helper()
	random := rand.New(rand.NewPCG(3, 4))
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			b.report(tb, random, random.IntN(b.nodes))
		}
	}
}

// schedule makes a pod and returns how long the scheduler took to decide on it.
func (b *bench) schedule(tb testing.TB, profile, image string) (types.UID, time.Duration) {
	tb.Helper()
	made := b.pod(profile, image)
	b.SchedulingQueue.Add(klog.Background(), made)
	began := time.Now()
	b.ScheduleOne(tb.Context())
	return made.UID, time.Since(began)
}

// pod returns the next pod.
func (b *bench) pod(profile, image string) *corev1.Pod {
	b.pods++
	name := fmt.Sprint("pod-", b.pods)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "bench", Name: name, UID: types.UID(name), Labels: map[string]string{"app": "bench"}},
		Spec: corev1.PodSpec{SchedulerName: profile, Containers: []corev1.Container{{
			Name: "c", Image: image, Ports: b.ports, Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi"),
			}},
		}}},
		Status: corev1.PodStatus{NominatedNodeName: b.nominated},
	}
}

// size is that of the cluster: small, unless BRISK_BENCH_NODES says otherwise.
func size(tb testing.TB) (nodes, pods int) {
	tb.Helper()
	said := os.Getenv("BRISK_BENCH_NODES")
	if said == "" {
		return 1000, 300
	}
	nodes, err := strconv.Atoi(said)
	if err != nil {
		tb.Fatal(err)
	}
	return nodes, 1500
}

// TestThroughput compares pods per second of our profile with those of the stock one. Pods
// of both take turns, so that both have the same machine.
func TestThroughput(t *testing.T) {
	nodes, pods := size(t)
	b := newBench(t, nodes, 200, profile(t, "ours", nil))
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { b.churn(ctx, t) })
	random := rand.New(rand.NewPCG(5, 6))
	took, worked := make(map[string][]time.Duration), make(map[string]time.Duration)
	for range pods {
		image := tag(random.IntN(catalog))
		order := []string{stock, "ours"}
		if random.IntN(2) == 0 {
			slices.Reverse(order)
		}
		for _, name := range order {
			before := processor(t)
			_, d := b.schedule(t, name, image)
			took[name] = append(took[name], d)
			worked[name] += processor(t) - before
		}
	}
	stop()
	running.Wait()
	median := make(map[string]time.Duration)
	for name, all := range took {
		slices.Sort(all)
		median[name] = all[len(all)/2]
		t.Logf("%s: median %v = %.0f pods/s, 99 of 100 below %v; %v of processor time a pod", name, median[name],
			1/median[name].Seconds(), all[len(all)*99/100], worked[name]/time.Duration(len(all)))
	}
	ratio, work := float64(median[stock])/float64(median["ours"]), float64(worked[stock])/float64(worked["ours"])
	t.Logf("ratio of pods per second %.2f, per second of processor time %.2f", ratio, work)
	if max(ratio, work) < 0.95 {
		t.Errorf("our profile schedules %.0f %% of the pods per second that the stock one does", 100*ratio)
	}
}

// processor is the processor time that this process has used.
func processor(tb testing.TB) time.Duration {
	tb.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
