package index

import (
	"fmt"
	"io"

	"github.com/brisk-project/brisk/image/gzran"
)

const (
	// windowShare is the part of the stored blob, as one part in so many, that
	// windows of checkpoints may take: 1.6 %. With digests and entries an index
	// stays below 2.5 % of the blob.
	windowShare = 60
	// maxGzipFrame is the length in bytes of the stream from which on a frame is
	// closed whatever its window costs.
	maxGzipFrame = 4 << 20
)

// gzipFrames makes frames of the checkpoints of a gzip blob and concatenates
// their windows. A checkpoint is left out where its window would take the windows
// over their share of the blob, so frames become longer where data compresses well.
func gzipFrames(cps []gzran.Checkpoint, inputSize, streamSize int64) (rows []frameRow, windows []byte, err error) {
	for i, cp := range cps {
		if i+1 < len(cps) && cps[i+1].Out == cp.Out || cp.Out == streamSize {
			continue // nothing between it and the next place to start
		}
		if n := len(rows); n > 0 {
			tooDear := int64(len(windows)+len(cp.Window)) > cp.In/windowShare
			if cp.In == rows[n-1].blob || tooDear && cp.Out-rows[n-1].stream < maxGzipFrame {
				continue
			}
			rows[n-1].blobLength = cp.InEnd() - rows[n-1].blob
		}
		if len(cp.Window) > maxWindow {
			return nil, nil, fmt.Errorf("window of the checkpoint at byte %d takes %d bytes, the limit is %d", cp.In, len(cp.Window), maxWindow)
		}
		if len(rows) == MaxFrames {
			return nil, nil, fmt.Errorf("layer has more than %d frames", MaxFrames)
		}
		row := frameRow{stream: cp.Out, blob: cp.In, place: cp.Bit, windowLength: uint32(len(cp.Window))}
		if cp.Kind == gzran.KindBlock {
			row.place |= placeBlock
		}
		rows = append(rows, row)
		windows = append(windows, cp.Window...)
	}
	if n := len(rows); n > 0 {
		rows[n-1].blobLength = inputSize - rows[n-1].blob
	}
	return rows, windows, nil
}

// resumeGzip decodes from frame i on, with its window. blob stands at the start of the frame.
func (l *Layer) resumeGzip(i int, window []byte, blob io.Reader) (io.ReadCloser, error) {
	row := l.frames[i]
	cp := gzran.Checkpoint{In: row.blob, Out: row.stream, Bit: row.place & placeBit, Window: window}
	if row.place&placeBlock != 0 {
		cp.Kind = gzran.KindBlock
	}
	r, err := l.gzip.Resume(blob, cp)
	if err != nil {
		return nil, fmt.Errorf("resuming gzip at frame %d: %w", i, err)
	}
	return r, nil
}
