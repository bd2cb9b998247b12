package index

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/image/gzran"
	"github.com/brisk-project/brisk/internal/block"
)

// ErrUnfit says that a layer is not a tar that unpacking knows, or is beyond the limits of this
// package.
var ErrUnfit = errors.New("layer cannot be indexed")

// BuildConfig configures [Build]. The zero value is suitable for most layers.
type BuildConfig struct {
	// Spacing is the wanted distance in bytes of the layer stream between two
	// checkpoints of a gzip blob; 0 means the default of package gzran. Where data
	// compresses well checkpoints may be further apart, see [Build].
	Spacing int64
	// Uncompressed says that the blob is the layer stream itself, whatever its first
	// bytes look like.
	Uncompressed bool
	// MaxStream is the longest layer stream in bytes that is read; 0 means [MaxStreamSize]. It bounds what
	// a blob costs that is made to decompress to very much.
	MaxStream int64
	// BlockDigest returns the digest of block i of the layer stream, if the caller has
	// verified the block against it: it is then not computed again. Nil means that no digest
	// is known.
	BlockDigest func(i uint32) (block.Digest, bool)
}

// Result is a finished layer index and what was learned on the way.
type Result struct {
	// Encoded is the index, ready for [Open].
	Encoded []byte
	// Head describes the part of it that [OpenHead] needs, zero if that is all.
	Head Head
	// DiffID and StreamSize are digest and length in bytes of the layer stream.
	DiffID     block.Digest
	StreamSize int64
	// BlobDigest and BlobSize are digest and length in bytes of the stored blob.
	BlobDigest  block.Digest
	BlobSize    int64
	Compression Compression
	Entries     int
	Frames      int
	// Seekable is what [Layer.Seekable] reports of the index.
	Seekable bool
	// Sections tells what the bytes of Encoded are for.
	Sections []Section
}

// Build reads a stored layer blob once, from its first to its last byte, and
// makes its layer index. The blob is gzip, zstd or a plain tar; which, its first
// bytes tell. The same blob gives the same bytes.
//
// Build uses about two cores: reading and decompressing on one side, hashing and
// parsing on the other. It needs some 10 MiB, what the window of a zstd frame
// takes, and the index itself. When ctx ends, Build returns as soon as a read of
// blob that is under way does.
//
// The checkpoints of a gzip blob take at most one part in 60 of its size, unless
// frames would become longer than 4 MiB for that.
//
// A blob that is truncated or corrupt, a tar that cannot be unpacked, and a layer
// beyond the limits of this package are errors. The latter two wrap [ErrUnfit], unless the
// blob is longer than the limits.
func Build(ctx context.Context, blob io.Reader, cfg BuildConfig) (*Result, error) {
	b := &builder{cfg: cfg}
	out, err := newChunkWriter()
	if err != nil {
		return nil, err
	}
	br := bufio.NewReaderSize(blob, 16)
	if !cfg.Uncompressed {
		if b.compression, err = detect(br); err != nil {
			return nil, fmt.Errorf("reading the layer blob: %w", err)
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	streamPipe := newPipe(ctx)
	if b.compression == CompressionNone {
		g.Go(func() error { return transfer(br, streamPipe) })
	} else {
		blobPipe := newPipe(ctx)
		g.Go(func() error { return transfer(br, blobPipe) })
		g.Go(func() error { return b.decompress(blobPipe, streamPipe) })
	}
	parser := &tarParser{in: newStream(streamPipe, cfg), out: out}
	g.Go(parser.run)
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return b.result(parser)
}

// transfer moves the stored blob into a pipe.
func transfer(blob io.Reader, to *pipe) error {
	if err := to.pump(blob); err != nil {
		return fmt.Errorf("reading the layer blob: %w", err)
	}
	to.finish()
	return nil
}

// detect tells the compression from the first bytes.
func detect(br *bufio.Reader) (Compression, error) {
	head, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return CompressionNone, err
	}
	if bytes.HasPrefix(head, []byte{0x1f, 0x8b}) {
		return CompressionGzip, nil
	}
	if len(head) == 4 {
		if word := binary.LittleEndian.Uint32(head); word == zstdMagic || word&skippableMask == skippableMagic {
			return CompressionZstd, nil
		}
	}
	return CompressionNone, nil
}

// builder collects what the stages of [Build] find.
type builder struct {
	cfg         BuildConfig
	compression Compression
	blobHash    hash.Hash
	blobSize    int64
	checkpoints []gzran.Checkpoint
	inputSize   int64 // bytes of the blob that are gzip
	frames      []frameRow
}

// decompress moves the blob from one pipe, inflated, to the other. The end of the
// stream is sent only once the blob has been read, and hashed, to its end.
func (b *builder) decompress(from, to *pipe) error {
	b.blobHash = sha256.New()
	src := &pipeReader{pipe: from}
	src.onBuffer = func(p []byte) error {
		if src.size > MaxBlobSize {
			return fmt.Errorf("layer blob is longer than %d bytes", int64(MaxBlobSize))
		}
		_, err := b.blobHash.Write(p)
		return err
	}
	stream := b.inflate
	if b.compression == CompressionZstd {
		stream = b.decodeZstd
	}
	if err := stream(src, to); err != nil {
		return fmt.Errorf("decompressing the layer blob: %w", err)
	}
	if err := src.drain(); err != nil {
		return fmt.Errorf("reading the layer blob: %w", err)
	}
	b.blobSize = src.size
	to.finish()
	return nil
}

// result puts the index together once all stages are done.
func (b *builder) result(p *tarParser) (*Result, error) {
	res := &Result{StreamSize: p.in.size, Compression: b.compression, Entries: p.out.total}
	p.in.diffID.Sum(res.DiffID[:0])
	var windows []byte
	switch b.compression {
	case CompressionNone:
		res.BlobDigest, res.BlobSize = res.DiffID, res.StreamSize
		res.Frames = int(block.Count(res.StreamSize))
	case CompressionGzip:
		var err error
		if b.frames, windows, err = gzipFrames(b.checkpoints, b.inputSize, res.StreamSize); err != nil {
			return nil, err
		}
		fallthrough
	default:
		b.blobHash.Sum(res.BlobDigest[:0])
		res.BlobSize, res.Frames = b.blobSize, len(b.frames)
	}
	res.Seekable = seekable(b.frames, res.StreamSize)
	in := info{
		diffID: res.DiffID, blobDigest: res.BlobDigest, blobSize: res.BlobSize, streamSize: res.StreamSize,
		entries: res.Entries, compression: res.Compression,
	}
	sections := []payload{plain(sectionInfo, in.encode()), plain(sectionDigests, p.in.digests)}
	if b.compression != CompressionNone {
		table := appendFrames(nil, b.frames, res.StreamSize, b.compression)
		sections = append(sections, p.out.pack(sectionFrames, table))
	}
	sections = append(sections, p.out.pack(sectionChunks, appendChunkTable(nil, p.out.rows)),
		plain(sectionEntries, p.out.packed))
	if b.compression == CompressionGzip {
		parts := plain(sectionParts, appendParts(nil, windows))
		parts.extra = true
		sections = append(sections, parts, plain(sectionWindows, windows))
	}
	res.Encoded = assemble(sections)
	res.Head = headOf(res.Encoded, sections)
	for _, s := range sections {
		res.Sections = append(res.Sections, s.section())
	}
	return res, nil
}

// inflate decompresses gzip.
func (b *builder) inflate(src io.Reader, to *pipe) error {
	zr, err := gzran.NewReader(src, gzran.Config{Spacing: b.cfg.Spacing})
	if err != nil {
		return err
	}
	if err := to.pump(zr); err != nil {
		return err
	}
	b.checkpoints, b.inputSize = zr.Checkpoints(), zr.InputSize()
	return nil
}

// decodeZstd decompresses zstd.
func (b *builder) decodeZstd(src io.Reader, to *pipe) error {
	zr, err := newZstdReader(src)
	if err != nil {
		return err
	}
	defer zr.close()
	if err := to.pump(zr); err != nil {
		return err
	}
	b.frames = zr.rows
	return nil
}
