package lazyfs_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/lazyfs"
)

// readers read random parts of the files of an image until they are told to stop.
type readers struct {
	stop  chan struct{}
	wg    sync.WaitGroup
	reads atomic.Int64
	worst atomic.Int64 // nanoseconds that a read took at most
	total atomic.Int64
}

// startReaders reads the image that is mounted on target. Half of the reads find
// nothing in the page cache: neither in that of the root nor in that of the layer
// files below dir.
func startReaders(t *testing.T, image, target, flat string) *readers {
	t.Helper()
	r := &readers{stop: make(chan struct{})}
	for name, want := range imageFiles(image) {
		for worker := range 2 {
			r.wg.Go(func() {
				rnd := rand.New(rand.NewPCG(uint64(worker), uint64(len(want))))
				for {
					select {
					case <-r.stop:
						return
					default:
					}
					r.one(t, filepath.Join(target, name), want, rnd)
					if rnd.IntN(2) == 0 {
						forgetPages(flat)
					}
				}
			})
		}
	}
	return r
}

func (r *readers) one(t *testing.T, path string, want []byte, rnd *rand.Rand) {
	t.Helper()
	begin := time.Now()
	defer func() {
		took := time.Since(begin)
		r.reads.Add(1)
		r.total.Add(int64(took))
		for {
			worst := r.worst.Load()
			if int64(took) <= worst || r.worst.CompareAndSwap(worst, int64(took)) {
				return
			}
		}
	}()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Errorf("opening %s: %v", path, err)
		return
	}
	defer unix.Close(fd) //nolint:errcheck // read only
	n := 1 + rnd.IntN(128<<10)
	off := rnd.IntN(len(want) - n)
	if rnd.IntN(2) == 0 {
		if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
			t.Error(err)
		}
	}
	got := make([]byte, n)
	for done := 0; done < n; {
		read, err := unix.Pread(fd, got[done:], int64(off+done))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || read == 0 {
			t.Errorf("reading %d bytes at %d of %s: %d bytes, %v", n, off, path, read, err)
			return
		}
		done += read
	}
	if !bytes.Equal(got, want[off:off+n]) {
		t.Errorf("wrong bytes: %d at %d of %s", n, off, path)
	}
}

// forgetPages drops what the kernel has cached of the files in a directory.
func forgetPages(dir string) {
	paths, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return
	}
	for _, path := range paths {
		if fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) //nolint:errcheck // an attempt
			_ = unix.Close(fd)                             //nolint:errcheck // read only
		}
	}
}

func (r *readers) end(t *testing.T) {
	t.Helper()
	close(r.stop)
	r.wg.Wait()
	reads := r.reads.Load()
	t.Logf("%d reads, %v on average, %v at most", reads, time.Duration(r.total.Load()/max(reads, 1)), time.Duration(r.worst.Load()))
}

// TestWorkerIsKilled kills the worker again and again while programs read and other
// images are mounted and unmounted.
func TestWorkerIsKilled(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		kills := 50
		if backend != lazyfs.Erofs || underRace {
			kills = 10
		}
		s := newSetup(t, backend)
		s.Delay, s.MaxCache = 2*time.Millisecond, 8<<20
		launch(t, roleKeeper, s, nil)
		w := launch(t, roleWorker, s, nil)
		read, written := s.target(t, "read"), s.target(t, "written")
		w.tell(command{Op: "mount", Image: "first", Target: read, NoFill: true})
		w.tell(command{Op: "mount", Image: "second", Target: written, NoFill: true, Overlay: true})
		one := startReaders(t, "first", read, filepath.Join(s.state(), "flat"))
		two := startReaders(t, "second", written, filepath.Join(s.state(), "flat"))
		rnd := rand.New(rand.NewPCG(3, 4))
		var down time.Duration
		for i := range kills {
			<-time.After(time.Duration(rnd.IntN(60)) * time.Millisecond)
			begin := time.Now()
			w.kill()
			w = launch(t, roleWorker, s, nil)
			down += time.Since(begin)
			if got := w.First.Mounts[read]; got != `first"first"` {
				t.Fatalf("after kill %d: %v is mounted", i, w.First.Mounts)
			}
			other := s.target(t, "other"+number(i))
			w.tell(command{Op: "mount", Image: "third", Target: other, NoFill: true, Overlay: i%2 == 0})
			if got, err := os.ReadFile(filepath.Join(other, ownFile)); err != nil || !bytes.Equal(got, imageFiles("third")[ownFile]) {
				t.Errorf("an image mounted after kill %d: error %v or wrong bytes", i, err)
			}
			if i > 0 { // one that a worker before has mounted
				w.tell(command{Op: "unmount", Target: filepath.Join(s.Dir, "targets", "other"+number(i-1))})
			}
		}
		one.end(t)
		two.end(t)
		t.Logf("%d kills, a worker is back after %v", kills, down/time.Duration(kills))
		if worst := time.Duration(max(one.worst.Load(), two.worst.Load())); worst > 2*time.Second && !underRace {
			t.Errorf("a read took %v", worst)
		}
		for target := range w.tell(command{Op: "status"}).Mounts {
			w.tell(command{Op: "unmount", Target: target})
		}
		w.stop()
		s.requireAllGone(t)
	})
}
