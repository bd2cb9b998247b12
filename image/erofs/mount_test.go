package erofs_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/test/fstree"
	"github.com/brisk-project/brisk/test/require"
	"github.com/brisk-project/brisk/test/torture"
)

// openLayers makes the layer index of each layer.
func openLayers(tb testing.TB, layers [][]byte) []*index.Layer {
	tb.Helper()
	opened := make([]*index.Layer, len(layers))
	for i, data := range layers {
		result, err := index.Build(tb.Context(), bytes.NewReader(data), index.BuildConfig{})
		if err != nil {
			tb.Fatalf("building the index of layer %d: %v", i, err)
		}
		if opened[i], err = index.Open(bytes.NewReader(result.Encoded), int64(len(result.Encoded))); err != nil {
			tb.Fatalf("opening the index of layer %d: %v", i, err)
		}
	}
	return opened
}

// build makes rootfs metadata and checks what is said of it.
func build(tb testing.TB, tree *erofs.Tree) []byte {
	tb.Helper()
	var image bytes.Buffer
	stats, err := erofs.Build(&image, tree, erofs.Config{})
	if err != nil {
		tb.Fatal(err)
	}
	if want := (erofs.Stats{Size: int64(image.Len()), Inodes: tree.Len()}); stats != want {
		tb.Fatalf("Build returned %+v, want %+v", stats, want)
	}
	return image.Bytes()
}

// store writes rootfs metadata and its devices into a directory.
func store(tb testing.TB, image []byte, layers [][]byte) (imagePath string, devices []string) {
	tb.Helper()
	dir := tb.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			tb.Fatal(err)
		}
		return path
	}
	for i, layer := range layers {
		padding := make([]byte, (512-len(layer)%512)%512)
		devices = append(devices, write(fmt.Sprintf("layer%d", i), append(slices.Clip(layer), padding...)))
	}
	return write("metadata.erofs", image), devices
}

// mount mounts rootfs metadata until the end of the test. The new mount interface
// takes any number of devices, mount(2) a page of options.
func mount(tb testing.TB, imagePath string, devices []string) string {
	tb.Helper()
	require.Root(tb)
	dir := tb.TempDir()
	fd, err := unix.Fsopen("erofs", unix.FSOPEN_CLOEXEC)
	require.Working(tb, "EROFS in the kernel", err)
	defer closeFD(tb, fd)
	err = unix.FsconfigSetString(fd, "source", imagePath)
	for _, device := range devices {
		err = errors.Join(err, unix.FsconfigSetString(fd, "device", device))
	}
	err = errors.Join(err, unix.FsconfigSetFlag(fd, "ro"))
	if err = errors.Join(err, unix.FsconfigCreate(fd)); err != nil {
		message := make([]byte, 1024)
		n, readErr := unix.Read(fd, message)
		tb.Fatalf("mounting %s with %d devices: %v: %s (%v)", imagePath, len(devices), err, message[:max(n, 0)], readErr)
	}
	mfd, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY)
	if err != nil {
		tb.Fatal(err)
	}
	defer closeFD(tb, mfd)
	if err := unix.MoveMount(mfd, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		// A process that another test is starting may hold a file for a moment.
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			tb.Errorf("unmounting %s: %v", dir, err)
		}
	})
	return dir
}

func closeFD(tb testing.TB, fd int) {
	tb.Helper()
	if err := unix.Close(fd); err != nil {
		tb.Error(err)
	}
}

func TestMountEqualsUnpackedImage(t *testing.T) {
	require.Root(t)
	for _, image := range torture.Images() {
		t.Run(image.Name, func(t *testing.T) {
			t.Parallel()
			want, err := image.Unpack(t.Context(), fstree.TempDir(t))
			if err != nil {
				t.Fatal(err)
			}
			tree, err := erofs.Merge(openLayers(t, image.Layers))
			if err != nil {
				t.Fatal(err)
			}
			merged, err := snapshotOfTree(tree, image.Layers)
			report(t, "the merged tree", want, merged, err)
			metadata := build(t, tree)
			read, err := snapshotByGoErofs(metadata, image.Layers)
			report(t, "the go-erofs reader", want, read, err)
			path, devices := store(t, metadata, image.Layers)
			fsck(t, path, devices)
			mounted, err := fstree.Take(mount(t, path, devices))
			report(t, "the mount", want, mounted, err)
		})
	}
}

// report reports the differences of a tree from what containerd unpacks.
func report(tb testing.TB, what string, want, got *fstree.Tree, err error) {
	tb.Helper()
	if err != nil {
		tb.Errorf("%s: %v", what, err)
		return
	}
	for i, line := range fstree.Diff(want, got) {
		if tb.Errorf("%s: %s", what, line); i == 20 {
			tb.Errorf("%s: and more", what)
			return
		}
	}
}
