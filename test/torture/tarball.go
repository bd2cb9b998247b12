package torture

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	paxXattr       = "SCHILY.xattr."
)

// item is one member of a layer: a header with its content, or raw bytes that
// archive/tar cannot be made to write.
type item struct {
	header tar.Header
	data   []byte
	raw    []byte
}

// layer writes items as a tar.
func layer(items ...item) []byte { return assemble(true, items) }

// assemble writes items as a tar, with or without the two zero blocks at its end.
// A layer that cannot be written is a mistake in this package, hence the panic.
func assemble(trailer bool, items []item) []byte {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range items {
		it := &items[i]
		if it.raw != nil {
			// Pads the member before, so that the raw one starts on a block.
			must(w.Flush(), "padding")
			buf.Write(it.raw)
			continue
		}
		must(w.WriteHeader(&it.header), it.header.Name)
		_, err := w.Write(it.data)
		must(err, it.header.Name)
	}
	if !trailer {
		return buf.Bytes()
	}
	must(w.Close(), "the end of the archive")
	return buf.Bytes()
}

func must(err error, what string) {
	if err != nil {
		panic(fmt.Sprintf("torture: writing %s: %v", what, err))
	}
}

// seeded returns random numbers that depend on nothing but the name.
func seeded(name string) *rand.Rand {
	return rand.New(rand.NewChaCha8(sha256.Sum256([]byte(name)))) //nolint:gosec // the same on every run, on purpose
}

// content returns n bytes of which about half compress.
func content(name string, n int) []byte {
	rng := seeded(name)
	data := make([]byte, 0, n+64)
	for len(data) < n {
		if rng.Uint32()%2 == 0 {
			data = fmt.Appendf(data, "line %d of %s\n", rng.Uint32()%100, name)
			continue
		}
		for range 32 {
			data = append(data, byte(rng.Uint32()))
		}
	}
	return data[:n]
}

// member starts an item with the usual metadata: a time with nanoseconds that
// depends on the name, and root as the owner.
func member(name string, typeflag byte, mode int64) item {
	rng := seeded("time of " + name)
	when := time.Unix(1_500_000_000+int64(rng.Uint32()%100_000_000), int64(rng.Uint32()%1_000_000_000))
	return item{header: tar.Header{Name: name, Typeflag: typeflag, Mode: mode, ModTime: when, Format: tar.FormatPAX}}
}

func dir(name string) item { return member(name+"/", tar.TypeDir, 0o755) }

func file(name string, size int) item { return fileWith(name, content(name, size)) }

func fileWith(name string, data []byte) item {
	it := member(name, tar.TypeReg, 0o644)
	it.header.Size = int64(len(data))
	it.data = data
	return it
}

func symlink(name, target string) item {
	it := member(name, tar.TypeSymlink, 0o777)
	it.header.Linkname = target
	return it
}

// link is a hard link with the metadata that other names of the same file get by
// default. Unpacking sets them again, through the new name.
func link(name, target string) item {
	it := member(name, tar.TypeLink, 0o644)
	it.header.Linkname = target
	return it
}

func device(name string, typeflag byte, major, minor int64) item {
	it := member(name, typeflag, 0o640)
	it.header.Devmajor, it.header.Devminor = major, minor
	return it
}

func fifo(name string) item { return member(name, tar.TypeFifo, 0o600) }

// whiteout hides name of the layers below.
func whiteout(name string) item {
	parent, base := "", name
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		parent, base = name[:i+1], name[i+1:]
	}
	it := member(parent+whiteoutPrefix+base, tar.TypeReg, 0)
	it.header.ModTime = time.Unix(0, 0)
	return it
}

// opaque hides all that the layers below have in the directory name.
func opaque(name string) item {
	it := member(strings.TrimPrefix(name+"/"+opaqueMarker, "/"), tar.TypeReg, 0)
	it.header.ModTime = time.Unix(0, 0)
	return it
}

func (it item) mode(mode int64) item {
	it.header.Mode = mode
	return it
}

func (it item) owner(uid, gid int) item {
	it.header.Uid, it.header.Gid = uid, gid
	return it
}

func (it item) at(sec, nsec int64) item {
	it.header.ModTime = time.Unix(sec, nsec)
	return it
}

func (it item) format(f tar.Format) item {
	it.header.Format = f
	if f != tar.FormatPAX {
		it.header.ModTime = it.header.ModTime.Truncate(time.Second)
	}
	return it
}

func (it item) xattr(name, value string) item {
	records := map[string]string{paxXattr + name: value}
	for k, v := range it.header.PAXRecords {
		if _, ok := records[k]; !ok {
			records[k] = v
		}
	}
	it.header.PAXRecords = records
	return it
}
