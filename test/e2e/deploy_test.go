//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
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
	t     *testing.T
	table strings.Builder
}

// deploy brings everything of the chart into a cluster.
func deploy(t *testing.T, nodes int) *site {
	t.Helper()
	helm := require.Tool(t, "helm")
	s := &site{Cluster: cluster.Start(t, cluster.Config{Nodes: nodes}), t: t}
	s.PushProgram("brisk-node:test", "cmd/brisk-node")
	s.PushProgram("brisk-scheduler:test", "cmd/brisk-scheduler")
	values := map[string]any{
		"registry": cluster.Registry, "tag": "test",
		"agent": map[string]any{"config": map[string]any{
			"registry": map[string]any{"plainHTTP": []string{cluster.Registry}}, "cache": map[string]any{"size": "2Gi"},
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
	cmd := exec.CommandContext(t.Context(), helm, "template", "brisk", "../../deploy/charts/brisk", "--namespace", namespace, "--values", path)
	cmd.Stderr = os.Stderr
	objects, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	s.Apply([]byte("apiVersion: v1\nkind: Namespace\nmetadata: {name: " + namespace + "}\n---\n" + string(objects)))
	s.Await("the agents to be ready", cluster.Patience, func(ctx context.Context) (bool, error) {
		set, err := s.Client.AppsV1().DaemonSets(namespace).Get(ctx, "brisk-node", metav1.GetOptions{})
		return err == nil && set.Status.NumberReady == int32(nodes), err
	})
	s.Await("the scheduler to be ready", cluster.Patience, func(ctx context.Context) (bool, error) {
		deployment, err := s.Client.AppsV1().Deployments(namespace).Get(ctx, scheduler, metav1.GetOptions{})
		return err == nil && deployment.Status.ReadyReplicas == 2, err
	})
	return s
}

// pod returns a pod of an app for our scheduler, for one node unless that is empty.
func (s *site) pod(a *app, name, node string) *corev1.Pod {
	pod := a.pod(name)
	pod.Spec.SchedulerName = scheduler
	if node != "" {
		pod.Spec.NodeSelector = map[string]string{"kubernetes.io/hostname": node}
	}
	return pod
}

// measure runs a pod and notes how long that took.
func (s *site) measure(what string, pod *corev1.Pod) started {
	s.t.Helper()
	done := run(s.t, s.Cluster, pod)
	fmt.Fprintf(&s.table, "%s\t%s\t%.2f\t%.2f\n", what, done.Spec.NodeName, done.running.Seconds(), done.ready.Seconds())
	return done
}

// report prints what was measured.
func (s *site) report() {
	s.t.Helper()
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	_, err := fmt.Fprint(w, "START\tNODE\tRUNNING [s]\tREADY [s]\n", s.table.String())
	if err := errors.Join(err, w.Flush()); err != nil {
		s.t.Error(err)
	}
	s.t.Log("\n" + out.String())
}

func (s *site) node(name string) *cluster.Node {
	s.t.Helper()
	for _, n := range s.Nodes {
		if n.Name == name {
			return n
		}
	}
	s.t.Fatalf("there is no node %q", name)
	return nil
}

// other returns the name of a node that is none of those given.
func (s *site) other(not ...string) string {
	s.t.Helper()
	for _, n := range s.Nodes {
		if !strings.Contains(" "+strings.Join(not, " ")+" ", " "+n.Name+" ") {
			return n.Name
		}
	}
	s.t.Fatal("there is no other node")
	return ""
}

// cordon says whether a node takes pods.
func (s *site) cordon(node string, closed bool) {
	s.t.Helper()
	patch := fmt.Appendf(nil, `{"spec":{"unschedulable":%t}}`, closed)
	if _, err := s.Client.CoreV1().Nodes().Patch(s.t.Context(), node, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func TestDeployed(t *testing.T) {
	s := deploy(t, 3)
	lazy := pushApp(t, s.Cluster, "lazy:1", 1, true)
	plain := pushApp(t, s.Cluster, "plain:1", 2, false)

	s.measure("plain", s.pod(plain, "plain", ""))
	first := s.measure("cold", s.pod(lazy, "cold", ""))
	if status := s.node(first.Spec.NodeName).MustRun(program, "status"); !strings.Contains(status, "lazy:1") {
		t.Errorf("the image is not lazy:\n%s", status)
	}
	s.awaitReport(first.Spec.NodeName)
	if warm := s.measure("warm node", s.pod(lazy, "warm", "")); warm.Spec.NodeName != first.Spec.NodeName {
		t.Errorf("the pod is on %s and not on the node that is warm, %s:\n%s", warm.Spec.NodeName, first.Spec.NodeName, s.brisk("why", "warm"))
	}
	for _, args := range [][]string{{"nodes"}, {"images"}, {"why", "warm"}, {"top"}} {
		t.Logf("kubectl brisk %s\n%s", strings.Join(args, " "), s.brisk(args...))
	}
	remove(t, s.Cluster, "warm")
	t.Run("RegistryDown", func(t *testing.T) { s.registryDown(t, lazy, s.other(first.Spec.NodeName)) })

	t.Run("AgentKilled", func(*testing.T) {
		s.node(first.Spec.NodeName).MustRun("systemctl", "kill", "brisk-node")
		first.requireSums(t, lazy.rest)
	})
	t.Run("Drained", func(t *testing.T) {
		s.cordon(first.Spec.NodeName, true)
		eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "cold", Namespace: "default"}}
		if err := s.Client.CoreV1().Pods("default").EvictV1(t.Context(), eviction); err != nil {
			t.Fatal(err)
		}
		moved := run(t, s.Cluster, s.pod(lazy, "moved", ""))
		if moved.Spec.NodeName == first.Spec.NodeName {
			t.Error("the pod is on a node that takes none")
		}
		moved.requireSums(t, lazy.startup)
		s.cordon(first.Spec.NodeName, false)
	})
	t.Run("WithoutPods", func(*testing.T) { s.withoutPods(lazy) })
	s.report()
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

// awaitReport waits until the scheduler can know what a node has.
func (s *site) awaitReport(node string) {
	s.t.Helper()
	reports, err := client.New(s.REST)
	if err != nil {
		s.t.Fatal(err)
	}
	s.Await("node "+node+" to report an image", cluster.Patience, func(ctx context.Context) (bool, error) {
		report, err := reports.NodeBlocks().Get(ctx, node, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return err == nil && report.Status.Healthy && report.Status.ImageCount > 0, err
	})
}

// fromPeers returns how many bytes the agent of a node has from others.
func fromPeers(t *testing.T, n *cluster.Node) int64 {
	t.Helper()
	var status struct {
		Bytes struct{ Peers int64 }
	}
	if err := json.Unmarshal([]byte(n.MustRun(program, "status", "-o", "json")), &status); err != nil {
		t.Fatal(err)
	}
	return status.Bytes.Peers
}

// registryDown starts a pod on a node that knows the image and has nothing of it, while
// there is no registry.
func (s *site) registryDown(t *testing.T, a *app, node string) {
	t.Helper()
	idle := s.pod(a, "idle", node)
	idle.Spec.Containers[0].Args = nil
	run(t, s.Cluster, idle)
	remove(t, s.Cluster, "idle")
	s.StopRegistry()
	defer s.StartRegistry()
	pod := s.measure("peers, no registry", s.pod(a, "peers", node))
	pod.requireSums(t, a.startup)
	if n := fromPeers(t, s.node(node)); n < startupBytes {
		t.Errorf("%d bytes came from peers", n)
	}
	remove(t, s.Cluster, "peers")
}

// withoutPods removes the pods of the agents, which does not matter to those of others,
// and then an agent.
func (s *site) withoutPods(a *app) {
	s.t.Helper()
	ctx := s.t.Context()
	if err := s.Client.AppsV1().DaemonSets(namespace).Delete(ctx, "brisk-node", metav1.DeleteOptions{}); err != nil {
		s.t.Fatal(err)
	}
	s.Await("the pods of the agents to be gone", cluster.Patience, func(ctx context.Context) (bool, error) {
		list, err := s.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=brisk-node"})
		return err == nil && len(list.Items) == 0, err
	})
	pod := run(s.t, s.Cluster, s.pod(a, "without", ""))
	pod.requireSums(s.t, a.rest)
	n := s.node(pod.Spec.NodeName)
	if _, err := n.Run(program, "uninstall"); err == nil {
		s.t.Error("an agent was uninstalled that a container needs")
	}
	pod.requireSums(s.t, a.startup)
}
