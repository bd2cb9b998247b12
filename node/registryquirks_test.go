package node_test

import (
	"errors"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// behind names an image of a registry as it is called through a proxy.
func behind(reg *registrytest.Registry, p *registrytest.Proxy, image string) string {
	return strings.Replace(image, reg.Addr(), p.Addr(), 1)
}

// Programs read every file right, whatever a registry or a proxy does to ranges, and never see an
// error.
func TestMountThroughOddRegistries(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", mixed().layers)
	for _, odd := range registrytest.Quirks() {
		t.Run(odd.Name, func(t *testing.T) {
			t.Parallel()
			p := registrytest.NewProxy(t, reg, odd.Fault)
			n, _ := start(t, node.Config{})
			root := mount(t, n, behind(reg, p, image)).Status().Target
			// The end first: it is the last to come where a layer is streamed.
			for file, data := range mixed().files {
				end := len(data) - 4096
				got, err := readPart(filepath.Join(root, file), int64(end), 4096)
				if err != nil || string(got) != string(data[end:]) {
					t.Errorf("the end of %s: %v, or wrong bytes", file, err)
				}
			}
			requireFiles(t, root, mixed().files)
		})
	}
}

// A 200 answer to ranges costs one download of each layer, whatever is read in which order, with
// every backend, and with a token and a redirect to a storage that ignores ranges.
func TestIgnoredRangesCostOneDownload(t *testing.T) {
	const size = 9 << 20
	big := makeContent(size, registrytest.Layer{Level: 1}, registrytest.Layer{Compression: registrytest.None})
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		t.Parallel()
		reg := registrytest.New(t, registrytest.Config{Auth: registrytest.AuthToken, Redirect: true})
		image := push(t, reg, "app:v1", big.layers)
		var whole atomic.Int64
		reg.Inject(registrytest.Rule{
			Match: func(r *http.Request) bool { return big.isLayer(r) && r.URL.Query().Get("signature") != "" },
			Fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if !registrytest.Ranged(r) {
					whole.Add(1)
				}
				registrytest.IgnoreRange()(w, r, next)
			},
		})
		n, _ := start(t, node.Config{Backend: backend})
		root := mount(t, n, image).Status().Target
		for off := size - 64<<10; off >= 0; off -= 1_000_000 {
			for file, data := range big.files {
				if got, err := readPart(filepath.Join(root, file), int64(off), 4096); err != nil || string(got) != string(data[off:off+4096]) {
					t.Errorf("%s at %d: %v, or wrong bytes", file, off, err)
				}
			}
		}
		requireFiles(t, root, big.files)
		if got := whole.Load(); got != int64(len(big.layers)) {
			t.Errorf("%d downloads of %d layers", got, len(big.layers))
		}
	})
}

// Some blobs only, and ranges that are withdrawn while a program reads.
func TestRangesOfSomeBlobsOnly(t *testing.T) {
	require.FUSE(t)
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", mixed().layers)
	unranged := mixed().layers[1]
	p := registrytest.NewProxy(t, reg, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if strings.HasSuffix(r.URL.Path, block.Sum(unranged.Blob).String()) {
			registrytest.IgnoreRange()(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	})
	n, _ := start(t, node.Config{})
	root := mount(t, n, behind(reg, p, image)).Status().Target
	for file, data := range mixed().files {
		if got, err := readPart(filepath.Join(root, file), 1<<20, 4096); err != nil || string(got) != string(data[1<<20:1<<20+4096]) {
			t.Errorf("%s: %v, or wrong bytes", file, err)
		}
	}
	p.Set(registrytest.OnRanges(registrytest.Status(http.StatusRequestedRangeNotSatisfiable)))
	requireFiles(t, root, mixed().files)
}

// A reader waits past its deadline while its layer is being streamed, as whoever pulls plainly
// waits for the pull, and no longer once nothing comes.
func TestReadersWaitForAStream(t *testing.T) {
	require.FUSE(t)
	// 8 MiB at 16 Mbit/s are 4 s.
	big := makeContent(8<<20, registrytest.Layer{Compression: registrytest.None})
	file := "data-1/file-0000"
	reg := registrytest.New(t, registrytest.Config{BitsPerSecond: 16_000_000})
	image := push(t, reg, "app:v1", big.layers)
	p := registrytest.NewProxy(t, reg, registrytest.OnRanges(registrytest.IgnoreRange()))
	n, _ := start(t, node.Config{ReadTimeout: time.Second})
	root := mount(t, n, behind(reg, p, image)).Status().Target
	begin := time.Now()
	got, err := readPart(filepath.Join(root, file), 8<<20-4096, 4096)
	took := time.Since(begin)
	if err != nil || string(got) != string(big.files[file][8<<20-4096:]) {
		t.Errorf("after %v: %v, or wrong bytes", took, err)
	}
	if took < 2*time.Second {
		t.Errorf("the stream took %v: nothing was shown", took)
	}
}

// That ranges are not served is known before a lazy pull begins, unless everything is there.
func TestFetchChecksRanges(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	// Small enough to be compressed anew well within the time that the look may take.
	small := makeContent(1<<20, registrytest.Layer{Compression: registrytest.None})
	image := push(t, reg, "app:v1", small.layers)
	for _, odd := range registrytest.Quirks() {
		t.Run(odd.Name, func(t *testing.T) {
			p := registrytest.NewProxy(t, reg, odd.Fault)
			n, _ := start(t, node.Config{})
			found, err := n.Find(t.Context(), behind(reg, p, image), block.Digest{}, v1.Platform{})
			if err != nil {
				t.Fatal(err)
			}
			err = n.Fetch(t.Context(), found, func(*node.Image) bool { return false })
			if errors.Is(err, registry.ErrNoRanges) != odd.Shown || err != nil && !odd.Shown {
				t.Errorf("%v, want an error: %v", err, odd.Shown)
			}
		})
	}
}
