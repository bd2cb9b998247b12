//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/brisk-project/brisk/api/client"
	"github.com/brisk-project/brisk/api/compat"
	"github.com/brisk-project/brisk/test/cluster"
)

// TestDeployed installs the chart and takes parts of it, and of what it needs, away. Agents
// load only what is read, so every container depends on its agent for what it has not read.
func TestDeployed(t *testing.T) {
	s := deploy(t, 3, "lazy")
	lazy := pushApp(t, s.Cluster, appConfig{name: "lazy:1", seed: 1, rest: 48 << 20, more: 16 << 20})
	alone := pushApp(t, s.Cluster, appConfig{name: "alone:1", seed: 2})
	s.shape("50mbit")

	first := run(t, s.Cluster, s.pod(lazy.pod("cold"), ""))
	where := first.Spec.NodeName
	if missing := s.missing(s.status(s.node(where)), lazy.ref); missing < 64<<20 {
		t.Fatalf("the container could do without its agent: only %d bytes are missing", missing)
	}
	s.awaitReport(where)
	s.step("helm test finds a scheduler that is away", s.helmTest)
	s.step("a warm node comes first", func() { s.warm(lazy, where) })
	s.step("an agent reports for no other", func() { s.policy(where, s.other(where)) })
	s.step("a node starts from peers without a registry", func() { s.registryDown(lazy, alone, s.other(where)) })
	s.step("an agent is killed under a reader", func() { s.agentKilled(first, lazy.rest) })
	s.step("a drained pod moves", func() { s.drained(lazy, where) })
	s.step("a pod that requires acceleration waits for it", func() { s.placement(lazy) })
	s.step("all is taken off", func() { s.uninstalled(lazy) })
}

// helmTest tests the release as users do, also without its scheduler.
func (s *site) helmTest() {
	s.runHelm("test", "brisk", "--timeout", cluster.Timeout.String())
	s.scaleScheduler(0)
	if err := s.tryHelm("test", "brisk", "--filter", "name=brisk-scheduler-test", "--timeout", "10s"); err == nil {
		s.t.Error("helm test is content without a scheduler")
	}
	s.scaleScheduler(2)
	s.runHelm("test", "brisk", "--filter", "name=brisk-scheduler-test", "--timeout", cluster.Timeout.String())
}

// explanation is what kubectl brisk says of a pod.
type explanation struct {
	Message string
	Nodes   []struct {
		Node                                   string
		Chosen                                 bool
		Seconds, PeersSeconds, RegistrySeconds float64
	}
}

func (s *site) why(pod string) explanation {
	s.t.Helper()
	var said explanation
	if err := json.Unmarshal([]byte(s.brisk("why", pod, "-o", "json")), &said); err != nil {
		s.t.Fatal(err)
	}
	return said
}

// warm starts a pod on the node that has what it reads, and asks how long each node would
// have taken. The scheduler may think that so little is not worth a preference, so the
// pod is for that node.
func (s *site) warm(a *app, where string) {
	run(s.t, s.Cluster, s.pod(a.pod("warm"), where))
	said := s.why("warm")
	if len(said.Nodes) != len(s.Nodes) || said.Nodes[0].Node != where || !said.Nodes[0].Chosen {
		s.t.Errorf("the warm node is not first: %+v", said.Nodes)
	}
	for _, n := range said.Nodes {
		if math.Abs(n.Seconds-n.PeersSeconds-n.RegistrySeconds) > 1e-6 {
			s.t.Errorf("on %s peers and registry do not add up: %+v", n.Node, n)
		}
		if n.Node != where && n.Seconds <= said.Nodes[0].Seconds {
			s.t.Errorf("node %s is not behind the warm one: %+v", n.Node, said.Nodes)
		}
	}
	for _, args := range [][]string{{"nodes"}, {"images"}, {"why", "warm"}, {"top"}} {
		s.t.Logf("kubectl brisk %s\n%s", strings.Join(args, " "), s.brisk(args...))
	}
	remove(s.t, s.Cluster, "warm")
}

// policy tries to report with the credentials of an agent.
func (s *site) policy(own, foreign string) {
	cfg := rest.AnonymousClientConfig(s.REST)
	cfg.BearerToken = strings.TrimSpace(s.node(own).MustRun("cat", "/run/brisk/kubernetes/token"))
	agent, err := client.New(cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	write := func(node string) error {
		report, err := agent.NodeBlocks().Get(s.t.Context(), node, metav1.GetOptions{})
		if err != nil {
			return err
		}
		report.Status.Message = "written by a test"
		_, err = agent.NodeBlocks().Update(s.t.Context(), report, metav1.UpdateOptions{})
		return err
	}
	s.Await("the agent to write its own report", cluster.Timeout, func(context.Context) (bool, error) {
		err := write(own)
		if apierrors.IsConflict(err) {
			return false, nil // the agent was faster
		}
		return err == nil, err
	})
	s.Await("the agent to be refused", cluster.Timeout, func(context.Context) (bool, error) {
		err := write(foreign)
		if err == nil {
			return false, errors.New("an agent wrote the report of another node")
		}
		return !apierrors.IsConflict(err) && (apierrors.IsForbidden(err) || apierrors.IsInvalid(err)), nil
	})
}

// registryDown starts pods on a node that has pulled their images but has run neither of
// their programs, while there is no registry. One of the images is on another node, too:
// its start comes from there, what that node has learnt of it already with the pull.
func (s *site) registryDown(a, alone *app, node string) {
	n := s.node(node)
	unpulled := s.status(n)
	for _, one := range []*app{a, alone} {
		run(s.t, s.Cluster, s.pod(one.idle("idle"), node))
		remove(s.t, s.Cluster, "idle")
	}
	s.StopRegistry()
	// The registry is gone: from here on the numbers count.
	before := s.status(n)
	unread := int64(len(a.rest)+len(a.more)) * fileBytes
	if lacks := s.missing(before, a.ref); lacks < unread {
		s.t.Fatalf("the node has files that no start reads: of %d bytes %d are missing", unread, lacks)
	}
	if lacks := s.missing(before, alone.ref); lacks < startupBytes {
		s.t.Fatalf("the node has some of the files that only it has pulled: of %d bytes %d are missing", startupBytes, lacks)
	}
	pod := run(s.t, s.Cluster, s.pod(a.pod("peers"), node))
	pod.requireSums(s.t, a.startup)
	after := s.status(n)
	got := after.Bytes.Peers - unpulled.Bytes.Peers
	s.t.Logf("%d bytes came from peers, %d of them with the pull; %d are read", got, before.Bytes.Peers-unpulled.Bytes.Peers, startupBytes)
	// Beside the files: the headers of the tar, and what else the programs touch of themselves.
	if got < startupBytes || got > startupBytes+2*a.program+1<<20 {
		s.t.Errorf("%d bytes came from peers, while the start reads %d", got, startupBytes)
	}
	if got := after.Bytes.Registry - before.Bytes.Registry; got != 0 {
		s.t.Errorf("%d bytes came from a registry that is not there", got)
	}
	remove(s.t, s.Cluster, "peers")

	create(s.t, s.Cluster, s.pod(alone.pod("alone"), node))
	s.Await("the pod without peers to say why it does not start", cluster.Timeout, func(ctx context.Context) (bool, error) {
		pod, err := s.Client.CoreV1().Pods("default").Get(ctx, "alone", metav1.GetOptions{})
		if err != nil || len(pod.Status.ContainerStatuses) == 0 {
			return false, err
		}
		if podReady(pod) {
			return false, errors.New("it is ready without a source")
		}
		c := pod.Status.ContainerStatuses[0]
		for _, ended := range []*corev1.ContainerStateTerminated{c.State.Terminated, c.LastTerminationState.Terminated} {
			if ended != nil && strings.Contains(ended.Message, "input/output error") {
				s.t.Logf("without peers: %s", strings.TrimSpace(ended.Message))
				return true, nil
			}
		}
		return false, nil
	})
	s.StartRegistry()
	awaitPod(s.t, s.Cluster, "alone", time.Now()).requireSums(s.t, alone.startup)
	remove(s.t, s.Cluster, "alone")
}

// kills is how often the agent is killed under a reader.
const kills = 3

// agentKilled kills the agent while a container reads what only the agent can give it.
func (s *site) agentKilled(pod started, sums map[string]string) {
	n := s.node(pod.Spec.NodeName)
	type outcome struct {
		longest time.Duration
		err     error
	}
	read := make(chan outcome, 1)
	base := s.status(n).Bytes
	go func() {
		longest, err := pod.check(s.t.Context(), sums)
		read <- outcome{longest, err}
	}()
	for i := range kills {
		// An agent that has loaded something for the reader since it was started is in use.
		s.Await("the reader to read through the agent", cluster.Timeout, func(context.Context) (bool, error) {
			if len(read) > 0 {
				return false, errors.New("the reader is done before the agent was killed often enough")
			}
			st, err := ask(n)
			return err == nil && st.Bytes.Registry+st.Bytes.Peers >= base.Registry+base.Peers+1<<20, nil
		})
		n.MustRun("systemctl", "kill", "brisk-node")
		s.t.Logf("kill %d", i+1)
		base.Registry, base.Peers = 0, 0 // they count from the start of the agent
	}
	done := <-read
	if done.err != nil {
		s.t.Error(done.err)
	}
	s.t.Logf("the longest read with %d kills took %.2f s", kills, done.longest.Seconds())
	if st := s.status(n); st.Bytes.Registry+st.Bytes.Peers < 1<<20 {
		s.t.Errorf("the reader did not need the agent after it was killed: %+v", st.Bytes)
	}
}

// drained evicts the pod "cold" from its node.
func (s *site) drained(a *app, where string) {
	s.cordon(where, true)
	eviction := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "cold", Namespace: "default"}}
	if err := s.Client.CoreV1().Pods("default").EvictV1(s.t.Context(), eviction); err != nil {
		s.t.Fatal(err)
	}
	moved := run(s.t, s.Cluster, s.pod(a.pod("moved"), ""))
	if moved.Spec.NodeName == where {
		s.t.Error("the pod is on a node that takes none")
	}
	moved.requireSums(s.t, a.startup)
	remove(s.t, s.Cluster, "moved")
	s.cordon(where, false)
}

// placement has a pod wait until there is a node that accelerates.
func (s *site) placement(a *app) {
	accelerated := func(want ...string) {
		s.t.Helper()
		s.Await("the nodes that accelerate to be "+strings.Join(want, " "), cluster.Timeout, func(ctx context.Context) (bool, error) {
			list, err := s.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: compat.Accelerated + "=true"})
			if err != nil {
				return false, err
			}
			var have []string
			for i := range list.Items {
				have = append(have, list.Items[i].Name)
			}
			slices.Sort(have)
			return slices.Equal(have, want), nil
		})
	}
	for _, n := range s.Nodes {
		s.patchNode(n.Name, `{"metadata":{"labels":{"`+compat.Acceleration+`":"disabled"}}}`)
	}
	accelerated()
	pod := s.pod(a.pod("required"), "")
	pod.Labels[compat.Acceleration] = string(compat.Required)
	create(s.t, s.Cluster, pod)
	const reason = "do not mount images lazily"
	s.Await("the scheduler to say that no node will do", cluster.Timeout, func(ctx context.Context) (bool, error) {
		now, err := s.Client.CoreV1().Pods("default").Get(ctx, "required", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		if now.Spec.NodeName != "" {
			return false, errors.New("it was placed on " + now.Spec.NodeName)
		}
		return slices.ContainsFunc(now.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && strings.Contains(c.Message, reason)
		}), nil
	})
	if said := s.why("required"); !strings.Contains(said.Message, reason) {
		s.t.Errorf("kubectl brisk why does not say that no node will do: %q", said.Message)
	}
	s.t.Log(s.brisk("why", "required"))

	enabled := s.Nodes[len(s.Nodes)-1].Name
	s.patchNode(enabled, `{"metadata":{"labels":{"`+compat.Acceleration+`":null}}}`)
	accelerated(enabled)
	if placed := awaitPod(s.t, s.Cluster, "required", time.Now()); placed.Spec.NodeName != enabled {
		s.t.Errorf("the pod is on %s, and only %s accelerates", placed.Spec.NodeName, enabled)
	}
	remove(s.t, s.Cluster, "required")
	for _, n := range s.Nodes {
		s.patchNode(n.Name, `{"metadata":{"labels":{"`+compat.Acceleration+`":null}}}`)
	}
	accelerated("n1", "n2", "n3")
}

// uninstalled takes the release off, which does not matter to containers, and then an agent.
func (s *site) uninstalled(a *app) {
	running := run(s.t, s.Cluster, s.pod(a.pod("running"), ""))
	n := s.node(running.Spec.NodeName)
	s.runHelm("uninstall", "brisk", "--wait")
	s.Await("the pods of the agents to be gone", cluster.Timeout, func(ctx context.Context) (bool, error) {
		list, err := s.Client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		return err == nil && len(list.Items) == 0, err
	})
	before := s.status(n).Bytes
	running.requireSums(s.t, a.more)
	if after := s.status(n).Bytes; after.Registry+after.Peers < before.Registry+before.Peers+int64(len(a.more))*fileBytes/2 {
		s.t.Errorf("the container did not need the agent: %+v, then %+v", before, after)
	}
	without := run(s.t, s.Cluster, on(a.pod("without"), n.Name))
	if _, err := n.Run(program, "uninstall"); err == nil {
		s.t.Error("an agent was uninstalled that containers need")
	}
	running.requireSums(s.t, a.startup)
	remove(s.t, s.Cluster, "running")
	remove(s.t, s.Cluster, without.Name)

	s.t.Log(n.MustRun(program, "uninstall", "--drain", "--purge"))
	if now := s.containerdConfig(n); now != s.before {
		s.t.Errorf("containerd's configuration is not what it was:\n%s\nand was:\n%s", now, s.before)
	}
	n.AwaitReady(cluster.Timeout)
	plain := pushApp(s.t, s.Cluster, appConfig{name: "plain:1", seed: 3, plain: true})
	run(s.t, s.Cluster, on(plain.pod("plain"), n.Name)).requireSums(s.t, plain.startup)
	run(s.t, s.Cluster, on(a.pod("again"), n.Name)).requireSums(s.t, a.startup)
	if mounts := n.MustRun("cat", "/proc/mounts"); strings.Contains(mounts, "erofs") || strings.Contains(mounts, "fuse.brisk") {
		s.t.Errorf("mounts of the agent are left:\n%s", mounts)
	}
}
