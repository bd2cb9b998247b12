package stream_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/internal/source"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// keeper keeps every block that its source delivers, as the cache of a node does.
type keeper struct {
	from block.Source

	mu   sync.Mutex
	held map[block.Key][]byte
}

func newKeeper(from block.Source) *keeper {
	return &keeper{from: from, held: make(map[block.Key][]byte)}
}

func (k *keeper) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	return k.from.Fetch(ctx, req, func(key block.Key, data []byte) error {
		k.mu.Lock()
		k.held[key] = bytes.Clone(data)
		k.mu.Unlock()
		return sink(key, data)
	})
}

func (k *keeper) Has(key block.Key) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.held[key] != nil
}

func (k *keeper) ReadAt(layer block.Digest, p []byte, off int64) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for n < len(p) {
		key := block.Key{Layer: layer, Index: uint32((off + int64(n)) / block.Size)}
		data := k.held[key]
		if data == nil {
			return n, block.ErrNotFound
		}
		n += copy(p[n:], data[off+int64(n)-key.Offset():])
	}
	return n, nil
}

func newReader(t *testing.T, cfg stream.Config) *stream.Reader {
	t.Helper()
	r, err := stream.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func open(r *stream.Reader, l *blocktest.Layer) *stream.Layer {
	return r.Open(l.ID, int64(len(l.Data)), nil)
}

func TestFetchAnyRange(t *testing.T) {
	t.Parallel()
	for _, fx := range []*blocktest.Fixture{blocktest.Standard(), blocktest.Raw()} {
		src := blocktest.NewSource(fx)
		src.Frame(3)
		r := newReader(t, stream.Config{Source: src, ReadAhead: -1})
		rng := rand.New(rand.NewPCG(1, 2))
		for _, fl := range fx.Layers() {
			l := open(r, fl)
			for range 20 {
				off := rng.Int64N(l.Size() + 1)
				p := make([]byte, rng.Int64N(min(l.Size()-off, 1<<20)+1))
				if err := l.Fetch(t.Context(), p, off); err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(p, fl.Data[off:off+int64(len(p))]) {
					t.Fatalf("layer %q: %d bytes at %d differ", fl.Name, len(p), off)
				}
			}
			if err := l.Fetch(t.Context(), make([]byte, 2), l.Size()-1); err == nil {
				t.Errorf("layer %q: a read past the end succeeded", fl.Name)
			}
		}
	}
}

func TestDeadlineThenRecovery(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fx := blocktest.Standard()
		src := blocktest.NewSource(fx)
		release := src.Stall()
		l := open(newReader(t, stream.Config{Source: src, Timeout: 3 * time.Second}), fx.Largest())
		start := time.Now()
		err := l.Fetch(t.Context(), make([]byte, 10), 100)
		if !errors.Is(err, stream.ErrDeadline) || !errors.Is(err, block.ErrUnavailable) {
			t.Errorf("got error %v, want the deadline", err)
		}
		if took := time.Since(start); took != 2700*time.Millisecond {
			t.Errorf("gave up after %v, want 2.7s and a tenth of 3s set aside", took)
		}
		// What the kernel repeats at once gets a small part of the deadline.
		start = time.Now()
		for range 2 {
			if err := l.Fetch(t.Context(), make([]byte, 10), 100); !errors.Is(err, stream.ErrDeadline) {
				t.Errorf("got error %v, want the deadline", err)
			}
		}
		if took := time.Since(start); took != 300*time.Millisecond {
			t.Errorf("two repetitions took %v, want 300ms", took)
		}
		<-time.After(time.Second)
		start = time.Now()
		if err := l.Fetch(t.Context(), make([]byte, 10), 100); !errors.Is(err, stream.ErrDeadline) || time.Since(start) < 2*time.Second {
			t.Errorf("got error %v after %v, want the whole deadline for a new read", err, time.Since(start))
		}
		release()
		if err := l.Fetch(t.Context(), make([]byte, 10), 100); err != nil {
			t.Errorf("read after the source came back: %v", err)
		}
	})
}

func TestErrors(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		errs   []error
		want   error
		atOnce bool
	}{
		{name: "unavailable for a while", errs: []error{block.ErrUnavailable, block.ErrUnavailable, block.ErrUnavailable}},
		{name: "corrupt once", errs: []error{block.ErrCorrupt}},
		{name: "corrupt twice", errs: []error{block.ErrCorrupt, block.ErrCorrupt}, want: block.ErrCorrupt},
		{name: "not found", errs: []error{block.ErrNotFound}, want: block.ErrNotFound, atOnce: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fx := blocktest.Standard()
				src := blocktest.NewSource(fx)
				src.Fail(tt.errs...)
				l := open(newReader(t, stream.Config{Source: src}), fx.Largest())
				start := time.Now()
				err := l.Fetch(t.Context(), make([]byte, 10), 100)
				if !errors.Is(err, tt.want) {
					t.Errorf("got error %v, want %v", err, tt.want)
				}
				if tt.atOnce && time.Since(start) != 0 {
					t.Errorf("took %v, want no retry", time.Since(start))
				}
			})
		})
	}
}

// liar delivers a block that is too short and calls it a success.
type liar struct{ n int }

func (s liar) Fetch(_ context.Context, req block.Request, sink block.Sink) error {
	return sink(req.Key(0), make([]byte, s.n))
}

func TestShortBlockIsNeverZeros(t *testing.T) {
	t.Parallel()
	for _, n := range []int{0, 1, block.Size - 1} {
		l := newReader(t, stream.Config{Source: liar{n}, Timeout: time.Millisecond}).Open(block.Digest{1}, 10*block.Size, nil)
		if err := l.Fetch(t.Context(), make([]byte, 10), 0); err == nil {
			t.Errorf("a block of %d bytes was accepted", n)
		}
	}
	l := newReader(t, stream.Config{Source: liar{block.Size}}).Open(block.Digest{1}, 10*block.Size, nil)
	if err := l.Fetch(t.Context(), make([]byte, 10), block.Size-5); err == nil {
		t.Error("one block was accepted where two were asked for")
	}
}

// readAll reads a layer as a mount does, n bytes at a time.
func readAll(t *testing.T, l *stream.Layer, want []byte, n int) {
	t.Helper()
	p := make([]byte, n)
	for off := 0; off < len(want); off += n {
		p = p[:min(n, len(want)-off)]
		if !l.ReadLocal(p, int64(off)) {
			if err := l.Fetch(t.Context(), p, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(p, want[off:off+len(p)]) {
			t.Fatalf("bytes at %d differ", off)
		}
	}
}

func TestSequentialReadsAreAskedForInLargeRequests(t *testing.T) {
	t.Parallel()
	for _, size := range []int{4 << 10, 128 << 10, 1 << 20} {
		synctest.Test(t, func(t *testing.T) {
			fx := blocktest.New(blocktest.Layer{Name: "long", Data: blocktest.Random(7, 64<<20+512)})
			src := blocktest.NewSource(fx)
			src.Delay(10 * time.Millisecond)
			kept := newKeeper(src)
			once := source.NewSingleFlight(kept, source.SingleFlightConfig{})
			r := newReader(t, stream.Config{Source: once, Local: kept})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error)
			go func() { done <- r.Run(ctx) }()
			start := time.Now()
			readAll(t, open(r, fx.Largest()), fx.Largest().Data, size)
			took := time.Since(start)
			synctest.Wait()
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			large, all := 0, 0
			for _, req := range src.Requests() {
				if all += int(req.Count); req.Count >= 2 {
					large += int(req.Count)
				}
			}
			t.Logf("reads of %d KiB: %d requests for %d blocks, %d of them in requests of 512 KiB and more, %v of waiting",
				size>>10, len(src.Requests()), all, large, took)
			if large*100 < all*95 {
				t.Error("want 95 % of the blocks in requests of at least 512 KiB")
			}
			if took > 300*time.Millisecond {
				t.Error("the reader waited for more than 30 round trips")
			}
		})
	}
}

func TestRandomReadsAskForNothingElse(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fx := blocktest.New(blocktest.Layer{Name: "long", Data: blocktest.Random(7, 64<<20)})
		src := blocktest.NewSource(fx)
		kept := newKeeper(src)
		r := newReader(t, stream.Config{Source: kept, Local: kept})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- r.Run(ctx) }()
		l := open(r, fx.Largest())
		for i := range 25 {
			off := int64((i * 37) % 256 * block.Size)
			if err := l.Fetch(t.Context(), make([]byte, 4096), off+8192); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if n := len(src.Requests()); n != 25 {
			t.Errorf("%d requests for 25 random reads", n)
		}
		for _, req := range src.Requests() {
			if req.Count != 1 || req.Class != block.ClassRead {
				t.Errorf("request %v of class %v for a read of 4 KiB", req.Range, req.Class)
			}
		}
	})
}
