package index

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/brisk-project/brisk/internal/block"
)

// maxHeaders is the longest run of header blocks in bytes that may stand before
// one entry: a PAX header of 1 MiB, the most that tar readers accept, a long
// name, a long link and a sparse map of as much each, and the headers of these.
const maxHeaders = 5 << 20

// stream is the layer stream as the tar parser reads it. It hashes every byte
// as it passes, keeps the header blocks that archive/tar does not show, and
// copies out the few file bytes that become literals. File data is skipped
// without being copied: archive/tar seeks over it.
type stream struct {
	pipeReader

	pos     int64 // offset in the stream of the next byte
	limit   int64 // bytes
	diffID  hash.Hash
	known   func(i uint32) (block.Digest, bool) // as in BuildConfig, may be nil
	digests []byte

	headers     []byte // the bytes read from headerStart on
	headerStart int64
	taps        []tap
}

// tap asks for the bytes of the stream from off on.
type tap struct {
	off int64
	dst []byte
}

func newStream(p *pipe, cfg BuildConfig) *stream {
	s := &stream{limit: MaxStreamSize, diffID: sha256.New(), known: cfg.BlockDigest}
	if cfg.MaxStream > 0 {
		s.limit = min(cfg.MaxStream, MaxStreamSize)
	}
	s.pipeReader = pipeReader{pipe: p, onBuffer: s.hash}
	return s
}

func (s *stream) hash(b []byte) error {
	if s.size > s.limit {
		return fmt.Errorf("layer stream is longer than %d bytes", s.limit)
	}
	if _, err := s.diffID.Write(b); err != nil {
		return fmt.Errorf("hashing the layer stream: %w", err)
	}
	sum := s.digest(b)
	s.digests = append(s.digests, sum[:]...)
	return nil
}

// digest returns the digest of the next block.
func (s *stream) digest(b []byte) block.Digest {
	if s.known != nil {
		if sum, ok := s.known(uint32(len(s.digests) / sha256.Size)); ok {
			return sum
		}
	}
	return block.Sum(b)
}

// Read implements [io.Reader].
func (s *stream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := s.need(); err != nil {
		return 0, err
	}
	n := copy(p, s.rest)
	if skip := s.headerStart - s.pos; skip < int64(n) {
		s.headers = append(s.headers, p[max(skip, 0):n]...)
		if len(s.headers) > maxHeaders {
			return 0, fmt.Errorf("headers before byte %d are longer than %d bytes", s.pos, maxHeaders)
		}
	}
	s.advance(n)
	return n, nil
}

// Seek implements [io.Seeker] as far as archive/tar needs it to skip data:
// forward from the current position.
func (s *stream) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || offset < 0 {
		return 0, errors.ErrUnsupported
	}
	for offset > 0 {
		if err := s.need(); errors.Is(err, io.EOF) {
			return 0, io.ErrUnexpectedEOF
		} else if err != nil {
			return 0, err
		}
		n := int(min(offset, int64(len(s.rest))))
		s.advance(n)
		offset -= int64(n)
	}
	return s.pos, nil
}

// advance moves over the next n bytes of the current buffer.
func (s *stream) advance(n int) {
	passed := s.rest[:n]
	for len(s.taps) > 0 && s.taps[0].off < s.pos+int64(n) {
		t := &s.taps[0]
		copied := copy(t.dst, passed[t.off-s.pos:])
		t.dst, t.off = t.dst[copied:], t.off+int64(copied)
		if len(t.dst) > 0 {
			break
		}
		s.taps = s.taps[1:]
	}
	s.rest = s.rest[n:]
	s.pos += int64(n)
}

// record starts to keep header bytes again, from offset off of the stream on.
func (s *stream) record(off int64) {
	s.headers, s.headerStart = s.headers[:0], off
}
