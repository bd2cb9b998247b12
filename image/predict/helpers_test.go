package predict_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/index/indextest"
	"github.com/brisk-project/brisk/image/predict"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/files"
	"github.com/brisk-project/brisk/internal/block"
)

// content is the files of a layer by name. The content of a symbolic link is "-> target".
type content map[string]string

// memory is the streams of layers.
type memory map[block.Digest][]byte

func (m memory) ReadStream(_ context.Context, layer block.Digest, p []byte, off int64) error {
	stream := m[layer]
	if off < 0 || off+int64(len(p)) > int64(len(stream)) {
		return fmt.Errorf("%w: bytes %d-%d of a stream of %d", io.ErrUnexpectedEOF, off, off+int64(len(p)), len(stream))
	}
	copy(p, stream[off:])
	return nil
}

// padding begins the names of files that lie between others, so that these share no page.
const padding = "padding/"

// image returns the indexes of layers, and their streams.
func image(tb testing.TB, layers ...content) ([]*index.Layer, memory) {
	tb.Helper()
	streams := make(memory)
	var opened []*index.Layer
	for _, layer := range layers {
		var stored bytes.Buffer
		w := tar.NewWriter(&stored)
		var names []string
		for name := range layer {
			names = append(names, name)
		}
		slices.Sort(names)
		for i, name := range names {
			between := &tar.Header{Name: fmt.Sprintf("%s%d", padding, i), Typeflag: tar.TypeReg, Size: 2 * startup.PageSize}
			if err := w.WriteHeader(between); err != nil {
				tb.Fatal(err)
			}
			if _, err := w.Write(make([]byte, between.Size)); err != nil {
				tb.Fatal(err)
			}
			header := &tar.Header{Name: name, Typeflag: tar.TypeReg, Size: int64(len(layer[name])), Mode: 0o755}
			data := layer[name]
			if target, link := strings.CutPrefix(data, "-> "); link {
				header, data = &tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}, ""
			}
			if err := w.WriteHeader(header); err != nil {
				tb.Fatal(err)
			}
			if _, err := io.WriteString(w, data); err != nil {
				tb.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			tb.Fatal(err)
		}
		encoded := indextest.Build(tb, stored.Bytes()).Encoded
		l, err := index.Open(bytes.NewReader(encoded), int64(len(encoded)))
		if err != nil {
			tb.Fatal(err)
		}
		opened = append(opened, l)
		streams[l.StreamID()] = stored.Bytes()
	}
	return opened, streams
}

// taken returns the files of which a prediction has more than half, in its order.
func taken(tb testing.TB, config v1.Config, layers ...content) []string {
	tb.Helper()
	opened, streams := image(tb, layers...)
	file, err := predict.Run(tb.Context(), predict.Config{Layers: opened, Image: config, Stream: streams, Note: func(reason string) { tb.Log(reason) }})
	if err != nil {
		tb.Fatal(err)
	}
	if !file.Predicted {
		tb.Error("the trace is not marked as predicted")
	}
	named, err := files.FileReads(file.Trace, opened)
	if err != nil {
		tb.Fatal(err)
	}
	var got []string
	for _, n := range named {
		if n.Path != "" && !strings.HasPrefix(n.Path, padding) && n.Bytes > n.Size/2 {
			got = append(got, n.Path)
		}
	}
	return got
}

// large makes a file of more than a page.
func large(text string) string { return text + "\n" + strings.Repeat(" ", 3*startup.PageSize) }

// program describes an ELF file.
type program struct {
	interpreter, soname, rpath, runpath string
	needed                              []string
	machine                             uint16 // default x86-64
	noDefault                           bool
	length                              int // default 3 pages
}

// build returns a 64-bit ELF file with headers, strings and a dynamic section.
func (p program) build() string {
	if p.machine == 0 {
		p.machine = 62
	}
	if p.length == 0 {
		p.length = 3 * 4096
	}
	le := binary.LittleEndian
	text := []byte{0}
	add := func(s string) uint64 {
		at := uint64(len(text))
		text = append(append(text, s...), 0)
		return at
	}
	var dynamic []uint64
	for _, name := range p.needed {
		dynamic = append(dynamic, 1, add(name))
	}
	for tag, value := range map[uint64]string{14: p.soname, 15: p.rpath, 29: p.runpath} {
		if value != "" {
			dynamic = append(dynamic, tag, add(value))
		}
	}
	if p.noDefault {
		dynamic = append(dynamic, 0x6ffffffb, 0x800)
	}
	const base, stringsAt, interpreterAt, dynamicAt = 0x400000, 1024, 512, 8192
	dynamic = append(dynamic, 5, base+stringsAt, 10, uint64(len(text)), 0, 0)

	b := make([]byte, p.length)
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], 3)
	le.PutUint16(b[18:], p.machine)
	le.PutUint64(b[32:], 64)
	le.PutUint16(b[54:], 56)
	header := func(kind, flags uint32, offset, address, length uint64) {
		h := b[64+56*int(le.Uint16(b[56:])):]
		le.PutUint32(h, kind)
		le.PutUint32(h[4:], flags)
		le.PutUint64(h[8:], offset)
		le.PutUint64(h[16:], address)
		le.PutUint64(h[32:], length)
		le.PutUint16(b[56:], le.Uint16(b[56:])+1)
	}
	header(1, 5, 0, base, 4096)
	header(1, 6, dynamicAt, base+0x10000, 1024)
	header(2, 6, dynamicAt, base+0x10000, uint64(8*len(dynamic)))
	if p.interpreter != "" {
		copy(b[interpreterAt:], p.interpreter)
		header(3, 4, interpreterAt, base+interpreterAt, uint64(len(p.interpreter)+1))
	}
	copy(b[stringsAt:], text)
	for i, v := range dynamic {
		le.PutUint64(b[dynamicAt+8*i:], v)
	}
	return string(b)
}

// library returns a shared library.
func library(needed ...string) string { return program{needed: needed}.build() }

const interpreter = "lib64/ld-linux-x86-64.so.2"

// linked returns a program that needs libraries.
func linked(needed ...string) string {
	return program{interpreter: "/" + interpreter, needed: needed}.build()
}
