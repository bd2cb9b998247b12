package predict

import (
	"iter"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

// entries is a layer.
type entries []index.Entry

func (entries) DiffID() block.Digest { return block.Digest{} }
func (entries) StreamSize() int64    { return 1 << 30 }
func (l entries) Entries() iter.Seq2[*index.Entry, error] {
	return func(yield func(*index.Entry, error) bool) {
		for i := range l {
			if !yield(&l[i], nil) {
				return
			}
		}
	}
}

// TestTreeIsTheMergedTree compares the copy of a tree with the tree that package erofs has made of the layers.
func TestTreeIsTheMergedTree(t *testing.T) {
	t.Parallel()
	file := func(path string, size int64, segments ...index.Segment) index.Entry {
		return index.Entry{Path: path, Type: index.TypeReg, Mode: 0o4755, Size: size, Segments: segments}
	}
	literal := file("literal", 3)
	literal.Literals = []index.Literal{{FileOffset: 0, Data: []byte("abc")}}
	tree, err := erofs.Merge([]entries{
		{
			file("usr/bin/app", 1000, index.Segment{StreamOffset: 512, Length: 1000}),
			{Path: "usr/bin/link", Type: index.TypeSymlink, Link: "../lib/../bin/app"},
			{Path: "usr/bin/hard", Type: index.TypeLink, Link: "usr/bin/app"},
			file("usr/bin/replaced", 5, index.Segment{StreamOffset: 1024, Length: 5}), file("usr/bin/removed", 0),
			{Path: "empty", Type: index.TypeDir, Mode: 0o700},
			{Path: "null", Type: index.TypeChar, Major: 1, Minor: 3},
		},
		{
			file("usr/bin/.wh.removed", 0), file("usr/bin/replaced", 7, index.Segment{StreamOffset: 2048, Length: 7}),
			file("sparse", 1<<20, index.Segment{FileOffset: 512, StreamOffset: 4096, Length: 512}, index.Segment{FileOffset: 8192, StreamOffset: 8192, Length: 10}),
			file("tail", 1024, index.Segment{StreamOffset: 16384, Length: 512}), file("hole", 4096), literal,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	copies := make(map[*erofs.Node]*node)
	var compare func(path string, want *erofs.Node, got *node)
	compare = func(path string, want *erofs.Node, got *node) {
		if known := copies[want]; known != nil && known != got {
			t.Errorf("%s: two copies of one file", path)
		}
		copies[want] = got
		if got.size != want.Size || int(got.layer) != want.Layer || uint32(got.mode) != want.Mode || got.kind != want.Type || got.isDir() != want.IsDir() {
			t.Errorf("%s: %+v, want %+v", path, got, want)
		}
		if diff := cmp.Diff(want.Segments, got.segments()); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
		if diff := cmp.Diff(want.Literals, got.literals()); diff != "" {
			t.Errorf("%s: %s", path, diff)
		}
		if want.Type == index.TypeSymlink && got.target() != want.Target {
			t.Errorf("%s leads to %q, want %q", path, got.target(), want.Target)
		}
		if len(got.children()) != len(want.Children()) {
			t.Fatalf("%s has %d names, want %d", path, len(got.children()), len(want.Children()))
		}
		for i, c := range want.Children() {
			if found, ok := got.lookup(c.Name); !ok || found != got.children()[i].node {
				t.Fatalf("%s/%s: %v, %v", path, c.Name, found, ok)
			}
			compare(path+"/"+c.Name, c.Node, got.children()[i].node)
		}
	}
	compare("", tree.Root(), newTree(tree))
	if len(copies) != tree.Len() || !slices.ContainsFunc(tree.Root().Children(), func(c erofs.Child) bool { return c.Name == "sparse" }) {
		t.Errorf("%d files were compared, want %d", len(copies), tree.Len())
	}
}
