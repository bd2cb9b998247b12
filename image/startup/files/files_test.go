package files_test

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/index/indextest"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/files"
	"github.com/brisk-project/brisk/internal/block"
)

const page = startup.PageSize

// layer returns the index of a layer of files by name and length; a name with " -> " is a
// symbolic link.
func layer(t *testing.T, members ...any) *index.Layer {
	t.Helper()
	var stored bytes.Buffer
	w := tar.NewWriter(&stored)
	for i := 0; i < len(members); i += 2 {
		name, size := members[i].(string), members[i+1].(int) //nolint:errcheck // a test that is wrong panics
		header := &tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(size), Mode: 0o644}
		if from, to, link := strings.Cut(name, " -> "); link {
			header = &tar.Header{Name: from, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte{byte(i)}, size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	encoded := indextest.Build(t, stored.Bytes()).Encoded
	opened, err := index.Open(bytes.NewReader(encoded), int64(len(encoded)))
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

func TestNames(t *testing.T) {
	t.Parallel()
	base := layer(t, "bin/sh", 3*page-512, "etc/small", 100, "lib/big", 4*page) // sh begins at 512, small at 3*page+512
	top := layer(t, "app", 10)
	foreign := block.Sum([]byte("other image"))
	read := startup.Trace{
		{Layer: top.StreamID(), Offset: 0, Length: page},
		{Layer: base.StreamID(), Offset: 2 * page, Length: 2 * page},
		{Layer: foreign, Offset: 0, Length: page},
		{Layer: base.StreamID(), Offset: 0, Length: page},
	}
	got, err := files.FileReads(read, []*index.Layer{base, top})
	want := []files.FileRead{
		{Layer: 1, Bytes: top.StreamSize() - 10, Size: 0, Order: 1},
		{Path: "app", Layer: 1, Bytes: 10, Size: 10, Order: 2},
		{Path: "bin/sh", Layer: 0, Bytes: 2*page - 512, Size: 3*page - 512, Order: 3},
		{Layer: 0, Bytes: 3*512 - 100, Order: 4},
		{Path: "etc/small", Layer: 0, Bytes: 100, Size: 100, Order: 5},
		{Path: "lib/big", Layer: 0, Bytes: page - 1536, Size: 4 * page, Order: 6},
		{Layer: -1, Bytes: page, Order: 7},
	}
	// Headers: of sh before it, of small and big around small.
	want[3].Bytes += 512
	if top.StreamSize() > page {
		t.Fatalf("the top layer has %d bytes, more than the page that is read", top.StreamSize())
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	paths, err := files.ParseList([]byte("# a comment\n/usr/bin/app\n\n{\"path\":\"lib/x\",\"manifestDigest\":\"sha256:00\",\"layerIndex\":1}\nusr//bin/app\n"))
	if diff := cmp.Diff([]string{"/usr/bin/app", "/lib/x"}, paths); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	for name, bad := range map[string][]byte{"JSON": []byte("{\"path\":"), "long": make([]byte, files.MaxList+1)} {
		if got, err := files.ParseList(bad); err == nil {
			t.Errorf("%s was read as %v", name, got)
		}
	}
}

func TestTraceOfFiles(t *testing.T) {
	t.Parallel()
	base := layer(t, "usr/bin/app1", page, "usr/bin/app -> app1", 0, "bin -> usr/bin", 0, "old", page, "loop -> loop", 0, "etc/changed", 5)
	top := layer(t, ".wh.old", 0, "etc/changed", 2*page, "abs -> /../bin/./app", 0)
	got, missing, err := files.Trace([]string{"/etc/changed", "/abs", "/old", "/loop", "/etc", "/none/x", "/bin/app"}, []*index.Layer{base, top})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/old", "/loop", "/etc", "/none/x"}, missing); diff != "" {
		t.Errorf("missing:\n%s", diff)
	}
	named, err := files.FileReads(got, []*index.Layer{base, top})
	if err != nil {
		t.Fatal(err)
	}
	read := make(map[string]int64)
	for _, f := range named {
		if f.Path != "" {
			read[f.Path] += f.Bytes
		}
	}
	if read["etc/changed"] != 2*page || read["usr/bin/app1"] != page || got[0].Layer != top.StreamID() || read["old"] == page {
		t.Errorf("the trace reads %v", read)
	}
}
