package index_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/scheduler/index"
)

func newNames(tb testing.TB) *index.Names {
	tb.Helper()
	names, err := index.NewNames(0, "_accelerated", "_containerd_accelerated")
	if err != nil {
		tb.Fatal(err)
	}
	return names
}

func TestNames(t *testing.T) {
	names := newNames(t)
	names.Add("docker.io/library/nginx@"+digest("one"), "docker.io/library/nginx:1.25", "docker.io/library/nginx:latest")
	names.Add("registry.test:5000/app@"+digest("base"), "registry.test:5000/app:v1")
	names.Add("registry.test:5000/app:v1_accelerated", "registry.test:5000/app@"+digest("fast"))
	names.Add("moved:tag", "moved@"+digest("old"))
	names.Add("moved:tag", "moved@"+digest("new"))
	names.Add("no digest:1")
	names.Add("app:x", "app@sha256:short")
	for name, want := range map[string][]string{
		"nginx":                                 {"one"},
		"nginx:1.25":                            {"one"},
		"docker.io/library/nginx:1.25":          {"one"},
		"nginx:1.26":                            nil,
		"moved:tag":                             {"new", "old"},
		"registry.test:5000/app:v1":             {"base", "fast"},
		"registry.test:5000/app:v1_accelerated": {"fast", "base"},
		"registry.test:5000/app:v1_containerd_accelerated": {"base", "fast"},
		"registry.test:5000/app@" + digest("pinned"):       {"pinned"},
		"registry.test:5000/app:v1@" + digest("pinned"):    {"pinned", "fast"},
		"never/seen@" + digest("pinned"):                   {"pinned"},
		"app:x":                                            nil,
		"NOT A NAME":                                       nil,
		"":                                                 nil,
		"@":                                                nil,
		"_accelerated":                                     nil,
		"app:_accelerated":                                 nil,
	} {
		var keys []v1alpha1.ImageKey
		for _, image := range want {
			keys = append(keys, key(t, image))
		}
		if diff := cmp.Diff(index.Image{Name: name, Keys: keys}, names.Image(name)); diff != "" {
			t.Errorf("%q: %s", name, diff)
		}
	}
}

func TestNamesAreBounded(t *testing.T) {
	names, err := index.NewNames(1)
	if err != nil {
		t.Fatal(err)
	}
	names.Add("a:1", "a@"+digest("a"))
	names.Add("b:1", "b@"+digest("b"))
	if len(names.Image("a:1").Keys) != 0 || len(names.Image("b:1").Keys) != 1 {
		t.Error("the newest name is not the one that is remembered")
	}
	for i := range 10 {
		names.Add("b:1", "b@"+digest(string(rune('c'+i))))
	}
	if keys := names.Image("b:1").Keys; len(keys) != 4 {
		t.Errorf("%d digests are remembered for a tag", len(keys))
	}
}

func TestPodImages(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Image: "init"}, {Image: "sidecar", RestartPolicy: &always}, {}},
		Containers:     []corev1.Container{{Image: "app"}, {Image: "init"}},
		Volumes: []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "model"}}},
			{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		},
	}}
	if diff := cmp.Diff([]string{"init", "sidecar", "app", "model"}, index.PodImages(pod)); diff != "" {
		t.Error(diff)
	}
	if got := index.PodImages(&corev1.Pod{}); got != nil {
		t.Errorf("a pod without images needs %v", got)
	}
}

func FuzzNames(f *testing.F) {
	f.Add("nginx", "docker.io/library/nginx@"+digest("x"), "nginx:latest_accelerated")
	f.Add("@", ":", "a@b@c")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		names := newNames(t)
		names.Add(a, b, c)
		for _, name := range []string{a, b, c} {
			if keys := names.Image(name).Keys; len(keys) > 16 {
				t.Errorf("%q has %d keys", name, len(keys))
			}
		}
	})
}
