//go:build !race

package bench

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/brisk-project/brisk/bench/coldstart"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/programs"
)

// startArm is how an arm is set up. A new one is a line here, and a number of rounds in the
// plans of coldstart.
type startArm struct {
	arm         coldstart.Arm
	snapshotter string
	flags       []string // of brisk-node
	// repository is where the image is, prepare what is done to it there first.
	repository string
	prepare    func(s *startBench, tb testing.TB, ref string)
	// learnt begins with what a node keeps of an image that it has started and removed.
	learnt bool
}

func startArms() []startArm {
	return []startArm{
		{arm: coldstart.Overlayfs, snapshotter: "overlayfs", repository: plain},
		{arm: coldstart.EROFS, snapshotter: "erofs", repository: plain},
		{arm: coldstart.Auto, snapshotter: containerdtest.Snapshotter, repository: "indexed", prepare: (*startBench).convert},
		{arm: coldstart.Lazy, snapshotter: containerdtest.Snapshotter, repository: "indexed", prepare: (*startBench).convert, flags: []string{"--mode=lazy"}},
		{arm: coldstart.Predicted, snapshotter: containerdtest.Snapshotter, repository: "predicted", prepare: (*startBench).predict},
		{arm: coldstart.LocalTrace, snapshotter: containerdtest.Snapshotter, repository: "indexed", prepare: (*startBench).convert, learnt: true},
		{arm: coldstart.Trace, snapshotter: containerdtest.Snapshotter, repository: "traced", prepare: (*startBench).pushTrace},
		{arm: coldstart.Bundle, snapshotter: containerdtest.Snapshotter, repository: "bundled", prepare: (*startBench).pushBundle},
		{arm: coldstart.FullMode, snapshotter: containerdtest.Snapshotter, repository: "full", prepare: (*startBench).convertFull},
		{arm: coldstart.FullTrace, snapshotter: containerdtest.Snapshotter, repository: "fulltraced", prepare: (*startBench).convertFullTraced},
	}
}

// pushTrace writes the index of an image, and pushes the trace that a node has learnt of it.
func (s *startBench) pushTrace(tb testing.TB, ref string) {
	tb.Helper()
	s.push(tb, ref)
}

// pushBundle is pushTrace with a bundle.
func (s *startBench) pushBundle(tb testing.TB, ref string) {
	tb.Helper()
	s.push(tb, ref, "--bundle")
}

func (s *startBench) push(tb testing.TB, ref string, flags ...string) {
	tb.Helper()
	s.convert(tb, ref)
	arms := startArms()
	learnt := &arms[slices.IndexFunc(arms, func(a startArm) bool { return a.learnt })]
	s.registry.prepare(tb, learnt.repository, func(ref string) { s.convert(tb, ref) })
	s.runBrisk(tb, append([]string{"trace", "push", ref, s.learn(tb, learnt) + traceSuffix}, flags...)...)
}

// runBrisk runs brisk.
func (s *startBench) runBrisk(tb testing.TB, args ...string) {
	tb.Helper()
	if out, err := exec.CommandContext(tb.Context(), s.brisk, args...).CombinedOutput(); err != nil {
		tb.Fatalf("brisk %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// convert writes the index of an image.
func (s *startBench) convert(tb testing.TB, ref string) {
	tb.Helper()
	convertImage(tb, s.brisk, ref, "index", "--predict=false")
}

// predict writes the index of an image, with a prediction of its start.
func (s *startBench) predict(tb testing.TB, ref string) {
	tb.Helper()
	convertImage(tb, s.brisk, ref, "index")
}

// convertFull puts an image in full mode in the place of an image.
func (s *startBench) convertFull(tb testing.TB, ref string) {
	tb.Helper()
	s.runBrisk(tb, "convert", "--mode", "full", "--predict=false", "--tag", ref, ref)
}

// convertFullTraced is convertFull for an image whose trace the registry has.
func (s *startBench) convertFullTraced(tb testing.TB, ref string) {
	tb.Helper()
	s.pushTrace(tb, ref)
	s.convertFull(tb, ref)
}

// benchNode is a containerd, with brisk-node if that is its snapshotter.
type benchNode struct {
	*containerdtest.Daemon
	process *exec.Cmd // brisk-node, nil without
	stop    func()    // ends it
}

// newNode starts the programs. Everything brisk-node keeps is in dir.
func (s *startBench) newNode(tb testing.TB, arm *startArm, dir string) *benchNode {
	tb.Helper()
	if arm.snapshotter != containerdtest.Snapshotter {
		return &benchNode{Daemon: containerdtest.Start(tb, containerdtest.Config{Builtin: arm.snapshotter}), stop: func() {}}
	}
	socket := filepath.Join(dir, "s.sock")
	args := slices.Concat([]string{"run", "--dir", dir, "--socket", socket}, arm.flags, strings.Fields(os.Getenv(flagsEnv)))
	cmd := exec.CommandContext(context.WithoutCancel(tb.Context()), s.node, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var log strings.Builder
	cmd.Stderr = &log
	wait, err := programs.Start(cmd)
	if err != nil {
		tb.Fatal(err)
	}
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		if err := errors.Join(cmd.Process.Signal(syscall.SIGTERM), wait()); err != nil {
			tb.Errorf("brisk-node: %v\n%s", err, &log)
		}
	}
	tb.Cleanup(stop)
	containerdtest.Await(tb, "the socket of brisk-node", 20*time.Second, func() bool {
		conn, err := (&net.Dialer{}).DialContext(tb.Context(), "unix", socket)
		return err == nil && conn.Close() == nil
	})
	return &benchNode{Daemon: containerdtest.Start(tb, containerdtest.Config{Socket: socket, Root: dir}), process: cmd, stop: stop}
}

// learnLimit is longer than a node watches a start.
const learnLimit = 2 * time.Minute

// maxKept is what a node may keep of an image that it has removed: a trace, no blocks.
const maxKept = 16 << 20

// traceSuffix is behind the name of that directory in the name of the file with the trace.
const traceSuffix = ".trace"

// learn starts an image on a node, waits until the node has learnt a trace, removes the image, and
// returns the directory with what the node keeps of it.
func (s *startBench) learn(tb testing.TB, arm *startArm) string {
	tb.Helper()
	if dir := s.kept[arm.repository]; dir != "" {
		return dir
	}
	dir := shortDir(s.tb) // for all links
	run := newScope(tb)
	defer run.close()
	node := s.newNode(run, arm, dir)
	ref := s.registry.ref(arm.repository)
	image := node.Pull(ref)
	container := s.create(run, node, image)
	container.Start()
	s.workload.await(run, container.Output)
	progress("%s: waiting until the trace has been learnt", s.workload.name)
	containerdtest.Await(run, "a trace of the start", learnLimit, func() bool {
		return exec.CommandContext(run.Context(), s.brisk, "trace", "export", ref, "--dir", dir, "-o", dir+traceSuffix).Run() == nil
	})
	s.tb.Cleanup(func() {
		if err := os.Remove(dir + traceSuffix); err != nil {
			s.tb.Error(err)
		}
	})
	container.Remove()
	node.RemoveImage(ref)
	// Blocks go with the image, but not at once.
	containerdtest.Await(run, "the removal of all blocks of the image", time.Minute, func() bool { return diskUsage(run, dir) < maxKept })
	node.stop()
	if traces, err := filepath.Glob(filepath.Join(dir, "traces", "*")); err != nil || len(traces) == 0 {
		tb.Fatalf("the node keeps no trace of the image that it has removed: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "s.sock")); err != nil && !errors.Is(err, os.ErrNotExist) {
		tb.Fatal(err)
	}
	s.kept[arm.repository] = dir
	return dir
}

// diskUsage returns the bytes that the files in a directory take, without what is mounted there.
func diskUsage(tb testing.TB, dir string) (total int64) {
	tb.Helper()
	var device uint64
	err := filepath.WalkDir(dir, func(_ string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return nil //nolint:nilerr // it has been removed meanwhile
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		switch {
		case !ok:
		case device == 0:
			device = stat.Dev
		case stat.Dev != device && entry.IsDir():
			return filepath.SkipDir
		case info.Mode().IsRegular():
			total += stat.Blocks * 512
		}
		return nil
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		tb.Fatal(err)
	}
	return total
}

// shortDir makes a directory with a short name, for sockets, that goes with the benchmark.
func shortDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "n-") //nolint:usetesting // see above
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}
