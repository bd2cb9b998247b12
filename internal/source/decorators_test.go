package source_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/internal/source"
)

func mustFetch(t *testing.T, fx *blocktest.Fixture, src block.Source, r block.Range) {
	t.Helper()
	if _, err := blocktest.Fetch(t.Context(), t, fx, src, r); err != nil {
		t.Errorf("fetch of %s: %v", r, err)
	}
}

func ranges(reqs []block.Request) []block.Range {
	var out []block.Range
	for _, r := range reqs {
		out = append(out, r.Range)
	}
	return out
}

func part(r block.Range, first, count uint32) block.Range {
	return block.Range{Layer: r.Layer, First: r.First + first, Count: count}
}

func TestVerify(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	setup := func() (*blocktest.Source, block.Source, *[]block.Key, *prometheus.Registry) {
		src := blocktest.NewSource(fx)
		reg := prometheus.NewRegistry()
		var wrong []block.Key
		return src, source.Verify(src, fx, source.VerifyConfig{
			Name: "peer", Registerer: reg, OnCorrupt: func(k block.Key) { wrong = append(wrong, k) },
		}), &wrong, reg
	}

	t.Run("every block wrong in turn", func(t *testing.T) {
		for l := range slices.Values(fx.Layers()) {
			for i := range l.Range().Count {
				src, v, wrong, reg := setup()
				k := l.Range().Key(i)
				src.Flip(k)
				got, err := blocktest.Fetch(t.Context(), t, fx, v, l.Range())
				var fault *block.Error
				if !errors.Is(err, block.ErrCorrupt) || !errors.As(err, &fault) || fault.Source != "peer" {
					t.Errorf("block %s flipped: error is %v, want a *block.Error wrapping ErrCorrupt", k, err)
				}
				if got[k] {
					t.Errorf("block %s was passed on although wrong", k)
				}
				if diff := cmp.Diff([]block.Key{k}, *wrong); diff != "" {
					t.Errorf("observer was told (-want +got):\n%s", diff)
				}
				want := "# HELP brisk_source_corrupt_blocks_total Blocks dropped because their bytes did not have the right length or digest.\n" +
					"# TYPE brisk_source_corrupt_blocks_total counter\nbrisk_source_corrupt_blocks_total{source=\"peer\"} 1\n"
				if err := testutil.GatherAndCompare(reg, strings.NewReader(want)); err != nil {
					t.Error(err)
				}
			}
		}
	})

	t.Run("wrong block not asked for", func(t *testing.T) {
		src, v, wrong, _ := setup()
		src.Frame(4)
		src.Flip(r.Key(2))
		got, err := blocktest.Fetch(t.Context(), t, fx, v, part(r, 0, 1))
		if err != nil || len(got) != 3 || got[r.Key(2)] {
			t.Errorf("delivered %d blocks, error %v; want 3 of the frame of 4 and none", len(got), err)
		}
		if len(*wrong) != 1 {
			t.Errorf("observer was told of %d blocks, want 1", len(*wrong))
		}
	})

	t.Run("source that lies about everything", func(t *testing.T) {
		good := fx.Content(r.Key(0))
		liar := sourceFunc(func(_ context.Context, _ block.Request, sink block.Sink) error {
			for _, d := range []struct {
				k    block.Key
				data []byte
			}{
				{block.Key{}, good}, // unknown layer
				{r.Key(1 << 20), good},
				{r.Key(0), good},
				{r.Key(0), good}, // again
			} {
				if err := sink(d.k, d.data); err != nil {
					return err
				}
			}
			return nil // although blocks are missing
		})
		v := source.Verify(liar, fx, source.VerifyConfig{})
		got, err := blocktest.Fetch(t.Context(), t, fx, v, r)
		if !errors.Is(err, block.ErrNotFound) || len(got) != 1 {
			t.Errorf("%d blocks, error %v; want 1 and ErrNotFound", len(got), err)
		}
	})

	t.Run("source that hides the error", func(t *testing.T) {
		liar := sourceFunc(func(_ context.Context, _ block.Request, sink block.Sink) error {
			if sink(r.Key(0), []byte("wrong")) == nil {
				t.Error("sink took a wrong block")
			}
			return nil
		})
		v := source.Verify(liar, fx, source.VerifyConfig{})
		if _, err := blocktest.Fetch(t.Context(), t, fx, v, r); !errors.Is(err, block.ErrCorrupt) {
			t.Errorf("error is %v, want ErrCorrupt", err)
		}
	})
}

type sourceFunc func(ctx context.Context, req block.Request, sink block.Sink) error

func (f sourceFunc) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	return f(ctx, req, sink)
}

// busy is an error that says when to come back.
type busy time.Duration

func (b busy) Error() string             { return "busy" }
func (b busy) RetryAfter() time.Duration { return time.Duration(b) }

func TestRetry(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()
	other := errors.New("connection reset")
	for _, test := range []struct {
		name     string
		fail     []error
		timeout  time.Duration
		want     error // nil: the fetch works in the end
		attempts int
		min, max time.Duration // the time it takes
	}{
		{name: "no failure", attempts: 1},
		{name: "one failure", fail: []error{other}, attempts: 2, min: 25 * time.Millisecond, max: 50 * time.Millisecond},
		{
			name: "back-off doubles", fail: []error{other, block.ErrUnavailable, other}, attempts: 4,
			min: 175 * time.Millisecond, max: 350 * time.Millisecond,
		},
		{
			name: "gives up", fail: []error{other, other, other, block.ErrUnavailable}, want: block.ErrUnavailable, attempts: 4,
			min: 175 * time.Millisecond, max: 350 * time.Millisecond,
		},
		{name: "not found is final", fail: []error{block.ErrNotFound}, want: block.ErrNotFound, attempts: 1},
		{name: "corrupt once", fail: []error{block.ErrCorrupt}, attempts: 2, min: 1, max: 50 * time.Millisecond},
		{
			name: "corrupt twice", fail: []error{block.ErrCorrupt, block.ErrCorrupt}, want: block.ErrCorrupt, attempts: 2,
			min: 1, max: 50 * time.Millisecond,
		},
		{
			name: "waits as told", fail: []error{fmt.Errorf("registry: %w", busy(7*time.Second))}, attempts: 2,
			min: 7 * time.Second, max: 7 * time.Second,
		},
		{name: "told to wait too long", fail: []error{busy(time.Hour)}, want: busy(time.Hour), attempts: 1},
		{
			name: "no time left to wait", fail: []error{busy(7 * time.Second)}, timeout: 5 * time.Second,
			want: busy(7 * time.Second), attempts: 1,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := blocktest.NewSource(fx)
				src.Fail(test.fail...)
				ctx := t.Context()
				if test.timeout > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.timeout)
					defer cancel()
				}
				start := time.Now()
				_, err := blocktest.Fetch(ctx, t, fx, source.Retry(src, source.RetryConfig{}), r)
				if !errors.Is(err, test.want) {
					t.Errorf("error is %v, want %v", err, test.want)
				}
				if n := len(src.Requests()); n != test.attempts {
					t.Errorf("%d attempts, want %d", n, test.attempts)
				}
				if d := time.Since(start); d < test.min || d > test.max {
					t.Errorf("took %s, want %s to %s", d, test.min, test.max)
				}
			})
		})
	}
}

// TestRetryAsksForTheRest breaks fetches off in the middle.
func TestRetryAsksForTheRest(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range() // 16 blocks
	synctest.Test(t, func(t *testing.T) {
		src := blocktest.NewSource(fx)
		var asked []block.Range
		flaky := sourceFunc(func(ctx context.Context, req block.Request, sink block.Sink) error {
			asked = append(asked, req.Range)
			if len(asked) > 1 {
				return src.Fetch(ctx, req, sink)
			}
			for _, i := range []uint32{3, 4, 9} {
				if err := src.Fetch(ctx, block.Request{Range: part(r, i, 1)}, sink); err != nil {
					return err
				}
			}
			return block.ErrUnavailable
		})
		mustFetch(t, fx, source.Retry(flaky, source.RetryConfig{}), r)
		want := []block.Range{r, part(r, 0, 3), part(r, 5, 4), part(r, 10, 6)}
		if diff := cmp.Diff(want, asked); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
	})
}

func TestRetryEndsWithContext(t *testing.T) {
	fx := blocktest.Raw()
	synctest.Test(t, func(t *testing.T) {
		src := blocktest.NewSource(fx)
		src.Fail(block.ErrUnavailable)
		cause := errors.New("reader gave up")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Millisecond, func() { cancel(cause) })
		_, err := blocktest.Fetch(ctx, t, fx, source.Retry(src, source.RetryConfig{}), fx.Largest().Range())
		if !errors.Is(err, cause) || !errors.Is(err, block.ErrUnavailable) {
			t.Errorf("error is %v, want one wrapping the cause and the failure", err)
		}
	})
}

func TestChain(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()

	t.Run("asks only for the rest", func(t *testing.T) {
		disk, peer, registry := newStore(), blocktest.NewSource(fx), blocktest.NewSource(fx)
		for _, i := range []uint32{0, 1, 15} {
			if err := disk.Put(t.Context(), r.Key(i), fx.Content(r.Key(i))); err != nil {
				t.Fatal(err)
			}
		}
		peer.Drop(r.Key(7))
		peer.Flip(r.Key(9)) // ends the second run of the peer in the middle
		c := source.Chain(
			source.Tier{Name: "disk", Source: disk},
			source.Tier{Name: "peer", Source: source.Verify(peer, fx, source.VerifyConfig{})},
			source.Tier{Name: "registry", Source: registry},
		)
		mustFetch(t, fx, c, r)
		if diff := cmp.Diff([]block.Range{part(r, 2, 13)}, ranges(peer.Requests())); diff != "" {
			t.Errorf("requests to the peer (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]block.Range{part(r, 7, 1), part(r, 9, 6)}, ranges(registry.Requests())); diff != "" {
			t.Errorf("requests to the registry (-want +got):\n%s", diff)
		}
	})

	t.Run("errors", func(t *testing.T) {
		empty, down := newStore(), blocktest.NewSource(fx)
		for _, test := range []struct {
			name        string
			links       []source.Tier
			notFound    bool
			unavailable bool
			text        []string
		}{
			{name: "no source", notFound: true, text: []string{"there is no source"}},
			{
				name: "nobody holds it", links: []source.Tier{{Name: "one", Source: empty}, {Name: "two", Source: empty}},
				notFound: true, text: []string{"one: ", "; two: "},
			},
			{
				name: "may be had another time", links: []source.Tier{{Name: "one", Source: empty}, {Name: "two", Source: down}},
				unavailable: true, text: []string{"one: ", "block not found", "two: ", "source unavailable"},
			},
		} {
			down.Fail(block.ErrUnavailable)
			_, err := blocktest.Fetch(t.Context(), t, fx, source.Chain(test.links...), r)
			if errors.Is(err, block.ErrNotFound) != test.notFound || errors.Is(err, block.ErrUnavailable) != test.unavailable {
				t.Errorf("%s: not found is %t, unavailable is %t", test.name, !test.notFound, !test.unavailable)
			}
			for _, text := range test.text {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%s: error %q does not say %q", test.name, err, text)
				}
			}
		}
	})

	t.Run("timeout of a link", func(t *testing.T) {
		for class, want := range map[block.Class]time.Duration{block.ClassRead: time.Second, block.ClassFill: time.Minute} {
			synctest.Test(t, func(t *testing.T) {
				peer := blocktest.NewSource(fx)
				defer peer.Stall()()
				c := source.Chain(
					source.Tier{Name: "peer", Source: peer, ReadTimeout: time.Second, Timeout: time.Minute},
					source.Tier{Name: "registry", Source: blocktest.NewSource(fx)},
				)
				start := time.Now()
				err := c.Fetch(t.Context(), block.Request{Range: r, Class: class}, func(block.Key, []byte) error { return nil })
				if d := time.Since(start); err != nil || d != want {
					t.Errorf("class %s: took %s, error %v; want %s", class, d, err, want)
				}
				alone := source.Chain(source.Tier{Name: "peer", Source: peer, ReadTimeout: time.Second})
				if _, err := blocktest.Fetch(t.Context(), t, fx, alone, r); !errors.Is(err, block.ErrUnavailable) {
					t.Errorf("error of a peer that hangs is %v, want ErrUnavailable", err)
				}
			})
		}
	})
}
