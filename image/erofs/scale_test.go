package erofs_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/test/fstree"
)

const few = 5_000

// many returns 2n entries, half of them in one directory.
func many(stream []byte, n int) entries {
	l := entries{size: int64(len(stream))}
	add := func(path string, i int) {
		e := index.Entry{Path: path, Type: index.TypeReg, Mode: 0o644, ModTime: time.Unix(int64(i), 0).UTC(), Size: int64(1 + i%2000)}
		e.Segments = []index.Segment{{StreamOffset: int64(i%100) * 512, Length: e.Size}}
		l.list = append(l.list, e)
	}
	dir := func(path string) {
		l.list = append(l.list, index.Entry{Path: path, Type: index.TypeDir, Mode: 0o755, ModTime: time.Unix(7, 0).UTC()})
	}
	dir("large")
	for i := range n {
		// Not in order, and of many lengths.
		add(fmt.Sprintf("large/%s-%d", strings.Repeat("n", i%97), i*7919%n), i)
	}
	for i := range n - 1 {
		if i%20 == 0 {
			dir(fmt.Sprintf("small-%d", i/20))
			continue
		}
		add(fmt.Sprintf("small-%d/%d", i/20, i), i)
	}
	return l
}

func TestManyEntriesAndALargeDirectory(t *testing.T) {
	stream := bytes.Repeat([]byte("0123456789abcdef"), 1<<13)
	half := manyEntries / 2
	if raceEnabled {
		half /= 20 // the race detector makes the readers slow
	}
	tree, err := erofs.Merge([]entries{many(stream, half)})
	if err != nil {
		t.Fatal(err)
	}
	if tree.Len() != 2*half+1 {
		t.Fatalf("%d inodes, want %d", tree.Len(), 2*half+1)
	}
	checkTree(t, tree)
	want, err := snapshotOfTree(tree, [][]byte{stream})
	if err != nil {
		t.Fatal(err)
	}
	metadata := build(t, tree)
	read, err := snapshotByGoErofs(metadata, [][]byte{stream})
	report(t, "the go-erofs reader", want, read, err)
	path, devices := store(t, metadata, [][]byte{stream})
	fsck(t, path, devices)
	mounted, err := fstree.Take(mount(t, path, devices))
	report(t, "the mount", want, mounted, err)
}

func TestBuildIsDeterministic(t *testing.T) {
	layers := []entries{many(make([]byte, 1<<17), few)}
	var images [2][]byte
	for i := range images {
		tree, err := erofs.Merge(layers)
		if err != nil {
			t.Fatal(err)
		}
		images[i] = build(t, tree)
	}
	if !bytes.Equal(images[0], images[1]) {
		t.Error("two images of the same layers differ")
	}
}

// Images whose files all have the same time, as reproducible builds make them, take
// the short form of inodes.
func TestEqualTimesMakeSmallInodes(t *testing.T) {
	size := func(change func(e *index.Entry)) int {
		layer := many(make([]byte, 1<<17), few)
		for i := range layer.list {
			change(&layer.list[i])
		}
		tree, err := erofs.Merge([]entries{layer})
		if err != nil {
			t.Fatal(err)
		}
		return len(build(t, tree))
	}
	different := size(func(*index.Entry) {})
	equal := size(func(e *index.Entry) { e.ModTime = time.Unix(1, 500) })
	if saved := different - equal; saved < 2*few*32 {
		t.Errorf("%d bytes with different times, %d with equal ones: %d saved", different, equal, saved)
	}
}

func TestSparseFileTakesNoMoreThanTheLimit(t *testing.T) {
	// Two blocks far apart, so that the file has 2^34 chunks of 512 bytes.
	file := index.Entry{Path: "dir/sparse", Type: index.TypeReg, Size: 8 << 40, Segments: []index.Segment{
		{FileOffset: 512, StreamOffset: 512, Length: 512},
	}}
	tree, err := erofs.Merge([]entries{{list: []index.Entry{file}, size: 4096}})
	if err != nil {
		t.Fatal(err)
	}
	var image bytes.Buffer
	_, err = erofs.Build(&image, tree, erofs.Config{})
	if !errors.Is(err, erofs.ErrTooLarge) || !strings.Contains(err.Error(), `"sparse" in directory "/dir"`) {
		t.Errorf("error is %v", err)
	}
	if image.Len() > 0 {
		t.Errorf("%d bytes written", image.Len())
	}
}

// A file of 1 EiB that is one hole takes one chunk for each TiB.
func TestHugeHole(t *testing.T) {
	stream := make([]byte, 512)
	file := index.Entry{Path: "hole", Type: index.TypeReg, Size: 1 << 60, ModTime: time.Unix(1, 1)}
	tree, err := erofs.Merge([]entries{{list: []index.Entry{file}, size: int64(len(stream))}})
	if err != nil {
		t.Fatal(err)
	}
	metadata := build(t, tree)
	if len(metadata) > 9<<20 {
		t.Errorf("%d bytes of metadata", len(metadata))
	}
}
