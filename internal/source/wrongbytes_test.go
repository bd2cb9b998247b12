package source_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/internal/source"
)

// TestWrongBytesReachNobody flips every block at the peer, at the registry, and at
// both, and looks at the reader and at the cache.
func TestWrongBytesReachNobody(t *testing.T) {
	fx := blocktest.Standard()
	for _, test := range []struct {
		name           string
		peer, registry bool
	}{
		{"peer lies", true, false},
		{"registry lies", false, true},
		{"both lie", true, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				peer, registry, disk := blocktest.NewSource(fx), blocktest.NewSource(fx), newStore()
				if test.peer {
					peer.Frame(2)
				} else {
					for k := range fx.Keys() { // the peer holds nothing
						peer.Drop(k)
					}
				}
				registry.Frame(4)
				for k := range fx.Keys() {
					if test.peer {
						peer.Flip(k)
					}
					if test.registry {
						registry.Flip(k)
					}
				}
				verified := source.Chain(
					source.Tier{Name: "peer", Source: source.Verify(peer, fx, source.VerifyConfig{Name: "peer"})},
					source.Tier{Name: "registry", Source: source.Verify(registry, fx, source.VerifyConfig{Name: "registry"})},
				)
				filled := source.ReadThrough(disk, source.Retry(verified, source.RetryConfig{}), source.ReadThroughConfig{})
				shared := source.NewSingleFlight(filled, source.SingleFlightConfig{})
				for _, l := range fx.Layers() {
					// Fetch fails the test for any wrong byte.
					got, err := blocktest.Fetch(t.Context(), t, fx, shared, l.Range())
					switch {
					case !test.registry && err != nil:
						t.Errorf("layer %q: %v", l.Name, err)
					case test.registry && (!errors.Is(err, block.ErrCorrupt) || len(got) > 0):
						t.Errorf("layer %q: %d blocks, error %v; want none and ErrCorrupt", l.Name, len(got), err)
					}
				}
				for k, data := range disk.blocks {
					if want, _ := fx.BlockDigest(k); block.Sum(data) != want {
						t.Errorf("block %s is wrong in the cache", k)
					}
				}
				if test.registry == (len(disk.blocks) > 0) {
					t.Errorf("the cache holds %d blocks", len(disk.blocks))
				}
			})
		})
	}
}
