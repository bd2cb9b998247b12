package gzran

import (
	"errors"
	"fmt"
	"io"
)

const (
	// DefaultSpacing is the spacing of checkpoints when Config names none, 1 MiB.
	// Checkpoints so close take 0.5 to 1.1 % of the gzip stream on real layers.
	DefaultSpacing = 1 << 20
	// MinSpacing is the smallest spacing, 32 KiB: the windows of two checkpoints
	// never have to be recorded at once.
	MinSpacing = windowSize
)

// Config sets up a [Reader].
type Config struct {
	// Spacing is how many bytes of output lie between two checkpoints at least. The
	// next one is taken at the first block or member that begins after them, so
	// checkpoints are further apart where blocks are large. 0 means
	// [DefaultSpacing]; less than [MinSpacing] counts as that.
	Spacing int64
}

// Reader inflates a gzip stream of any number of members from its beginning and
// records checkpoints on the way. It checks the checksum of every member.
//
// Memory is bounded: about two megabytes, and a few kilobytes for each
// checkpoint. A Reader must not be used concurrently.
type Reader struct {
	s    stream
	rec  recorder
	left []byte // decoded and not delivered yet
}

// NewReader returns a Reader of the gzip stream r. It does not read from r yet.
// It fails when the spacing is negative.
func NewReader(r io.Reader, cfg Config) (*Reader, error) {
	if cfg.Spacing < 0 {
		return nil, fmt.Errorf("spacing of checkpoints is negative: %d", cfg.Spacing)
	}
	if cfg.Spacing == 0 {
		cfg.Spacing = DefaultSpacing
	}
	z := &Reader{rec: recorder{spacing: max(cfg.Spacing, MinSpacing)}}
	z.s.reset(r, 0, 0)
	z.s.rec = &z.rec
	z.s.counts = true
	return z, nil
}

// Next returns the next bytes of output, which are valid until the next call of
// any method that reads. It saves a copy over [Reader.Read]. At the end of the
// stream it returns [io.EOF]; everything else that ends the stream is a
// [*StreamError]. An error comes without bytes and stays.
func (z *Reader) Next() ([]byte, error) {
	if len(z.left) > 0 {
		b := z.left
		z.left = nil
		return b, nil
	}
	return z.s.next()
}

// Read implements [io.Reader]. Errors are those of [Reader.Next].
func (z *Reader) Read(p []byte) (int, error) { return readFrom(&z.s, &z.left, p) }

// WriteTo implements [io.WriterTo].
func (z *Reader) WriteTo(w io.Writer) (int64, error) { return writeAll(z.Next, w) }

// Checkpoints returns the checkpoints of what has been read, in ascending order:
// the first is the start of the stream. The last one may be missing until
// [io.EOF] was returned. The caller must not modify them.
func (z *Reader) Checkpoints() []Checkpoint { return z.rec.points }

// InputSize is the length in bytes of the gzip stream up to the end of the last
// member that was read completely.
func (z *Reader) InputSize() int64 { return z.s.inEnd }

// TrailingBytes is how many bytes follow the last member, known when [io.EOF] was
// returned. They are not part of the stream and were ignored.
func (z *Reader) TrailingBytes() int64 { return z.s.trailing }

// readFrom serves a Read from a stream, by way of what was left the last time.
func readFrom(s *stream, left *[]byte, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(*left) == 0 {
		b, err := s.next()
		if err != nil {
			return 0, err
		}
		*left = b
	}
	n := copy(p, *left)
	*left = (*left)[n:]
	return n, nil
}

// writeAll writes all that next returns to w.
func writeAll(next func() ([]byte, error), w io.Writer) (int64, error) {
	var total int64
	for {
		b, err := next()
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := w.Write(b)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}
