package p2p

import (
	"context"
	"crypto/sha256"
	"errors"
	"math/bits"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/p2p/policy"
	"github.com/brisk-project/brisk/p2p/wire"
)

// blocks asks for blocks and passes each that comes to deliver, as
// [policy.Network].Request says.
func (l *requester) blocks(ctx context.Context, req policy.BlockRequest, deliver func(index uint32, data []byte) error) (policy.Reply, error) {
	mask := uint64(req.Mask)
	c := &call{first: req.First, left: mask, frames: make(chan frame, bits.OnesCount64(mask)+1)}
	id, err := l.begin(wire.Header{
		Type: wire.TypeWant, Class: req.Class, First: req.First, Count: uint32(bits.Len64(mask)),
		Mask: mask, Millis: wire.Millis(req.MaxWait),
	}, req.Layer, c)
	if err != nil {
		return policy.Reply{}, err
	}
	defer l.abandon(id, c)
	for {
		f, err := l.next(ctx, c)
		if err != nil {
			return policy.Reply{}, err
		}
		if f.header.Type == wire.TypeEnd {
			if f.header.Status == wire.StatusDone || f.header.Status == wire.StatusMissing {
				return policy.Reply{Missing: uint16(f.header.Mask & mask)}, nil
			}
			return policy.Reply{}, statusError(f.header)
		}
		err = deliver(f.header.First, f.payload())
		l.pool.put(f.buf)
		if err != nil {
			return policy.Reply{}, err
		}
	}
}

const (
	// MaxObject is the largest object in bytes that peers exchange. Objects are
	// held in memory; larger things are layer streams.
	MaxObject = 256 << 20
	// objectPatience is how long a peer may be silent while it sends an object.
	objectPatience = 2 * time.Second
	// objectTime is how long a peer may take for an object in all: the largest
	// one at 5 MB/s.
	objectTime = time.Minute
)

var errSilent = errors.New("peer has been silent for too long")

// object asks for an object of at most maxSize bytes and verifies it.
func (l *requester) object(ctx context.Context, digest block.Digest, maxSize int64) ([]byte, error) {
	end, data, err := l.readAll(ctx, wire.Header{Size: uint64(maxSize), Millis: wire.Millis(objectTime)}, digest)
	if err != nil {
		return nil, err
	}
	return verifyObject(end, digest, data)
}

// hint asks for a hint of at most maxSize bytes, which it cannot verify.
func (l *requester) hint(ctx context.Context, name block.Digest, maxSize int64) ([]byte, error) {
	end, data, err := l.readAll(ctx, wire.Header{
		Size: uint64(maxSize), Flags: wire.FlagHint, Millis: wire.Millis(objectPatience),
	}, name)
	if err != nil {
		return nil, err
	}
	return data, objectError(end)
}

// readAll asks for all of what digest names and returns it with its END. The memory it
// takes grows with what has come, whatever size the peer claims.
func (l *requester) readAll(ctx context.Context, h wire.Header, digest block.Digest) (wire.Header, []byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(objectPatience, func() { cancel(errSilent) })
	defer timer.Stop()
	h.Type = wire.TypeObject
	c := &call{object: true, limit: h.Size, frames: make(chan frame, block.Count(int64(h.Size))+1)}
	id, err := l.begin(h, digest, c)
	if err != nil {
		return wire.Header{}, nil, err
	}
	defer l.abandon(id, c)
	var data []byte
	for {
		f, err := l.next(ctx, c)
		if err != nil {
			return wire.Header{}, nil, err
		}
		timer.Reset(objectPatience)
		if f.header.Type == wire.TypeEnd {
			return f.header, data, nil
		}
		data = append(data, f.payload()...)
		l.pool.put(f.buf)
	}
}

// objectError is the error that the END of an OBJECT stands for.
func objectError(end wire.Header) error {
	switch end.Status {
	case wire.StatusDone:
		return nil
	case wire.StatusMissing:
		return block.ErrNotFound
	default:
		return statusError(end)
	}
}

func verifyObject(end wire.Header, digest block.Digest, data []byte) ([]byte, error) {
	if err := objectError(end); err != nil {
		return nil, err
	}
	if got := block.Digest(sha256.Sum256(data)); got != digest {
		return nil, &policy.CorruptError{Want: digest, Got: got, GotBytes: len(data)}
	}
	return data, nil
}
