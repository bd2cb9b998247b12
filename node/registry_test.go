package node_test

import (
	"bytes"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// The registry goes away in the middle of a mount's life: it refuses connections,
// answers nothing, or stops in the middle of an answer. Reads of what is not cached
// fail in time, and work again as soon as it is back.
func TestRegistryGone(t *testing.T) {
	require.FUSE(t)
	type registry = *registrytest.Registry
	for name, away := range map[string]struct {
		gone, back func(t *testing.T, r registry)
	}{
		"refuses": {
			func(t *testing.T, r registry) {
				t.Helper()
				if err := r.Pause(); err != nil {
					t.Fatal(err)
				}
			},
			func(t *testing.T, r registry) {
				t.Helper()
				if err := r.Resume(); err != nil {
					t.Fatal(err)
				}
			},
		},
		"silent": {
			func(_ *testing.T, r registry) { r.Inject(registrytest.Rule{Fault: registrytest.Hang(-1)}) },
			func(_ *testing.T, r registry) { r.ClearFaults() },
		},
		"stalls": {
			func(_ *testing.T, r registry) { r.Inject(registrytest.Rule{Fault: registrytest.Hang(5000)}) },
			func(_ *testing.T, r registry) { r.ClearFaults() },
		},
		"failing": {
			func(_ *testing.T, r registry) { r.Inject(registrytest.Rule{Fault: registrytest.Status(503)}) },
			func(_ *testing.T, r registry) { r.ClearFaults() },
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			reg := registrytest.New(t, registrytest.Config{})
			image := push(t, reg, "app:v1", mixed().layers)
			roots := make(map[lazyfs.Backend]string)
			for _, backend := range lazyfs.Backends() {
				n, _ := start(t, node.Config{Backend: backend, ReadTimeout: deadline})
				roots[backend] = mount(t, n, image).Status().Target
				for file, data := range mixed().files {
					if got, err := readPart(filepath.Join(roots[backend], file), 0, 4096); err != nil || !bytes.Equal(got, data[:4096]) {
						t.Fatalf("%s: before: error %v or wrong bytes", backend, err)
					}
				}
			}
			away.gone(t, reg)
			// They only wait, so all wait together.
			var waiting sync.WaitGroup
			for backend, root := range roots {
				gzip, plain := filepath.Join(root, gzipFile), filepath.Join(root, plainFile)
				// What the node holds, it still serves.
				if got, err := readPart(gzip, 8192, 4096); err != nil || !bytes.Equal(got, mixed().files[gzipFile][8192:12288]) {
					t.Errorf("%s: a cached part: error %v or wrong bytes", backend, err)
				}
				waiting.Go(func() {
					t.Logf("%s: a page failed after %v", backend, requireEIO(t, gzip, 2<<20, 4096, deadline*3/2))
				})
				waiting.Go(func() {
					t.Logf("%s: a megabyte failed after %v", backend, requireEIO(t, plain, 1<<20, 1<<20, deadline*3/2))
				})
			}
			waiting.Wait()
			away.back(t, reg)
			begin := time.Now()
			for backend, root := range roots {
				awaitRead(t, filepath.Join(root, gzipFile))
				t.Logf("%s: read %v after the return", backend, time.Since(begin))
				requireFiles(t, root, mixed().files)
			}
		})
	}
}

// awaitRead reads a file until that works. For a moment after a failure a read of the
// same place gets little time, which a loaded machine may need longer than.
func awaitRead(t *testing.T, path string) {
	t.Helper()
	limit := time.Now().Add(30 * time.Second)
	for attempt := 1; ; attempt++ {
		_, err := os.ReadFile(path)
		if err == nil {
			t.Logf("%d attempts", attempt)
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("the registry is back, but: %v", err)
		}
	}
}

// Tokens and signed URLs expire all the time, even in the middle of a file.
func TestExpiringCredentials(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{Auth: registrytest.AuthToken, TokenLife: time.Minute, Redirect: true})
	image := push(t, reg, "app:v1", mixed().layers)
	n, _ := start(t, node.Config{})
	root := mount(t, n, image).Status().Target
	tokens, redirects := reg.TokensIssued(), reg.RedirectsIssued()
	for name, want := range mixed().files {
		f, err := os.Open(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 256<<10)
		for off := 0; off < len(want); off += len(p) {
			reg.RevokeTokens()
			reg.ExpireRedirects()
			if _, err := f.ReadAt(p, int64(off)); err != nil || !bytes.Equal(p, want[off:off+len(p)]) {
				t.Fatalf("%s at %d: error %v or wrong bytes", name, off, err)
			}
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	tokens, redirects = reg.TokensIssued()-tokens, reg.RedirectsIssued()-redirects
	t.Logf("%d tokens and %d signed URLs were renewed while reading", tokens, redirects)
	if tokens == 0 || redirects == 0 {
		t.Error("nothing expired")
	}
}
