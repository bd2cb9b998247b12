//go:build !race

package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/brisk-project/brisk/bench/coldstart"
	"github.com/brisk-project/brisk/lazyfs/kernel"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/link"
)

// warmStarts is how many warm starts are measured for the limit, after one that is not.
const warmStarts = 3

// startBench measures the starts of one image.
type startBench struct {
	tb          testing.TB
	brisk, node string // programs
	workload    *workload
	registry    *imageRegistry
	kept        map[string]string // what nodes keep of images, by repository
}

func newStartBench(tb testing.TB, w *workload) *startBench {
	tb.Helper()
	return &startBench{tb: tb, brisk: program(tb, "brisk"), node: program(tb, "brisk-node"), workload: w, registry: openRegistry(tb, w), kept: make(map[string]string)}
}

// coldStart measures one start, on a node that has nothing of the image.
func (s *startBench) coldStart(tb testing.TB, l coldstart.Link, arm *startArm) coldstart.Run {
	tb.Helper()
	s.registry.prepare(tb, arm.repository, func(ref string) { arm.prepare(s, tb, ref) })
	scope := newScope(tb)
	defer scope.close()
	dir := shortDir(scope)
	if arm.learnt {
		if err := os.CopyFS(dir, os.DirFS(s.learn(tb, arm))); err != nil {
			tb.Fatal(err)
		}
	}
	s.workload.free(scope)
	far := link.New(scope, s.registry.server.Addr(), link.Config{BytesPerSecond: l.BytesPerSecond, RoundTrip: l.RoundTrip})
	node := s.newNode(scope, arm, dir)
	dropCaches(scope)
	s.registry.warm(scope)

	var run coldstart.Run
	ref, requests := far.Addr+"/"+path(arm.repository), s.registry.server.Stats().Requests
	begun := time.Now()
	image := node.Pull(ref)
	pulled := time.Now()
	container := s.create(scope, node, image)
	created := time.Now()
	run.PullBytes = far.Sent()
	container.Start()
	s.workload.await(scope, container.Output)
	run.Pull, run.Create, run.Ready = pulled.Sub(begun), created.Sub(pulled), time.Since(created)
	run.Bytes, run.Requests = far.Sent(), s.registry.server.Stats().Requests-requests
	if node.process != nil {
		var err error
		if run.CPU, run.MemoryBytes, err = processUsage(node.process.Process.Pid); err != nil {
			tb.Fatal(err)
		}
	}
	if to := os.Getenv(waterfallEnv); to != "" && node.process != nil {
		s.explain(tb, dir, ref, filepath.Join(to, strings.Join([]string{s.workload.name, l.Name, string(arm.arm)}, "-")))
	}
	container.Remove()
	node.RemoveImage(ref)
	node.stop()
	return run
}

// explain writes what a node says of a start, as text and as a drawing.
func (s *startBench) explain(tb testing.TB, dir, ref, to string) {
	tb.Helper()
	said, err := exec.CommandContext(tb.Context(), s.node, "why", "--dir", dir, "--all", ref).CombinedOutput()
	if err == nil {
		err = os.WriteFile(to+".txt", said, 0o600)
	}
	if err == nil {
		said, err = exec.CommandContext(tb.Context(), s.node, "why", "--dir", dir, "--draw", to+".svg", ref).CombinedOutput()
	}
	if err != nil {
		tb.Fatalf("brisk-node why: %v\n%s", err, said)
	}
}

// create makes a container in the network of this machine.
func (s *startBench) create(tb testing.TB, node *benchNode, image containerd.Image) *containerdtest.Container {
	tb.Helper()
	config, err := image.Spec(node.Context())
	if err != nil {
		tb.Fatal(err)
	}
	opts := []oci.SpecOpts{oci.WithHostNamespace(specs.NetworkNamespace)}
	return node.Create(s.workload.name, image, opts, config.Config.Entrypoint...)
}

// limit measures what the limit of the image is made of.
func (s *startBench) limit(tb testing.TB) (l coldstart.Limit) {
	tb.Helper()
	scope := newScope(tb)
	defer scope.close()
	node := s.newNode(scope, &startArm{snapshotter: "overlayfs"}, "")
	image := node.Pull(s.registry.ref(plain))
	var warm []time.Duration
	for i := range warmStarts + 1 {
		s.workload.free(scope)
		container := s.create(scope, node, image)
		var watch *coldstart.OpenWatcher
		if i == 0 {
			var err error
			if watch, err = coldstart.WatchOpens(rootOf(scope, container)); err != nil {
				tb.Fatal(err)
			}
		}
		begun := time.Now()
		container.Start()
		s.workload.await(scope, container.Output)
		took := time.Since(begun)
		if watch == nil {
			warm = append(warm, took)
		} else {
			var err error
			if l.Opened, err = watch.Stop(); err != nil {
				tb.Fatal(err)
			}
		}
		container.Remove()
	}
	l.Warm = coldstart.Median(warm)
	return l
}

// rootOf returns where the root of a container is mounted that has not been started yet.
func rootOf(tb testing.TB, c *containerdtest.Container) string {
	tb.Helper()
	mounts, err := kernel.Mounts()
	if err != nil {
		tb.Fatal(err)
	}
	for _, m := range mounts {
		if strings.HasSuffix(m.Point, "/"+c.ID()+"/rootfs") {
			return m.Point
		}
	}
	tb.Fatalf("the root of %s is not mounted", c.ID())
	return ""
}

func dropCaches(tb testing.TB) {
	tb.Helper()
	syscall.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0o200); err != nil {
		tb.Fatal(fmt.Errorf("dropping the page cache: %w", err))
	}
}
