package zframes

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Numbers of the zstd seekable format: https://github.com/facebook/zstd/tree/dev/contrib/seekable_format.
const (
	seekTableMagic  = 0x184D2A5E // of the skippable frame
	seekableMagic   = 0x8F92EAB1 // the last four bytes
	skippableHeader = 8
	seekTableFooter = 9
)

// maxFrames is the most frames of a blob: those of 256 GiB in the smallest.
const maxFrames = 4 << 20

var errClosed = errors.New("zstd frames: write after the end")

// Writer compresses one stream. It is for one goroutine. Every writer has to be ended, with
// [Writer.Close] or [Writer.Abort].
type Writer struct {
	c       *Compressor
	out     io.Writer
	current *frame   // which is being filled, nil if none
	queue   []*frame // which are being compressed, the oldest first
	spare   []*frame // whose buffers can be used again
	table   []byte   // entries of the seek table
	count   int
	err     error
}

// frame is a frame on its way.
type frame struct {
	content, stored []byte
	done            chan struct{}
}

// NewWriter returns a writer that writes the blob to out. As many frames as the compressor
// compresses at a time, and two more, are kept in memory.
func (c *Compressor) NewWriter(out io.Writer) *Writer { return &Writer{c: c, out: out} }

// Write implements [io.Writer]. Errors of out stay.
func (w *Writer) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 && w.err == nil {
		f := w.fill()
		n := min(len(p), w.c.frameSize-len(f.content))
		f.content = append(f.content, p[:n]...)
		p, written = p[n:], written+n
		if len(f.content) == w.c.frameSize {
			w.err = w.compress()
		}
	}
	return written, w.err
}

// Close ends the blob. It does not close what the blob is written to.
func (w *Writer) Close() error {
	if w.err == nil && w.count+len(w.queue) == 0 {
		w.fill() // an empty stream is an empty frame: a table alone is no zstd for some readers
	}
	if w.err == nil && w.current != nil {
		w.err = w.compress()
	}
	for len(w.queue) > 0 && w.err == nil {
		w.err = w.flush()
	}
	if w.err == nil {
		w.err = w.write(w.seekTable())
	}
	err := w.err
	w.Abort()
	return err
}

// Abort gives up, and waits until no frame is compressed any more. After Close it does nothing.
func (w *Writer) Abort() {
	for _, f := range w.queue {
		<-f.done
	}
	w.queue, w.spare, w.current = nil, nil, nil
	if w.err == nil {
		w.err = errClosed
	}
}

// fill returns the frame to be filled.
func (w *Writer) fill() *frame {
	if w.current != nil {
		return w.current
	}
	if n := len(w.spare); n > 0 {
		w.current, w.spare = w.spare[n-1], w.spare[:n-1]
	} else {
		w.current = &frame{content: make([]byte, 0, w.c.frameSize)}
	}
	return w.current
}

// compress compresses the current frame, once there is room for it.
func (w *Writer) compress() error {
	for len(w.queue) > w.c.parallel {
		if err := w.flush(); err != nil {
			return err
		}
	}
	f := w.current
	f.done = make(chan struct{})
	w.queue, w.current = append(w.queue, f), nil
	go func() {
		defer close(f.done)
		f.stored = w.c.encoder.EncodeAll(f.content, f.stored[:0])
	}()
	return nil
}

// flush writes the oldest frame.
func (w *Writer) flush() error {
	f := w.queue[0]
	<-f.done
	w.queue = w.queue[1:]
	if w.count++; w.count > maxFrames {
		return fmt.Errorf("stream has more than %d zstd frames", maxFrames)
	}
	w.table = binary.LittleEndian.AppendUint32(w.table, uint32(len(f.stored)))
	w.table = binary.LittleEndian.AppendUint32(w.table, uint32(len(f.content)))
	err := w.write(f.stored)
	f.content = f.content[:0]
	w.spare = append(w.spare, f)
	return err
}

// seekTable returns the skippable frame that lists the frames.
func (w *Writer) seekTable() []byte {
	size := len(w.table) + seekTableFooter
	out := make([]byte, 0, skippableHeader+size)
	out = binary.LittleEndian.AppendUint32(out, seekTableMagic)
	out = binary.LittleEndian.AppendUint32(out, uint32(size))
	out = append(out, w.table...)
	out = binary.LittleEndian.AppendUint32(out, uint32(w.count))
	out = append(out, 0) // entries without checksums
	return binary.LittleEndian.AppendUint32(out, seekableMagic)
}

func (w *Writer) write(p []byte) error {
	if _, err := w.out.Write(p); err != nil {
		return fmt.Errorf("writing zstd frames: %w", err)
	}
	return nil
}
