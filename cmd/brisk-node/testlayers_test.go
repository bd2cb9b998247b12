package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// shell is a layer with a shell and its tools.
func shell(t *testing.T) registrytest.Layer {
	t.Helper()
	return shellWithMode(t, 0o755)
}

// shellWithMode is shell with the given mode of the program.
func shellWithMode(t *testing.T, mode int64) registrytest.Layer {
	t.Helper()
	program, err := os.ReadFile(require.Tool(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	entries := []*tar.Header{
		{Typeflag: tar.TypeDir, Name: "bin/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: mode, Size: int64(len(program))},
	}
	for _, name := range []string{"sh", "cat", "sha256sum", "sleep", "rm", "ls", "stat", "mkdir"} {
		entries = append(entries, &tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + name, Linkname: "busybox"})
	}
	for _, dir := range []string{"proc/", "sys/", "dev/", "tmp/", "run/"} {
		entries = append(entries, &tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755})
	}
	for _, entry := range entries {
		if err := w.WriteHeader(entry); err != nil {
			t.Fatal(err)
		}
		if entry.Typeflag == tar.TypeReg {
			if _, err := w.Write(program); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return registrytest.Layer{Tar: buf.Bytes(), Level: 1}
}

// files is a layer with one file, and the line that sha256sum prints of it.
func files(t *testing.T, seed uint64, size int) (layer registrytest.Layer, path, sum string) {
	t.Helper()
	data := registrytest.Files(seed, 1, size)[1].Data
	name := fmt.Sprintf("file-%d", seed)
	layer = registrytest.Layer{Level: 1, Tar: registrytest.Tar(t, registrytest.File{Name: name, Data: data})}
	return layer, "/" + name, fmt.Sprintf("%x  /%s\n", sha256.Sum256(data), name)
}

// digestOf returns the digest of a layer as it is stored.
func digestOf(t *testing.T, l registrytest.Layer) digest.Digest {
	t.Helper()
	return digest.FromBytes(registrytest.Compress(t, l))
}
