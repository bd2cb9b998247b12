package scheduler_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/api/v1alpha1"
)

// TestGang checks that gang scheduling works beside the plugin: a gang with a large image that
// two nodes have waits until it is complete, then goes to these, and to others only when they are full.
func TestGang(t *testing.T) {
	c := newCluster(t)
	c.Apply(t, "deploy/crds/*.yaml")
	c.ApplyYAML(t, podGroups(t))
	ns := c.namespace(t, "gang", nil)
	c.schedule(t, "config-gang.yaml")
	const nodes, members = 6, 8
	for i := range nodes {
		name := fmt.Sprint("gang-", i)
		c.node(t, name, "gang", accelerated())
		image := has(t, "model", 20<<30, 0)
		if i < 2 {
			image = has(t, "model", 0, 20<<30)
		}
		r := healthy(t, name, image)
		r.Status.Cache = v1alpha1.CacheStatus{CapacityBytes: 100 << 30, FreeBytes: 50 << 30}
		c.report(t, r)
	}
	c.ApplyYAML(t, []byte(fmt.Sprintf(`
apiVersion: scheduling.x-k8s.io/v1alpha1
kind: PodGroup
metadata: {name: training, namespace: gang}
spec: {minMember: %d, scheduleTimeoutSeconds: 60}
`, members)))
	second(t)

	all := make([]string, members)
	for i := range all {
		all[i] = fmt.Sprint("member-", i)
	}
	start := func(name string) {
		p := pod(ns, name, "gang", pinned("model"))
		p.Labels = map[string]string{"scheduling.x-k8s.io/pod-group": "training"}
		c.create(t, p)
	}
	for _, name := range all[:members-1] {
		start(name)
	}
	for _, name := range all[:members-1] {
		if message := c.unplaced(t, ns, name); !strings.Contains(message, "training") {
			t.Errorf("%s is told %q", name, message)
		}
	}
	start(all[members-1])
	for name, node := range c.placed(t, ns, all...) {
		if node != "gang-0" && node != "gang-1" {
			t.Errorf("%s is on %s, which lacks the image", name, node)
		}
	}
}

// podGroups is the definition of PodGroup, from the module whose plugin reads them.
func podGroups(t *testing.T) []byte {
	t.Helper()
	dir, err := exec.CommandContext(t.Context(), "go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/scheduler-plugins").Output()
	if err != nil {
		t.Fatalf("finding the module of the plugins: %v", err)
	}
	content, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "config/crd/bases/scheduling.x-k8s.io_podgroups.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	return content
}
