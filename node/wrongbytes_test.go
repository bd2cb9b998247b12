package node_test

import (
	"bytes"
	"errors"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// deadline is how long a read may wait in tests of failing sources.
const deadline = 2 * time.Second

// garble inverts every 16384th byte of the body: some byte of every block, whatever
// the compression.
func garble() registrytest.Fault {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(&garbler{ResponseWriter: w}, r)
	}
}

type garbler struct {
	http.ResponseWriter
	at int
}

// Write implements [http.ResponseWriter].
func (g *garbler) Write(p []byte) (int, error) {
	p = slices.Clone(p)
	for i := range p {
		if (g.at+i)%16384 == 8191 {
			p[i] ^= 0xff
		}
	}
	g.at += len(p)
	return g.ResponseWriter.Write(p)
}

// requireEIO reads a part of a file of which nothing can be had, and returns how
// long it took to be told so.
func requireEIO(t *testing.T, path string, off int64, n int, limit time.Duration) time.Duration {
	t.Helper()
	begin := time.Now()
	got, err := readPart(path, off, n)
	took := time.Since(begin)
	if !errors.Is(err, unix.EIO) || len(got) > 0 {
		t.Errorf("%s: read %d bytes at %d, error %v, want EIO", path, len(got), off, err)
	}
	if took > limit {
		t.Errorf("%s: the error came after %v, want at most %v", path, took, limit)
	}
	return took
}

func TestWrongBytesFromRegistry(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", mixed().layers)
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		dir := filepath.Join(t.TempDir(), "node")
		n, stop := start(t, node.Config{Dir: dir, Backend: backend, ReadTimeout: deadline})
		m := mount(t, n, image)
		root := m.Status().Target
		reg.ResetRequests()
		reg.Inject(registrytest.Rule{Fault: garble()})
		var slowest time.Duration
		for name := range mixed().files {
			for _, part := range []struct{ off, n int }{{0, 4096}, {2<<20 + 5, 1<<20 - 5}} {
				slowest = max(slowest, requireEIO(t, filepath.Join(root, name), int64(part.off), part.n, deadline*3/2))
			}
		}
		asked := len(reg.BlobRequests())
		reg.ClearFaults()
		requireFiles(t, root, mixed().files)
		if err := m.Unmount(t.Context()); err != nil {
			t.Error(err)
		}
		stop()
		held := requireRightCache(t, dir, mixed())
		t.Logf("the slowest error came after %v, %d requests for all of them; the cache holds %d blocks, all right", slowest, asked, held)
		if held == 0 {
			t.Error("the cache holds nothing")
		}
	})
}

// One wrong byte spoils one block. Nobody notices but the node, which asks again.
func TestOneWrongByteIsNotNoticed(t *testing.T) {
	t.Parallel()
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", mixed().layers)
	dir := filepath.Join(t.TempDir(), "node")
	n, stop := start(t, node.Config{Dir: dir})
	m := mount(t, n, image)
	for name, data := range mixed().files {
		for off := int64(0); off < int64(len(data)); off += 1 << 20 {
			reg.Inject(registrytest.Rule{Fault: registrytest.Flip(1000), Times: 1})
			got, err := readPart(filepath.Join(m.Status().Target, name), off, 1<<20)
			if err != nil || !bytes.Equal(got, data[off:][:len(got)]) {
				t.Errorf("%s at %d: error %v, %d bytes, or wrong bytes", name, off, err, len(got))
			}
		}
	}
	if err := m.Unmount(t.Context()); err != nil {
		t.Error(err)
	}
	stop()
	requireRightCache(t, dir, mixed())
}
