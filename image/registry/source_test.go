package registry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// The suite runs over every way to store a layer, and both registries.
func TestConformance(t *testing.T) {
	for _, tt := range []struct {
		name  string
		cfg   registrytest.Config
		layer registrytest.Layer
	}{
		{"gzip", registrytest.Config{}, registrytest.Layer{}},
		{"gzip from storage", registrytest.Config{Redirect: true, Auth: registrytest.AuthToken}, registrytest.Layer{}},
		{"plain", registrytest.Config{Referrers: true}, registrytest.Layer{Compression: registrytest.None}},
		{"zstd frames", registrytest.Config{}, registrytest.Layer{Compression: registrytest.Zstd, FrameSize: 300_000}},
		{"zstd small frames", registrytest.Config{Referrers: true}, registrytest.Layer{Compression: registrytest.Zstd, FrameSize: 60_000}},
		{"zstd one frame", registrytest.Config{}, registrytest.Layer{Compression: registrytest.Zstd}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := registrytest.New(t, tt.cfg)
			fx := blocktest.Standard()
			var layers []registrytest.Layer
			var indexes []*index.Layer
			for _, l := range fx.Layers() {
				layer := tt.layer
				layer.Tar = l.Data
				layer.Blob = registrytest.Compress(t, layer)
				layers = append(layers, layer)
				indexes = append(indexes, open(t, layer.Blob))
			}
			r.Push(t, "app:v1", registrytest.Image{Layers: layers})
			blocktest.TestSource(t, fx, func(t *testing.T, _ *blocktest.Fixture) block.Source {
				t.Helper()
				src := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{})
				for _, l := range indexes {
					src.Add(r.Repository(t, "app"), l)
				}
				return src
			})
		})
	}
}

// A read of one block is one request, for the bytes of the one or two frames that
// hold it and no other.
func TestReadFetchesItsFrames(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	st := store(t, r, registrytest.Layer{Tar: megabytes(t, 6)})
	frames := st.layer.FrameCount()
	if frames < 4 {
		t.Fatalf("the layer has %d frames, too few to show anything", frames)
	}
	for i := range block.Count(st.layer.StreamSize()) {
		src := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{})
		src.Add(st.repo, st.layer)
		r.ResetRequests()
		got, err := fetch(t.Context(), t, src, st, st.request(i, 1, block.ClassRead))
		if err != nil || !got[i] {
			t.Fatalf("block %d: %v", i, err)
		}
		requests := r.BlobRequests()
		if len(requests) != 1 {
			t.Fatalf("block %d: %d requests", i, len(requests))
		}
		first, last := frameRange(t, st, i)
		from, err := st.layer.Frame(first)
		if err != nil {
			t.Fatal(err)
		}
		to, err := st.layer.Frame(last)
		if err != nil {
			t.Fatal(err)
		}
		want := fmt.Sprintf("bytes=%d-%d", from.BlobOffset, to.BlobOffset+to.BlobLength-1)
		if requests[0].Range != want {
			t.Errorf("block %d: asked for %s, its frames are %s", i, requests[0].Range, want)
		}
	}
}

func frameRange(t *testing.T, st stored, i uint32) (first, last int) {
	t.Helper()
	off := int64(i) * block.Size
	first, err := st.layer.FrameAt(off)
	if err != nil {
		t.Fatal(err)
	}
	last, err = st.layer.FrameAt(off + int64(block.Length(st.layer.StreamSize(), i)) - 1)
	if err != nil {
		t.Fatal(err)
	}
	return first, last
}

// Reading a layer extent by extent, as background fill does, asks for every byte
// of the blob once, in requests of at least 512 KiB.
func TestSequentialReading(t *testing.T) {
	for _, compression := range []registrytest.Compression{registrytest.Gzip, registrytest.None} {
		r := registrytest.New(t, registrytest.Config{})
		st := store(t, r, registrytest.Layer{Tar: megabytes(t, 10), Compression: compression})
		registerer := prometheus.NewPedanticRegistry()
		src := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{Registerer: registerer})
		src.Add(st.repo, st.layer)
		have := map[uint32]bool{}
		total := block.Count(st.layer.StreamSize())
		for first := uint32(0); first < total; first += block.ExtentBlocks {
			from, to := first, min(first+block.ExtentBlocks, total)
			for from < to && have[from] {
				from++
			}
			got, err := fetch(t.Context(), t, src, st, st.request(from, to-from, block.ClassFill))
			if err != nil {
				t.Fatal(err)
			}
			for i := range got {
				have[i] = true
			}
		}
		stats := src.Stats()
		if mean := stats.Bytes / stats.Requests; mean < 512<<10 {
			t.Errorf("compression %v: %d bytes in %d requests, %d each", compression, stats.Bytes, stats.Requests, mean)
		}
		if over := float64(stats.Bytes) / float64(len(st.blob)); over > 1.01 {
			t.Errorf("compression %v: %.2f times the blob was read", compression, over)
		}
		if got := testutil.CollectAndCount(registerer, "brisk_registry_requests_total"); got != 1 {
			t.Errorf("%d request series", got)
		}
	}
}

// One fetch of everything runs several requests at a time, cut at extents.
func TestWholeLayerAtOnce(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	st := store(t, r, registrytest.Layer{Tar: megabytes(t, 10)})
	src := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{Requests: 3})
	src.Add(st.repo, st.layer)
	total := block.Count(st.layer.StreamSize())
	got, err := fetch(t.Context(), t, src, st, st.request(0, total, block.ClassFill))
	if err != nil || len(got) != int(total) {
		t.Fatalf("%d of %d blocks, %v", len(got), total, err)
	}
	if n := len(r.BlobRequests()); n != 3 {
		t.Errorf("%d requests for %d bytes", n, st.layer.StreamSize())
	}
	if over := float64(src.Stats().Bytes) / float64(len(st.blob)); over > 1.01 {
		t.Errorf("%.2f times the blob was read", over)
	}
}

// single is a layer in one zstd frame, too long to be entered.
func single(t *testing.T, r *registrytest.Registry) stored {
	t.Helper()
	st := store(t, r, registrytest.Layer{
		Tar: megabytes(t, 10), Compression: registrytest.Zstd,
	})
	if st.layer.Seekable() {
		t.Fatal("the layer can be entered")
	}
	return st
}

// A layer that cannot be entered is read once for all that ask, at whatever time: what nobody
// has asked for yet is in the cache.
func TestStreamedOnce(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{BitsPerSecond: 200_000_000})
	st := single(t, r)
	var unclaimed atomic.Int64
	cache := &kept{st: st}
	src := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{
		Cache: cache, Streamed: func(block.Key, int) { unclaimed.Add(1) },
	})
	t.Cleanup(src.Close)
	src.Add(st.repo, st.layer)
	total := block.Count(st.layer.StreamSize())
	var wg sync.WaitGroup
	for i := range uint32(8) {
		wg.Go(func() {
			first := (total - 8 + 5*i) % (total - 2)
			got, err := fetch(t.Context(), t, src, st, st.request(first, 2, block.ClassRead))
			if err != nil || len(got) != 2 {
				t.Errorf("reader %d: %v, %v", i, got, err)
			}
		})
	}
	wg.Wait()
	if !src.Streaming(st.layer.StreamID()) && cache.len() < int(total) {
		t.Error("the stream has ended early")
	}
	got, err := fetch(t.Context(), t, src, st, st.request(0, total, block.ClassFill))
	if err != nil || len(got) != int(total) {
		t.Errorf("%d of %d blocks, %v", len(got), total, err)
	}
	if n := len(r.BlobRequests()); n != 1 {
		t.Errorf("%d requests", n)
	}
	if unclaimed.Load() == 0 {
		t.Error("every block was claimed: nothing was shown")
	}
	src.Close()
	if src.Streaming(st.layer.StreamID()) {
		t.Error("streaming after the end")
	}
}

// Without a cache, a block that has gone by is read by a second pass, a third one waits for
// its turn, and passes end when nobody waits.
func TestStreamedWithoutCache(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	st := single(t, r)
	src := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{})
	src.Add(st.repo, st.layer)
	total := block.Count(st.layer.StreamSize())
	reached, proceed, led := make(chan struct{}), make(chan struct{}), make(chan error)
	hold := func(want uint32, reached chan<- struct{}) {
		led <- src.Fetch(t.Context(), st.request(want, 1, block.ClassRead), func(block.Key, []byte) error {
			reached <- struct{}{}
			<-proceed
			return nil
		})
	}
	go hold(10, reached)
	<-reached
	// The first pass goes on as long as somebody waits for it: it is at the end soon.
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("reader went away")
	cancel(cause)
	if _, err := fetch(ctx, t, src, st, st.request(total-1, 1, block.ClassRead)); !errors.Is(err, cause) {
		t.Errorf("a follower that left: %v", err)
	}
	if got, err := fetch(t.Context(), t, src, st, st.request(5, 1, block.ClassRead)); err != nil || !got[5] {
		t.Errorf("a block that has gone by: %v, %v", got, err)
	}
	close(proceed)
	if err := <-led; err != nil {
		t.Errorf("leader: %v", err)
	}
	src.Close()
	if _, err := fetch(t.Context(), t, src, st, st.request(0, 1, block.ClassRead)); !errors.Is(err, block.ErrUnavailable) {
		t.Errorf("after the end: %v", err)
	}
}

// A layer that is removed is not streamed any more.
func TestStreamedUntilRemoved(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{BitsPerSecond: 20_000_000})
	st := single(t, r)
	src := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{Cache: &kept{st: st}})
	t.Cleanup(src.Close)
	src.Add(st.repo, st.layer)
	if _, err := fetch(t.Context(), t, src, st, st.request(0, 1, block.ClassRead)); err != nil {
		t.Fatal(err)
	}
	if !src.Streaming(st.layer.StreamID()) {
		t.Fatal("the stream has ended with the read")
	}
	src.Remove(st.repo, st.layer)
	soon := withTimeout(t, 5*time.Second)
	for src.Streaming(st.layer.StreamID()) {
		select {
		case <-soon.Done():
			t.Fatal("still streaming")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// A layer that several repositories have comes from any of them.
func TestSeveralRepositories(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	st := store(t, r, registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(1, 1, 1000)...)})
	src := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{})
	src.Add(r.Repository(t, "gone"), st.layer)
	if _, err := fetch(t.Context(), t, src, st, st.request(0, 1, block.ClassRead)); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("from a repository without it: %v", err)
	}
	src.Add(st.repo, st.layer)
	src.Add(st.repo, st.layer)
	src.Remove(st.repo, st.layer)
	if _, err := fetch(t.Context(), t, src, st, st.request(0, 1, block.ClassRead)); err != nil {
		t.Errorf("from the second repository: %v", err)
	}
	src.Remove(st.repo, st.layer)
	src.Remove(r.Repository(t, "gone"), st.layer)
	if _, err := fetch(t.Context(), t, src, st, st.request(0, 1, block.ClassRead)); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("removed from all: %v", err)
	}
}

// Connections are reused: reading block after block needs one.
func TestConnectionReuse(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	st := store(t, r, registrytest.Layer{Tar: megabytes(t, 6)})
	transport, dials := countDials(t)
	src := newSource(t, newClient(t, registry.Config{Transport: transport}), registry.SourceConfig{})
	src.Add(st.repo, st.layer)
	for i := range block.Count(st.layer.StreamSize()) {
		if _, err := fetch(withTimeout(t, 10*time.Second), t, src, st, st.request(i, 1, block.ClassRead)); err != nil {
			t.Fatal(err)
		}
	}
	// One is for the attempt to speak TLS.
	if n := dials(); n > 2 {
		t.Errorf("%d connections", n)
	}
}

func TestRequestsOutOfRange(t *testing.T) {
	if _, err := registry.NewSource(newClient(t, registry.Config{}), registry.SourceConfig{Requests: -1}); err == nil {
		t.Error("-1 requests accepted")
	}
}

// The first bytes of a block, kept from one fetch, are never used for a second
// time: after wrong ones everything comes anew.
func TestWrongHeadIsForgotten(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	st := store(t, r, registrytest.Layer{
		Tar: megabytes(t, 6), Compression: registrytest.Zstd, FrameSize: 1_000_000,
	})
	src := newSource(t, newClient(t, registry.Config{}), registry.SourceConfig{})
	src.Add(st.repo, st.layer)
	// Frame 0 ends in block 3, whose head is kept, and used for the next fetch.
	if _, err := fetch(t.Context(), t, src, st, st.request(0, 3, block.ClassRead)); err != nil {
		t.Fatal(err)
	}
	var ranges []string
	for range 2 {
		r.ResetRequests()
		got := map[uint32][]byte{}
		req := block.Request{Range: block.Range{Layer: st.layer.StreamID(), First: 3, Count: 1}}
		if err := src.Fetch(t.Context(), req, func(k block.Key, data []byte) error {
			got[k.Index] = bytes.Clone(data)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[3], st.tar[3*block.Size:4*block.Size]) {
			t.Error("block 3 is wrong")
		}
		for _, request := range r.BlobRequests() {
			ranges = append(ranges, request.Range)
		}
	}
	second, err := st.layer.Frame(1)
	if err != nil {
		t.Fatal(err)
	}
	end := second.BlobOffset + second.BlobLength - 1
	want := []string{fmt.Sprintf("bytes=%d-%d", second.BlobOffset, end), fmt.Sprintf("bytes=%d-%d", 0, end)}
	if diff := cmp.Diff(want, ranges); diff != "" {
		t.Error(diff)
	}
}
