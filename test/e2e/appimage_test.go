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
	"slices"
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

// Sizes of the files of an app.
const (
	fileBytes    = 4 << 20
	startupBytes = 8 << 20
)

// app is an image whose containers read some of it at their start.
type app struct {
	ref     string
	program int64             // length of the program
	startup map[string]string // digests of files read at the start
	rest    map[string]string // and of others
	more    map[string]string // and of yet others
}

// appConfig says what app to make.
type appConfig struct {
	name string
	seed byte
	// rest and more are how many bytes of such files there are.
	rest, more int
	// plain leaves it without an index.
	plain bool
}

// pushApp puts an image into the registry.
func pushApp(t *testing.T, c *cluster.Cluster, cfg appConfig) *app {
	t.Helper()
	program, err := os.ReadFile(c.Program("test/cluster/probe"))
	if err != nil {
		t.Fatal(err)
	}
	a := &app{
		startup: make(map[string]string), rest: make(map[string]string), more: make(map[string]string), program: int64(len(program)),
	}
	a.ref = c.Push(cfg.name, []string{"/bin/probe"},
		[]cluster.File{{Path: "bin/probe", Mode: 0o755, Data: program}},
		files(a.rest, "rest", cfg.seed, cfg.rest), files(a.startup, "startup", cfg.seed, startupBytes), files(a.more, "more", cfg.seed, cfg.more))
	if cfg.plain {
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

// files makes files, the same ones for the same seed, that shrink to half of their
// length.
func files(digests map[string]string, prefix string, seed byte, total int) []cluster.File {
	random := rand.NewChaCha8([32]byte{seed, prefix[0]})
	var all []cluster.File
	for i := range total / fileBytes {
		data := make([]byte, fileBytes)
		for piece := range slices.Chunk(data, 16<<10) {
			half := len(piece) / 2
			_, _ = random.Read(piece[:half]) //nolint:errcheck // it cannot fail
			copy(piece[half:], piece)
		}
		digest := sha256.Sum256(data)
		path := fmt.Sprintf("data/%s%d", prefix, i)
		digests["/"+path] = hex.EncodeToString(digest[:])
		all = append(all, cluster.File{Path: path, Mode: 0o644, Data: data})
	}
	return all
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
				Name: "app", Image: a.ref, Args: args, TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
				ReadinessProbe: &corev1.Probe{PeriodSeconds: 1, ProbeHandler: corev1.ProbeHandler{
					HTTPGet: &corev1.HTTPGetAction{Path: "/ready", Port: intstr.FromInt32(8080)},
				}},
			}},
		},
	}
}

// idle returns a pod that reads nothing but its program.
func (a *app) idle(id string) *corev1.Pod {
	pod := a.pod(id)
	pod.Spec.Containers[0].Args = nil
	return pod
}

// started is how a pod came to life.
type started struct {
	*corev1.Pod
	running, ready time.Duration
}

func create(t *testing.T, c *cluster.Cluster, pod *corev1.Pod) {
	t.Helper()
	if _, err := c.Client.CoreV1().Pods(pod.Namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// run creates a pod and waits until it is ready.
func run(t *testing.T, c *cluster.Cluster, pod *corev1.Pod) started {
	t.Helper()
	begin := time.Now()
	create(t, c, pod)
	return awaitPod(t, c, pod.Name, begin)
}

// awaitPod waits until a pod is ready, and counts the time from begin on.
func awaitPod(t *testing.T, c *cluster.Cluster, id string, begin time.Time) started {
	t.Helper()
	var s started
	c.Await("pod "+id+" to be ready", cluster.Timeout, func(ctx context.Context) (bool, error) {
		now, err := c.Client.CoreV1().Pods("default").Get(ctx, id, metav1.GetOptions{})
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
	t.Logf("%s on %s: running after %.2f s, ready after %.2f s", id, s.Spec.NodeName, s.running.Seconds(), s.ready.Seconds())
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
	c.Await("pod "+id+" to be gone", cluster.Timeout, func(ctx context.Context) (bool, error) {
		_, err := c.Client.CoreV1().Pods("default").Get(ctx, id, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
}

// requireSums checks files as a pod reads them, and returns the longest time that it
// waited for a read.
func (s started) requireSums(t *testing.T, sums map[string]string) time.Duration {
	t.Helper()
	longest, err := s.check(t.Context(), sums)
	if err != nil {
		t.Error(err)
	}
	return longest
}

// check is requireSums for goroutines.
func (s started) check(ctx context.Context, sums map[string]string) (time.Duration, error) {
	var longest time.Duration
	for path, want := range sums {
		got, waited, err := s.sum(ctx, path)
		if err != nil {
			return 0, fmt.Errorf("%s in %s: %w", path, s.Name, err)
		}
		if got != want {
			return 0, fmt.Errorf("%s in %s: the digest is %s, want %s", path, s.Name, got, want)
		}
		longest = max(longest, waited)
	}
	return longest, nil
}

func (s started) sum(ctx context.Context, path string) (string, time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Status.PodIP+":8080/sum?path="+path, http.NoBody)
	if err != nil {
		return "", 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", 0, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to the end
	var buf bytes.Buffer
	if _, err := io.Copy(&buf, resp.Body); err != nil {
		return "", 0, err
	}
	if resp.StatusCode != http.StatusOK {
		return "", 0, fmt.Errorf("%s: %s", resp.Status, buf.String())
	}
	longest, err := time.ParseDuration(resp.Header.Get("Longest-Read"))
	return buf.String(), longest, err
}
