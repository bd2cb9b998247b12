package registry

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/internal/block"
)

// uploadChunk is how many bytes of a blob are sent at a time: more than the 5 MiB that object
// stores ask for, little enough to keep two of them in memory.
const uploadChunk = 8 << 20

var errUploadEnded = errors.New("the upload has ended")

// Upload is a blob on its way to a registry, whose length and digest are not known yet. It is
// for one goroutine, and has to be ended with Commit or Abort. No other copy of it exists, unless the registry takes
// no chunks: then what has been written is in a file without a name.
type Upload struct {
	ctx    context.Context //nolint:containedctx // of all requests of the upload
	cancel context.CancelFunc
	doing  string
	sink   chan []byte   // chunks to send
	free   chan []byte   // buffers to fill
	done   chan struct{} // closed when the sender has ended
	err    error         // of the sender, once done is closed
	sender sender

	chunk []byte // which is being filled
	ended bool
}

// NewUpload begins to store a blob in a repository. Blobs of less than 8 MiB are sent with one
// request, longer ones while they are written. Where a registry does not take a blob in parts, it is kept
// in a file in the directory scratch, "" for that of the system, until its end.
//
// Errors of the upload wrap [block.ErrUnavailable], [ErrDenied], [ErrInvalid] or the cause of ctx.
func (c *Client) NewUpload(ctx context.Context, repo name.Repository, scratch string) *Upload {
	return c.newUpload(ctx, c.session(repo, true), scratch)
}

func (c *Client) newUpload(ctx context.Context, s *session, scratch string) *Upload {
	doing := "pushing a blob to " + s.repo.String()
	ctx, cancel := context.WithCancel(ctx)
	u := &Upload{
		ctx: ctx, cancel: cancel, doing: doing,
		sink: make(chan []byte), free: make(chan []byte, 2), done: make(chan struct{}),
		sender: sender{session: s, timeout: c.cfg.StallTimeout, scratch: scratch, delay: resumeDelay},
	}
	u.free <- nil
	u.free <- nil
	go func() {
		defer close(u.done)
		u.err = u.sender.run(ctx, u.sink, u.free)
	}()
	return u
}

// Write implements [io.Writer].
func (u *Upload) Write(p []byte) (int, error) {
	if u.ended {
		return 0, fmt.Errorf("%s: %w", u.doing, errUploadEnded)
	}
	written := 0
	for len(p) > 0 {
		if len(u.chunk) == cap(u.chunk) {
			if err := u.next(); err != nil {
				return written, err
			}
		}
		n := min(len(p), cap(u.chunk)-len(u.chunk))
		u.chunk = append(u.chunk, p[:n]...)
		p, written = p[n:], written+n
	}
	return written, nil
}

// next hands the current chunk over, and takes an empty one.
func (u *Upload) next() error {
	if len(u.chunk) > 0 {
		select {
		case u.sink <- u.chunk:
			u.chunk = nil
		case <-u.done:
			return u.failure()
		}
	}
	select {
	case buf := <-u.free:
		if buf == nil {
			buf = make([]byte, 0, uploadChunk)
		}
		u.chunk = buf[:0]
	case <-u.done:
		return u.failure()
	}
	return nil
}

func (u *Upload) failure() error {
	if u.err == nil {
		return fmt.Errorf("%s: %w", u.doing, errUploadEnded)
	}
	return networkError(u.ctx, u.doing, u.err)
}

// Commit stores the blob, whose digest the caller knows. The registry refuses it if it has got
// other bytes.
func (u *Upload) Commit(digest block.Digest) error {
	if u.ended {
		return fmt.Errorf("%s: %w", u.doing, errUploadEnded)
	}
	u.ended = true
	defer u.cancel()
	close(u.sink)
	<-u.done
	err := u.err
	if err == nil {
		err = u.sender.commit(u.ctx, u.chunk, digest)
	}
	if err != nil {
		err = networkError(u.ctx, u.doing, err)
		u.sender.abort(u.ctx)
	}
	return errors.Join(err, u.sender.close())
}

// Abort gives up: nothing is stored. After Commit it does nothing.
func (u *Upload) Abort() error {
	if u.ended {
		return nil
	}
	u.ended = true
	u.cancel()
	close(u.sink)
	<-u.done
	u.sender.abort(u.ctx)
	return u.sender.close()
}

// abort tells the registry to forget what it has got. A registry that does not listen forgets it
// after a while.
func (s *sender) abort(ctx context.Context) {
	if s.location == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortTimeout)
	defer cancel()
	if err := s.cancel(ctx, s.location); err != nil {
		s.session.client.log.DebugContext(ctx, "cancelling an upload", "error", err)
	}
	s.location = nil
}

// abortTimeout bounds what is done for an upload that has failed.
const abortTimeout = 5 * time.Second
