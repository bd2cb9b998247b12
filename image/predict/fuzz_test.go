package predict

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/brisk-project/brisk/test/require"
)

// TestELFOfThisMachine compares what is read of libraries and programs with what the standard
// library reads.
func TestELFOfThisMachine(t *testing.T) {
	t.Parallel()
	var compared int
	for _, pattern := range []string{"/usr/bin/*", "/usr/lib/*/*.so*", "/usr/lib64/*.so*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names[:min(len(names), 400)] {
			compared += compareELF(t, name)
		}
	}
	if compared < 20 {
		require.Working(t, "programs to compare", fmt.Errorf("this machine has only %d programs and libraries", compared))
	}
}

func compareELF(t *testing.T, name string) int {
	t.Helper()
	want, err := elf.Open(name)
	if err != nil {
		return 0
	}
	defer want.Close() //nolint:errcheck // read only
	file, err := os.Open(filepath.Clean(name))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close() //nolint:errcheck // read only
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	got, err := parseELF(file, info.Size())
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return 1
	}
	for tag, found := range map[elf.DynTag][]string{elf.DT_NEEDED: got.needed, elf.DT_RUNPATH: got.runpath, elf.DT_RPATH: got.rpath} {
		wanted, err := want.DynString(tag)
		if err != nil {
			continue
		}
		if tag != elf.DT_NEEDED {
			wanted = splitPath(strings.Join(wanted, ":"))
		}
		if !slices.Equal(found, wanted) {
			t.Errorf("%s: %s is %q, want %q", name, tag, found, wanted)
		}
	}
	if got.linked < 0 || got.linked > info.Size() {
		t.Errorf("%s: symbols end at %d of %d bytes", name, got.linked, info.Size())
	}
	return 1
}

// TestCacheOfThisMachine compares ld.so.cache with what ldconfig prints of it.
func TestCacheOfThisMachine(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile("/etc/ld.so.cache")
	require.Working(t, "ld.so.cache", err)
	out, err := exec.CommandContext(t.Context(), require.Tool(t, "ldconfig"), "-p").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string][]string)
	for line := range strings.Lines(string(out)) {
		name, file, ok := strings.Cut(strings.TrimSpace(line), " => ")
		if fields := strings.Fields(name); ok && len(fields) > 0 {
			want[fields[0]] = append(want[fields[0]], file)
		}
	}
	if diff := cmp.Diff(want, parseCache(content)); diff != "" {
		t.Error(diff)
	}
}

// smallELF returns a shared library of 512 bytes that needs another one.
func smallELF(wide bool) []byte {
	le, b := binary.LittleEndian, make([]byte, 512)
	copy(b, "\x7fELF\x01\x01\x01")
	copy(b[400:], "\x00liba.so\x00$ORIGIN/x:/y\x00")
	dynamic := []uint32{1, 1, 5, 400, 10, 24, 29, 9, 7, 400, 8, 24, 0, 0}
	if !wide {
		le.PutUint32(b[28:], 64)
		le.PutUint16(b[42:], 32)
		le.PutUint16(b[44:], 2)
		for i, v := range []uint32{1, 0, 0, 0, 512, 512, 6, 0, 2, 256, 256, 0, uint32(4 * len(dynamic)), 0, 6, 0} {
			le.PutUint32(b[64+4*i:], v)
		}
		for i, v := range dynamic {
			le.PutUint32(b[256+4*i:], v)
		}
		return b
	}
	b[4] = 2
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[54:], 56)
	le.PutUint16(b[56:], 2)
	for i, v := range []uint64{6<<32 | 1, 0, 0, 0, 512, 512, 0, 6<<32 | 2, 256, 256, 0, uint64(8 * len(dynamic)), 0, 0} {
		le.PutUint64(b[64+8*i:], v)
	}
	for i, v := range dynamic {
		le.PutUint64(b[256+8*i:], uint64(v))
	}
	return b
}

// TestSmallELF reads the files that fuzzing begins with.
func TestSmallELF(t *testing.T) {
	t.Parallel()
	for _, wide := range []bool{false, true} {
		got, err := parseELF(bytes.NewReader(smallELF(wide)), 512)
		if err != nil || !slices.Equal(got.needed, []string{"liba.so"}) || !slices.Equal(got.runpath, []string{"$ORIGIN/x", "/y"}) ||
			got.linked != 424 || !slices.Equal(got.written, []extent{{0, 512}}) {
			t.Errorf("64 bits %v: %+v, %v", wide, got, err)
		}
	}
}

func FuzzELF(f *testing.F) {
	for _, wide := range []bool{false, true} {
		f.Add(smallELF(wide))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		got, err := parseELF(bytes.NewReader(content), int64(len(content)))
		if err != nil {
			return
		}
		if len(got.needed) > maxNeeded || len(got.written) > maxSegments || got.linked > int64(len(content)) {
			t.Errorf("%d libraries, %d segments, linked to %d", len(got.needed), len(got.written), got.linked)
		}
		for _, part := range got.written {
			if part.offset < 0 || part.length < 0 || part.offset+part.length > int64(len(content)) {
				t.Errorf("a part of %d bytes at %d of %d", part.length, part.offset, len(content))
			}
		}
	})
}

func FuzzCache(f *testing.F) {
	cache := make([]byte, 48+24, 128)
	copy(cache, cacheMagic)
	cache[20], cache[28], cache[52], cache[56] = 1, 2, 72, 77
	f.Add(append(cache, "a.so\x00/lib/a.so\x00"...))
	f.Add([]byte(oldMagic + "\x00\xff\xff\xff\xff" + cacheMagic))
	f.Fuzz(func(t *testing.T, content []byte) {
		for name, files := range parseCache(content) {
			if name == "" || len(files) > maxConfigFiles {
				t.Errorf("%q: %q", name, files)
			}
		}
	})
}

func FuzzScans(f *testing.F) {
	for _, text := range []string{
		"const a = require('./a'), b = require(`b`)\nimport x, {y} from \"z\"; export * from 'w'; import('v')", "import a.b as c, d\nfrom .x import (y,\n z)\n'''import e'''",
		"#!/bin/sh\nif x; then\n exec \"$@\"\nfi\ncat <<EOF\nx\nEOF\n", "exec env -S 'A=b c' -- d", "from . import \\\n x", "\"\"\"\\\n", `{"exports": {".": [{"a": {"node": "x"}}]}}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		for _, name := range scanJavaScript(content) {
			if name == "" || len(name) > maxSpecifier {
				t.Errorf("the name of a module: %q", name)
			}
		}
		for _, i := range scanPython(content) {
			if i.level < 0 || i.level > maxDirectories || len(i.names) > maxImports {
				t.Errorf("an import: %+v", i)
			}
		}
		for _, line := range shellLines(string(content)) {
			words := literalWords(afterKeywords(strings.Fields(line)), []string{"script", "argument"})
			afterEnv(words)
			afterOptions(words, "-x")
		}
		exported(content, "x")
		exported(content, "")
	})
}
