package scrub_test

import (
	"context"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/cache"
	"github.com/brisk-project/brisk/lazyfs/scrub"
)

// processTime returns the CPU time of the process.
func processTime(b *testing.B) time.Duration {
	b.Helper()
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// BenchmarkPass scrubs a cache of 128 MiB, and reports the CPU time that the whole process
// takes for a GB, and which share of a core that is for 100 GB in the default interval.
func BenchmarkPass(b *testing.B) {
	fx := blocktest.New(blocktest.Layer{Name: "layer", Data: blocktest.Random(1, 128<<20)})
	disk, err := cache.OpenDisk(cache.DiskConfig{Dir: b.TempDir(), Layout: fx})
	if err != nil {
		b.Fatal(err)
	}
	defer disk.Close() //nolint:errcheck // nothing is kept
	for k := range fx.Keys() {
		if err := disk.Put(b.Context(), k, fx.Content(k)); err != nil {
			b.Fatal(err)
		}
	}
	// What is written at leisure would count otherwise.
	unix.Sync()
	s, err := scrub.New(scrub.Config{
		Disk: disk, Source: blocktest.NewSource(fx), Path: b.TempDir() + "/scrub.json", Interval: week,
		Open: func(context.Context, block.Digest) (scrub.Layer, error) { return scrub.Layer{Release: func() {}}, nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	pass := func() {
		before := s.Status().LastPass
		if err := s.Start(); err != nil {
			b.Fatal(err)
		}
		for s.Status().LastPass.Equal(before) {
			<-time.After(20 * time.Millisecond)
		}
	}
	ctx, stop := context.WithCancel(b.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	pass() // the layer has been read back then
	began, passes := processTime(b), 0
	for b.Loop() {
		pass()
		passes++
	}
	perGB := (processTime(b) - began).Seconds() / (float64(passes*128<<20) / 1e9)
	b.ReportMetric(perGB, "cpu-s/GB")
	b.ReportMetric(100*perGB*100/week.Seconds(), "%core@100GB/week")
	stop()
	if err := <-ended; err != nil {
		b.Fatal(err)
	}
}
