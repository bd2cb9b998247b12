package registry

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/brisk-project/brisk/internal/block"
)

// errEnough ends a pass that has delivered what it was made for.
var errEnough = errors.New("enough has been read")

// pass is one reading of a layer that cannot be entered in the middle. The fetch
// that started it leads it; others follow and get its blocks until they have
// theirs.
type pass struct {
	done chan struct{} // closed when it has ended

	mu        sync.Mutex
	next      uint32 // the block that comes next
	followers []*follower
}

type follower struct {
	want   block.Range
	blocks chan streamedBlock
	left   <-chan struct{} // closed when the follower waits no more
}

type streamedBlock struct {
	index uint32
	data  []byte
}

// fetchStreamed leads a pass, or follows the one under way.
func (s *Source) fetchStreamed(ctx context.Context, loc *location, class block.Class, d *delivery) error {
	for !d.complete() {
		p, leads := s.joinPass(d.want.Layer)
		if leads {
			return s.lead(ctx, loc, class, d, p)
		}
		passed, err := p.receive(ctx, d)
		if err != nil {
			return err
		}
		if passed {
			// What is wanted has gone by, into the cache of whoever leads. That it is
			// asked for all the same is rare; it gets a pass of its own.
			return s.streamAlone(ctx, loc, class, d)
		}
	}
	return nil
}

// joinPass returns the pass under way, or else a new one, to be led by the caller.
func (s *Source) joinPass(layer block.Digest) (p *pass, leads bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.passes[layer]; p != nil {
		return p, false
	}
	p = &pass{done: make(chan struct{})}
	s.passes[layer] = p
	return p, true
}

// lead reads the layer to its end, whatever was asked for: every block of it is
// delivered, so that the next one asked for is in a cache.
func (s *Source) lead(ctx context.Context, loc *location, class block.Class, d *delivery, p *pass) error {
	defer func() {
		s.mu.Lock()
		delete(s.passes, d.want.Layer)
		s.mu.Unlock()
		close(p.done)
	}()
	pieces, err := plan(loc.layer, 0, loc.layer.StreamSize())
	if err != nil {
		return err
	}
	return s.fetchPiece(ctx, loc, class, pieces[0], func(at int64, data []byte) error {
		if err := d.add(at, data); err != nil {
			return err
		}
		return p.offer(ctx, uint32(at/block.Size), data)
	})
}

// streamAlone reads the layer up to the last block that was asked for.
func (s *Source) streamAlone(ctx context.Context, loc *location, class block.Class, d *delivery) error {
	pieces, err := plan(loc.layer, 0, loc.layer.StreamSize())
	if err != nil {
		return err
	}
	err = s.fetchPiece(ctx, loc, class, pieces[0], func(at int64, data []byte) error {
		if err := d.add(at, data); err != nil {
			return err
		}
		if d.complete() {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// follow registers a follower, unless a block of the range has gone by.
func (p *pass) follow(ctx context.Context, want block.Range) (*follower, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if want.First < p.next {
		return nil, false
	}
	f := &follower{want: want, blocks: make(chan streamedBlock, 4), left: ctx.Done()}
	p.followers = append(p.followers, f)
	return f, true
}

// offer gives a block to the followers that want it, at the pace of the slowest:
// a block that a follower missed would cost another pass.
func (p *pass) offer(ctx context.Context, i uint32, data []byte) error {
	p.mu.Lock()
	p.next = i + 1
	followers := slices.Clone(p.followers)
	p.mu.Unlock()
	var shared []byte
	for _, f := range followers {
		if i < f.want.First || i >= f.want.End() {
			continue
		}
		if shared == nil {
			shared = slices.Clone(data)
		}
		select {
		case f.blocks <- streamedBlock{i, shared}:
		case <-f.left:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// receive delivers what a pass brings until it has brought everything wanted or
// has ended. That it ended early is no error: another pass follows. It reports
// whether the pass had already gone by something wanted.
func (p *pass) receive(ctx context.Context, d *delivery) (passed bool, err error) {
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	f, ok := p.follow(ctx, d.missing())
	if !ok {
		return true, nil
	}
	for !d.complete() {
		select {
		case b := <-f.blocks:
			if err := d.block(b.index, b.data); err != nil {
				return false, err
			}
		case <-p.done:
			return false, f.drain(d)
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
	return false, nil
}

// drain delivers what had been given when the pass ended.
func (f *follower) drain(d *delivery) error {
	for {
		select {
		case b := <-f.blocks:
			if err := d.block(b.index, b.data); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}
