//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/test/cluster"
)

const nodeConfig = `apiVersion: brisk.dev/v1alpha1
kind: NodeConfig
registry: {plainHTTP: ["` + cluster.Registry + `"]}
cache: {size: 2Gi}
`

// app is an image whose containers read some of it at their start.
type app struct {
	ref     string
	startup map[string]string // digests of files read at the start
	rest    map[string]string // and of others
}

// Sizes of the files of an app.
const (
	startupBytes = 8 << 20
	restBytes    = 64 << 20
)

// pushApp puts an image into the registry, with an index if it is to be lazy.
func pushApp(t *testing.T, c *cluster.Cluster, image string, seed uint64, lazy bool) *app {
	t.Helper()
	program, err := os.ReadFile(c.Program("test/cluster/probe"))
	if err != nil {
		t.Fatal(err)
	}
	a := &app{startup: make(map[string]string), rest: make(map[string]string)}
	files := func(into map[string]string, prefix string, total int) []cluster.File {
		random := rand.NewChaCha8([32]byte{byte(seed), prefix[0]})
		var all []cluster.File
		const each = 4 << 20
		for i := range total / each {
			data := make([]byte, each)
			if _, err := random.Read(data); err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(data)
			path := fmt.Sprintf("data/%s%d", prefix, i)
			into["/"+path] = hex.EncodeToString(sum[:])
			all = append(all, cluster.File{Path: path, Mode: 0o644, Data: data})
		}
		return all
	}
	a.ref = c.Push(image, []string{"/bin/probe"},
		[]cluster.File{{Path: "bin/probe", Mode: 0o755, Data: program}},
		files(a.rest, "rest", restBytes/2), files(a.startup, "startup", startupBytes), files(a.rest, "more", restBytes/2))
	if !lazy {
		return a
	}
	client, err := registry.NewClient(registry.Config{PlainHTTP: func(string) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ref, err := name.ParseReference(a.ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := convert.Convert(t.Context(), client, ref, convert.Config{}); err != nil {
		t.Fatal(err)
	}
	return a
}

// pod returns a pod of the app that is ready once it has read its files.
func (a *app) pod(id string) *corev1.Pod {
	var args []string
	for path := range a.startup {
		args = append(args, path)
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: id, Namespace: "default", Labels: map[string]string{"app": id}},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: new(int64),
			AutomountServiceAccountToken:  new(bool),
			Containers: []corev1.Container{{
				Name: "app", Image: a.ref, Args: args,
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
					HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt32(8080)},
				}},
			}},
		},
	}
}

// started is how a pod came to life.
type started struct {
	*corev1.Pod
	running, ready time.Duration
}

// run creates a pod and waits until it is ready.
func run(t *testing.T, c *cluster.Cluster, pod *corev1.Pod) started {
	t.Helper()
	begin := time.Now()
	if _, err := c.Client.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var s started
	c.Await("pod "+pod.Name+" to be ready", cluster.Patience, func(ctx context.Context) (bool, error) {
		now, err := c.Client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		s.Pod = now
		if s.running == 0 && now.Status.Phase == corev1.PodRunning {
			s.running = time.Since(begin)
		}
		if !podReady(now) {
			return false, nil
		}
		s.ready = time.Since(begin)
		return true, nil
	})
	t.Logf("%s on %s: running after %.2f s, ready after %.2f s", pod.Name, s.Spec.NodeName, s.running.Seconds(), s.ready.Seconds())
	return s
}

func podReady(pod *corev1.Pod) bool {
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodReady {
			return condition.Status == corev1.ConditionTrue
		}
	}
	return false
}

// remove removes a pod and waits until it is gone.
func remove(t *testing.T, c *cluster.Cluster, id string) {
	t.Helper()
	if err := c.Client.CoreV1().Pods("default").Delete(t.Context(), id, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Await("pod "+id+" to be gone", cluster.Patience, func(ctx context.Context) (bool, error) {
		_, err := c.Client.CoreV1().Pods("default").Get(ctx, id, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
}

// requireSums checks files as a pod reads them.
func (s started) requireSums(t *testing.T, sums map[string]string) {
	t.Helper()
	for path, want := range sums {
		got, err := s.sum(t.Context(), path)
		if err != nil || got != want {
			t.Errorf("%s in %s: %q, %v", path, s.Name, got, err)
		}
	}
}

func (s started) sum(ctx context.Context, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Status.PodIP+":8080/sum?path="+path, http.NoBody)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() //nolint:errcheck // read to the end
	var buf bytes.Buffer
	if _, err := io.Copy(&buf, resp.Body); err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", resp.Status, buf.String())
	}
	return buf.String(), nil
}

// TestInstalledByHand installs the agent with its own command, on a node that has
// run pods without it.
func TestInstalledByHand(t *testing.T) {
	c := cluster.Start(t, cluster.Config{Nodes: 1})
	n := c.Nodes[0]
	plain := pushApp(t, c, "plain:1", 1, false)
	before := run(t, c, plain.pod("before"))

	program, err := os.ReadFile(c.Program("cmd/brisk-node"))
	if err != nil {
		t.Fatal(err)
	}
	for path, content := range map[string][]byte{"opt/brisk-node": program, "etc/brisk/node.yaml": []byte(nodeConfig)} {
		if err := os.WriteFile(filepath.Join(n.Root, path), content, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Log(n.MustRun("/opt/brisk-node", "install"))
	n.AwaitReady(cluster.Patience)

	lazy := pushApp(t, c, "lazy:1", 2, true)
	pod := run(t, c, lazy.pod("lazy"))
	pod.requireSums(t, lazy.startup)
	status := n.MustRun("/opt/brisk-node", "status")
	if !strings.Contains(status, "lazy") {
		t.Error("the image is not lazy")
	}
	t.Log(status)
	n.MustRun("systemctl", "restart", "brisk-node")
	pod.requireSums(t, lazy.rest)
	before.requireSums(t, plain.rest)
	remove(t, c, "lazy")
	t.Log(n.MustRun("/opt/brisk-node", "uninstall", "--drain", "--purge"))
	after := run(t, c, lazy.pod("after"))
	after.requireSums(t, lazy.startup)
}
