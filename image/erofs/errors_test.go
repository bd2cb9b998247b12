package erofs_test

import (
	"errors"
	"io"
	"iter"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

func TestMergeRefuses(t *testing.T) {
	file := func(path string) index.Entry { return index.Entry{Path: path, Type: index.TypeReg} }
	dir := func(path string) index.Entry { return index.Entry{Path: path, Type: index.TypeDir} }
	link := func(path, target string) index.Entry {
		return index.Entry{Path: path, Type: index.TypeLink, Link: target}
	}
	symlink := func(path, target string) index.Entry {
		return index.Entry{Path: path, Type: index.TypeSymlink, Link: target}
	}
	xattr := func(e index.Entry, name, value string) index.Entry {
		e.Xattrs = []index.Xattr{{Name: name, Value: value}}
		return e
	}
	tests := []struct {
		name    string
		entries []index.Entry
		want    string // part of the error
	}{
		{"absolute path", []index.Entry{file("/a")}, "path is not clean"},
		{"parent in path", []index.Entry{file("a/../b")}, "path is not clean"},
		{"doubled slash", []index.Entry{file("a//b")}, "path is not clean"},
		{"slash at the end", []index.Entry{dir("a/")}, "path is not clean"},
		{"NUL", []index.Entry{file("a\x00b")}, "NUL in the path"},
		{"long name", []index.Entry{file(strings.Repeat("n", 256))}, "name of 256 bytes: file name too long"},
		{"long implicit name", []index.Entry{file(strings.Repeat("n", 256) + "/a")}, "file name too long"},
		{"long path", []index.Entry{file(strings.Repeat("n/", 2048) + "a")}, "path of 4097 bytes"},
		{
			"long path through links",
			[]index.Entry{dir(strings.Repeat("n/", 2000) + "n"), symlink("s", strings.Repeat("n/", 2000)+"n"), dir("s/" + strings.Repeat("m/", 60) + "m")},
			"file name too long",
		},
		{"whiteout of nothing", []index.Entry{file("a/.wh.")}, "whiteout of no name"},
		{"whiteout of the directory", []index.Entry{file("a/.wh..")}, "whiteout of no name"},
		{"whiteout of the parent", []index.Entry{file("a/.wh...")}, "whiteout of no name"},
		{"file as a directory", []index.Entry{file("a"), file("a/b")}, "not a directory"},
		{"link to nothing", []index.Entry{link("a", "b")}, `target of the hard link, "b": no such file or directory`},
		{"link to itself", []index.Entry{file("a"), link("a", "a")}, "no such file or directory"},
		{"link to a directory", []index.Entry{dir("a"), link("b", "a")}, "is a directory"},
		{"link to the root", []index.Entry{link("b", "")}, "no such file or directory"},
		{"link below a file", []index.Entry{file("a"), link("b", "a/c")}, "not a directory"},
		{"loop", []index.Entry{symlink("a", "b"), symlink("b", "a"), file("a/c")}, "too many levels of symbolic links"},
		{"symbolic link to nothing", []index.Entry{symlink("a", "")}, "target of the symbolic link has 0 bytes"},
		{"long symbolic link", []index.Entry{symlink("a", strings.Repeat("t", 4096))}, "target of the symbolic link has 4096 bytes"},
		{"type", []index.Entry{{Path: "a", Type: 99}}, "unknown entry type 99"},
		{"size", []index.Entry{{Path: "a", Type: index.TypeReg, Size: -1}}, "size of -1 bytes"},
		{"directory removed again", []index.Entry{dir("a"), dir("a/b"), file("a")}, `directory "a/b", which the layer removes again`},
		{"extended attribute without a name", []index.Entry{xattr(file("a"), "user.", "x")}, "invalid argument"},
		{"long name of an extended attribute", []index.Entry{xattr(file("a"), "user."+strings.Repeat("n", 251), "x")}, "name of 256 bytes"},
		{"long extended attribute", []index.Entry{xattr(file("a"), "user.a", strings.Repeat("v", 65537))}, "value of 65537 bytes"},
		{"malformed ACL", []index.Entry{xattr(file("a"), "system.posix_acl_access", "\x02\x00\x00\x00xyz")}, "malformed ACL"},
		{"default ACL of a file", []index.Entry{xattr(file("a"), "system.posix_acl_default", "\x02\x00\x00\x00")}, "permission denied"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := erofs.Merge([]entries{{list: []index.Entry{file("lower")}}, {list: tt.entries}})
			if !errors.Is(err, erofs.ErrInvalid) || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "layer 1: ") {
				t.Errorf("error is %v, want ErrInvalid with %q in layer 1", err, tt.want)
			}
		})
	}
}

// broken is a layer whose index ends in an error.
type broken struct{ err error }

func (broken) DiffID() block.Digest { return block.Digest{} }

func (broken) StreamSize() int64 { return 0 }

func (l broken) Entries() iter.Seq2[*index.Entry, error] {
	return func(yield func(*index.Entry, error) bool) { yield(nil, l.err) }
}

func TestMergeReturnsTheErrorOfALayer(t *testing.T) {
	if _, err := erofs.Merge([]broken{{io.ErrUnexpectedEOF}}); !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, erofs.ErrInvalid) {
		t.Errorf("error is %v", err)
	}
}

func TestBuildRefuses(t *testing.T) {
	file := func(size int64, segments ...index.Segment) index.Entry {
		return index.Entry{Path: "file", Type: index.TypeReg, Size: size, Segments: segments}
	}
	literal := func(size int64, at int64, length int, segments ...index.Segment) index.Entry {
		e := file(size, segments...)
		e.Literals = []index.Literal{{FileOffset: at, Data: make([]byte, length)}}
		return e
	}
	large := file(0)
	large.Xattrs = []index.Xattr{{Name: "user.a", Value: strings.Repeat("v", 65536)}}
	all := file(0)
	for _, name := range "abcde" {
		all.Xattrs = append(all.Xattrs, index.Xattr{Name: "user." + string(name), Value: strings.Repeat("v", 60000)})
	}
	tests := []struct {
		name  string
		entry index.Entry
		size  int64 // of the layer stream
		cfg   erofs.Config
		want  string
		is    error
	}{
		{"past the stream", file(513, index.Segment{StreamOffset: 512, Length: 513}), 1024, erofs.Config{}, "outside the file or its layer stream", nil},
		{"past the file", file(10, index.Segment{Length: 11}), 1024, erofs.Config{}, "outside the file or its layer stream", nil},
		{"negative", file(10, index.Segment{StreamOffset: -512, Length: 10}), 1024, erofs.Config{}, "outside the file or its layer stream", nil},
		{"overflow", file(1<<62, index.Segment{FileOffset: 512, StreamOffset: 1<<63 - 512, Length: 1 << 61}), 1024, erofs.Config{}, "outside", nil},
		{"not aligned in the stream", file(10, index.Segment{StreamOffset: 100, Length: 10}), 1024, erofs.Config{}, "not made of whole blocks", nil},
		{"not aligned in the file", file(110, index.Segment{FileOffset: 100, Length: 10}), 1024, erofs.Config{}, "not made of whole blocks", nil},
		{"ends in a block", file(1024, index.Segment{Length: 10}), 1024, erofs.Config{}, "not made of whole blocks", nil},
		{"given twice", file(1024, index.Segment{Length: 1024}, index.Segment{FileOffset: 512, Length: 512}), 1024, erofs.Config{}, "given twice", nil},
		{"literal past the file", literal(10, 5, 6), 0, erofs.Config{}, "outside the file", nil},
		{"literal on a segment", literal(512, 5, 6, index.Segment{Length: 512}), 1024, erofs.Config{}, "given twice", nil},
		{"large extended attribute", large, 0, erofs.Config{}, `extended attributes of "file" in directory "/"`, erofs.ErrTooLarge},
		{"large extended attributes", all, 0, erofs.Config{}, "extended attributes", erofs.ErrTooLarge},
		{"large stream", file(0), 1 << 41, erofs.Config{}, "the most is 2 TiB", erofs.ErrTooLarge},
		{"limit", file(0), 0, erofs.Config{MaxSize: 1000}, "more than 1000 bytes", erofs.ErrTooLarge},
		{"limit of content", literal(1<<20, 0, 1<<20), 0, erofs.Config{MaxSize: 1 << 20}, "more than", erofs.ErrTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tree, err := erofs.Merge([]entries{{list: []index.Entry{tt.entry}, size: tt.size}})
			if err != nil {
				t.Fatal(err)
			}
			_, err = erofs.Build(io.Discard, tree, tt.cfg)
			if err == nil || !strings.Contains(err.Error(), tt.want) || tt.is != nil && !errors.Is(err, tt.is) {
				t.Errorf("error is %v, want %v with %q", err, tt.is, tt.want)
			}
		})
	}
}

func TestBuildLimitsTheLayers(t *testing.T) {
	tree, err := erofs.Merge(make([]entries, 17_000))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := erofs.Build(io.Discard, tree, erofs.Config{}); !errors.Is(err, erofs.ErrTooLarge) {
		t.Errorf("error is %v", err)
	}
}

// full is a disk that fills up.
type full struct{ left int }

var errFull = errors.New("no space left")

func (f *full) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestBuildReturnsTheErrorOfTheWriter(t *testing.T) {
	tree, err := erofs.Merge([]entries{many(make([]byte, 1<<17), few)})
	if err != nil {
		t.Fatal(err)
	}
	for _, room := range []int{0, 1 << 19, 1 << 20} {
		if _, err := erofs.Build(&full{room}, tree, erofs.Config{}); !errors.Is(err, errFull) {
			t.Errorf("with room for %d bytes: error is %v", room, err)
		}
	}
}
