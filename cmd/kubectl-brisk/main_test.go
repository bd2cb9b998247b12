package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/brisk-project/brisk/api/client"
	"github.com/brisk-project/brisk/api/compat"
	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/scheduler/clusterview"
	"github.com/brisk-project/brisk/test/controlplane"
)

var update = flag.Bool("update", false, "write the expected output anew")

const (
	mib = 1 << 20
	// age is that of reports: printed in whole minutes, and fully believed.
	age = 10*time.Minute + 15*time.Second
)

func digest(text string) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(text)))
}

func key(t *testing.T, text string) v1alpha1.ImageKey {
	t.Helper()
	k, err := v1alpha1.KeyOf(digest(text))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// site is a cluster with nodes that report.
type site struct {
	t          *testing.T
	core       kubernetes.Interface
	ours       *client.Client
	kubeconfig string
}

func newSite(t *testing.T) *site {
	t.Helper()
	plane := controlplane.Start(t)
	s := &site{t: t, kubeconfig: controlplane.Kubeconfig(t, plane.Admin)}
	if out, err := s.run("nodes"); err == nil || !strings.Contains(err.Error(), "installed") {
		t.Errorf("without the definition: %q, %v", out, err)
	}
	plane.Apply(t, "deploy/crds/*.yaml")
	var err error
	if s.core, err = kubernetes.NewForConfig(plane.Admin); err != nil {
		t.Fatal(err)
	}
	if s.ours, err = client.New(plane.Admin); err != nil {
		t.Fatal(err)
	}
	return s
}

// node makes a node, with a report unless that is nil.
func (s *site) node(name string, labels map[string]string, report *v1alpha1.NodeBlocksStatus, images ...v1alpha1.ImageBlocks) {
	s.t.Helper()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}}
	made, err := s.core.CoreV1().Nodes().Create(s.t.Context(), node, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	if name == "warm" {
		made.Status.Images = []corev1.ContainerImage{{Names: []string{"example.com/app@" + digest("app"), "example.com/app:v1"}, SizeBytes: 1}}
		if _, err := s.core.CoreV1().Nodes().UpdateStatus(s.t.Context(), made, metav1.UpdateOptions{}); err != nil {
			s.t.Fatal(err)
		}
	}
	if report == nil {
		return
	}
	report.ObservedAt = metav1.NewTime(time.Now().Add(-age))
	report.ImageCount = int32(len(images))
	if len(images) > 0 {
		if report.Images, err = v1alpha1.EncodeImages(images); err != nil {
			s.t.Fatal(err)
		}
	}
	object := &v1alpha1.NodeBlocks{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodeBlocks"},
		ObjectMeta: metav1.ObjectMeta{Name: name}, Status: *report,
	}
	if _, err := s.ours.NodeBlocks().Create(s.t.Context(), object, metav1.CreateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) run(args ...string) (string, error) {
	root := newRootCommand()
	var out bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs(append(args, "--kubeconfig", s.kubeconfig))
	err := root.ExecuteContext(s.t.Context())
	return out.String(), err
}

// requireGolden compares what a command prints with a file.
func (s *site) requireGolden(name string, args ...string) {
	s.t.Helper()
	out, err := s.run(args...)
	if err != nil {
		s.t.Fatal(err)
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(out), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out); diff != "" {
		s.t.Errorf("%s: %s", strings.Join(args, " "), diff)
	}
}

func TestCommands(t *testing.T) {
	s := newSite(t)
	if out, err := s.run("images"); err != nil || !strings.Contains(out, "no node agent") {
		t.Errorf("without nodes: %q, %v", out, err)
	}
	accelerated := map[string]string{compat.Accelerated: "true"}
	cache := v1alpha1.CacheStatus{CapacityBytes: 20 << 30, FreeBytes: 10 << 30}
	cache.Summarize(5 << 30)
	rates := v1alpha1.BandwidthStatus{Peers: 100 * mib, Registry: 10 * mib}
	s.node("warm", accelerated, &v1alpha1.NodeBlocksStatus{Healthy: true, Zone: "a", Backend: "erofs", Version: "v1", Cache: cache, Bandwidth: rates},
		v1alpha1.ImageBlocks{Key: key(t, "app"), Cached: 1 << 30}, v1alpha1.ImageBlocks{Key: 0x123456789a, StartupMissing: 512 * mib, Estimated: true})
	s.node("neighbour", accelerated, &v1alpha1.NodeBlocksStatus{Healthy: true, Zone: "a", Backend: "erofs", Cache: cache, Bandwidth: rates},
		v1alpha1.ImageBlocks{Key: key(t, "app"), StartupMissing: 1 << 30})
	s.node("far", accelerated, &v1alpha1.NodeBlocksStatus{Healthy: true, Zone: "b", Cache: cache, Bandwidth: rates})
	s.node("ill", nil, &v1alpha1.NodeBlocksStatus{Message: "the disk is full", Cache: cache})
	s.node("off", map[string]string{compat.Acceleration: "disabled"}, &v1alpha1.NodeBlocksStatus{Healthy: true, Cache: cache})
	s.node("plain", nil, nil)
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "apps", Labels: map[string]string{compat.Acceleration: "required"}}}
	if _, err := s.core.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: corev1.PodSpec{
			SchedulerName: "brisk-scheduler", NodeName: "warm",
			Containers: []corev1.Container{{Name: "app", Image: "example.com/app:v1"}, {Name: "side", Image: "example.com/other:v1"}},
		},
	}
	automount := false
	pod.Spec.AutomountServiceAccountToken = &automount
	if _, err := s.core.CoreV1().Pods("apps").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.requireGolden("nodes.txt", "nodes")
	s.requireGolden("top.txt", "top")
	s.requireGolden("images.txt", "images")
	s.requireGolden("image.txt", "images", "app")
	s.requireGolden("why.txt", "why", "web", "-n", "apps")
	s.requireGolden("images.json", "images", "-o", "json")
	s.requireGolden("images.yaml", "images", "-o", "yaml")
	s.requireGolden("nodes-wide.txt", "nodes", "-o", "wide")
	s.requireGolden("top-wide.txt", "top", "-o", "wide")
	s.requireGolden("images-wide.txt", "images", "-o", "wide")
	s.requireGolden("image-wide.txt", "images", "app", "-o", "wide")
	s.requireGolden("why-wide.txt", "why", "web", "-n", "apps", "-o", "wide")
	for _, c := range []struct {
		want string
		args []string
	}{
		{"node/far\nnode/ill\nnode/neighbour\nnode/off\nnode/plain\nnode/warm\n", []string{"nodes"}},
		{"node/neighbour\nnode/warm\nnode/far\nnode/ill\nnode/off\nnode/plain\n", []string{"top"}},
		{"example.com/app:v1\nsha256:123456789a...\n", []string{"images"}},
		{"example.com/app:v1\n", []string{"images", "app"}},
		{"node/warm\nnode/neighbour\nnode/ill\nnode/off\nnode/plain\nnode/far\n", []string{"why", "web", "-n", "apps"}},
	} {
		if out, err := s.run(append(c.args, "-o", "name")...); err != nil || out != c.want {
			t.Errorf("%q -o name prints %q, %v; want %q", c.args, out, err, c.want)
		}
	}

	out, err := s.run("why", "pod/web", "--namespace", "apps", "--output", "json")
	if err != nil {
		t.Fatal(err)
	}
	var said clusterview.PodExplanation
	if err := json.Unmarshal([]byte(out), &said); err != nil {
		t.Fatal(err)
	}
	if said.Kind != "PodExplanation" || said.APIVersion != clusterview.APIVersion {
		t.Errorf("the document is a %q of %q", said.Kind, said.APIVersion)
	}
	if len(said.Nodes) != 6 || said.Nodes[0].Node != "warm" || !said.Nodes[0].Chosen || said.Nodes[0].Seconds != 0 {
		t.Errorf("%+v", said.Nodes)
	}
	for _, args := range [][]string{{"version"}, {"--version"}, {"version", "-o", "yaml"}} {
		if out, err := s.run(args...); err != nil || !strings.Contains(out, "kubectl-brisk") || !strings.Contains(out, "commit:") {
			t.Errorf("%q prints %q, %v", args, out, err)
		}
	}
	for _, args := range [][]string{{"why"}, {"why", "nobody"}, {"nodes", "-o", "xml"}, {"why", "web", "-n", "apps", "-o", "xml"}, {"nodes", "more"}, {"why", "web", "--watch"}} {
		if out, err := s.run(args...); err == nil {
			t.Errorf("%q prints %q", args, out)
		}
	}
	if _, err := s.run("nodes", "--server", "https://127.0.0.1:1"); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a cluster: %v", err)
	}
}
