package scheduler_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/brisk-project/brisk/api/compat"
	"github.com/brisk-project/brisk/api/v1alpha1"
)

func TestPlacement(t *testing.T) {
	c := newCluster(t)
	t.Run("without definitions", func(t *testing.T) { withoutDefinitions(t, c) })
	c.Apply(t, "deploy/crds/*.yaml")
	t.Run("follows reports", func(t *testing.T) { followsReports(t, c) })
	t.Run("required pods wait", func(t *testing.T) { requiredWaits(t, c) })
	t.Run("names", func(t *testing.T) { names(t, c) })
	t.Run("useless reports", func(t *testing.T) { uselessReports(t, c) })
	t.Run("herd", func(t *testing.T) { herd(t, c) })
}

// withoutDefinitions checks that pods are placed on a cluster that knows no NodeBlocks.
func withoutDefinitions(t *testing.T, c *cluster) {
	t.Helper()
	ns := c.namespace(t, "undefined", nil)
	c.schedule(t, "config.yaml")
	c.node(t, "undefined-1", "undefined", accelerated())
	c.node(t, "undefined-2", "undefined", nil)
	c.place(t, pod(ns, "any", "undefined", "nginx:1"))
	required := pod(ns, "required", "undefined", pinned("app"))
	required.Annotations = map[string]string{compat.Acceleration: "required"}
	if node := c.place(t, required); node != "undefined-1" {
		t.Errorf("a pod that requires acceleration is on %s", node)
	}
}

// followsReports checks that a pod goes where its image is, within a second of the report.
func followsReports(t *testing.T, c *cluster) {
	t.Helper()
	ns := c.namespace(t, "follow", nil)
	c.schedule(t, "config.yaml")
	const nodes = 5
	for i := range nodes {
		c.node(t, fmt.Sprint("follow-", i), "follow", accelerated())
	}
	for round := range 8 {
		warm := (3*round + 1) % nodes
		for i := range nodes {
			image := has(t, "app", 400*mib, 0)
			if i == warm {
				image = has(t, "app", 0, 400*mib)
			}
			c.report(t, healthy(t, fmt.Sprint("follow-", i), image))
		}
		second(t)
		name := fmt.Sprint("p", round)
		if node := c.place(t, pod(ns, name, "follow", pinned("app"))); node != fmt.Sprint("follow-", warm) {
			t.Errorf("round %d: the pod is on %s, and node %d is warm", round, node, warm)
		}
	}
}

// requiredWaits checks that pods that require acceleration wait for it, and are woken by it.
func requiredWaits(t *testing.T, c *cluster) {
	t.Helper()
	ns := c.namespace(t, "required", map[string]string{compat.Acceleration: "required"})
	c.schedule(t, "config.yaml")
	c.node(t, "required-1", "required", nil)
	p := pod(ns, "waits", "required", pinned("app"))
	c.create(t, p)
	if message := c.unplaced(t, ns, "waits"); !strings.Contains(message, "install brisk-node") {
		t.Errorf("the pod is told %q", message)
	}
	free := pod(ns, "opted-out", "required", pinned("app"))
	free.Labels = map[string]string{compat.Acceleration: "disabled"}
	c.place(t, free)

	began := time.Now()
	patch := []byte(`{"metadata":{"labels":{"brisk.dev/accelerated":"true"}}}`)
	if _, err := c.client.CoreV1().Nodes().Patch(t.Context(), "required-1", "application/merge-patch+json", patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	c.placed(t, ns, "waits")
	t.Logf("placed %v after the node was accelerated", time.Since(began).Round(time.Millisecond))

	sick := healthy(t, "required-1")
	sick.Status.Healthy, sick.Status.Message = false, "no FUSE"
	c.report(t, sick)
	second(t)
	c.create(t, pod(ns, "sick", "required", pinned("app")))
	if message := c.unplaced(t, ns, "sick"); !strings.Contains(message, "kubectl brisk nodes") {
		t.Errorf("the pod is told %q", message)
	}
	began = time.Now()
	full := healthy(t, "required-1", has(t, "app", 0, mib), has(t, "large", 5<<30, 0))
	full.Status.Cache.FreeBytes = 1 << 30
	c.report(t, full)
	c.placed(t, ns, "sick")
	t.Logf("placed %v after the agent was healthy", time.Since(began).Round(time.Millisecond))

	c.create(t, pod(ns, "large", "required", pinned("large")))
	if message := c.unplaced(t, ns, "large"); !strings.Contains(message, "no room") {
		t.Errorf("the pod is told %q", message)
	}
	c.report(t, healthy(t, "required-1", has(t, "large", 5<<30, 0)))
	c.placed(t, ns, "large")
}

// names checks that images are found by tag, by digest and in their accelerated form, and
// wherever a pod names one.
func names(t *testing.T, c *cluster) {
	t.Helper()
	ns := c.namespace(t, "names", nil)
	c.schedule(t, "config.yaml")
	for i := range 3 {
		c.node(t, fmt.Sprint("names-", i), "names", accelerated())
		image := has(t, "app", 400*mib, 0)
		if i == 1 {
			image = has(t, "app", 0, 400*mib)
		}
		c.report(t, healthy(t, fmt.Sprint("names-", i), image))
	}
	// A node says which digest the tag has, in the status that kubelet writes.
	node, err := c.client.CoreV1().Nodes().Get(t.Context(), "names-0", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Images = []corev1.ContainerImage{{Names: []string{pinned("app"), "registry.test/app:v1"}, SizeBytes: 1}}
	if _, err := c.client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	// A pod says which digest another tag has, once it runs.
	seen := pod(ns, "seen", "names", "registry.test/app:stable")
	seen.Spec.NodeName = "names-2"
	c.create(t, seen)
	seen.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c0", Image: "registry.test/app:stable", ImageID: pinned("app")}}
	if _, err := c.client.CoreV1().Pods(ns).UpdateStatus(t.Context(), seen, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	second(t)

	for name, p := range map[string]*corev1.Pod{
		"tag":              pod(ns, "", "names", "registry.test/app:v1"),
		"tag-of-a-pod":     pod(ns, "", "names", "registry.test/app:stable"),
		"digest":           pod(ns, "", "names", pinned("app")),
		"accelerated-form": pod(ns, "", "names", "registry.test/app:v1_accelerated"),
		"second-container": pod(ns, "", "names", "unknown", pinned("app")),
		"init": func() *corev1.Pod {
			p := pod(ns, "", "names", "unknown", pinned("app"))
			p.Spec.InitContainers, p.Spec.Containers = p.Spec.Containers[1:], p.Spec.Containers[:1]
			return p
		}(),
		"volume": func() *corev1.Pod {
			p := pod(ns, "", "names", "unknown")
			p.Spec.Volumes = []corev1.Volume{{Name: "model", VolumeSource: corev1.VolumeSource{
				Image: &corev1.ImageVolumeSource{Reference: pinned("app")},
			}}}
			return p
		}(),
	} {
		p.Name = name
		if node := c.place(t, p); node != "names-1" {
			t.Errorf("%s: the pod is on %s", name, node)
		}
	}
}

// uselessReports checks that no report keeps a pod from being placed.
func uselessReports(t *testing.T, c *cluster) {
	t.Helper()
	ns := c.namespace(t, "useless", nil)
	c.schedule(t, "config.yaml")
	old := metav1.NewTime(time.Now().Add(-10 * time.Minute))
	for name, change := range map[string]func(*v1alpha1.NodeBlocks){
		"empty":     func(r *v1alpha1.NodeBlocks) { r.Status.Images, r.Status.ImageCount = nil, 0 },
		"malformed": func(r *v1alpha1.NodeBlocks) { r.Status.Images = []byte{1, 2, 3, 4, 5} },
		"old":       func(r *v1alpha1.NodeBlocks) { r.Status.ObservedAt = old },
		"ancient":   func(r *v1alpha1.NodeBlocks) { r.Status.ObservedAt = metav1.NewTime(time.Unix(1, 0)) },
		"future":    func(r *v1alpha1.NodeBlocks) { r.Status.ObservedAt = metav1.NewTime(time.Now().Add(time.Hour)) },
	} {
		c.node(t, "useless-"+name, name, accelerated())
		r := healthy(t, "useless-"+name, has(t, "app", 0, mib))
		change(r)
		c.report(t, r)
	}
	c.node(t, "useless-none", "none", accelerated())
	for _, group := range []string{"empty", "malformed", "old", "ancient", "future", "none"} {
		for _, mode := range []string{"preferred", "required"} {
			p := pod(ns, group+"-"+mode, group, pinned("app"))
			p.Labels = map[string]string{compat.Acceleration: mode}
			c.place(t, p)
		}
	}
}

// herd checks that pods of one image that come at once do not all go to one node.
func herd(t *testing.T, c *cluster) {
	t.Helper()
	ns := c.namespace(t, "herd", nil)
	c.schedule(t, "config.yaml")
	const nodes, pods = 20, 60
	for i := range nodes {
		name := fmt.Sprintf("herd-%02d", i)
		c.node(t, name, "herd", accelerated())
		c.report(t, healthy(t, name, has(t, "app", 400*mib, 0)))
	}
	second(t)
	all := make([]string, pods)
	for i := range all {
		all[i] = fmt.Sprint("p", i)
		c.create(t, pod(ns, all[i], "herd", pinned("app")))
	}
	perNode := make(map[string]int, nodes)
	for _, node := range c.placed(t, ns, all...) {
		perNode[node]++
	}
	// A node loads the image once, for however many pods.
	counts := slices.Sorted(maps.Values(perNode))
	t.Logf("pods on the %d nodes that have any: %v", len(counts), counts)
	if 2*len(counts) <= nodes {
		t.Errorf("%d of %d nodes were promised to load anything, so the median is 0", len(counts), nodes)
	}
	if most := counts[len(counts)-1]; most > 2*pods/nodes {
		t.Errorf("a node has %d of %d pods", most, pods)
	}
}
