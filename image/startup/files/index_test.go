package files_test

import (
	"fmt"
	"testing"

	"github.com/brisk-project/brisk/image/startup/files"
)

func TestIndex(t *testing.T) {
	t.Parallel()
	part := func(path string, offset, length, position int64) files.Part {
		return files.Part{File: &files.File{Path: path}, Offset: offset, Length: length, Position: position}
	}
	x := files.NewIndex(part("b", 4096, 1000, 0), part("a", 512, 2048, 0), part("sparse", 8192, 100, 50_000))
	for _, test := range []struct {
		offset, length int64
		want           string
	}{
		{512, 2048, "a 0"},
		{1024, 512, "a 512"},
		{0, 512, " 0"},
		{2560, 100, " 0"},
		{2000, 3096, "b 0"},
		{2000, 2200, "a 1488"},
		{4196, 100_000, "b 100"},
		{8200, 10, "sparse 50008"},
		{9000, 10, " 0"},
	} {
		path, position := x.Locate(test.offset, test.length)
		if got := fmt.Sprint(path, " ", position); got != test.want {
			t.Errorf("%d bytes at %d: %q, want %q", test.length, test.offset, got, test.want)
		}
	}
	var none *files.Index
	if path, _ := none.Locate(0, 1); path != "" {
		t.Errorf("nobody knows of %q", path)
	}
}
