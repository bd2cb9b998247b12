package chart

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
)

const hook = "brisk-scheduler-test"

// TestHelmTestNeedsTheScheduler: "helm test" fails without the scheduler of the chart and
// succeeds with it. There is no kubelet here; the test says that a placed pod has run.
func TestHelmTestNeedsTheScheduler(t *testing.T) {
	c := startCluster(t)
	client, err := kubernetes.NewForConfig(c.plane.Admin)
	if err != nil {
		t.Fatal(err)
	}
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("8"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("10"),
	}
	_, err = client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{corev1.LabelOSStable: "linux"}},
		Status: corev1.NodeStatus{
			Capacity: room, Allocatable: room,
			Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.mustHelm("install", "brisk", packaged(t), "--create-namespace")
	if err := c.helm("test", "brisk", "--filter", "name="+hook, "--timeout", "5s"); err == nil {
		t.Fatal("helm test is content without a scheduler")
	}
	// The scheduler would place the pod of that test, before helm has removed it.
	if err := client.CoreV1().Pods(namespace).Delete(t.Context(), hook, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.schedule()
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		c.finish(client)
	}()
	t.Cleanup(func() { <-finished })
	c.mustHelm("test", "brisk", "--filter", "name="+hook, "--timeout", patience.String())
}

// schedule runs the scheduler with the configuration of the chart until the end of the test.
func (c *cluster) schedule() {
	c.t.Helper()
	dir := c.t.TempDir()
	program, config := filepath.Join(dir, "brisk-scheduler"), filepath.Join(dir, "config.yaml")
	if out, err := exec.CommandContext(c.t.Context(), "go", "build", "-o", program, "../../cmd/brisk-scheduler").CombinedOutput(); err != nil {
		c.t.Fatalf("building the scheduler: %v\n%s", err, out)
	}
	content := configuration(c.t, render(c.t), "brisk-scheduler", "config.yaml") + "\nclientConnection: {kubeconfig: " + c.kubeconfig + "}\n"
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		c.t.Fatal(err)
	}
	var log strings.Builder
	cmd := exec.CommandContext(c.t.Context(), program, "--config", config, "--secure-port", "0")
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = cmd.Wait() //nolint:errcheck // the end of the test has killed it
		if c.t.Failed() {
			c.t.Log(log.String())
		}
	})
}

// finish says of the pod of the test that it has run, once it is placed.
func (c *cluster) finish(client kubernetes.Interface) {
	pods := client.CoreV1().Pods(namespace)
	err := wait.PollUntilContextTimeout(c.t.Context(), 50*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		pod, err := pods.Get(ctx, hook, metav1.GetOptions{})
		if err != nil || pod.Spec.NodeName == "" {
			return false, nil //nolint:nilerr // helm has not made it yet
		}
		pod.Status.Phase = corev1.PodSucceeded
		_, err = pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{})
		return err == nil, nil
	})
	if err != nil {
		c.t.Errorf("the pod was not placed: %v", err)
	}
}
