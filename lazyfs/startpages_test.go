package lazyfs_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/pages"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

// noLimit is a cache with room for everything.
type noLimit struct{}

func (noLimit) Reserve(int64) error { return nil }
func (noLimit) Release(int64)       {}

// scattered is a layer of n files of different lengths, and which of them a start reads.
func scattered(t *testing.T, n int) (layer []byte, files map[string][]byte, started []string) {
	t.Helper()
	files = make(map[string][]byte)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range n {
		name := fmt.Sprintf("f%03d", i)
		files[name] = blocktest.Random(byte(i), 3000+i*i%200_000)
		if i%4 == 0 {
			started = append(started, name)
		}
		err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name]))})
		if err == nil {
			_, err = w.Write(files[name])
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), files, started
}

// recording mounts an image like one that has pages, and returns what is read of it when
// the files are.
func recording(t *testing.T, backend lazyfs.Backend, layer []byte, names []string) []pages.Span {
	t.Helper()
	var mu sync.Mutex
	var trace []pages.Span
	seen := make(map[int64]bool)
	n := newNode(layer)
	vfs := run(t, lazyfs.Config{
		Source: n, Local: n, Backend: backend, Pages: func(block.Digest) stream.Pages { return nothing{} },
		OnRead: func(id block.Digest, off, length int64) {
			mu.Lock()
			defer mu.Unlock()
			for at := off / 4096 * 4096; at < off+length; at += 4096 {
				if !seen[at] {
					seen[at] = true
					trace = append(trace, pages.Span{Layer: id, Offset: at, Length: min(4096, int64(len(layer))-at)})
				}
			}
		},
	})
	m := mountPages(t, vfs, block.Sum([]byte("recording")), layer)
	for _, name := range names {
		if _, err := os.ReadFile(filepath.Join(m.Target(), name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Unmount(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	return trace
}

// nothing has no pages.
type nothing struct{ stream.Pages }

func (nothing) Locate(_ block.Digest, _, n int64) (int64, stream.PageState) {
	return n, stream.PagesAbsent
}

func mountPages(t *testing.T, vfs *lazyfs.FS, id block.Digest, layer []byte) *lazyfs.Mount {
	t.Helper()
	img := image(t, "image with pages", layer)
	img.PagesID = id
	m, err := vfs.Mount(t.Context(), img, t.TempDir(), lazyfs.MountConfig{NoFill: true})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// fullSet returns a store with the set of a trace, whose bytes are those of content.
func fullSet(t *testing.T, trace []pages.Span, content []byte) (*pages.Store, *pages.Set) {
	t.Helper()
	layout := pages.Layout{FrameSize: 64 << 10}
	var all []byte
	for _, s := range trace {
		layout.Spans = append(layout.Spans, s)
		all = append(all, content[s.Offset:s.Offset+s.Length]...)
	}
	frames := 0
	for off := 0; off < len(all); off += int(layout.FrameSize) {
		frames++
		frame := all[off:min(off+int(layout.FrameSize), len(all))]
		layout.Frames = append(layout.Frames, pages.Frame{Stored: int64(len(frame)), Digest: block.Sum(frame)})
	}
	store, err := pages.OpenStore(pages.Config{Dir: t.TempDir(), Space: noLimit{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	set, err := store.Open(block.Sum([]byte("set")), layout, true)
	if err != nil {
		t.Fatal(err)
	}
	for i := range frames {
		off := i * int(layout.FrameSize)
		if err := set.Put(i, all[off:min(off+int(layout.FrameSize), len(all))]); err != nil {
			t.Fatal(err)
		}
	}
	return store, set
}

func lookup(store *pages.Store) func(block.Digest) stream.Pages {
	return func(id block.Digest) stream.Pages {
		if set := store.Get(id); set != nil {
			return set
		}
		return nil
	}
}

// TestPagesAnswerAStartWithoutBlocks reads the files of a start while no block can be had.
func TestPagesAnswerAStartWithoutBlocks(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		layer, files, started := scattered(t, 120)
		trace := recording(t, backend, layer, started)
		store, set := fullSet(t, trace, layer)
		n := newNode(layer)
		vfs := run(t, lazyfs.Config{Source: n, Local: n, Backend: backend, Pages: lookup(store), ReadTimeout: 2 * time.Second})
		m := mountPages(t, vfs, set.ID(), layer)
		release := n.Stall()
		read := int64(0)
		for _, name := range started {
			got, err := os.ReadFile(filepath.Join(m.Target(), name))
			if err != nil || !bytes.Equal(got, files[name]) {
				t.Fatalf("%s differs: %v", name, err)
			}
			read += int64(len(got))
		}
		release()
		if set.Bytes() > 2*read {
			t.Errorf("the trace has %d bytes for %d in files", set.Bytes(), read)
		}
		// Everything else comes as blocks, also once the pages have been removed.
		for i, name := range []string{"f001", "f002", "f003", started[1]} {
			if i == 2 {
				if err := store.Remove(set.ID()); err != nil {
					t.Fatal(err)
				}
			}
			if got, err := os.ReadFile(filepath.Join(m.Target(), name)); err != nil || !bytes.Equal(got, files[name]) {
				t.Fatalf("%s differs: %v", name, err)
			}
		}
	})
}

// TestPagesReachOnlyTheirImage mounts the same layer with and without pages whose bytes are
// wrong, as those of a lying publisher are: the other image finds what is in the layer.
func TestPagesReachOnlyTheirImage(t *testing.T) {
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		layer, files, started := scattered(t, 20)
		trace := []pages.Span{{Layer: newNode(layer).fx.Layers()[0].ID, Length: int64(len(layer))}}
		store, set := fullSet(t, trace, bytes.Repeat([]byte("lie "), len(layer)/4+1)[:len(layer)])
		n := newNode(layer)
		vfs := run(t, lazyfs.Config{Source: n, Local: n, Backend: backend, Pages: lookup(store)})
		lying := mountPages(t, vfs, set.ID(), layer)
		if got, err := os.ReadFile(filepath.Join(lying.Target(), started[1])); err != nil || !bytes.HasPrefix(bytes.TrimLeft(got, "ie "), []byte("l")) {
			t.Fatalf("the pages are not served: %.20q, %v", got, err)
		}
		for _, id := range []block.Digest{{}, block.Sum([]byte("another"))} {
			other := mountPages(t, vfs, id, layer)
			for name, want := range files {
				if got, err := os.ReadFile(filepath.Join(other.Target(), name)); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s differs in an image without these pages: %v", name, err)
				}
			}
			if err := other.Unmount(t.Context()); err != nil {
				t.Error(err)
			}
		}
	})
}
