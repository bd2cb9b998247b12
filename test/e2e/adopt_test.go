//go:build e2e

package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/brisk-project/brisk/test/cluster"
)

// discardLayers has containerd forget layers that it has unpacked, as many clusters do.
func discardLayers(root string) error {
	path := filepath.Join(root, "etc/containerd/config.toml")
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	content = append(content, "[plugins.\"io.containerd.cri.v1.images\"]\ndiscard_unpacked_layers = true\n"...)
	return os.WriteFile(path, content, 0o600)
}

// TestAdopted brings the agent to a node that has run pods, and takes it off again. What ran
// before runs on, and everything starts again, while there is no registry.
func TestAdopted(t *testing.T) {
	c := cluster.Start(t, cluster.Config{Nodes: 1, NodeSetup: discardLayers})
	n := c.Nodes[0]
	plain := pushApp(t, c, appConfig{name: "plain:1", seed: 1, more: 16 << 20, plain: true})
	ended := pushApp(t, c, appConfig{name: "ended:1", seed: 2, plain: true})
	lazy := pushApp(t, c, appConfig{name: "lazy:1", seed: 3})
	running := run(t, c, plain.pod("running"))
	run(t, c, ended.pod("ended"))
	remove(t, c, "ended")

	s := deployTo(t, c, "auto")
	s.StopRegistry()
	running.requireSums(t, plain.more)
	s.startAll("adopted", plain, ended)
	s.StartRegistry()
	run(t, c, s.pod(lazy.pod("lazy"), "")).requireSums(t, lazy.startup)
	s.Await("the lazy image to be complete", cluster.Timeout, func(context.Context) (bool, error) {
		st, err := ask(n)
		return err == nil && s.missing(st, lazy.ref) == 0, err
	})
	remove(t, c, "lazy")
	running.requireSums(t, plain.startup)
	s.requireNotRestarted("running")
	remove(t, c, "running")

	s.runHelm("uninstall", "brisk", "--wait")
	s.StopRegistry()
	t.Log(n.MustRun(program, "uninstall", "--drain", "--purge"))
	if now := s.containerdConfig(n); now != s.before {
		t.Errorf("containerd's configuration is not what it was:\n%s\nand was:\n%s", now, s.before)
	}
	n.AwaitReady(cluster.Timeout)
	s.startAll("given-back", plain, ended, lazy)
	if mounts := n.MustRun("cat", "/proc/mounts"); strings.Contains(mounts, "erofs") || strings.Contains(mounts, "fuse.brisk") {
		t.Errorf("mounts of the agent are left:\n%s", mounts)
	}
}

// startAll starts a pod of each app and checks what it reads.
func (s *site) startAll(id string, apps ...*app) {
	s.t.Helper()
	for _, a := range apps {
		run(s.t, s.Cluster, a.pod(id)).requireSums(s.t, a.startup)
		remove(s.t, s.Cluster, id)
	}
}

// requireNotRestarted checks that the containers of a pod are those that it began with.
func (s *site) requireNotRestarted(id string) {
	s.t.Helper()
	pod, err := s.Client.CoreV1().Pods("default").Get(s.t.Context(), id, metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.RestartCount > 0 {
			s.t.Errorf("container %s of pod %s was restarted %d times", c.Name, id, c.RestartCount)
		}
	}
}
