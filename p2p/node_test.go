package p2p_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/p2p"
	"github.com/brisk-project/brisk/p2p/p2ptest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// pair starts a node that holds nothing and one that serves from local, and
// returns the first.
func pair(tb testing.TB, fx *blocktest.Fixture, local block.Source) *p2p.Node {
	tb.Helper()
	return p2ptest.Mesh(tb, 2, func(i int, cfg *p2p.Config) {
		cfg.Layout = fx
		if i == 1 {
			cfg.Local = local
		}
	})[0]
}

func TestConformance(t *testing.T) {
	for name, fx := range map[string]*blocktest.Fixture{"Standard": blocktest.Standard(), "Raw": blocktest.Raw()} {
		t.Run(name, func(t *testing.T) {
			blocktest.TestSource(t, fx, func(t *testing.T, fx *blocktest.Fixture) block.Source {
				t.Helper()
				return pair(t, fx, blocktest.NewSource(fx)).Source()
			})
		})
	}
}
