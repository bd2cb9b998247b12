package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/bits"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/keeper"
	"github.com/brisk-project/brisk/lazyfs/kernel"
	"github.com/brisk-project/brisk/node/agent"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// readyIn is how long the program may take to be ready again: seconds, on a machine that
// is busy with other tests.
const readyIn = 15 * time.Second

// fleet is a number of mounted images.
type fleet struct {
	*site
	forest

	each  int // files of an image
	refs  []string
	flags []string // of the program
}

// newFleet pulls images, has each of them mounted and waits until all have come in full.
func newFleet(t *testing.T, n int, flags ...string) *fleet {
	t.Helper()
	if underRace {
		n = 5
	}
	f := &fleet{site: newSite(t, flags...), forest: newForest(), each: 30}
	// All containers go on being served by the programs to come.
	f.flags = append(slices.Clone(flags), "--containerd", f.Address)
	base := f.layer(t, 1_000_000, f.each)
	for i := range n {
		f.refs = append(f.refs, f.push(fmt.Sprintf("app%d:v1", i), true, base, f.layer(t, i*f.each, f.each)))
	}
	// An image that is complete when it is mounted would need no program.
	release := f.holdBlocks()
	for i := range n {
		f.Pull(f.refs[i])
		f.prepare(f.key(i), f.refs[i])
	}
	release()
	f.awaitComplete(n)
	f.awaitDurable()
	return f
}

// awaitDurable waits until all blocks of all layers are on record. Those that are not when
// the program is killed are loaded again.
func (f *fleet) awaitDurable() {
	f.t.Helper()
	records, err := filepath.Glob(filepath.Join(f.dir, "cache/layers/*/data"))
	if err != nil || len(records) != len(f.refs)+1 {
		f.t.Fatalf("%d layers are cached, %v", len(records), err)
	}
	containerdtest.Await(f.t, "blocks being on record", containerdtest.Timeout, func() bool {
		return !slices.ContainsFunc(records, func(data string) bool {
			record, err := os.ReadFile(filepath.Join(filepath.Dir(data), "presence"))
			if err != nil {
				return true
			}
			// See lazyfs/cache/presencerecord.go. No layer has more than 64 blocks.
			size, present := binary.LittleEndian.Uint64(record[44:]), binary.LittleEndian.Uint64(record[52:])
			return uint32(bits.OnesCount64(present)) != block.Count(int64(size))
		})
	})
}

func (*fleet) key(i int) string { return fmt.Sprintf("c%d", i) }

// restart starts the program, and returns how long it took to be ready.
func (f *fleet) restart() time.Duration {
	f.t.Helper()
	started := time.Now()
	f.stop = f.run(f.flags...)
	containerdtest.Await(f.t, "brisk-node being ready", time.Minute, func() bool {
		status, err := agent.FetchStatus(f.t.Context(), f.dir)
		return err == nil && len(status.NotReady) == 0
	})
	took := time.Since(started)
	f.t.Logf("ready after %s, with %d images", took, len(f.refs))
	if took > readyIn {
		f.t.Errorf("the program took %s to be ready", took)
	}
	f.awaitConnected()
	return took
}

// cut takes the registry away.
func (f *fleet) cut() {
	f.reg.Inject(registrytest.Rule{Match: func(*http.Request) bool { return true }, Fault: registrytest.Cut(-1)})
}

// mount asks for the mounts of the snapshot of an image.
func (f *fleet) mount(i int) error {
	ctx, cancel := context.WithTimeout(f.Context(), time.Minute)
	defer cancel()
	_, err := f.Client.SnapshotService(containerdtest.Snapshotter).Mounts(ctx, f.key(i))
	return err
}

// requireTrees reads as many mounted images in full.
func (f *fleet) requireTrees(n int) {
	f.t.Helper()
	roots := f.roots()
	if len(roots) != n {
		f.t.Errorf("%d images are mounted, not %d", len(roots), n)
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
		f.t.Error(err)
	}
	for _, root := range roots {
		if read := f.requireTree(f.t, root); read != 2*f.each {
			f.t.Errorf("%d files are in %s", read, root)
		}
	}
}

// removeAll removes all snapshots and images, and sees to it that nothing is left.
func (f *fleet) removeAll() {
	f.t.Helper()
	for i, ref := range f.refs {
		f.discard(f.key(i))
		f.RemoveImage(ref)
	}
	f.requireEmpty()
}

// damage overwrites the middle of a file.
func (f *fleet) damage(path string) {
	f.t.Helper()
	content, err := os.ReadFile(path)
	if err == nil {
		content[len(content)/2] ^= 0xff
		err = os.WriteFile(path, content, 0o600)
	}
	if err != nil {
		f.t.Fatal(err)
	}
}

// find returns the files of a directory of the node whose content holds a text.
func (f *fleet) find(dir, text string) (paths []string) {
	f.t.Helper()
	entries, err := os.ReadDir(filepath.Join(f.dir, dir))
	if err != nil {
		f.t.Fatal(err)
	}
	for _, entry := range entries {
		path := filepath.Join(f.dir, dir, entry.Name())
		content, err := os.ReadFile(path)
		if err == nil && bytes.Contains(content, []byte(text)) {
			paths = append(paths, path)
		}
	}
	if len(paths) == 0 {
		f.t.Fatalf("no file below %s holds %q", dir, text)
	}
	return paths
}

// ownIndex returns the file of the index of the layer that only one image has.
func (f *fleet) ownIndex(i int) string {
	f.t.Helper()
	var image struct {
		Layers []struct{ Index string }
	}
	content, err := os.ReadFile(f.find("objects", fmt.Sprintf("/app%d:v1", i))[0])
	if err == nil {
		err = json.Unmarshal(content, &image)
	}
	if err != nil || len(image.Layers) != 2 {
		f.t.Fatalf("record of image %d: %v, %+v", i, err, image)
	}
	return filepath.Join(f.dir, "objects", strings.TrimPrefix(image.Layers[1].Index, "sha256:"))
}

// runKeeper runs a keeper until stop or the end of the test.
func runKeeper(t *testing.T) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "keeper.sock")
	k, err := keeper.New(keeper.Config{Socket: socket})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return socket
}

// TestScaleRestart kills the program under 50 mounted images, and starts it without the
// network and with some of what it has kept damaged: it is ready within seconds, and only
// the images concerned are.
func TestScaleRestart(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 50, "--keeper", runKeeper(t))
	f.kill()
	f.cut()
	f.restart()
	f.requireTrees(len(f.refs))

	f.kill()
	f.damage(f.find("mounts/records", "/app0:v1")[0])
	f.damage(f.ownIndex(1))
	f.damage(f.find("objects", "/app2:v1")[0])
	last := len(f.refs) - 1
	lastIndex := f.ownIndex(last)
	f.restart()
	// Image 2 is still mounted: its record is needed for a mount only.
	f.requireTrees(len(f.refs) - 2)
	if len(f.logs.lines("cannot be served again and ends")) != 2 {
		t.Error("the log does not tell of the two mounts that were given up")
	}
	if err := f.mount(0); err != nil {
		t.Errorf("mounting an image again of which the record of the mount was damaged: %v", err)
	}
	if err := f.mount(1); err == nil {
		t.Error("an image was mounted without its index")
	}
	f.requireTrees(len(f.refs) - 1)
	f.reg.ClearFaults()
	if err := f.mount(1); err != nil {
		t.Errorf("mounting an image whose index can be had again: %v", err)
	}
	f.requireTrees(len(f.refs))
	// That of other images is still dropped with them.
	f.discard(f.key(last))
	f.RemoveImage(f.refs[last])
	containerdtest.Await(t, "the index of a removed image going", containerdtest.Timeout, func() bool {
		_, err := os.Stat(lastIndex)
		return errors.Is(err, os.ErrNotExist)
	})
	f.refs = f.refs[:last]
	f.removeAll()
}

// TestReboot takes all mounts away, as starting the machine again does.
func TestReboot(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 5)
	f.kill()
	f.cut()
	for _, point := range f.mounts() {
		if err := kernel.Unmount(context.WithoutCancel(t.Context()), point, true); err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range f.find("mounts/records", `"boot"`) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		content = bytes.ReplaceAll(content, []byte(`"boot":"`), []byte(`"boot":"before-`))
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.restart()
	if roots := f.roots(); len(roots) != 0 {
		t.Errorf("%q are mounted before anybody has asked", roots)
	}
	if entries, err := os.ReadDir(filepath.Join(f.dir, "mounts/records")); err != nil || len(entries) != 0 {
		t.Errorf("%d records of mounts are left, %v", len(entries), err)
	}
	for i := range f.refs {
		if err := f.mount(i); err != nil {
			t.Error(err)
		}
	}
	f.requireTrees(len(f.refs))
	f.removeAll()
	f.reg.ClearFaults()
}
