package index_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/brisk-project/brisk/image/index"
)

// packings are the ways to store a stream that a layer may use.
func packings() []string {
	return []string{"plain", "gzip", "gzip members", "zstd", "zstd frames", "zstd large frames"}
}

// pack stores a stream in one of those ways.
func pack(tb testing.TB, packing string, b []byte) []byte {
	tb.Helper()
	switch packing {
	case "plain":
		return b
	case "gzip":
		return gzipped(tb, b, len(b)+1)
	case "gzip members":
		return gzipped(tb, b, 100_000)
	case "zstd":
		return zstdFrames(tb, b, len(b)+1)
	case "zstd frames":
		return zstdFrames(tb, b, 70_000)
	case "zstd large frames":
		return zstdFrames(tb, b, 1_500_000)
	default:
		tb.Fatalf("no packing %q", packing)
		return nil
	}
}

func gzipped(tb testing.TB, b []byte, member int) []byte {
	tb.Helper()
	var out bytes.Buffer
	for first := true; first || len(b) > 0; first = false {
		n := min(member, len(b))
		w, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
		if err != nil {
			tb.Fatal(err)
		}
		if _, err := w.Write(b[:n]); err != nil {
			tb.Fatal(err)
		}
		if err := w.Close(); err != nil {
			tb.Fatal(err)
		}
		b = b[n:]
	}
	return out.Bytes()
}

// zstdFrames compresses to independent frames with skippable ones between them,
// in front and at the end.
func zstdFrames(tb testing.TB, b []byte, frame int) []byte {
	tb.Helper()
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		tb.Fatal(err)
	}
	skippable := []byte{0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 'x', 'y', 'z'}
	out := bytes.Clone(skippable)
	for first := true; first || len(b) > 0; first = false {
		n := min(frame, len(b))
		out = append(enc.EncodeAll(b[:n], out), skippable...)
		b = b[n:]
	}
	return out
}

// noise is n bytes that compress by about half.
func noise(n int, seed uint64) []byte {
	rng := rand.New(rand.NewPCG(seed, 7))
	b := make([]byte, n)
	for i := range b {
		b[i] = "0123456789abcdef"[rng.IntN(16)]
	}
	return b
}

// sample is a tar with every type of entry that archive/tar can write.
func sample(tb testing.TB) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, data []byte) {
		tb.Helper()
		h.Size = int64(len(data))
		if err := w.WriteHeader(&h); err != nil {
			tb.Fatalf("%s: %v", h.Name, err)
		}
		if _, err := w.Write(data); err != nil {
			tb.Fatal(err)
		}
	}
	at := func(sec, nsec int64) time.Time { return time.Unix(sec, nsec) }
	add(tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755, ModTime: at(1_600_000_000, 0)}, nil)
	add(tar.Header{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o1777, Uid: 3, Gid: 4, ModTime: at(1_600_000_001, 0)}, nil)
	add(tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "commit"}}, nil)
	add(tar.Header{Name: "etc/empty", Mode: 0o600, ModTime: at(0, 0)}, nil)
	add(tar.Header{
		Name: "./etc/../etc/passwd", Mode: 0o4755, Uid: 70_000_000, Gid: 4_000_000_000,
		ModTime: at(1_700_000_000, 123_456_789), Format: tar.FormatPAX,
		PAXRecords: map[string]string{
			"SCHILY.xattr.user.note":               "hello\x00world",
			"SCHILY.xattr.security.capability":     "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
			"SCHILY.xattr.trusted.overlay.opaque":  "y",
			"SCHILY.xattr.system.posix_acl_access": "\x02\x00\x00\x00\x01\x00\x06\x00",
			"LIBARCHIVE.xattr.user.note":           "aGVsbG8",
		},
	}, noise(300_000, 1))
	add(tar.Header{Typeflag: tar.TypeSymlink, Name: "etc/link", Linkname: "../x//y", Mode: 0o755, ModTime: at(5, 0)}, nil)
	add(tar.Header{Typeflag: tar.TypeLink, Name: "etc/hard", Linkname: "/etc/passwd", ModTime: at(5, 0)}, nil)
	add(tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Devmajor: 1, Devminor: 3, Mode: 0o666, ModTime: at(5, 0)}, nil)
	add(tar.Header{Typeflag: tar.TypeBlock, Name: "dev/sda", Devmajor: 8, Devminor: 300, Mode: 0o660, ModTime: at(5, 0)}, nil)
	add(tar.Header{Typeflag: tar.TypeFifo, Name: "run/fifo", Mode: 0o644, ModTime: at(5, 0)}, nil)
	add(tar.Header{Name: "../../outside", Mode: 0o644, ModTime: at(-5, 0), Format: tar.FormatGNU}, noise(513, 2))
	long := strings.Repeat("long/", 60) + "name"
	add(tar.Header{Name: long + "-pax", Mode: 0o644, ModTime: at(5, 0), Format: tar.FormatPAX}, noise(512, 3))
	add(tar.Header{Name: long + "-gnu", Mode: 0o644, ModTime: at(5, 0), Format: tar.FormatGNU}, noise(1_200_000, 4))
	add(tar.Header{Typeflag: tar.TypeSymlink, Name: "s", Linkname: long, ModTime: at(5, 0), Format: tar.FormatGNU}, nil)
	add(tar.Header{Name: "etc/.wh.gone", ModTime: at(5, 0)}, nil)
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func wantSample() []index.Entry {
	utc := func(sec, nsec int64) time.Time { return time.Unix(sec, nsec).UTC() }
	one := func(at, n int64) []index.Segment { return []index.Segment{{StreamOffset: at, Length: n}} }
	long := strings.Repeat("long/", 60) + "name"
	return []index.Entry{
		{Path: "", Type: index.TypeDir, Mode: 0o755, ModTime: utc(1_600_000_000, 0)},
		{Path: "etc", Type: index.TypeDir, Mode: 0o1777, UID: 3, GID: 4, ModTime: utc(1_600_000_001, 0)},
		{Path: "etc/empty", Type: index.TypeReg, Mode: 0o600, ModTime: utc(0, 0)},
		{
			Path: "etc/passwd", Type: index.TypeReg, Mode: 0o4755, UID: 70_000_000, GID: 4_000_000_000, Size: 300_000,
			ModTime: utc(1_700_000_000, 123_456_789),
			Xattrs: []index.Xattr{
				{Name: "security.capability", Value: "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"},
				{Name: "system.posix_acl_access", Value: "\x02\x00\x00\x00\x01\x00\x06\x00"},
				{Name: "user.note", Value: "hello\x00world"},
			},
			Segments: one(4096, 300_000),
		},
		{Path: "etc/link", Type: index.TypeSymlink, Mode: 0o777, Link: "../x//y", ModTime: utc(5, 0)},
		{Path: "etc/hard", Type: index.TypeLink, Link: "etc/passwd", ModTime: utc(5, 0)},
		{Path: "dev/null", Type: index.TypeChar, Mode: 0o666, Major: 1, Minor: 3, ModTime: utc(5, 0)},
		{Path: "dev/sda", Type: index.TypeBlock, Mode: 0o660, Major: 8, Minor: 300, ModTime: utc(5, 0)},
		{Path: "run/fifo", Type: index.TypeFifo, Mode: 0o644, ModTime: utc(5, 0)},
		{Path: "outside", Type: index.TypeReg, Mode: 0o644, Size: 513, ModTime: utc(0, 0), Segments: one(307_200, 513)},
		{Path: long + "-pax", Type: index.TypeReg, Mode: 0o644, Size: 512, ModTime: utc(5, 0), Segments: one(309_760, 512)},
		{Path: long + "-gnu", Type: index.TypeReg, Mode: 0o644, Size: 1_200_000, ModTime: utc(5, 0), Segments: one(311_808, 1_200_000)},
		{Path: "s", Type: index.TypeSymlink, Mode: 0o777, Link: long, ModTime: utc(5, 0)},
		{Path: "etc/.wh.gone", Type: index.TypeReg, ModTime: utc(5, 0)},
	}
}
