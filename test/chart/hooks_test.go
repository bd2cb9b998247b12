package chart

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// testPods returns the pods of "helm test".
func testPods(t *testing.T, content string) map[string]corev1.Pod {
	t.Helper()
	pods := make(map[string]corev1.Pod)
	for _, object := range objects(t, content) {
		if object.GetKind() != "Pod" {
			continue
		}
		var pod corev1.Pod
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, &pod, true); err != nil {
			t.Fatalf("%s: %v", object.GetName(), err)
		}
		if pod.Annotations["helm.sh/hook"] != "test" {
			t.Errorf("pod %s is not of helm test", pod.Name)
		}
		pods[pod.Name] = pod
	}
	return pods
}

// TestHooks: "helm test" tests what is installed, with the images of the chart only, and
// the scheduler with a pod that only that scheduler places.
func TestHooks(t *testing.T) {
	pods := testPods(t, render(t, "--values", "testdata/all.values.yaml"))
	if len(pods) != 2 {
		t.Fatalf("%d pods", len(pods))
	}
	for name, pod := range pods {
		for _, container := range pod.Spec.Containers {
			if !strings.HasPrefix(container.Image, "registry.example.com/brisk/brisk-") || !strings.HasSuffix(container.Image, ":v9") {
				t.Errorf("%s runs %s", name, container.Image)
			}
		}
		if pod.Spec.RestartPolicy != corev1.RestartPolicyNever || len(pod.Spec.ImagePullSecrets) != 1 {
			t.Errorf("%s is restarted or cannot pull: %+v", name, pod.Spec)
		}
		if pod.Labels["app.kubernetes.io/name"] != "brisk-test" {
			t.Errorf("a service could choose %s: %v", name, pod.Labels)
		}
	}
	if got := pods["brisk-scheduler-test"].Spec.SchedulerName; got != "warm-first" {
		t.Errorf("%q places the pod, not the scheduler of the chart", got)
	}
	if got := pods["brisk-node-test"].Spec.SchedulerName; got != "" {
		t.Errorf("the agent is not tested without the scheduler %q", got)
	}
	for missing, args := range map[string]string{"brisk-scheduler-test": "scheduler.enabled=false", "brisk-node-test": "agent.enabled=false"} {
		if pods := testPods(t, render(t, "--set", args)); len(pods) != 1 || pods[missing].Name != "" {
			t.Errorf("with %s there are %d pods", args, len(pods))
		}
	}
}
