package node_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/torture"
)

// large is an image with one gzip layer of many frames and one plain layer, each with
// one file of 8 MiB.
var large = sync.OnceValue(func() content {
	return makeContent(8<<20, registrytest.Layer{Level: 1}, registrytest.Layer{Compression: registrytest.None})
})

const (
	largeGzip  = "data-1/file-0000"
	largePlain = "data-2/file-0000"
	// largeStart is where the file starts in its layer stream, after the header of its
	// directory and its own.
	largeStart = 1024
)

// openIndex makes the index of a stored layer.
func openIndex(t *testing.T, l registrytest.Layer) *index.Layer {
	t.Helper()
	built, err := index.Build(t.Context(), bytes.NewReader(l.Blob), index.BuildConfig{})
	if err != nil {
		t.Fatal(err)
	}
	opened, err := index.Open(bytes.NewReader(built.Encoded), int64(len(built.Encoded)))
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// framesOf returns the range of the blob that the frames of one block have, as a
// Range header, and how many they are.
func framesOf(t *testing.T, layer *index.Layer, i uint32) (header string, frames int) {
	t.Helper()
	var ends [2]index.Frame
	var numbers [2]int
	off := int64(i) * block.Size
	for j, at := range []int64{off, off + int64(block.Length(layer.StreamSize(), i)) - 1} {
		number, err := layer.FrameAt(at)
		if err != nil {
			t.Fatal(err)
		}
		if ends[j], err = layer.Frame(number); err != nil {
			t.Fatal(err)
		}
		numbers[j] = number
	}
	return fmt.Sprintf("bytes=%d-%d", ends[0].BlobOffset, ends[1].BlobOffset+ends[1].BlobLength-1), numbers[1] - numbers[0] + 1
}

// A program that reads one page makes the node ask for the frame of its block and
// nothing else; reads of its neighbours in that block ask for nothing.
func TestSmallReadAsksForOneFrame(t *testing.T) {
	t.Parallel()
	layer := openIndex(t, large().layers[0])
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", large().layers)
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		n, _ := start(t, node.Config{Backend: backend})
		path := filepath.Join(mount(t, n, image).Status().Target, largeGzip)
		data := large().files[largeGzip]
		single := 0
		for _, i := range []uint32{21, 5, 29, 13} { // far from each other, and not in order
			off := int64(i)*block.Size - largeStart + 128<<10
			reg.ResetRequests()
			for j := range int64(3) {
				at := off + j*16384
				if got, err := readPart(path, at, 4096); err != nil || !bytes.Equal(got, data[at:at+4096]) {
					t.Errorf("at %d: error %v or wrong bytes", at, err)
				}
			}
			want, frames := framesOf(t, layer, i)
			if frames == 1 {
				single++
			}
			// The window of the frame comes beside it, from the index.
			made := slices.DeleteFunc(reg.BlobRequests(), func(r registrytest.Request) bool {
				return !strings.HasSuffix(r.Path, layer.BlobDigest().Hex()) && r.Bytes <= 64<<10
			})
			if len(made) != 1 || made[0].Range != want {
				t.Errorf("block %d: requests %+v, want one of %s", i, made, want)
				continue
			}
			t.Logf("block %d: one request for %d bytes, %d frames", i, made[0].Bytes, frames)
		}
		if single == 0 {
			t.Error("every block lay in more than one frame: nothing was shown")
		}
	})
}

func TestColdStatAsksForNothing(t *testing.T) {
	t.Parallel()
	wanted := map[string]bool{"wide": true, "xattrs": true, "hard-links": true, "symlinks": true}
	var tars [][]byte
	for _, image := range torture.Images() {
		if wanted[image.Name] {
			tars = append(tars, image.Layers...)
		}
	}
	reg := registrytest.New(t, registrytest.Config{})
	ref := push(t, reg, "app:v1", tarLayers(tars))
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		n, _ := start(t, node.Config{Backend: backend})
		root := mount(t, n, ref).Status().Target
		reg.ResetRequests()
		entries := 0
		err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			entries++
			if _, err := unix.Llistxattr(path, make([]byte, 4096)); err != nil {
				return err
			}
			_, err = os.Lstat(path)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if made := reg.Requests(); len(made) > 0 || n.Status().Bytes.Registry > 0 {
			t.Errorf("%d entries: requests %+v", entries, made)
		}
		t.Logf("%d entries, no request", entries)
	})
}

// A plain layer shows at the registry what was asked for, byte for byte.
func TestSequentialReadAsksForMuch(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", large().layers)
	forEachBackend(t, func(t *testing.T, backend lazyfs.Backend) {
		t.Helper()
		n, _ := start(t, node.Config{Backend: backend})
		root := mount(t, n, image).Status().Target
		reg.ResetRequests()
		requireFiles(t, root, map[string][]byte{largePlain: large().files[largePlain]})
		var all, much int64
		requests := reg.BlobRequests()
		for _, r := range requests {
			all += r.Bytes
			if r.Bytes >= 512<<10 {
				much += r.Bytes
			}
		}
		t.Logf("%d requests for %d bytes, %.0f %% of them in requests of at least 512 KiB", len(requests), all, 100*float64(much)/float64(all))
		if much*100 < all*90 { // the first read finds no pattern yet
			t.Errorf("want nearly everything in requests of at least 512 KiB: %+v", requests)
		}
		if size := int64(len(large().files[largePlain])); all > size*5/4 { // on a loaded machine something is asked for twice
			t.Errorf("%d bytes for a file of %d", all, size)
		}
	})
}
