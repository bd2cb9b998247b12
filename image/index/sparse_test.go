package index_test

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/test/require"
)

// sparseFile writes parts at their offsets into a file of size bytes.
func sparseFile(t *testing.T, name string, size int64, parts map[int64][]byte) {
	t.Helper()
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	for off, data := range parts {
		if _, err := f.WriteAt(data, off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFilesOfGNUTar(t *testing.T) {
	tarPath := require.Tool(t, "tar")
	dir := t.TempDir()
	few := map[int64][]byte{8192: noise(5000, 1), 1 << 20: noise(4096, 2)}
	many := map[int64][]byte{}
	for i := range int64(60) { // more than fit the header and one block after it
		many[i*128<<10] = noise(4096, uint64(i))
	}
	sparseFile(t, filepath.Join(dir, "few"), 2<<20, few)
	sparseFile(t, filepath.Join(dir, "many"), 60*128<<10, many)
	sparseFile(t, filepath.Join(dir, "hole"), 10<<20, nil)
	sparseFile(t, filepath.Join(dir, "tail"), 1<<20+77, map[int64][]byte{1 << 20: noise(77, 3)})
	sparseFile(t, filepath.Join(dir, strings.Repeat("long", 40)), 1<<20, map[int64][]byte{4096: noise(100, 4)})
	sparseFile(t, filepath.Join(dir, "whole"), 7000, map[int64][]byte{0: noise(7000, 5)})
	if err := os.Link(filepath.Join(dir, "few"), filepath.Join(dir, "few2")); err != nil {
		t.Fatal(err)
	}
	acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\xe8\x03\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	attrs := map[string]string{"user.note": "value"}
	if err := unix.Setxattr(filepath.Join(dir, "whole"), "user.note", []byte("value"), 0); err != nil {
		t.Logf("the filesystem takes no extended attributes: %v", err)
		attrs = map[string]string{}
	}
	if err := unix.Setxattr(filepath.Join(dir, "whole"), "system.posix_acl_access", []byte(acl), 0); err != nil {
		t.Logf("the filesystem takes no ACLs: %v", err)
	}
	for _, format := range []string{"gnu", "pax", "0.0", "0.1", "1.0"} {
		t.Run(format, func(t *testing.T) {
			args := []string{"--format=gnu", "--sparse"}
			if format != "gnu" {
				args = []string{"--format=pax", "--sparse", "--xattrs"}
			}
			if strings.Contains(format, ".") {
				args = append(args, "--sparse-version="+format)
			}
			args = append(args, "--sort=name", "--hole-detection=raw", "-C", dir, "-cf", "-", ".")
			stream, err := exec.CommandContext(t.Context(), tarPath, args...).Output()
			if err != nil {
				t.Fatal(err)
			}
			l, _ := build(t, stream, index.BuildConfig{})
			files := 0
			for _, e := range entries(t, l) {
				if len(e.Literals) > 0 {
					t.Errorf("%s has literals", e.Path)
				}
				if e.Type != index.TypeReg {
					continue
				}
				files++
				want, err := os.ReadFile(filepath.Join(dir, e.Path))
				if err != nil || !bytes.Equal(content(&e, stream), want) {
					t.Errorf("content of %s differs, %v", e.Path, err)
				}
				stored := int64(0)
				for _, s := range e.Segments {
					stored += s.Length
				}
				if e.Size > 1<<20 && stored > e.Size/2 {
					t.Errorf("%s is not sparse: %d of %d bytes are stored", e.Path, stored, e.Size)
				}
				if e.Path == "whole" && format != "gnu" {
					for _, x := range e.Xattrs {
						if want, ok := attrs[x.Name]; ok && x.Value != want {
							t.Errorf("attribute %s is %q, want %q", x.Name, x.Value, want)
						}
					}
					if len(e.Xattrs) < len(attrs) {
						t.Errorf("attributes are %v", e.Xattrs)
					}
				}
			}
			if files != 6 {
				t.Errorf("%d files, want 6", files)
			}
		})
	}
}

// paxSparse is a tar of one sparse file in PAX format 0.1 with an arbitrary map of
// offsets and lengths.
func paxSparse(tb testing.TB, size int64, sparseMap []int64, data []byte) []byte {
	tb.Helper()
	fields := make([]string, len(sparseMap))
	for i, n := range sparseMap {
		fields[i] = strconv.FormatInt(n, 10)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	// The writer refuses records of sparse files, so their names are patched in.
	if err := w.WriteHeader(&tar.Header{
		Name: "sparse", Size: int64(len(data)), Mode: 0o644,
		PAXRecords: map[string]string{
			"XXX.sparse.major":     "0",
			"XXX.sparse.minor":     "1",
			"XXX.sparse.numblocks": strconv.Itoa(len(sparseMap) / 2),
			"XXX.sparse.map":       strings.Join(fields, ","), // the writer leaves out what is empty
			"XXX.sparse.size":      strconv.FormatInt(size, 10),
		},
	}); err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := w.WriteHeader(&tar.Header{Name: "after", Typeflag: tar.TypeDir}); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return bytes.ReplaceAll(buf.Bytes(), []byte("XXX.sparse."), []byte("GNU.sparse."))
}

func TestSparseFilesOffTheGrid(t *testing.T) {
	for name, c := range map[string]struct {
		size     int64
		parts    []int64
		segments int
		literals int
	}{
		"aligned":               {10_000, []int64{512, 1024, 4096, 512}, 2, 0},
		"odd offset":            {10_000, []int64{100, 2000}, 0, 1},
		"odd end":               {10_000, []int64{1024, 700}, 1, 1},
		"odd end at the end":    {1724, []int64{1024, 700}, 1, 0},
		"small parts, one unit": {4096, []int64{3, 5, 100, 7, 300, 1, 512, 512}, 0, 4},
		"head and tail":         {1 << 20, []int64{0, 1000, 1512, 5000}, 2, 3},
		"touching":              {4096, []int64{0, 100, 100, 412}, 1, 0},
		"empty parts":           {4096, []int64{0, 0, 512, 512, 4096, 0}, 1, 0},
		"all hole":              {1 << 40, []int64{}, 0, 0},
		"end of a large one":    {1 << 40, []int64{1<<40 - 512, 512}, 1, 0},
	} {
		t.Run(name, func(t *testing.T) {
			total := int64(0)
			for i := 1; i < len(c.parts); i += 2 {
				total += c.parts[i]
			}
			data := noise(int(total), 5)
			stream := paxSparse(t, c.size, c.parts, data)
			for _, packing := range []string{"plain", "zstd frames"} {
				l, _ := build(t, pack(t, packing, stream), index.BuildConfig{})
				all := entries(t, l)
				if len(all) != 2 || all[1].Path != "after" || all[0].Size != c.size {
					t.Fatalf("entries: %+v", all)
				}
				e := all[0]
				if len(e.Segments) != c.segments || len(e.Literals) != c.literals {
					t.Errorf("segments %v, %d literals", e.Segments, len(e.Literals))
				}
				checkGrid(t, &e)
				if c.size < 1<<30 {
					checkAgainstReader(t, &e, stream)
				}
			}
		})
	}
}

// checkGrid checks what a block device of 512-byte blocks needs.
func checkGrid(t *testing.T, e *index.Entry) {
	t.Helper()
	for _, s := range e.Segments {
		if s.FileOffset%512 != 0 || s.StreamOffset%512 != 0 || (s.Length%512 != 0 && s.FileOffset+s.Length != e.Size) {
			t.Errorf("segment %+v is off the grid", s)
		}
	}
}

// checkAgainstReader compares with what archive/tar reads, and unpacking writes.
func checkAgainstReader(t *testing.T, e *index.Entry, stream []byte) {
	t.Helper()
	tr := tar.NewReader(bytes.NewReader(stream))
	if _, err := tr.Next(); err != nil {
		t.Fatal(err)
	}
	want, err := io.ReadAll(tr)
	if err != nil || !bytes.Equal(content(e, stream), want) {
		t.Errorf("content differs, %v", err)
	}
}

func TestSparseErrors(t *testing.T) {
	large := make([]int64, 0, 2*9)
	for i := range int64(9) {
		large = append(large, i*4<<20+1, 2<<20)
	}
	for name, c := range map[string]struct {
		size  int64
		parts []int64
		data  int
		want  string
	}{
		"too little data":   {4096, []int64{0, 1024}, 512, "1024 bytes, 512 are stored"},
		"too much data":     {4096, []int64{0, 1024}, 2048, "1024 bytes, 2048 are stored"},
		"past the end":      {1000, []int64{0, 1024}, 1024, "invalid tar header"},
		"too many literals": {64 << 20, large, 18 << 20, "not aligned to 512 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			stream := paxSparse(t, c.size, c.parts, make([]byte, c.data))
			_, err := index.Build(t.Context(), bytes.NewReader(stream), index.BuildConfig{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}
