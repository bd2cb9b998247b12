//go:build !race

package scheduler_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
	schedulerconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"

	"github.com/brisk-project/brisk/api/config"
	_ "github.com/brisk-project/brisk/api/config/scheme"
	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/scheduler"
)

// TestWarmNodesAreSeen checks that pods go to five warm nodes, however many others there are. On a
// cluster of a size that was asked for, it also measures other ways to bring that about.
func TestWarmNodesAreSeen(t *testing.T) {
	nodes, _ := size(t)
	const pods = 200
	image := "registry.test/rare@" + digest(catalog+7)
	ways := map[string]func(*schedulerconfig.KubeSchedulerProfile){"ours": nil}
	if os.Getenv("BRISK_BENCH_NODES") != "" {
		ways["no shortlist"] = withoutShortlist(t)
		ways["no shortlist, 100 % of the nodes"] = func(p *schedulerconfig.KubeSchedulerProfile) {
			withoutShortlist(t)(p)
			p.PercentageOfNodesToScore = new(int32(100))
		}
	}
	for name, change := range ways {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nodes, 200, profile(t, "ours", change))
			warm := b.warm(t, catalog+7, 5)
			b.hits(t, stock, image, 20, warm) // the first pods of a scheduler are slow
			for _, who := range []string{stock, "ours"} {
				hits, median := b.hits(t, who, image, pods, warm)
				t.Logf("%s: %d of %d pods are on a warm node; %v a pod", who, hits, pods, median)
				if change == nil && who != stock && hits*100 < pods*95 {
					t.Errorf("%d of %d pods are on a warm node", hits, pods)
				}
			}
		})
	}
	if os.Getenv("BRISK_BENCH_NODES") == "" {
		return
	}
	t.Run("nominated", func(t *testing.T) {
		b := newBench(t, nodes, 200, profile(t, "ours", withoutShortlist(t)))
		warm := slices.Sorted(maps.Keys(b.warm(t, catalog+7, 5)))
		var took []time.Duration
		for i := range pods {
			b.nominated = warm[i%len(warm)]
			_, d := b.schedule(t, "ours", image)
			took = append(took, d)
		}
		slices.Sort(took)
		t.Logf("%v a pod, without the write that nominates", took[pods/2])
	})
}

// withoutShortlist turns off what brings warm nodes into a cycle.
func withoutShortlist(tb testing.TB) func(*schedulerconfig.KubeSchedulerProfile) {
	tb.Helper()
	return func(p *schedulerconfig.KubeSchedulerProfile) {
		for i := range p.PluginConfig {
			if args, ok := p.PluginConfig[i].Args.(*config.BlockLocalityArgs); ok {
				args.ShortlistSize = 0
				return
			}
		}
		tb.Fatal("the profile has no arguments of the plugin")
	}
}

// TestShortlistIsTooShort checks that a pod that fits on none of the nodes of a shortlist gets to the one that it
// fits on, and that no other pod has to go for it.
func TestShortlistIsTooShort(t *testing.T) {
	const nodes = 400
	b := newBench(t, nodes, 10, profile(t, "ours", nil))
	b.warm(t, catalog+7, 5)
	free := nodeName(nodes - 1)
	for i := range nodes - 1 {
		if err := b.Cache.AddPod(klog.Background(), &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "bench", Name: fmt.Sprint("old-", i), UID: types.UID(fmt.Sprint("old-", i))},
			Spec:       corev1.PodSpec{NodeName: nodeName(i), Containers: []corev1.Container{{Name: "c", Ports: hostPort()}}},
		}); err != nil {
			t.Fatal(err)
		}
	}
	b.ports = hostPort()
	made := b.pod("ours", "registry.test/rare@"+digest(catalog+7))
	uid := made.UID
	// One that fails is only tried again if the scheduler sees it in the cluster.
	if _, err := b.client.CoreV1().Pods("bench").Create(t.Context(), made, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { wait.UntilWithContext(t.Context(), b.ScheduleOne, 0) })
	t.Cleanup(running.Wait)
	t.Cleanup(b.close)
	deadline := time.Now().Add(30 * time.Second)
	for {
		b.mu.Lock()
		node, done := b.bound[uid]
		b.mu.Unlock()
		switch {
		case node == free:
			if scheduler.Retried(b.plugin) != 1 {
				t.Error("the one node was on the list by chance, which checks nothing")
			}
			return
		case done:
			t.Fatalf("the pod is on %s", node)
		case time.Now().After(deadline):
			t.Fatal("the pod is not placed")
		}
		<-time.After(10 * time.Millisecond)
	}
}

func hostPort() []corev1.ContainerPort {
	return []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80, Protocol: corev1.ProtocolTCP}}
}

// warm gives an image to some nodes, the others have never seen it.
func (b *bench) warm(tb testing.TB, image, count int) map[string]bool {
	tb.Helper()
	key, err := v1alpha1.KeyOf(digest(image))
	if err != nil {
		tb.Fatal(err)
	}
	random := rand.New(rand.NewPCG(7, 8))
	warm := make(map[string]bool, count)
	for i := range count {
		node := (i*b.nodes/count + 31) % b.nodes
		warm[nodeName(node)] = true
		b.report(tb, random, node, v1alpha1.ImageBlocks{Key: key, Cached: 400 * mib})
	}
	return warm
}

// hits schedules pods and counts those that are on one of some nodes. The time is the median.
func (b *bench) hits(tb testing.TB, profile, image string, pods int, nodes map[string]bool) (int, time.Duration) {
	tb.Helper()
	uids := make([]types.UID, pods)
	took := make([]time.Duration, pods)
	for i := range uids {
		uids[i], took[i] = b.schedule(tb, profile, image)
	}
	slices.Sort(took)
	deadline := time.Now().Add(30 * time.Second)
	for {
		b.mu.Lock()
		found, hits := 0, 0
		for _, uid := range uids {
			if node, ok := b.bound[uid]; ok {
				found++
				if nodes[node] {
					hits++
				}
			}
		}
		b.mu.Unlock()
		if found == pods {
			return hits, took[pods/2]
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%d of %d pods are bound", found, pods)
		}
		<-time.After(10 * time.Millisecond)
	}
}
