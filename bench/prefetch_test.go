//go:build !race

package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/brisk-project/brisk/internal/mkimage"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/test/link"
	"github.com/brisk-project/brisk/test/programs"
	"github.com/brisk-project/brisk/test/require"
)

const (
	// quietFor is how long nothing has to come for a prefetch to be over.
	quietFor     = 500 * time.Millisecond
	prefetchPoll = 20 * time.Millisecond
	megabyte     = 1e6
)

// links are those between node and registry that starts are measured over.
func links() []link.Config {
	var all []link.Config
	for _, rate := range []float64{25e6 / 8, 100e6 / 8, link.Gigabit} {
		for _, roundTrip := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 40 * time.Millisecond} {
			all = append(all, link.Config{BytesPerSecond: rate, RoundTrip: roundTrip})
		}
	}
	return all
}

func linkName(cfg link.Config) string {
	if cfg.BytesPerSecond == 0 {
		return "unlimited"
	}
	return fmt.Sprintf("%.0fMbit,%s", cfg.BytesPerSecond*8/1e6, cfg.RoundTrip)
}

// BenchmarkPrefetch mounts an image of Node-RED whose start is known, over links of
// several rates and round trips, and lets the node load what the start reads, while nobody
// reads anything. It reports how much of the link that took, how many MB came, in how many
// seconds, and the CPU seconds and the memory of the node. The share of a link that is
// faster than this machine can decode says nothing: "unlimited" shows how fast that is.
func BenchmarkPrefetch(b *testing.B) {
	s := newMountedStart(b)
	for _, cfg := range append(links(), link.Config{RoundTrip: 10 * time.Millisecond}) {
		b.Run(linkName(cfg), func(b *testing.B) {
			for range b.N {
				s.forget(b)
				l := link.New(b, s.host, cfg)
				m := s.mount(b, l, "--no-fill")
				sent, took := m.settle(b, l)
				usage := m.stop(b)
				b.ReportMetric(took.Seconds(), "s-prefetch")
				b.ReportMetric(float64(sent)/megabyte, "MB")
				if cfg.BytesPerSecond > 0 {
					b.ReportMetric(100*float64(sent)/took.Seconds()/cfg.BytesPerSecond, "%link")
				} else {
					b.ReportMetric(float64(sent)/took.Seconds()/megabyte, "MB/s")
				}
				reportNode(b, usage)
			}
		})
	}
}

// BenchmarkMountedStart starts Node-RED from a fresh mount until it says that it is ready,
// with what an earlier start has read known to the node and without, and with the rest of
// the image loaded besides (auto) and not (lazy). The figures of auto are to be compared with
// those of lazy in the same run.
func BenchmarkMountedStart(b *testing.B) {
	s := newMountedStart(b)
	for _, cfg := range links() {
		for _, known := range []bool{true, false} {
			for _, mode := range []string{"lazy", "auto"} {
				b.Run(fmt.Sprintf("%s/trace=%t/%s", linkName(cfg), known, mode), func(b *testing.B) {
					for range b.N {
						if s.forget(b); !known {
							remove(b, filepath.Join(s.dir, "traces"))
						}
						l := link.New(b, s.host, cfg)
						m := s.mount(b, l, map[string][]string{"lazy": {"--no-fill"}}[mode]...)
						took := m.untilReady(b)
						b.ReportMetric(float64(l.Sent())/megabyte, "MB")
						b.ReportMetric(took.Seconds(), "s-ready")
						reportNode(b, m.usage(b))
						m.stop(b)
						s.restoreTraces(b)
					}
				})
			}
		}
	}
}

func reportNode(b *testing.B, usage usage) {
	b.Helper()
	b.ReportMetric(usage.cpu.Seconds(), "cpu-s")
	b.ReportMetric(float64(usage.rss)/1e3, "MB-rss")
	b.ReportMetric(0, "ns/op")
}

// mountedStart is an image whose start a node has learnt.
type mountedStart struct {
	host, path string
	brisk      string
	dir        string // of the node
	traces     map[string][]byte
}

func newMountedStart(b *testing.B) *mountedStart {
	b.Helper()
	require.FUSE(b)
	ref := push(b, "node-app", mkimage.NodeApp)
	s := &mountedStart{brisk: program(b, "brisk"), dir: filepath.Join(b.TempDir(), "node")}
	convertImage(b, s.brisk, ref, "index")
	s.host, s.path, _ = strings.Cut(ref, "/")
	m := s.mount(b, link.New(b, s.host, link.Config{}), "--no-fill")
	m.untilReady(b)
	m.stop(b)
	s.traces = make(map[string][]byte)
	files, err := filepath.Glob(filepath.Join(s.dir, "traces", "*"))
	if err != nil || len(files) == 0 {
		b.Fatalf("the start has left no trace: %v", err)
	}
	for _, file := range files {
		if s.traces[file], err = os.ReadFile(filepath.Clean(file)); err != nil {
			b.Fatal(err)
		}
	}
	return s
}

// restoreTraces gives the node what it has learnt of the first start, and nothing else.
func (s *mountedStart) restoreTraces(b *testing.B) {
	b.Helper()
	remove(b, filepath.Join(s.dir, "traces"))
	if err := os.MkdirAll(filepath.Join(s.dir, "traces"), 0o700); err != nil {
		b.Fatal(err)
	}
	for file, content := range s.traces {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			b.Fatal(err)
		}
	}
}

// forget empties the cache of the node, and that of the kernel but for what the registry has.
func (s *mountedStart) forget(b *testing.B) {
	b.Helper()
	remove(b, filepath.Join(s.dir, "cache"))
	s.restoreTraces(b)
	dropCaches(b)
	ref, err := name.ParseReference(s.host + "/" + s.path)
	if err != nil {
		b.Fatal(err)
	}
	image, err := remote.Image(ref, remote.WithContext(b.Context()))
	if err != nil {
		b.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		b.Fatal(err)
	}
	for _, layer := range layers {
		blob, err := layer.Compressed()
		if err != nil {
			b.Fatal(err)
		}
		_, err = io.Copy(io.Discard, blob)
		if err := errors.Join(err, blob.Close()); err != nil {
			b.Fatal(err)
		}
	}
}

func remove(b *testing.B, dir string) {
	b.Helper()
	if err := os.RemoveAll(dir); err != nil {
		b.Fatal(err)
	}
}

// mounted is the image, and the node that serves it.
type mounted struct {
	dir    string
	target string
	node   *exec.Cmd
	wait   func() error
	log    *bytes.Buffer
}

// mount starts a node that mounts the image from the other side of a link.
func (s *mountedStart) mount(b *testing.B, l *link.Link, args ...string) *mounted {
	b.Helper()
	m := &mounted{dir: s.dir, target: b.TempDir(), log: new(bytes.Buffer)}
	args = append([]string{"mount", "--dir", s.dir, "--overlay", l.Addr + "/" + s.path, m.target}, args...)
	m.node = exec.CommandContext(context.WithoutCancel(b.Context()), s.brisk, args...)
	m.node.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	m.node.Stderr = m.log
	out, err := m.node.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if m.wait, err = programs.Start(m.node); err != nil {
		b.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		b.Fatalf("mounting: %q, %v, %v\n%s", line, err, m.wait(), m.log)
	}
	return m
}

// settle waits until nothing comes any more, and returns how many bytes had come since it
// was called, and when the last of them was in the cache.
func (m *mounted) settle(b *testing.B, l *link.Link) (sent int64, took time.Duration) {
	b.Helper()
	begin, first := time.Now(), l.Sent()
	var last time.Time
	var held, before int64
	for last.IsZero() || time.Since(last) < quietFor {
		status, err := node.Client{Dir: m.dir}.Status(b.Context())
		if err != nil || len(status.Mounts) != 1 {
			b.Fatalf("status of the node: %v\n%s", err, m.log)
		}
		now := l.Sent()
		if status.Mounts[0].CachedBytes != held || now != before {
			last = time.Now()
		}
		held, before = status.Mounts[0].CachedBytes, now
		if time.Since(begin) > readyLimit {
			b.Fatal("it does not settle")
		}
		<-time.After(prefetchPoll)
	}
	return before - first, last.Sub(begin)
}

// untilReady runs the program of the image until it says that it is ready.
func (m *mounted) untilReady(b *testing.B) time.Duration {
	b.Helper()
	begin := time.Now()
	app := "/app2/node_modules/node-red/red.js"
	ctx, cancel := context.WithTimeout(b.Context(), readyLimit)
	defer cancel()
	// Not this process changes its root: until it had read the program no thread of it ran that
	// the link needs.
	cmd := exec.CommandContext(ctx, "chroot", m.target, "/usr/bin/node", app, "--userDir", "/data")
	cmd.Env = []string{"PATH=/usr/bin:/bin", "HOME=/root"}
	// In a network of its own, in which its port is free.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWNET}
	cmd.Stderr = m.log
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	wait, err := programs.Start(cmd)
	if err != nil {
		b.Fatalf("starting the application: %v\n%s", err, m.log)
	}
	lines, ready := bufio.NewScanner(out), false
	for !ready && lines.Scan() {
		ready = strings.Contains(lines.Text(), "Started flows")
		fmt.Fprintln(m.log, lines.Text())
	}
	took := time.Since(begin)
	if err := cmd.Process.Kill(); err != nil || !ready {
		b.Fatalf("the application is not ready: %v, %v\n%s", err, lines.Err(), m.log)
	}
	_ = wait() //nolint:errcheck // it was killed
	return took
}

// usage is what a node has needed.
type usage struct {
	cpu time.Duration
	rss int64 // kB
}

// usage returns what the node has needed until now.
func (m *mounted) usage(b *testing.B) (u usage) {
	b.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", m.node.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", m.node.Process.Pid))
	if err != nil {
		b.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	var user, system int64
	fields := strings.Fields(rest)
	if _, err := fmt.Sscan(fields[11]+" "+fields[12], &user, &system); err != nil {
		b.Fatal(err)
	}
	_, rest, _ = strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscan(rest, &u.rss); err != nil {
		b.Fatal(err)
	}
	u.cpu = time.Duration(user+system) * 10 * time.Millisecond // the kernel counts hundredths
	return u
}

// stop ends the node and returns what it has needed.
func (m *mounted) stop(b *testing.B) usage {
	b.Helper()
	u := m.usage(b)
	if err := m.node.Process.Signal(syscall.SIGTERM); err != nil {
		b.Fatal(err)
	}
	if err := m.wait(); err != nil {
		b.Fatalf("the node: %v\n%s", err, m.log)
	}
	return u
}
