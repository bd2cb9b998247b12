package p2p_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/p2p"
	"github.com/brisk-project/brisk/p2p/p2ptest"
)

// hints are hints in memory; a nil one takes for ever.
type hints map[block.Digest][]byte

// Hint implements [p2p.Hints].
func (h hints) Hint(ctx context.Context, name block.Digest) ([]byte, error) {
	content, ok := h[name]
	if !ok {
		return nil, block.ErrNotFound
	}
	if content == nil {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return content, nil
}

// first returns a use that accepts one content and keeps what was offered.
func first(want []byte) (use func([]byte) error, offered *[]string) {
	offered = new([]string)
	return func(got []byte) error {
		*offered = append(*offered, string(got))
		if string(got) != string(want) {
			return errors.New("of no use")
		}
		return nil
	}, offered
}

func TestHints(t *testing.T) {
	t.Parallel()
	subject := block.Sum([]byte("image"))
	name := p2p.HintName("test", subject)
	good := blocktest.Random(3, block.Size+100)
	nodes := p2ptest.Mesh(t, 4, func(i int, cfg *p2p.Config) {
		cfg.Layout = blocktest.Raw()
		switch i {
		case 1: // as a node that knows no hints: all it has are objects
			cfg.Objects = objects{subject: []byte("manifest")}
		case 2:
			cfg.Hints = hints{name: []byte("nonsense")}
		case 3:
			cfg.Hints = hints{name: good}
		}
	})
	use, offered := first(good)
	if err := nodes[0].Hint(t.Context(), name, p2p.MaxHint, use); err != nil {
		t.Errorf("%v, offered %.20q", err, *offered)
	}
	use, offered = first([]byte("nobody has this"))
	if err := nodes[0].Hint(t.Context(), name, p2p.MaxHint, use); !errors.Is(err, block.ErrNotFound) || len(*offered) != 2 {
		t.Errorf("%d hints of no use: %v, want ErrNotFound", len(*offered), err)
	}
	use, offered = first(good)
	if err := nodes[0].Hint(t.Context(), name, block.Size, use); !errors.Is(err, block.ErrNotFound) || len(*offered) != 1 {
		t.Errorf("a hint larger than accepted: %v, offered %.20q", err, *offered)
	}
	if err := nodes[0].Hint(t.Context(), p2p.HintName("other", subject), 100, use); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("a hint that nobody has: %v, want ErrNotFound", err)
	}
	if err := nodes[0].Hint(t.Context(), name, p2p.MaxHint+1, use); err == nil {
		t.Error("a limit above the maximum is accepted")
	}
	if s := nodes[0].Stats(); s.Bans != 0 || s.BackingOff != 0 || s.Connected != 3 {
		t.Errorf("%d bans, %d benched, %d connected: nobody has done wrong", s.Bans, s.BackingOff, s.Connected)
	}
}

func TestHintOfHungPeer(t *testing.T) {
	t.Parallel()
	name := p2p.HintName("test", block.Digest{1})
	nodes := p2ptest.Mesh(t, 3, func(_ int, cfg *p2p.Config) {
		cfg.Layout, cfg.Hints = blocktest.Raw(), hints{name: nil}
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	use, offered := first(nil)
	if err := nodes[0].Hint(ctx, name, 100, use); !errors.Is(err, block.ErrNotFound) || len(*offered) != 0 {
		t.Errorf("hint of peers that hang: %v, offered %q", err, *offered)
	}
	if s := nodes[0].Stats(); s.BackingOff != 0 || s.Bans != 0 {
		t.Errorf("%d benched, %d banned for a hint", s.BackingOff, s.Bans)
	}
}
