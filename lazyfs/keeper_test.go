package lazyfs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/lazyfs"
)

// read reads a part of a file past its page cache and that of the layer files.
func (s setup) read(t *testing.T, path string, off int64, n int) ([]byte, error) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	raw, err := f.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) { err = unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED) }); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, n)
	got, err := f.ReadAt(p, off)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return p[:got], err
}

// TestWorkerIsStopped ends a worker in the gentle way under programs that read: the
// next one goes on.
func TestWorkerIsStopped(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		s := newSetup(t, backend)
		s.Delay, s.MaxCache = 2*time.Millisecond, 5<<20
		launch(t, roleKeeper, s, nil)
		w := launch(t, roleWorker, s, nil)
		target := s.target(t, "read")
		w.tell(command{Op: "mount", Image: "first", Target: target, NoFill: true})
		r := startReaders(t, "first", target, filepath.Join(s.state(), "flat"))
		for range 5 {
			<-time.After(20 * time.Millisecond)
			w.stop()
			w = launch(t, roleWorker, s, nil)
		}
		r.end(t)
		w.tell(command{Op: "unmount", Target: target})
		w.stop()
		s.requireAllGone(t)
	})
}

// TestPatience lets readers wait for a worker that is late: the keeper answers for it,
// also what the dead one had begun, and the next worker makes up for it.
func TestPatience(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		s := newSetup(t, backend)
		s.Patience, s.Delay = 300*time.Millisecond, time.Hour
		launch(t, roleKeeper, s, nil)
		w := launch(t, roleWorker, s, nil)
		target := s.target(t, "read")
		w.tell(command{Op: "mount", Image: "first", Target: target, NoFill: true})
		own := filepath.Join(target, ownFile)
		began, late := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := s.read(t, own, 1<<20, 4096)
			began <- err
		}()
		<-time.After(200 * time.Millisecond) // the worker has the request, and its source hangs
		begin := time.Now()
		w.kill()
		go func() {
			_, err := s.read(t, own, 3<<20, 4096)
			late <- err
		}()
		for _, read := range []chan error{began, late} {
			if err := <-read; !errors.Is(err, unix.EIO) {
				t.Errorf("a read while no worker is there: %v, want EIO", err)
			}
		}
		if took := time.Since(begin); took < s.Patience || took > 20*time.Second {
			t.Errorf("readers were told after %v", took)
		}
		s.Delay = 0
		w = launch(t, roleWorker, s, nil)
		requireContent(t, "first", target)
		w.tell(command{Op: "unmount", Target: target})
		w.stop()
		s.requireAllGone(t)
	})
}

// TestKeeperIsReplaced kills the keeper alone: nobody notices, and the worker brings
// everything to the next keeper.
func TestKeeperIsReplaced(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		s := newSetup(t, backend)
		k := launch(t, roleKeeper, s, nil)
		w := launch(t, roleWorker, s, nil)
		target := s.target(t, "read")
		w.tell(command{Op: "mount", Image: "first", Target: target, NoFill: true})
		k.kill()
		if got, err := s.read(t, filepath.Join(target, ownFile), 1<<20, 4096); err != nil || len(got) != 4096 {
			t.Errorf("a read without keeper: %v", err)
		}
		if err := os.Remove(s.socket()); err != nil {
			t.Fatal(err)
		}
		launch(t, roleKeeper, s, nil)
		<-time.After(2500 * time.Millisecond) // the worker looks every two seconds
		w.kill()
		w = launch(t, roleWorker, s, nil)
		if len(w.First.Mounts) != 1 {
			t.Errorf("mounts after the restart: %v", w.First.Mounts)
		}
		requireContent(t, "first", target)
		w.tell(command{Op: "unmount", Target: target})
		w.stop()
		s.requireAllGone(t)
	})
}

// TestKeeperIsKilledToo kills both: what the kernel has not cached fails, and a new
// mount of the image works.
func TestKeeperIsKilledToo(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		s := newSetup(t, backend)
		k := launch(t, roleKeeper, s, nil)
		w := launch(t, roleWorker, s, nil)
		target, next := s.target(t, "old"), s.target(t, "new")
		w.tell(command{Op: "mount", Image: "first", Target: target, NoFill: true})
		want := imageFiles("first")[ownFile]
		open, err := os.Open(filepath.Join(target, ownFile))
		if err != nil {
			t.Fatal(err)
		}
		defer open.Close() //nolint:errcheck // read only
		got := make([]byte, 4096)
		if _, err := open.ReadAt(got, 0); err != nil {
			t.Fatal(err)
		}
		w.kill()
		k.kill()
		for restarted := range 2 {
			if _, err := open.ReadAt(got, 0); err != nil || !bytes.Equal(got, want[:4096]) {
				t.Errorf("a cached read: %v, or wrong bytes", err)
			}
			_, err := open.ReadAt(make([]byte, 4096), ownSize-4096)
			if !errors.Is(err, unix.EIO) && (backend != lazyfs.Tree || !errors.Is(err, unix.ENOTCONN)) {
				t.Errorf("an uncached read: %v, want EIO", err)
			}
			if restarted > 0 {
				break
			}
			if err := os.Remove(s.socket()); err != nil {
				t.Fatal(err)
			}
			launch(t, roleKeeper, s, nil)
			w = launch(t, roleWorker, s, nil)
			if len(w.First.Mounts) != 0 {
				t.Errorf("mounts that have lost their connection: %v", w.First.Mounts)
			}
			w.tell(command{Op: "mount", Image: "first", Target: next, NoFill: true})
			w.tell(command{Op: "mount", Image: "first", Target: target, NoFill: true})
			requireContent(t, "first", next)
			requireContent(t, "first", target)
		}
		if err := open.Close(); err != nil {
			t.Error(err)
		}
		w.tell(command{Op: "unmount", Target: next})
		w.tell(command{Op: "unmount", Target: target})
		w.stop()
		s.requireAllGone(t)
	})
}

// TestGraduatedMountNeedsNobody reads a complete image when worker and keeper are gone,
// and lets the next worker, which has no keeper, go on with it under a full cache.
func TestGraduatedMountNeedsNobody(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		if backend == lazyfs.Tree {
			t.Skip("a tree always needs its process")
		}
		s := newSetup(t, backend)
		k := launch(t, roleKeeper, s, nil)
		w := launch(t, roleWorker, s, nil)
		first, second := s.target(t, "first"), s.target(t, "second")
		w.tell(command{Op: "mount", Image: "first", Target: first})
		if a := w.tell(command{Op: "mount", Image: "first", Target: second, Overlay: true}); !a.Direct[second] || a.Direct[first] {
			t.Fatalf("direct: %v", a.Direct)
		}
		w.tell(command{Op: "unmount", Target: first})
		w.kill()
		k.kill()
		forgetPages(second)
		requireContent(t, "first", second)

		s.Keeper, s.MaxCache = false, 11<<20 // room for the mounted image and little more
		w = launch(t, roleWorker, s, nil)
		if !w.First.Direct[second] {
			t.Fatalf("mounts after the restart: %v, direct: %v", w.First.Mounts, w.First.Direct)
		}
		w.tell(command{Op: "mount", Image: "other", Target: first, NoFill: true})
		requireContent(t, "other", first) // evicts what may be evicted
		forgetPages(second)
		requireContent(t, "first", second)

		// In use when the worker ends: it stays.
		open, err := os.Open(filepath.Join(second, sharedFile))
		if err != nil {
			t.Fatal(err)
		}
		w.tell(command{Op: "unmount", Target: first})
		w.stop()
		forgetPages(second)
		requireContent(t, "first", second)
		w = launch(t, roleWorker, s, nil)
		if !w.First.Direct[second] {
			t.Errorf("mounts after the second restart: %v", w.First.Mounts)
		}
		if err := open.Close(); err != nil {
			t.Error(err)
		}
		w.tell(command{Op: "unmount", Target: second})
		w.stop()
		s.requireAllGone(t)
		if marks, err := filepath.Glob(filepath.Join(s.Dir, "cache/layers/*/pinned")); err != nil || len(marks) > 0 {
			t.Errorf("still pinned: %v, %v", marks, err)
		}
	})
}

// damage changes the record of the mount on a target.
func (s setup) damage(t *testing.T, target string, change func(record map[string]any) []byte) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(s.state(), "records", "*.mount.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var record map[string]any
		if err := json.Unmarshal(content, &record); err != nil {
			t.Fatal(err)
		}
		if record["target"] != target {
			continue
		}
		if err := os.WriteFile(path, change(record), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func encode(record map[string]any) []byte {
	encoded, err := json.Marshal(record)
	if err != nil {
		panic(err)
	}
	return encoded
}

// TestBrokenRecord holds that whatever is wrong with one mount concerns that one.
func TestBrokenRecord(t *testing.T) {
	for name, change := range map[string]func(record map[string]any) []byte{
		"empty":        func(map[string]any) []byte { return nil },
		"not JSON":     func(map[string]any) []byte { return []byte("{") },
		"too long":     func(map[string]any) []byte { return make([]byte, 2<<20) },
		"version":      func(r map[string]any) []byte { r["version"] = 99; return encode(r) },
		"other layers": func(r map[string]any) []byte { r["layers"] = []any{}; return encode(r) },
		"other root":   func(r map[string]any) []byte { r["root"] = "/"; return encode(r) },
		"no session":   func(r map[string]any) []byte { r["session"] = "brisk-0"; return encode(r) },
		"refused":      nil,
	} {
		t.Run(name, func(t *testing.T) {
			forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
				t.Helper()
				if backend != lazyfs.Erofs && change != nil {
					t.Skip("records are read in the same way for all backends")
				}
				s := newSetup(t, backend)
				launch(t, roleKeeper, s, nil)
				w := launch(t, roleWorker, s, nil)
				good, bad := s.target(t, "good"), s.target(t, "bad")
				w.tell(command{Op: "mount", Image: "first", Target: bad, NoFill: true})
				w.tell(command{Op: "mount", Image: "second", Target: good, NoFill: true})
				w.kill()
				if change == nil {
					s.Refuse = "first"
				} else {
					s.damage(t, bad, change)
				}
				w = launch(t, roleWorker, s, nil)
				if len(w.First.Mounts) != 1 || w.First.Mounts[good] == "" {
					t.Errorf("mounts after the restart: %v", w.First.Mounts)
				}
				requireContent(t, "second", good)
				w.tell(command{Op: "mount", Image: "first", Target: bad, NoFill: true})
				requireContent(t, "first", bad)
				w.tell(command{Op: "unmount", Target: good})
				w.tell(command{Op: "unmount", Target: bad})
				w.stop()
				s.requireAllGone(t)
			})
		})
	}
}

// TestReboot starts a worker where the records of another one are, but neither mounts
// nor a keeper that knows of any.
func TestReboot(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		s := newSetup(t, backend)
		k := launch(t, roleKeeper, s, nil)
		w := launch(t, roleWorker, s, nil)
		read, written := s.target(t, "read"), s.target(t, "written")
		w.tell(command{Op: "mount", Image: "first", Target: read, NoFill: true})
		w.tell(command{Op: "mount", Image: "first", Target: written, NoFill: true, Overlay: true})
		w.kill()
		k.kill()
		for _, m := range mountsIn(t, s.Dir) {
			_, point, _ := strings.Cut(m, " ")
			if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
		}
		s.damage(t, read, func(record map[string]any) []byte { record["boot"] = "another"; return encode(record) })
		if err := os.Remove(s.socket()); err != nil {
			t.Fatal(err)
		}
		launch(t, roleKeeper, s, nil)
		w = launch(t, roleWorker, s, nil)
		if len(w.First.Mounts) != 0 {
			t.Errorf("mounts after the reboot: %v", w.First.Mounts)
		}
		w.tell(command{Op: "mount", Image: "first", Target: written, NoFill: true, Overlay: true})
		requireContent(t, "first", written)
		w.tell(command{Op: "unmount", Target: written})
		w.stop()
		s.requireAllGone(t)
	})
}
