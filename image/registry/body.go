package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// minSegment is how many bytes an answer has to bring at least, of those that were asked
// for, to be worth asking for the rest: with less, reading by ranges is slower than reading
// the whole blob.
const minSegment = 64 << 10

// exactBody is a body that ends after exactly the bytes asked for. Registries that cap
// ranges, or break connections, are asked for the rest.
type exactBody struct {
	session *session
	digest  block.Digest
	want    span
	outer   context.Context //nolint:containedctx // of who reads, for the requests that follow
	doing   string

	body     io.ReadCloser   // of the answer that is being read
	ctx      context.Context //nolint:containedctx // the context of its request, to tell why it ended
	segment  int64           // bytes that this answer still has
	progress int64           // bytes that it has brought
	left     int64
	err      error // the first error of body
	from     *Endpoint
	counter  func(int) // told of the bytes read, may be nil
}

// getBlob returns the body of a range of a blob.
func (s *session) getBlob(ctx context.Context, digest block.Digest, want span, patience time.Duration) (*exactBody, error) {
	b := &exactBody{
		session: s, digest: digest, want: want, outer: ctx, left: want.n, from: s.via,
		doing: fmt.Sprintf("reading blob %s from %s", digest.Short(), s.repo),
	}
	if err := b.open(patience); err != nil {
		return nil, err
	}
	return b, nil
}

// open asks for what is left, with a patience for the beginning of the answer that may be
// zero for the usual one.
func (b *exactBody) open(patience time.Duration) error {
	stall := b.session.client.cfg.StallTimeout
	if patience > 0 {
		patience = min(patience, stall)
	} else {
		patience = stall
	}
	rest := b.want
	rest.off, rest.n = b.want.off+b.want.n-b.left, b.left
	ctx, w := watch(b.outer, patience)
	resp, err := b.session.askBlob(ctx, b.digest, rest)
	if err != nil {
		err = networkError(ctx, b.doing, err)
		w.end()
		return err
	}
	w.resting()
	w.timeout = stall
	body := &watchedBody{ReadCloser: resp.Body, watch: w}
	content, n, err := contentOf(resp, body, rest)
	if err != nil {
		err = networkError(ctx, b.doing, err)
		return errors.Join(err, body.Close())
	}
	b.body, b.ctx, b.segment, b.progress = content, ctx, n, 0
	return nil
}

// Read implements io.Reader.
func (b *exactBody) Read(p []byte) (n int, err error) {
	if b.err != nil {
		return 0, b.err
	}
	if b.left == 0 {
		return 0, io.EOF
	}
	if b.segment == 0 {
		if err := b.follow(nil); err != nil {
			return 0, err
		}
	}
	n, err = b.body.Read(p[:min(int64(len(p)), b.segment)])
	b.left -= int64(n)
	b.segment -= int64(n)
	b.progress += int64(n)
	if b.counter != nil {
		b.counter(n)
	}
	switch {
	case err == nil, b.segment == 0:
		return n, nil
	case errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return n, b.follow(err)
}

// follow goes on with the next answer, after one that has brought what it announced or that
// broke off with an error.
func (b *exactBody) follow(broken error) error {
	if broken != nil {
		broken = networkError(b.ctx, b.doing, fmt.Errorf("%d bytes missing: %w", b.left, broken))
		// Who reads whole blobs has its own way to go on. What has stalled once will again.
		if b.want.whole() || b.progress < minSegment || context.Cause(b.ctx) != nil {
			return b.fail(broken)
		}
	}
	// It has brought what it can: how its connection ends does not matter.
	if err := b.close(); err != nil {
		b.session.client.log.DebugContext(b.outer, "closing a blob", "error", err)
	}
	b.body = nil
	if err := b.open(0); err != nil {
		return b.fail(errors.Join(broken, err))
	}
	return nil
}

// fail ends the body.
func (b *exactBody) fail(err error) error {
	b.err = err
	if errors.Is(err, block.ErrUnavailable) {
		b.from.avoid()
	}
	return err
}

// close ends the answer that is being read. One that was read to its end, or nearly so,
// leaves its connection for the next request.
func (b *exactBody) close() error {
	switch {
	case b.body == nil:
		return nil
	case b.segment <= maxDrain && b.err == nil:
		return discard(b.body)
	default:
		return b.body.Close()
	}
}

// Close implements io.Closer.
func (b *exactBody) Close() error { return b.close() }
