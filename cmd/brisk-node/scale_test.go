package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
)

const (
	// clockTick is the unit of CPU times in /proc: USER_HZ, which is 100 everywhere.
	clockTick = 10 * time.Millisecond
)

// forest makes layers of many small files. What a file holds follows from its number.
type forest struct{ noise []byte }

func newForest() forest {
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = "abcdefghijklmnopqrstuvwxyzABCDEF"[random.Uint32()%32]
	}
	return forest{noise}
}

// path is that of file i: 100 files a directory, 100 directories a directory.
func (forest) path(i int) string { return fmt.Sprintf("d%d/d%d/file-%d", i/10_000, i/100, i) }

// data is the content of file i: a few bytes to 3 kB.
func (f forest) data(i int) []byte {
	from := i * 7919 % (len(f.noise) - 4096)
	return append([]byte(f.path(i)+"\n"), f.noise[from:from+i*31%3000]...)
}

// layer holds the files from first on.
func (f forest) layer(t *testing.T, first, n int) registrytest.Layer {
	t.Helper()
	var all []registrytest.File
	for i := first; i < first+n; i++ {
		if i == first || i%10_000 == 0 {
			all = append(all, registrytest.File{Name: fmt.Sprintf("d%d/", i/10_000)})
		}
		if i == first || i%100 == 0 {
			all = append(all, registrytest.File{Name: fmt.Sprintf("d%d/d%d/", i/10_000, i/100)})
		}
		all = append(all, registrytest.File{Name: f.path(i), Data: f.data(i)})
	}
	return registrytest.Layer{Tar: registrytest.Tar(t, all...), Level: 1}
}

// requireTree walks a tree and compares every file of it that is of the forest, with some
// readers at the same time. It returns how many.
func (f forest) requireTree(t *testing.T, root string) int {
	t.Helper()
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	var read atomic.Int64
	var group errgroup.Group
	for _, entry := range entries {
		group.Go(func() error {
			n, err := f.readTree(filepath.Join(root, entry.Name()))
			read.Add(int64(n))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	return int(read.Load())
}

func (f forest) readTree(root string) (read int, err error) {
	err = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if _, err := entry.Info(); err != nil {
			return err
		}
		_, number, ok := strings.Cut(entry.Name(), "file-")
		if !ok {
			return nil
		}
		i, err := strconv.Atoi(number)
		if err != nil {
			return err
		}
		got, err := os.ReadFile(path)
		if err == nil && !bytes.Equal(got, f.data(i)) {
			err = fmt.Errorf("%s has wrong bytes", path)
		}
		read++
		return err
	})
	return read, err
}

// prepare makes a snapshot of an image, and so has the image mounted.
func (s *site) prepare(key, ref string) {
	s.t.Helper()
	image, err := s.Client.GetImage(s.Context(), ref)
	if err != nil {
		s.t.Fatal(err)
	}
	diffs, err := image.RootFS(s.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	service := s.Client.SnapshotService(containerdtest.Snapshotter)
	if _, err := service.Prepare(s.Context(), key, identity.ChainID(diffs).String(), containerdtest.KeepSnapshot()); err != nil {
		s.t.Fatalf("preparing a snapshot of %s: %v", ref, err)
	}
}

// discard removes a snapshot that prepare has made.
func (s *site) discard(key string) {
	s.t.Helper()
	if err := s.Client.SnapshotService(containerdtest.Snapshotter).Remove(s.Context(), key); err != nil {
		s.t.Error(err)
	}
}

// roots returns where images are mounted.
func (s *site) roots() []string {
	s.t.Helper()
	var roots []string
	for _, point := range s.mounts() {
		if strings.HasPrefix(point, filepath.Join(s.dir, "snapshotter", "snapshots")) {
			roots = append(roots, point)
		}
	}
	return roots
}

// memory returns a figure in bytes of the memory of the program, by its name in
// /proc/PID/status.
func (s *site) memory(name string) int64 {
	s.t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(content)) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			kilobytes, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return kilobytes << 10
		}
	}
	s.t.Fatalf("the kernel does not tell %s", name)
	return 0
}

// cpu returns how much CPU time the program has taken.
func (s *site) cpu() time.Duration {
	s.t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.pid))
	if err != nil {
		s.t.Fatal(err)
	}
	// The name, in parentheses, may hold spaces.
	fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
	user, err := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	if err := errors.Join(err, err2); err != nil {
		s.t.Fatal(err)
	}
	return time.Duration(user+system) * clockTick
}

// requireMemory checks what the program takes.
func (s *site) requireMemory(when string, most int64) {
	s.t.Helper()
	rss := s.memory("VmRSS")
	s.t.Logf("%s: RSS %.1f MB, of that files %.1f MB, at most so far %.1f MB", when,
		float64(rss)/1e6, float64(s.memory("RssFile"))/1e6, float64(s.memory("VmHWM"))/1e6)
	if rss > most {
		s.t.Errorf("%s the program takes %d bytes of memory, more than %d", when, rss, most)
	}
}

// awaitComplete waits until images have come in full.
func (s *site) awaitComplete(images int) {
	s.t.Helper()
	containerdtest.Await(s.t, "images being complete", 2*time.Minute, func() bool {
		return len(s.logs.lines("image is complete")) >= images
	})
}

// TestScaleImages mounts 50 images and reads them in full: the program takes 300 MB at
// most, and next to nothing of a processor when nobody reads.
func TestScaleImages(t *testing.T) {
	if underRace {
		t.Skip("it measures")
	}
	const images, each, most = 50, 1000, 300e6
	s := newSite(t, "--listen", "/ip4/127.0.0.1/tcp/0")
	all := newForest()
	refs := make([]string, images)
	for i := range refs {
		refs[i] = s.push(fmt.Sprintf("app%d:v1", i), true, shell(t), all.layer(t, i*each, each))
		s.Pull(refs[i])
		s.prepare(fmt.Sprintf("c%d", i), refs[i])
	}
	s.requireMemory("mounted", most)
	roots := s.roots()
	if len(roots) != images {
		t.Fatalf("%d images are mounted", len(roots))
	}
	for _, root := range roots {
		if read := all.requireTree(t, root); read != each {
			t.Errorf("%d files are in %s", read, root)
		}
	}
	s.awaitComplete(images)
	s.requireMemory("read", most)
	if peak := s.memory("VmHWM"); peak > most {
		t.Errorf("the program took %d bytes of memory at some time, more than %d", peak, int64(most))
	}
	s.requireIdle(20*time.Second, 0.005)
	for i, ref := range refs {
		s.discard(fmt.Sprintf("c%d", i))
		s.RemoveImage(ref)
	}
	s.requireEmpty()
}

// idleSpans is how many spans the program may take to come to rest: complete layers are read back
// and proven first, slowly, so as to disturb nobody.
const idleSpans = 4

// requireIdle measures the program while nobody asks anything of it but containerd.
func (s *site) requireIdle(span time.Duration, most float64) {
	s.t.Helper()
	share := 0.0
	for range idleSpans {
		before := s.cpu()
		select {
		case <-time.After(span):
		case <-s.t.Context().Done():
		}
		share = float64(s.cpu()-before) / float64(span)
		s.t.Logf("idle for %s: %.2f %% of a processor", span, 100*share)
		if share <= most {
			return
		}
	}
	s.t.Errorf("an idle program takes %.2f %% of a processor, more than %.2f %%", 100*share, 100*most)
}

// TestScaleFiles mounts an image of 100,000 files, walks it and reads all of it: the
// program takes 150 MB at most.
func TestScaleFiles(t *testing.T) {
	if underRace {
		t.Skip("it measures")
	}
	const files, layers, most = 100_000, 5, 150e6
	s := newSite(t, "--listen", "/ip4/127.0.0.1/tcp/0")
	all := newForest()
	image := []registrytest.Layer{shell(t)}
	for i := range layers {
		image = append(image, all.layer(t, i*files/layers, files/layers))
	}
	ref := s.push("files:v1", true, image...)
	s.requireMemory("before", most)
	s.Pull(ref)
	s.requireMemory("pulled", most)
	s.prepare("one", ref)
	s.requireMemory("mounted", most)
	roots := s.roots()
	if len(roots) != 1 {
		t.Fatalf("images are mounted on %q", roots)
	}
	started := time.Now()
	if read := all.requireTree(t, roots[0]); read != files {
		t.Errorf("%d files are there", read)
	}
	t.Logf("walked and read in %s", time.Since(started))
	s.requireMemory("read", most)
	s.awaitComplete(1)
	s.requireMemory("complete", most)
	if peak := s.memory("VmHWM"); peak > most {
		t.Errorf("the program took %d bytes of memory at some time, more than %d", peak, int64(most))
	}
	s.discard("one")
	s.RemoveImage(ref)
	s.requireEmpty()
}
