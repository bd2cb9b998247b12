package convert

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
)

// errOther ends one side of a recompression because the other one has failed.
var errOther = errors.New("the other side has failed")

// recompress makes the blob of a layer in full mode and pushes it while it is made. What is pushed is decoded again at the same
// time, for the index: so the blob is known to hold the stream of the diffID before its upload ends, which stores it.
func (c *conversion) recompress(ctx context.Context, w *work) (built *index.Result, err error) {
	upload := c.client.NewUpload(ctx, c.ref.Context(), c.cfg.TempDir)
	defer func() {
		if abortErr := upload.Abort(); err != nil && abortErr != nil {
			err = errors.Join(err, abortErr)
		}
	}()
	from, to := io.Pipe()
	var running sync.WaitGroup
	var writeErr, buildErr error
	running.Go(func() {
		writeErr = c.writeFrames(ctx, w, io.MultiWriter(to, upload))
		end := io.EOF
		if writeErr != nil {
			end = errOther
		}
		writeErr = errors.Join(writeErr, to.CloseWithError(end))
	})
	built, buildErr = index.Build(ctx, from, c.cfg.Build)
	closeErr := from.CloseWithError(errOther)
	running.Wait()
	switch {
	case writeErr != nil && !errors.Is(writeErr, errOther):
		return nil, writeErr
	case buildErr != nil:
		return nil, buildErr
	case closeErr != nil:
		return nil, closeErr
	case built.DiffID != w.layer.DiffID:
		return nil, fmt.Errorf("%w: its diffID is %s, the image configuration says %s", ErrMismatch, built.DiffID, w.layer.DiffID)
	}
	if err := upload.Commit(built.BlobDigest); err != nil {
		return nil, err
	}
	w.target = registry.Layer{Digest: built.BlobDigest, DiffID: built.DiffID, Size: built.BlobSize, MediaType: types.OCILayerZStd}
	return built, nil
}

// writeFrames reads a layer, checks the digest of its blob, and writes its stream as frames.
func (c *conversion) writeFrames(ctx context.Context, w *work, to io.Writer) (err error) {
	blob, err := c.client.OpenBlob(ctx, c.ref.Context(), w.layer.Digest, w.layer.Size)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := blob.Close(); err == nil && closeErr != nil {
			c.cfg.Logger.DebugContext(ctx, "closing a layer blob", "error", closeErr)
		}
	}()
	hash := sha256.New()
	hashed := io.TeeReader(&progressReader{from: blob, layer: w.layer, report: c.report}, hash)
	stream, err := index.OpenStream(hashed)
	if err != nil {
		return err
	}
	defer stream.Close()
	frames := c.compressor.NewWriter(to)
	defer frames.Abort()
	if err := copyStream(frames, stream); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, hashed); err != nil {
		return fmt.Errorf("reading the layer blob: %w", err)
	}
	if got := block.Digest(hash.Sum(nil)); got != w.layer.Digest {
		return fmt.Errorf("%w: the registry sent a blob with digest %s", ErrMismatch, got)
	}
	return frames.Close()
}

// copyStream is io.Copy, but for what it says of an error of the stream.
func copyStream(to io.Writer, stream io.Reader) error {
	buf := make([]byte, block.Size)
	for {
		n, err := stream.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("decompressing the layer blob: %w", err)
		}
	}
}
