package registry

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// follow registers a follower, unless a block of the range has gone by.
func (p *pass) follow(want block.Range) (*follower, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if want.First < p.next || p.ending {
		return nil, false
	}
	f := &follower{want: want, blocks: make(chan streamedBlock, min(behind, want.Count)), left: make(chan struct{})}
	p.followers[f] = struct{}{}
	return f, true
}

// leave takes a follower off.
func (p *pass) leave(f *follower) {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(f.left)
	delete(p.followers, f)
}

// endUnwanted ends the pass if it has no followers.
func (p *pass) endUnwanted() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.followers) == 0 {
		p.ending = true
		p.cancel(errUnwanted)
	}
}

// moves reports whether the pass has brought a block lately, and whether it has yet to
// bring its first.
func (p *pass) moves() (moves, waits bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.moved.IsZero() && time.Since(p.moved) < movedWithin, p.moved.IsZero()
}

// offer gives a block to the followers that want it, and returns how many did. It waits
// for those that are too far behind: a block that a follower missed would cost another
// pass.
func (p *pass) offer(ctx context.Context, i uint32, data []byte) (taken int, err error) {
	p.mu.Lock()
	p.next, p.moved = i+1, time.Now()
	var takers []*follower
	for f := range p.followers {
		if i >= f.want.First && i < f.want.End() {
			takers = append(takers, f)
		}
	}
	p.mu.Unlock()
	if len(takers) == 0 {
		return 0, nil
	}
	shared := slices.Clone(data)
	for _, f := range takers {
		select {
		case f.blocks <- streamedBlock{i, shared}:
			taken++
		case <-f.left:
		case <-ctx.Done():
			return taken, context.Cause(ctx)
		}
	}
	return taken, nil
}

// receive delivers what a pass brings until it has brought everything the follower wants or
// has ended.
func (p *pass) receive(ctx context.Context, f *follower, d *delivery) error {
	defer p.leave(f)
	for {
		if d.complete() {
			return nil
		}
		select {
		case b := <-f.blocks:
			if err := d.block(b.index, b.data); err != nil {
				return err
			}
		case <-p.done:
			if err := f.drain(d); err != nil || d.complete() {
				return err
			}
			if p.err == nil {
				return fmt.Errorf("%w: the layer does not hold the blocks", block.ErrCorrupt)
			}
			return p.err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
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

// awaitAny waits for one of several passes to end, of which there are no more than maxPasses.
func awaitAny(ctx context.Context, passes []*pass) error {
	select {
	case <-passes[0].done:
	case <-passes[len(passes)-1].done:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}
