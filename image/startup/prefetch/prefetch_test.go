package prefetch_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/index/indextest"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/files"
	"github.com/brisk-project/brisk/image/startup/prefetch"
)

const page = startup.PageSize

// layer returns the index of a layer of files of a page each; a name with " -> " is a symbolic link, one
// with " = " a hard link, and one that ends with / a directory.
func layer(tb testing.TB, names ...string) *index.Layer {
	tb.Helper()
	var stored bytes.Buffer
	w := tar.NewWriter(&stored)
	for _, name := range names {
		header := &tar.Header{Name: name, Typeflag: tar.TypeReg, Size: page, Mode: 0o644}
		if from, to, link := strings.Cut(name, " -> "); link {
			header = &tar.Header{Name: from, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}
		} else if from, to, link := strings.Cut(name, " = "); link {
			header = &tar.Header{Name: from, Typeflag: tar.TypeLink, Linkname: to}
		} else if strings.HasSuffix(name, "/") {
			header = &tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}
		} else if strings.HasPrefix(name, "dev/") {
			header = &tar.Header{Name: name, Typeflag: tar.TypeFifo, Mode: 0o644}
		}
		if err := w.WriteHeader(header); err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte{1}, int(header.Size))); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	encoded := indextest.Build(tb, stored.Bytes()).Encoded
	opened, err := index.Open(bytes.NewReader(encoded), int64(len(encoded)))
	if err != nil {
		tb.Fatal(err)
	}
	return opened
}

// image returns the layers of an image that the tests look for files in.
func image(tb testing.TB) []*index.Layer {
	tb.Helper()
	return []*index.Layer{
		layer(tb, "usr/lib/z.so", "usr/lib/a.so.1", "usr/lib/a.so -> a.so.1", "usr/lib/deep/er/b.so", "lib -> usr/lib", "usr/bin/X11 -> .",
			"usr/bin/[", "usr/bin/same = usr/lib/z.so", "app/old.js", "app/empty/", "dev/fifo", "loop -> loop", "root -> /"),
		layer(tb, "app/.wh.old.js", "app/pages/[id]/view.js", "app/pages/i/other.js", "app/main.js", "app/.hidden.js", "app/a b",
			"app/shared -> ../usr/lib", "app/lib.so -> /lib/a.so"),
	}
}

// read returns the files that a trace reads, in their order.
func read(t *testing.T, trace startup.Trace, layers []*index.Layer) []string {
	t.Helper()
	named, err := files.FileReads(trace, layers)
	if err != nil {
		t.Fatal(err)
	}
	type file struct {
		path  string
		order int
	}
	var all []file
	for _, f := range named {
		if f.Path != "" && f.Bytes == f.Size {
			all = append(all, file{f.Path, f.Order})
		}
	}
	slices.SortFunc(all, func(a, b file) int { return a.order - b.order })
	paths := make([]string, len(all))
	for i, f := range all {
		paths[i] = f.path
	}
	return paths
}

func resolve(t *testing.T, list string, layers []*index.Layer) *prefetch.Result {
	t.Helper()
	parsed, err := prefetch.Parse([]byte(list))
	if err != nil {
		t.Fatal(err)
	}
	got, err := parsed.Resolve(t.Context(), layers)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// TestLines resolves single lines. Files that share a page with one that is listed are read, too, which
// is why the number of matched files is compared.
func TestLines(t *testing.T) {
	t.Parallel()
	layers := image(t)
	for line, want := range map[string]string{
		"/usr/lib/z.so":                      "usr/lib/z.so",
		"/usr//lib/./deep/../z.so":           "usr/lib/z.so",
		"/lib/z.so":                          "usr/lib/z.so",
		"/usr/bin/same":                      "usr/lib/z.so",
		"/usr/bin/X11/X11/same":              "usr/lib/z.so",
		"/lib/a.so":                          "usr/lib/a.so.1",
		"/app/lib.so":                        "usr/lib/a.so.1",
		"/root/root/lib/deep/er/b.so":        "usr/lib/deep/er/b.so",
		"/usr/bin/[":                         "usr/bin/[",
		"/app/a b":                           "app/a b",
		"/app/pages/[id]/view.js":            "app/pages/[id]/view.js",
		"/app/pages/[id]/*.js":               "app/pages/[id]/view.js",
		"/app/pages/[i]/*.js":                "app/pages/i/other.js",
		`/app/pages/\[id\]/*`:                "app/pages/[id]/view.js",
		"/app/*":                             "app/.hidden.js app/a b app/main.js usr/lib/a.so.1",
		"/app/*.js":                          "app/.hidden.js app/main.js",
		"/app/?ain.js":                       "app/main.js",
		"/**/view.js":                        "app/pages/[id]/view.js",
		"/**/**/lib/**/*.so":                 "usr/lib/a.so.1 usr/lib/deep/er/b.so usr/lib/z.so",
		"/usr/**":                            "usr/bin/[ usr/lib/a.so.1 usr/lib/deep/er/b.so usr/lib/z.so",
		"/usr/lib/**/":                       "usr/lib/a.so.1 usr/lib/deep/er/b.so usr/lib/z.so",
		"/lib/":                              "usr/lib/a.so.1 usr/lib/deep/er/b.so usr/lib/z.so",
		"/app/pages/*/":                      "app/pages/[id]/view.js app/pages/i/other.js",
		"/app/shared/":                       "usr/lib/a.so.1 usr/lib/deep/er/b.so usr/lib/z.so",
		"/app/":                              "app/.hidden.js app/a b app/main.js app/pages/[id]/view.js app/pages/i/other.js usr/lib/a.so.1",
		"/usr/bin/":                          "usr/bin/[ usr/lib/z.so",
		"/app/old.js":                        "the image has no such file",
		"/none/x":                            "the image has no such file",
		"/loop":                              "the image has no such file",
		"/app/main.js/x":                     "the image has no such file",
		"/app/main.js/":                      "it is not a directory",
		"/app":                               "it is a directory; end the line with / for its files",
		"/":                                  "app/.hidden.js app/a b app/main.js app/pages/[id]/view.js app/pages/i/other.js usr/bin/[ usr/lib/a.so.1 usr/lib/deep/er/b.so usr/lib/z.so",
		"/app/empty/":                        "the directory has no files",
		"/dev/fifo":                          "it is not a regular file",
		"/app/*.py":                          "no file matches",
		"/app/[x":                            "no file matches: the pattern is malformed",
		"/../../usr/lib/deep/../../lib/z.so": "usr/lib/z.so",
	} {
		got := resolve(t, line, layers)
		match := got.Matches[0]
		if match.Problem != "" {
			if match.Problem != want || match.Files != 0 || len(got.Trace) != 0 || len(got.Unmatched()) != 1 {
				t.Errorf("%s: %+v, want %q", line, match, want)
			}
			continue
		}
		paths := read(t, got.Trace, layers)
		slices.Sort(paths)
		paths = slices.DeleteFunc(paths, func(p string) bool { return !strings.Contains(want, p) })
		matched := strings.Count(want, ".js") + strings.Count(want, ".so") + strings.Count(want, "a b") + strings.Count(want, "/[ ")
		if strings.HasSuffix(want, "/[") {
			matched++
		}
		if strings.Join(paths, " ") != want || match.Files != matched || match.Bytes != int64(matched)*page || got.Files != matched {
			t.Errorf("%s: %d files of %d bytes, the trace reads %q, want %d: %q", line, match.Files, match.Bytes, paths, matched, want)
		}
	}
}

// TestOrder keeps the order of the lines, and the order in which files are stored within a line. It reads
// each file once.
func TestOrder(t *testing.T) {
	t.Parallel()
	padding := make([]string, 0, 64)
	for i := range 64 {
		padding = append(padding, fmt.Sprintf("padding/%02d", i))
	}
	layers := []*index.Layer{layer(t, slices.Concat([]string{"lib/z"}, padding[:32], []string{"lib/a"}, padding[32:], []string{"bin/app"})...)}
	got := resolve(t, "\xef\xbb\xbf# of a Windows editor\r\n\r\n/bin/app\r\n \t/none\r\n/lib/ \r\n/lib/z", layers)
	paths := slices.DeleteFunc(read(t, got.Trace, layers), func(p string) bool { return strings.HasPrefix(p, "padding") })
	if diff := cmp.Diff([]string{"bin/app", "lib/z", "lib/a"}, paths); diff != "" {
		t.Error(diff)
	}
	want := []prefetch.Match{
		{Line: prefetch.Line{Number: 3, Text: "/bin/app"}, Files: 1, Bytes: page},
		{Line: prefetch.Line{Number: 4, Text: "/none"}, Problem: "the image has no such file"},
		{Line: prefetch.Line{Number: 5, Text: "/lib/"}, Files: 2, Bytes: 2 * page},
		{Line: prefetch.Line{Number: 6, Text: "/lib/z"}, Files: 1, Bytes: page},
	}
	if diff := cmp.Diff(want, got.Matches); diff != "" || got.Files != 3 || got.Bytes != 3*page || got.Cut {
		t.Errorf("%d files of %d bytes\n%s", got.Files, got.Bytes, diff)
	}
	if unmatched := got.Unmatched(); len(unmatched) != 1 || unmatched[0].String() != `line 4: "/none"` {
		t.Errorf("unmatched: %v", unmatched)
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for content, want := range map[string]string{
		"/a\nrelative/path\n":                `line 2: "relative/path" is no absolute path`,
		"/a\x00b":                            "line 1 has a NUL byte",
		"# x\n/" + strings.Repeat("a", 4095): "line 2: a path of 4096 bytes, the limit is 4095",
		strings.Repeat("#\n", 1<<19) + "/":   "1048577 bytes, the limit is 1048576",
		"\x28\xb5\x2f\xfd an encoded trace":  "is no absolute path",
		"{\"path\": \"/a\"}":                 "is no absolute path",
	} {
		if list, err := prefetch.Parse([]byte(content)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, %v, want %q", content, list, err, want)
		}
	}
	list, err := prefetch.Parse([]byte("# only comments\n\n"))
	if err != nil || list.Len() != 0 {
		t.Errorf("comments: %v", err)
	}
}

// TestCostIsBounded resolves a list that is made to take long. It ends with an error, and so does one
// that nobody waits for any more.
func TestCostIsBounded(t *testing.T) {
	t.Parallel()
	names := make([]string, 0, 1000)
	for i := range 1000 {
		names = append(names, fmt.Sprintf("%s%d", strings.Repeat("d/", i%50), i))
	}
	layers := []*index.Layer{layer(t, names...)}
	list, err := prefetch.Parse([]byte(strings.Repeat("/**/d/**/*/**/x\n", prefetch.MaxList/16)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := list.Resolve(t.Context(), layers); err == nil || !strings.Contains(err.Error(), "take too long") {
		t.Errorf("a list of globs: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := list.Resolve(ctx, layers); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits: %v", err)
	}
}

// TestListIsCut lists more than a trace can have.
func TestListIsCut(t *testing.T) {
	t.Parallel()
	layers := []*index.Layer{layer(t, "a"), layer(t, "b")}
	for i := range startup.MaxLayers {
		layers = append(layers, layer(t, fmt.Sprintf("file-%d", i)))
	}
	if got := resolve(t, "/", layers); !got.Cut || got.Files != startup.MaxLayers+2 || got.Trace.Bytes() > startup.MaxLayers*2*page {
		t.Errorf("%d files, cut %v, %d bytes in the trace", got.Files, got.Cut, got.Trace.Bytes())
	}
}

// FuzzList reads lists of anybody, and resolves them in an image.
func FuzzList(f *testing.F) {
	for _, seed := range []string{
		"/usr/lib/z.so\n/app/\n", "# x\r\n/app/*.js\r\n/**/x", "\xef\xbb\xbf/app/pages/[id]/*", "/../../..//.//", "/**/../**/../**/", "/[", `/\`, "/loop/x", "/root/**/root/",
	} {
		f.Add([]byte(seed))
	}
	layers := image(f)
	sizes := files.StreamSizes(layers)
	f.Fuzz(func(t *testing.T, content []byte) {
		list, err := prefetch.Parse(content)
		if err != nil {
			return
		}
		got, err := list.Resolve(t.Context(), layers)
		if err != nil {
			return
		}
		if len(got.Matches) != list.Len() || got.Files > 9 {
			t.Errorf("%d matches of %d lines, %d files", len(got.Matches), list.Len(), got.Files)
		}
		if clipped := startup.Trace(nil).Union(got.Trace.Clip(sizes)); clipped.Bytes() != got.Trace.Bytes() {
			t.Errorf("%d bytes of %d are in the image", clipped.Bytes(), got.Trace.Bytes())
		}
		for _, m := range got.Matches {
			if (m.Files == 0) != (m.Problem != "") {
				t.Errorf("%+v", m)
			}
		}
	})
}
