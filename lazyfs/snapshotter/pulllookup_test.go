package snapshotter

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

// scripted answers look-ups as a test wants. What the answers lead to is tested with real
// registries elsewhere; here it is about when images are looked up.
type scripted struct {
	Images
	lookups atomic.Int32
	lookup  func(ctx context.Context) (Image, error)
}

func (s *scripted) Lookup(ctx context.Context, _ Pull) (Image, error) {
	s.lookups.Add(1)
	return s.lookup(ctx)
}

type scriptedImage struct {
	id    string
	fetch func(ctx context.Context) error
}

func (i scriptedImage) ID() string { return i.id }

func (i scriptedImage) ChainIDs() []string { return []string{"one", "two"} }

func (i scriptedImage) Fetch(ctx context.Context) error { return i.fetch(ctx) }

func hang(ctx context.Context) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func nothing(context.Context) error { return nil }

func newTestDecider(t *testing.T, images Images) *decider {
	t.Helper()
	d, err := newDecider(Config{
		Images: images, LookupTimeout: time.Second, FetchTimeout: 5 * time.Second, RetryAfter: 30 * time.Second,
		Logger: slog.New(slog.DiscardHandler), Root: t.TempDir(),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

var errNoIndex = &ReasonError{ReasonNoIndex, errors.New("none")}

// pass lets time pass in a bubble.
func pass(d time.Duration) { <-time.After(d) }

func TestDecideWhen(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		images := &scripted{lookup: func(context.Context) (Image, error) { return nil, errNoIndex }}
		d := newTestDecider(t, images)
		pull := Pull{Image: "app", Manifest: "m"}
		decide := func(bottom bool, wantLookups int32) *decision {
			t.Helper()
			got, err := d.decide(t.Context(), pull, bottom)
			if err != nil {
				t.Fatal(err)
			}
			if n := images.lookups.Load(); n != wantLookups {
				t.Errorf("%d look-ups, not %d", n, wantLookups)
			}
			return got
		}
		decide(true, 1)
		decide(false, 1)
		pass(29 * time.Second)
		decide(true, 1)
		pass(2 * time.Second)
		decide(false, 1) // a layer further up in the same pull
		decide(true, 2)  // another pull
		pass(11 * time.Minute)
		decide(false, 3) // the pull before cannot be the same
		images.lookup = func(context.Context) (Image, error) { return scriptedImage{"id", nothing}, nil }
		pass(time.Minute)
		if got := decide(true, 4); got.image == nil {
			t.Error("the image is not lazy")
		}
		pass(time.Minute)
		decide(true, 4)
		d.retain([]string{"id"})
		decide(true, 4)
		d.retain(nil)
		d.plain(t.Context(), decide(true, 5), ReasonMismatch, errors.New("something"))
		d.retain(nil)
		if all := d.all(); len(all) != 1 || all[0].Reason != ReasonMismatch {
			t.Errorf("status %+v", all)
		}
		decide(true, 6)
	})
}

func TestDecideReasons(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lookup func(ctx context.Context) (Image, error)
		took   time.Duration
		want   Reason
	}{
		"lazy":     {func(context.Context) (Image, error) { return scriptedImage{"id", nothing}, nil }, 0, ""},
		"no index": {func(context.Context) (Image, error) { return nil, errNoIndex }, 0, ReasonNoIndex},
		"unknown reason": {func(context.Context) (Image, error) {
			return nil, &ReasonError{"made-up", errors.New("something")}
		}, 0, ReasonInternal},
		"no reason":   {func(context.Context) (Image, error) { return nil, errors.New("something") }, 0, ReasonInternal},
		"no ID":       {func(context.Context) (Image, error) { return scriptedImage{"", nothing}, nil }, 0, ReasonInternal},
		"slow lookup": {func(ctx context.Context) (Image, error) { return nil, hang(ctx) }, time.Second, ReasonSlow},
		"slow and confused": {func(ctx context.Context) (Image, error) {
			return nil, &ReasonError{ReasonUnreachable, hang(ctx)}
		}, time.Second, ReasonSlow},
		"slow fetch": {func(context.Context) (Image, error) { return scriptedImage{"id", hang}, nil }, 5 * time.Second, ReasonSlow},
		"bad index": {func(context.Context) (Image, error) {
			return scriptedImage{"id", func(context.Context) error { return &ReasonError{ReasonInvalid, errors.New("x")} }}, nil
		}, 0, ReasonInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d := newTestDecider(t, &scripted{lookup: c.lookup})
				start := time.Now()
				got, err := d.decide(t.Context(), Pull{Image: "app", Manifest: "m"}, true)
				if err != nil || (got.image != nil) != (c.want == "") || time.Since(start) != c.took {
					t.Errorf("image %v, %v after %s", got.image, err, time.Since(start))
				}
				if all := d.all(); len(all) != 1 || all[0].Reason != c.want || all[0].Lazy != (c.want == "") {
					t.Errorf("status %+v", all)
				}
			})
		})
	}
}

func TestDecideTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		images := &scripted{lookup: func(context.Context) (Image, error) {
			<-release
			return scriptedImage{"id", nothing}, nil
		}}
		d := newTestDecider(t, images)
		first, leave := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		decide := func(ctx context.Context) {
			if got, err := d.decide(ctx, Pull{Image: "app", Manifest: "m"}, true); err != nil || got.image == nil {
				t.Errorf("%v", err)
			}
		}
		// The first one to ask does not wait for the answer, the others do.
		waiting.Go(func() { decide(first) })
		synctest.Wait()
		for range 10 {
			waiting.Go(func() { decide(t.Context()) })
		}
		leave()
		synctest.Wait()
		close(release)
		waiting.Wait()
		if n := images.lookups.Load(); n != 1 {
			t.Errorf("%d look-ups", n)
		}
	})
}

func TestDecideStop(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := newTestDecider(t, &scripted{lookup: func(ctx context.Context) (Image, error) { return nil, hang(ctx) }})
		var waiting sync.WaitGroup
		decide := func() {
			if _, err := d.decide(t.Context(), Pull{Image: "app", Manifest: "m"}, true); !errdefs.IsUnavailable(err) {
				t.Errorf("%v", err)
			}
		}
		start := time.Now()
		waiting.Go(decide)
		synctest.Wait()
		waiting.Go(decide)
		synctest.Wait()
		d.stop()
		waiting.Wait()
		decide()
		if time.Since(start) != 0 {
			t.Errorf("it took %s", time.Since(start))
		}
	})
}

func TestHistory(t *testing.T) {
	t.Parallel()
	images := &scripted{lookup: func(context.Context) (Image, error) { return nil, errNoIndex }}
	before := newTestDecider(t, images)
	if _, err := before.decide(t.Context(), Pull{Image: "app", Manifest: "m"}, true); err != nil {
		t.Fatal(err)
	}
	after := newTestDecider(t, images)
	after.cfg.Root = before.cfg.Root
	after.load(t.Context())
	if d := cmp.Diff(before.all(), after.all()); d != "" {
		t.Error(d)
	}
	// It is told, but decides nothing.
	if _, err := after.decide(t.Context(), Pull{Image: "app", Manifest: "m"}, false); err != nil || images.lookups.Load() != 2 {
		t.Errorf("%d look-ups, %v", images.lookups.Load(), err)
	}
	if err := os.WriteFile(filepath.Join(before.cfg.Root, "pulls.json"), []byte("[{"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := newTestDecider(t, images)
	broken.cfg.Root = before.cfg.Root
	broken.load(t.Context())
	if got := broken.all(); len(got) != 0 {
		t.Errorf("%+v", got)
	}
}

func FuzzParseHistory(f *testing.F) {
	f.Add([]byte(`[{"image":"a","manifest":"m","lazy":true,"started":"2026-01-02T03:04:05Z"}]`))
	f.Add([]byte(`[{"image":"a","reason":"slow","detail":"d"},{"reason":"other"}]`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, content []byte) {
		pulls, err := parseHistory(content)
		if err != nil {
			return
		}
		for _, p := range pulls {
			if p.Reason != "" && !p.Reason.known() {
				t.Errorf("reason %q", p.Reason)
			}
		}
	})
}
