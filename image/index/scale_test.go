package index_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/brisk-project/brisk/image/index"
)

func TestManyEntries(t *testing.T) {
	const count = 100_000
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range count {
		h := tar.Header{Name: fmt.Sprintf("node_modules/pkg-%d/lib/file-%d.js", i/20, i), Mode: 0o644, Size: 3, ModTime: time.Unix(1_600_000_000, 0)}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, "abc"); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, res := build(t, buf.Bytes(), index.BuildConfig{})
	for i, e := range entries(t, l) {
		want := fmt.Sprintf("node_modules/pkg-%d/lib/file-%d.js", i/20, i)
		if e.Path != want || e.Segments[0].StreamOffset != int64(1024*i+512) {
			t.Fatalf("entry %d is %+v, want %s", i, e, want)
		}
	}
	t.Logf("%d entries take %d bytes: %+v", count, len(res.Encoded), res.Sections)
	if len(res.Encoded) > 1<<20 {
		t.Errorf("index of %d bytes", len(res.Encoded))
	}
}

// tarOf is a plain tar of files of size bytes each, made while it is read.
func tarOf(tb testing.TB, files int, size int64) io.Reader {
	tb.Helper()
	data := noise(1<<20, 1)
	pr, pw := io.Pipe()
	go func() {
		w := tar.NewWriter(pw)
		for i := range files {
			if err := w.WriteHeader(&tar.Header{Name: fmt.Sprint("file", i), Size: size, Format: tar.FormatGNU}); err != nil {
				pw.CloseWithError(err)
				return
			}
			for left := size; left > 0; left -= int64(len(data)) {
				if _, err := w.Write(data[:min(left, int64(len(data)))]); err != nil {
					pw.CloseWithError(err)
					return
				}
			}
		}
		pw.CloseWithError(w.Close())
	}()
	return pr
}

func TestMemoryIsBounded(t *testing.T) {
	allocated := func(work func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		work()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	var res *index.Result
	got := allocated(func() {
		var err error
		if res, err = index.Build(t.Context(), tarOf(t, 2, 100<<20), index.BuildConfig{}); err != nil {
			t.Fatal(err)
		}
	})
	if got > 24<<20 {
		t.Errorf("building the index of %d bytes allocates %d", res.StreamSize, got)
	}
	res, err := index.Build(t.Context(), tarOf(t, 50_000, 10), index.BuildConfig{})
	if err != nil {
		t.Fatal(err)
	}
	got = allocated(func() {
		if _, err := index.Open(bytes.NewReader(res.Encoded), int64(len(res.Encoded))); err != nil {
			t.Fatal(err)
		}
	})
	if got > 1<<20 {
		t.Errorf("an open index of %d entries takes %d bytes", res.Entries, got)
	}
}
