package stream

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/internal/block"
)

// PageState says where bytes of [Pages] are.
type PageState uint8

const (
	// PagesAbsent says that they are nowhere: only blocks have them.
	PagesAbsent PageState = iota
	// PagesPresent says that they can be read.
	PagesPresent
	// PagesDownloading says that they are on their way.
	PagesDownloading
)

// Pages holds parts of the layer streams of an image that are smaller than blocks: what its
// start reads. It never waits for another machine, except in Await.
type Pages interface {
	// Locate returns how many bytes of a layer from off on, at least one and at most n, are
	// in the same state, and that state.
	Locate(layer block.Digest, off, n int64) (length int64, state PageState)
	// ReadAt fills p with bytes that are here. They may have been removed meanwhile.
	ReadAt(layer block.Digest, p []byte, off int64) error
	// Await waits until the byte at off is here and reports that. It reports false as soon
	// as a fetch of the block would be faster; own is how long one took lately, 0 if nobody
	// knows.
	Await(ctx context.Context, layer block.Digest, off int64, own time.Duration) bool
}

// pieceFetches is how many fetches one read that pages cover in part has in flight.
const pieceFetches = 4

// readPieces fills p from the local cache and the pages, and reports whether they had all
// of it. Blocks that are cached come first: they are verified by the index.
func (l *Layer) readPieces(p []byte, off int64) bool {
	for len(p) > 0 {
		n, state := l.pages.Locate(l.id, off, int64(len(p)))
		if !l.readPiece(p[:n], off, state) {
			return false
		}
		p, off = p[n:], off+n
	}
	return true
}

func (l *Layer) readPiece(p []byte, off int64, state PageState) bool {
	return l.readLocal(p, off) || state == PagesPresent && l.pages.ReadAt(l.id, p, off) == nil
}

// piece is a part of a read that lies in one block: bytes of the layer.
type piece struct {
	from, to int64
	coming   bool
}

func (p piece) block() int64 { return p.from / block.Size }

// fetchPieces fills p like readPieces, and waits for the rest: for pages that are on their
// way as long as that is the fastest, and otherwise for the blocks that hold what is missing.
func (l *Layer) fetchPieces(ctx context.Context, p []byte, off int64) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(pieceFetches)
	fetch := func(m piece) {
		group.Go(func() error { return l.fetchUntilDone(ctx, p[m.from-off:m.to-off], m.from) })
	}
	missing, coming := l.missingPieces(p, off)
	for _, m := range missing {
		fetch(m)
	}
	for _, c := range coming {
		if !l.pages.Await(ctx, l.id, c.from, l.reader.fetchTime()) || l.pages.ReadAt(l.id, p[c.from-off:c.to-off], c.from) != nil {
			fetch(c)
		}
	}
	return group.Wait()
}

// missingPieces fills p as far as that is possible without waiting. It returns what has to
// be fetched, in ranges that are as long as possible, and what is on its way in blocks that
// need not be fetched for the sake of other bytes.
func (l *Layer) missingPieces(p []byte, off int64) (missing, coming []piece) {
	var left []piece
	wanted := make(map[int64]bool) // blocks
	for at, end := off, off+int64(len(p)); at < end; {
		n, state := l.pages.Locate(l.id, at, min(end, (at/block.Size+1)*block.Size)-at)
		if !l.readPiece(p[at-off:at-off+n], at, state) {
			next := piece{at, at + n, state == PagesDownloading}
			left = append(left, next)
			wanted[next.block()] = wanted[next.block()] || !next.coming
		}
		at += n
	}
	for _, next := range left {
		last := len(missing) - 1
		switch {
		case !wanted[next.block()]:
			coming = append(coming, next)
		case last >= 0 && (missing[last].to-1)/block.Size+1 >= next.block():
			missing[last].to = next.to
		default:
			missing = append(missing, next)
		}
	}
	return missing, coming
}

// fetchWeight is the weight of the last fetch in the mean of [Reader.fetchTime].
const fetchWeight = 0.3

// fetchTime returns how long fetches that a read waited for took lately, 0 before the first.
func (r *Reader) fetchTime() time.Duration { return time.Duration(r.fetchNanos.Load()) }

// noteFetch notes how long a fetch took.
func (r *Reader) noteFetch(took time.Duration) {
	mean := r.fetchNanos.Load()
	if mean == 0 {
		mean = int64(took)
	}
	r.fetchNanos.Store(mean + int64(fetchWeight*float64(int64(took)-mean)))
}
