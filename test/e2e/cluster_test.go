//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/brisk-project/brisk/api/client"
	"github.com/brisk-project/brisk/test/cluster"
	"github.com/brisk-project/brisk/test/require"
)

const (
	namespace = "brisk-system"
	scheduler = "brisk-scheduler"
	program   = "/opt/brisk/bin/brisk-node"
)

// site is a cluster that everything is deployed to.
type site struct {
	*cluster.Cluster
	t    *testing.T
	helm string
	// before is how containerd was configured on the nodes before anything was deployed.
	before string
}

// deploy brings the chart into a new cluster, with the agents loading images in a mode.
func deploy(t *testing.T, nodes int, mode string) *site {
	t.Helper()
	return deployTo(t, cluster.Start(t, cluster.Config{Nodes: nodes}), mode)
}

// deployTo is deploy for a cluster that runs.
func deployTo(t *testing.T, c *cluster.Cluster, mode string) *site {
	t.Helper()
	s := &site{helm: require.Tool(t, "helm"), Cluster: c, t: t}
	nodes := len(c.Nodes)
	s.before = s.containerdConfig(s.Nodes[0])
	s.PushProgram("brisk-node:test", "cmd/brisk-node")
	s.PushProgram("brisk-scheduler:test", "cmd/brisk-scheduler")
	values := map[string]any{
		"registry": cluster.Registry, "tag": "test",
		"agent": map[string]any{"maxUnavailable": nodes, "config": map[string]any{
			"registry": map[string]any{"plainHTTP": []string{cluster.Registry}}, "cache": map[string]any{"size": "2Gi"},
			"mount": map[string]any{"readTimeout": "10s"}, "snapshotter": map[string]any{"mode": mode},
			"peers": map[string]any{"listen": []string{"/ip4/0.0.0.0/tcp/4077"}},
		}},
	}
	content, err := json.Marshal(values)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "values.json")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	s.runHelm("install", "brisk", "../../deploy/charts/brisk", "--create-namespace", "--values", path)
	s.Await("the agents to be ready", cluster.Timeout, func(ctx context.Context) (bool, error) {
		set, err := s.Client.AppsV1().DaemonSets(namespace).Get(ctx, "brisk-node", metav1.GetOptions{})
		return err == nil && set.Status.NumberReady == int32(nodes), err
	})
	s.awaitScheduler(2)
	return s
}

// awaitScheduler waits until the scheduler has as many replicas, all of them ready.
func (s *site) awaitScheduler(replicas int32) {
	s.t.Helper()
	s.Await("the scheduler to be ready", cluster.Timeout, func(ctx context.Context) (bool, error) {
		deployment, err := s.Client.AppsV1().Deployments(namespace).Get(ctx, scheduler, metav1.GetOptions{})
		return err == nil && deployment.Status.Replicas == replicas && deployment.Status.ReadyReplicas == replicas, err
	})
}

// scaleScheduler changes the number of replicas of the scheduler.
func (s *site) scaleScheduler(replicas int32) {
	s.t.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"replicas":%d}}`, replicas)
	if _, err := s.Client.AppsV1().Deployments(namespace).Patch(s.t.Context(), scheduler, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		s.t.Fatal(err)
	}
	s.awaitScheduler(replicas)
}

// containerdConfig returns the configuration of containerd on a node.
func (s *site) containerdConfig(n *cluster.Node) string {
	s.t.Helper()
	return n.MustRun("sh", "-c", "ls /etc/containerd/conf.d && cat /etc/containerd/config.toml")
}

func (s *site) runHelm(args ...string) {
	s.t.Helper()
	if err := s.tryHelm(args...); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) tryHelm(args ...string) error {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), s.helm, append(args, "--namespace", namespace, "--kubeconfig", s.Kubeconfig)...)
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+s.t.TempDir(), "HELM_CONFIG_HOME="+s.t.TempDir(), "HELM_DATA_HOME="+s.t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("helm %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// brisk runs kubectl-brisk.
func (s *site) brisk(args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), s.Program("cmd/kubectl-brisk"), append(args, "--kubeconfig", s.Kubeconfig)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Errorf("kubectl brisk %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// shape bounds the cables of all nodes.
func (s *site) shape(rate string) {
	for _, n := range s.Nodes {
		n.LimitRate(rate)
	}
}

// step does a part of a test, and says how long that took.
func (s *site) step(name string, do func()) {
	s.t.Helper()
	begin := time.Now()
	do()
	s.t.Logf("%5.1f s: %s", time.Since(begin).Seconds(), name)
	if s.t.Failed() {
		s.t.FailNow() // what follows builds on it
	}
}

// pod returns a pod for our scheduler, for one node unless that is empty.
func (s *site) pod(pod *corev1.Pod, node string) *corev1.Pod {
	pod.Spec.SchedulerName = scheduler
	return on(pod, node)
}

// on returns the pod, for one node unless that is empty.
func on(pod *corev1.Pod, node string) *corev1.Pod {
	if node != "" {
		pod.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node}
	}
	return pod
}

func (s *site) node(name string) *cluster.Node {
	s.t.Helper()
	i := slices.IndexFunc(s.Nodes, func(n *cluster.Node) bool { return n.Name == name })
	if i < 0 {
		s.t.Fatalf("there is no node %q", name)
	}
	return s.Nodes[i]
}

// other returns the name of a node that is none of those given.
func (s *site) other(not ...string) string {
	s.t.Helper()
	i := slices.IndexFunc(s.Nodes, func(n *cluster.Node) bool { return !slices.Contains(not, n.Name) })
	if i < 0 {
		s.t.Fatal("there is no other node")
	}
	return s.Nodes[i].Name
}

// patchNode changes the object of a node.
func (s *site) patchNode(node, patch string) {
	s.t.Helper()
	if _, err := s.Client.CoreV1().Nodes().Patch(s.t.Context(), node, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// cordon says whether a node takes pods.
func (s *site) cordon(node string, closed bool) {
	s.t.Helper()
	s.patchNode(node, fmt.Sprintf(`{"spec":{"unschedulable":%t}}`, closed))
}

// awaitReport waits until the scheduler can know what a node has.
func (s *site) awaitReport(node string) {
	s.t.Helper()
	reports, err := client.New(s.REST)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Await("node "+node+" to report an image", cluster.Timeout, func(ctx context.Context) (bool, error) {
		report, err := reports.NodeBlocks().Get(ctx, node, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil && report.Status.Healthy && report.Status.ImageCount > 0, err
	})
}

// status is what an agent says of itself.
type status struct {
	Bytes  struct{ Registry, Peers int64 }
	Images []struct {
		Image                    string
		Lazy, Direct             bool
		CachedBytes, StreamBytes int64
	}
}

func ask(n *cluster.Node) (status, error) {
	var st status
	out, err := n.Run(program, "status", "-o", "json")
	if err != nil {
		return st, err
	}
	return st, json.Unmarshal([]byte(out), &st)
}

// status asks the agent of a node that has to answer.
func (s *site) status(n *cluster.Node) status {
	s.t.Helper()
	st, err := ask(n)
	if err != nil {
		s.t.Fatal(err)
	}
	return st
}

// missing returns how much of a lazy image an agent does not have.
func (s *site) missing(st status, ref string) int64 {
	s.t.Helper()
	for _, image := range st.Images {
		if strings.HasPrefix(image.Image, ref) {
			if !image.Lazy {
				s.t.Fatalf("%s is not lazy", ref)
			}
			return image.StreamBytes - image.CachedBytes
		}
	}
	s.t.Fatalf("the agent does not know %s: %+v", ref, st.Images)
	return 0
}
