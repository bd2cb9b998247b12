package gzran

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/flate"
)

// A window is packed as a raw deflate stream of
//
//	count of runs
//	for each run: bytes left out before it, bytes in it
//	the bytes of all runs
//
// with all numbers as unsigned varints. The runs lie in the 32 KiB before the
// checkpoint; the bytes left out are those that nothing refers to. On real layers
// 3 to 5 KB remain of the 32, and 2 to 2.6 KB of those when compressed.

const (
	// mergeGap is the longest gap that is stored rather than left out. Measured on
	// sources, programs and node modules: 1, 4 and 8 differ by 1 %, more is worse.
	mergeGap = 4
	// maxWindowText limits what a packed window may expand to: 32 KiB and a run
	// for every sixth byte need less.
	maxWindowText = 64 << 10
	// packLevel is the deflate level of packed windows: 9 saves 0.5 % more of them
	// for twice the time, 5 takes 4 % more.
	packLevel = 7
)

var errWindow = errors.New("packed window malformed")

// tracker records which bytes of the window before a checkpoint are referred to
// by the output that follows.
type tracker struct {
	start int // where in out the checkpoint is
	used  [windowSize]bool
}

// expired reports whether output from op on is too far away to refer to the window.
func (t *tracker) expired(op int) bool { return t != nil && op-t.start >= windowSize }

// mark records a reference to n bytes of out from position from on.
func (t *tracker) mark(from, n int) {
	if from >= t.start {
		return
	}
	first := t.start - windowSize
	used := t.used[from-first : min(from+n, t.start)-first]
	for i := range used {
		used[i] = true
	}
}

// packer packs windows. Its buffers are reused.
type packer struct {
	w      *flate.Writer
	head   []byte
	runs   []byte
	data   []byte
	packed bytes.Buffer
}

// pack returns the packed form of the used bytes of window, nil if there are none.
func (p *packer) pack(window *[windowSize]byte, used *[windowSize]bool) ([]byte, error) {
	count, before := 0, 0
	p.runs, p.data = p.runs[:0], p.data[:0]
	for first := nextUsed(used, 0); first < windowSize; count++ {
		end := first + 1
		next := nextUsed(used, end)
		for next < windowSize && next-end <= mergeGap {
			end = next + 1
			next = nextUsed(used, end)
		}
		p.runs = binary.AppendUvarint(p.runs, uint64(first-before))
		p.runs = binary.AppendUvarint(p.runs, uint64(end-first))
		p.data = append(p.data, window[first:end]...)
		before, first = end, next
	}
	if count == 0 {
		return nil, nil
	}
	p.head = binary.AppendUvarint(p.head[:0], uint64(count))
	return p.deflate(p.head, p.runs, p.data)
}

func (p *packer) deflate(parts ...[]byte) ([]byte, error) {
	p.packed.Reset()
	if p.w == nil {
		w, err := flate.NewWriter(nil, packLevel)
		if err != nil {
			return nil, fmt.Errorf("packing a window: %w", err)
		}
		p.w = w
	}
	p.w.Reset(&p.packed)
	for _, part := range parts {
		if _, err := p.w.Write(part); err != nil {
			return nil, fmt.Errorf("packing a window: %w", err)
		}
	}
	if err := p.w.Close(); err != nil {
		return nil, fmt.Errorf("packing a window: %w", err)
	}
	return bytes.Clone(p.packed.Bytes()), nil
}

func nextUsed(used *[windowSize]bool, i int) int {
	for i < windowSize && !used[i] {
		i++
	}
	return i
}

// unpackWindow unpacks a window into the front of out, so that output goes on at
// windowSize. It uses the decoder itself for it, which must be started on the
// stream afterwards.
func (f *inflater) unpackWindow(packed []byte) error {
	f.op, f.floor = windowSize, windowSize
	if len(packed) == 0 {
		return nil
	}
	f.start(bytes.NewReader(packed), 0)
	text, err := f.inflateWindow()
	if err != nil {
		return fmt.Errorf("%w: %w", errWindow, err)
	}
	// The text lies behind the window, so both fit into out at once.
	clear(f.out[:windowSize])
	floor, err := placeRuns(f.out[:windowSize], text)
	if err != nil {
		return err
	}
	f.op, f.floor = windowSize, floor
	return nil
}

// inflateWindow decodes the deflate stream of a packed window.
func (f *inflater) inflateWindow() ([]byte, error) {
	f.final = false
	for !f.final {
		if err := f.beginBlock(); err != nil {
			return nil, err
		}
		for f.stored > 0 || f.huffman {
			if f.op >= windowSize+maxWindowText {
				return nil, f.corrupt("window too large")
			}
			if err := f.runBlock(); err != nil {
				return nil, err
			}
		}
	}
	f.align()
	if len(f.more(1)) != 0 {
		return nil, f.corrupt("bytes after the window")
	}
	return f.out[windowSize:f.op], nil
}

// placeRuns puts the runs of an inflated window where they belong and returns the
// position of the first.
func placeRuns(window, text []byte) (int, error) {
	count, text := runLength(text)
	if count < 1 {
		return 0, fmt.Errorf("%w: no runs", errWindow)
	}
	data := text
	for range 2 * count {
		var n int
		if n, data = runLength(data); n < 0 {
			return 0, fmt.Errorf("%w: runs end early", errWindow)
		}
	}
	floor, at := -1, 0
	for range count {
		var gap, n int
		gap, text = runLength(text)
		n, text = runLength(text)
		if n < 1 || n > len(data) || at+gap+n > len(window) {
			return 0, fmt.Errorf("%w: run of %d bytes out of place", errWindow, n)
		}
		at += gap
		if floor < 0 {
			floor = at
		}
		at += copy(window[at:], data[:n])
		data = data[n:]
	}
	if len(data) != 0 {
		return 0, fmt.Errorf("%w: %d bytes in no run", errWindow, len(data))
	}
	return floor, nil
}

// runLength reads one number of a packed window from the front of b. It is -1 if
// there is none, or one that no window has.
func runLength(b []byte) (int, []byte) {
	v, n := binary.Uvarint(b)
	if n <= 0 || v > windowSize {
		return -1, nil
	}
	return int(v), b[n:]
}
