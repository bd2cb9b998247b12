package registry

import (
	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

// minPiece is how much of a layer stream a request is for at least, when there is
// more to fetch than one extent.
const minPiece = 1 << 20

// piece is what one request is for: consecutive frames.
type piece struct {
	first, count int
	off, end     int64 // what the frames cover of the layer stream
	blobOff      int64
	blobEnd      int64
}

func (p piece) blob(layer *index.Layer) span {
	return span{off: p.blobOff, n: p.blobEnd - p.blobOff, size: layer.BlobSize()}
}

// plan cuts the frames that cover the bytes [from, to) of a layer stream into
// pieces. Up to an extent they are one piece. What is longer is cut where extents
// begin, so that nodes which fetch neighbouring extents ask for different frames.
func plan(layer *index.Layer, from, to int64) ([]piece, error) {
	first, err := layer.FrameAt(from)
	if err != nil {
		return nil, err
	}
	last, err := layer.FrameAt(to - 1)
	if err != nil {
		return nil, err
	}
	var pieces []piece
	for i := first; i <= last; i++ {
		frame, err := layer.Frame(i)
		if err != nil {
			return nil, err
		}
		if len(pieces) == 0 || (to-from > block.ExtentSize && cut(pieces[len(pieces)-1], frame, from, to)) {
			pieces = append(pieces, piece{first: i, off: frame.StreamOffset, blobOff: frame.BlobOffset})
		}
		p := &pieces[len(pieces)-1]
		p.count++
		p.end = frame.StreamOffset + frame.StreamLength
		p.blobEnd = max(p.blobEnd, frame.BlobOffset+frame.BlobLength)
	}
	return pieces, nil
}

// cut reports whether a piece ends before a frame: an extent begins there, and
// neither side would become too small.
func cut(p piece, next index.Frame, from, to int64) bool {
	start := max(p.off, from)
	return start/block.ExtentSize != next.StreamOffset/block.ExtentSize &&
		next.StreamOffset-start >= minPiece && to-next.StreamOffset >= minPiece
}
