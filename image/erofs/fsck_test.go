package erofs_test

import (
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/image/erofs"
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/test/require"
)

// fsck has fsck.erofs check the rootfs metadata of layers. Versions before 1.6 read
// no blocks but those of 4096 bytes; they check the same tree in such blocks, with
// every offset and size of file content eight times as large, so that it is aligned
// to the larger block.
func fsck[L erofs.Layer](tb testing.TB, image []byte, layers []L) {
	tb.Helper()
	out, err := runFsck(tb, image, len(layers))
	if err == nil {
		return
	}
	if !strings.Contains(out, "blksize 512 isn't supported") {
		tb.Fatalf("fsck.erofs: %v\n%s", err, out)
	}
	magnified := make([]magnifiedLayer, len(layers))
	for i, l := range layers {
		magnified[i] = magnifiedLayer{l}
	}
	tree, err := erofs.Merge(magnified)
	if err != nil {
		tb.Fatal(err)
	}
	var large strings.Builder
	if _, err := erofs.BuildFor4096(&large, tree); err != nil {
		tb.Fatal(err)
	}
	if out, err := runFsck(tb, []byte(large.String()), len(layers)); err != nil {
		tb.Errorf("fsck.erofs, of blocks of 4096 bytes: %v\n%s", err, out)
	}
}

// runFsck runs fsck.erofs. Devices have to be there, but are not read.
func runFsck(tb testing.TB, image []byte, devices int) (string, error) {
	tb.Helper()
	tool := require.Tool(tb, "fsck.erofs")
	dir := tb.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			tb.Fatal(err)
		}
		return path
	}
	device := write("device", nil)
	args := slices.Repeat([]string{"--device=" + device}, devices)
	out, err := exec.CommandContext(tb.Context(), tool, append(args, write("metadata.erofs", image))...).CombinedOutput()
	return string(out), err
}

// magnifiedLayer is a layer with eightfold content. Literals, of which there is no
// eightfold, become holes.
type magnifiedLayer struct{ erofs.Layer }

func (l magnifiedLayer) StreamSize() int64 { return 8 * l.Layer.StreamSize() }

func (l magnifiedLayer) Entries() iter.Seq2[*index.Entry, error] {
	return func(yield func(*index.Entry, error) bool) {
		for e, err := range l.Layer.Entries() {
			if err != nil {
				yield(nil, err)
				return
			}
			large := *e
			large.Size *= 8
			large.Literals = nil
			large.Segments = make([]index.Segment, len(e.Segments))
			for i, s := range e.Segments {
				large.Segments[i] = index.Segment{FileOffset: 8 * s.FileOffset, StreamOffset: 8 * s.StreamOffset, Length: 8 * s.Length}
			}
			if !yield(&large, nil) {
				return
			}
		}
	}
}
