package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/internal/block"
)

const (
	// keptParts is how many parts of indexes are kept in memory, 4 MiB.
	keptParts = 64
	// partTimeout bounds the fetching of one part, repetitions included.
	partTimeout = 30 * time.Second
)

// Objects keeps small pieces of data under their digests. Get returns an error that wraps
// [block.ErrNotFound] for one that it does not have.
type Objects interface {
	Get(digest block.Digest, limit int64) ([]byte, error)
	Put(digest block.Digest, data []byte) error
}

// windows delivers windows of frames, also of layers of whose index only the head is local. It is
// safe for concurrent use.
type windows struct {
	client *Client
	store  Objects // nil for none
	recent *lru.Cache[block.Digest, []byte]
	flight singleflight.Group

	mu      sync.Mutex // guards closed, and that nothing is stored after it
	closed  bool
	storing sync.WaitGroup
}

func newWindows(client *Client, store Objects) (*windows, error) {
	recent, err := lru.New[block.Digest, []byte](keptParts)
	if err != nil {
		return nil, err
	}
	return &windows{client: client, store: store, recent: recent}, nil
}

// of returns the window of a frame.
func (w *windows) of(ctx context.Context, loc *location, frame int) ([]byte, error) {
	needed := loc.layer.WindowParts(frame)
	if len(needed) == 0 {
		return loc.layer.Window(frame)
	}
	parts := make([][]byte, len(needed))
	for i, part := range needed {
		content, err := w.part(ctx, loc, part)
		if err != nil {
			return nil, fmt.Errorf("window of frame %d: %w", frame, err)
		}
		parts[i] = content
	}
	return loc.layer.JoinWindow(frame, parts)
}

// begin gets the window of a frame beside its bytes. The returned function waits for it.
func (w *windows) begin(ctx context.Context, loc *location, frame int) func() ([]byte, error) {
	if len(loc.layer.WindowParts(frame)) == 0 {
		return func() ([]byte, error) { return loc.layer.Window(frame) }
	}
	type result struct {
		window []byte
		err    error
	}
	done := make(chan result, 1)
	go func() {
		window, err := w.of(ctx, loc, frame)
		done <- result{window, err}
	}()
	return func() ([]byte, error) {
		got := <-done
		return got.window, got.err
	}
}

// part returns a part from memory, from the store, or from the registry; that one is asked once for
// all who wait.
func (w *windows) part(ctx context.Context, loc *location, part index.Part) ([]byte, error) {
	if content, ok := w.recent.Get(part.Digest); ok {
		return content, nil
	}
	// What is read for one is there for all, whoever asked first.
	flight := w.flight.DoChan(part.Digest.Hex()+" "+loc.repo.String(), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), partTimeout)
		defer cancel()
		return w.load(ctx, loc, part)
	})
	select {
	case got := <-flight:
		content, _ := got.Val.([]byte) //nolint:errcheck // nil with an error
		return content, got.Err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (w *windows) load(ctx context.Context, loc *location, part index.Part) ([]byte, error) {
	if w.store != nil {
		content, err := w.store.Get(part.Digest, part.Length)
		if err == nil {
			w.recent.Add(part.Digest, content)
			return content, nil
		}
		if !errors.Is(err, block.ErrNotFound) {
			w.client.log.DebugContext(ctx, "reading a part of an index", "index", part.Index.String(), "error", err)
		}
	}
	content, err := w.client.ReadIndexPart(ctx, loc.repo, part)
	if err != nil {
		return nil, err
	}
	w.recent.Add(part.Digest, content)
	w.keep(ctx, part, content)
	return content, nil
}

// keep stores a part. Nobody waits for it: a read does not wait for a disk to have what it needs.
func (w *windows) keep(ctx context.Context, part index.Part, content []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.store == nil || w.closed {
		return
	}
	w.storing.Go(func() {
		if err := w.store.Put(part.Digest, content); err != nil {
			w.client.log.DebugContext(ctx, "keeping a part of an index", "index", part.Index.String(), "error", err)
		}
	})
}

// close returns when everything is stored that was fetched before.
func (w *windows) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.storing.Wait()
}
