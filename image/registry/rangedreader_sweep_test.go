package registry_test

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/test/link"
	"github.com/brisk-project/brisk/test/registrytest"
)

// BenchmarkOpenRanges reads a blob over links of several rates and delays, with several numbers
// and lengths of ranges, and with one request: how much of the link it takes, in percent of
// the rate, from the first request on; and after how many ms the first 512 KiB were there,
// with what one request took for that. Run it with -benchtime 1x.
func BenchmarkOpenRanges(b *testing.B) {
	r := registrytest.New(b, registrytest.Config{})
	for _, rate := range []int64{25e6 / 8, 100e6 / 8, 1e9 / 8} {
		// A second and a half of the link, but at least what any bundle has.
		content := blocktest.Random(byte(rate), int(max(6<<20, min(48<<20, rate*3/2))))
		client, err := registry.NewClient(registry.Config{})
		if err != nil {
			b.Fatal(err)
		}
		defer client.Close()
		if err := client.PushBlob(b.Context(), r.Ref(b, "app:v1").Context(), content, registry.BundleMediaType); err != nil {
			b.Fatal(err)
		}
		for _, delay := range []time.Duration{time.Millisecond, 10 * time.Millisecond, 40 * time.Millisecond} {
			for _, cfg := range []registry.RangesConfig{{Requests: -1}, {}, {Requests: 2, Size: 1 << 20}, {Requests: 4, Size: 1 << 20}, {Requests: 4, Size: 4 << 20}, {Requests: 8, Size: 1 << 20}} {
				name := fmt.Sprintf("%dMbit/%s/%dx%dKiB", rate*8/1e6, delay, cfg.Requests, cfg.Size>>10)
				switch {
				case cfg.Requests < 0:
					name = fmt.Sprintf("%dMbit/%s/one", rate*8/1e6, delay)
				case cfg.Requests == 0:
					name = fmt.Sprintf("%dMbit/%s/default", rate*8/1e6, delay)
				}
				b.Run(name, func(b *testing.B) {
					readRanges(b, r, content, link.Config{BytesPerSecond: float64(rate), RoundTrip: delay}, cfg)
				})
			}
		}
	}
}

func readRanges(b *testing.B, r *registrytest.Registry, content []byte, cfg link.Config, ranges registry.RangesConfig) {
	b.Helper()
	var took, first time.Duration
	for b.Loop() {
		b.StopTimer()
		l := link.New(b, r.Ref(b, "app:v1").Context().RegistryStr(), cfg)
		client, err := registry.NewClient(registry.Config{})
		if err != nil {
			b.Fatal(err)
		}
		ref, err := client.ParseReference(l.Addr + "/app:v1")
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		start := time.Now()
		var body io.ReadCloser
		if ranges.Requests < 0 {
			body, err = client.OpenBlob(b.Context(), ref.Context(), block.Sum(content), int64(len(content)))
		} else {
			body, err = client.OpenRanges(b.Context(), ref.Context(), block.Sum(content), int64(len(content)), ranges)
		}
		if err != nil {
			b.Fatal(err)
		}
		got := make([]byte, len(content))
		_, err = io.ReadFull(body, got[:512<<10])
		first += time.Since(start)
		if err == nil {
			_, err = io.ReadFull(body, got[512<<10:])
		}
		took += time.Since(start)
		if err != nil || !bytes.Equal(got, content) {
			b.Fatalf("wrong bytes: %v", err)
		}
		b.StopTimer()
		if err := body.Close(); err != nil {
			b.Error(err)
		}
		client.Close()
		b.StartTimer()
	}
	n := float64(b.N)
	b.ReportMetric(100*float64(len(content))*n/cfg.BytesPerSecond/took.Seconds(), "%link")
	b.ReportMetric(first.Seconds()*1e3/n, "ms-512KiB")
}
