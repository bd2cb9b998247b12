package erofs_test

import (
	"bytes"
	"errors"
	"iter"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/require"
)

// checkTree checks what holds for every tree.
func checkTree(tb testing.TB, tree *erofs.Tree) {
	tb.Helper()
	names := make(map[*erofs.Node]uint32)
	parents := make(map[*erofs.Node]*erofs.Node)
	subdirs := make(map[*erofs.Node]uint32)
	last := uint64(0)
	for n := range tree.Nodes() {
		if last++; n.Ino != last {
			tb.Fatalf("inode %d stands at the place of %d", n.Ino, last)
		}
		if found, ok := tree.Node(n.Ino); !ok || found != n {
			tb.Fatalf("Node(%d) returned %v, %v", n.Ino, found, ok)
		}
		previous := ""
		for i, c := range n.Children() {
			if i > 0 && c.Name <= previous || c.Name == "" || c.Name == "." || c.Name == ".." || strings.ContainsAny(c.Name, "/\x00") {
				tb.Fatalf("name %q after %q", c.Name, previous)
			}
			previous = c.Name
			names[c.Node]++
			if c.Node.IsDir() {
				parents[c.Node] = n
				subdirs[n]++
			}
		}
	}
	if int(last) != tree.Len() || tree.Root().Parent() != tree.Root() {
		tb.Fatalf("%d inodes, Len is %d; the parent of the root is %p", last, tree.Len(), tree.Root().Parent())
	}
	for n := range tree.Nodes() {
		switch {
		case n.IsDir():
			if n != tree.Root() && (names[n] != 1 || n.Parent() != parents[n] || n.Ino <= n.Parent().Ino) {
				tb.Fatalf("directory %d has %d names and the parent %p, not %p", n.Ino, names[n], n.Parent(), parents[n])
			}
			if n.Nlink != 2+subdirs[n] {
				tb.Fatalf("directory %d has %d links and %d directories", n.Ino, n.Nlink, subdirs[n])
			}
		case names[n] == 0 || n.Nlink < names[n] || n.Parent() != nil || n.Children() != nil:
			tb.Fatalf("file %d has %d names and %d links", n.Ino, names[n], n.Nlink)
		}
	}
}

// FuzzContainerd tries layers of every kind against containerd.
func FuzzContainerd(f *testing.F) {
	require.Root(f)
	rng := rand.New(rand.NewPCG(5, 6))
	for range 20 {
		f.Add(bytesOf(rng))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := choices{data: data}
		agree(t, t.TempDir(), c.layers(t))
	})
}

// entries is a layer made of entries without an index.
type entries struct {
	list []index.Entry
	size int64
}

func (l entries) DiffID() block.Digest { return block.Sum([]byte{byte(len(l.list))}) }

func (l entries) StreamSize() int64 { return l.size }

func (l entries) Entries() iter.Seq2[*index.Entry, error] {
	return func(yield func(*index.Entry, error) bool) {
		for i := range l.list {
			if !yield(&l.list[i], nil) {
				return
			}
		}
	}
}

const fuzzStream = 1 << 16 // the length of the layer streams of FuzzBuild

// entry chooses an entry with content anywhere in the stream, sparse or not, now
// and then wrong.
func (c *choices) entry() index.Entry {
	e := index.Entry{Path: c.file(), Type: index.TypeReg, Mode: uint32(c.next(256)), UID: uint32(c.next(3) * 70000), ModTime: time.Unix(int64(c.next(2)), int64(c.next(2)))}
	for i := range c.next(4) {
		e.Xattrs = append(e.Xattrs, index.Xattr{Name: "user." + string("abcd"[i]), Value: strings.Repeat("v", c.next(256)*c.next(6))})
	}
	switch c.next(8) {
	case 0:
		e.Path, e.Type = c.dir(), index.TypeDir
		if c.next(4) == 0 {
			e.Path += strings.Repeat("/"+strings.Repeat("n", 1+c.next(255)), c.next(4))
		}
	case 1:
		e.Type, e.Link = index.TypeSymlink, strings.Repeat("t", 1+c.next(256)*c.next(17))
		if c.next(4) == 0 {
			e.Link = "../" + c.dir()
		}
	case 2:
		e.Type, e.Link = index.TypeLink, c.target()
	case 3:
		e.Type = [...]index.Type{index.TypeChar, index.TypeBlock, index.TypeFifo, 0, 99}[c.next(15)%3+c.next(60)/58]
		e.Major, e.Minor = uint32(c.next(256))<<4, uint32(c.next(256))<<12
	case 4:
		c.sparse(&e)
	case 5:
		dir, base := path.Split(e.Path)
		e.Path = dir + [...]string{".wh." + base, ".wh..wh..opq"}[c.next(2)]
	default:
		e.Size = int64(c.next(256) * c.next(64))
		c.files = append(c.files, e.Path)
		if e.Size > 0 {
			e.Segments = []index.Segment{{StreamOffset: int64(c.next(fuzzStream/512) * 512), Length: e.Size}}
		}
	}
	return e
}

func (c *choices) sparse(e *index.Entry) {
	at, stream := int64(0), int64(0)
	for range c.next(6) {
		at += int64(c.next(16)<<c.next(4)) * 512
		stream += int64(c.next(4)) * 512
		length := int64(1+c.next(8)) * 512
		if c.next(8) == 0 {
			length -= int64(c.next(600))
		}
		if c.next(3) > 0 {
			e.Segments = append(e.Segments, index.Segment{FileOffset: at, StreamOffset: stream, Length: length})
			stream += length
		} else {
			e.Literals = append(e.Literals, index.Literal{FileOffset: at + int64(c.next(600)), Data: bytes.Repeat([]byte("l"), 1+c.next(256))})
			length += 1024
		}
		at += length
	}
	e.Size = at + int64(c.next(4)*300)
}

// stack chooses layers without indexes.
func (c *choices) stack() []entries {
	layers := make([]entries, 1+c.next(3))
	for i := range layers {
		layers[i].size = fuzzStream
		for range 1 + c.next(12) {
			layers[i].list = append(layers[i].list, c.entry())
		}
	}
	return layers
}

// FuzzMerge merges entries of every kind.
func FuzzMerge(f *testing.F) {
	rng := rand.New(rand.NewPCG(9, 10))
	for range 20 {
		f.Add(bytesOf(rng))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := choices{data: data}
		tree, err := erofs.Merge(c.stack())
		if err == nil {
			checkTree(t, tree)
		} else if !errors.Is(err, erofs.ErrInvalid) {
			t.Errorf("error %v is not ErrInvalid", err)
		}
	})
}

// FuzzBuild builds trees of every kind and reads them back.
func FuzzBuild(f *testing.F) {
	rng := rand.New(rand.NewPCG(7, 8))
	for range 20 {
		f.Add(bytesOf(rng))
	}
	stream := make([]byte, fuzzStream)
	for i := range stream {
		stream[i] = byte(rng.Uint32())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c := choices{data: data}
		readBack(t, c.stack(), stream)
	})
}

// readBack builds the metadata of layers, if they can be merged, has go-erofs read
// it, and reports whether it came so far.
func readBack(t *testing.T, layers []entries, stream []byte) bool {
	t.Helper()
	tree, err := erofs.Merge(layers)
	if err != nil {
		return false
	}
	var image bytes.Buffer
	stats, err := erofs.Build(&image, tree, erofs.Config{MaxSize: 1 << 24})
	if err != nil {
		return false
	}
	if int64(image.Len()) != stats.Size || stats.Size%4096 != 0 {
		t.Fatalf("%d bytes written, %+v returned", image.Len(), stats)
	}
	streams := slices.Repeat([][]byte{stream}, len(layers))
	want, err := snapshotOfTree(tree, streams)
	if err != nil {
		t.Fatal(err)
	}
	got, err := snapshotByGoErofs(image.Bytes(), streams)
	report(t, "read back", want, got, err)
	return true
}

// Half of what the fuzzer starts from is to get through to the reader.
func TestRandomTreesAreReadBack(t *testing.T) {
	rng := rand.New(rand.NewPCG(11, 12))
	stream := make([]byte, fuzzStream)
	for i := range stream {
		stream[i] = byte(rng.Uint32())
	}
	accepted := 0
	const rounds = 300
	for range rounds {
		c := choices{data: bytesOf(rng)}
		if readBack(t, c.stack(), stream) {
			accepted++
		}
	}
	t.Logf("%d of %d trees read back", accepted, rounds)
	if accepted < rounds/4 {
		t.Errorf("only %d of %d trees could be built", accepted, rounds)
	}
}
