package registry_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
)

// TestOpenRangesFillsTheLink reads a blob of 24 MiB over links of several rates and delays, on connections
// that start slowly and on ones that do not. It checks which part of the link that takes, in percent, from
// the first request on: two round trips go by before the first byte comes. And it checks that the
// beginning does not wait long for what comes after it.
func TestOpenRangesFillsTheLink(t *testing.T) {
	content := blocktest.Random(1, 24<<20)
	for _, test := range []struct {
		mbit      float64
		roundTrip time.Duration
		least     [2]float64 // slowly, at once
		first     time.Duration
	}{
		{25, time.Millisecond, [2]float64{99, 99}, 250 * time.Millisecond},
		{25, 10 * time.Millisecond, [2]float64{99, 99}, 250 * time.Millisecond},
		{25, 40 * time.Millisecond, [2]float64{98, 98}, 300 * time.Millisecond},
		{100, time.Millisecond, [2]float64{99, 99}, 70 * time.Millisecond},
		{100, 10 * time.Millisecond, [2]float64{97, 98}, 80 * time.Millisecond},
		{100, 40 * time.Millisecond, [2]float64{90, 95}, 250 * time.Millisecond},
		{1000, time.Millisecond, [2]float64{97, 98}, 10 * time.Millisecond},
		{1000, 10 * time.Millisecond, [2]float64{75, 85}, 50 * time.Millisecond},
		{1000, 40 * time.Millisecond, [2]float64{33, 54}, 200 * time.Millisecond},
	} {
		for i, atOnce := range []bool{false, true} {
			t.Run(fmt.Sprintf("%.0f Mbit %s at once %t", test.mbit, test.roundTrip, atOnce), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					link := newLinkModel(content, test.mbit*1e6/8, test.roundTrip)
					if atOnce {
						link.first = modelReceive
					}
					first, all := readModel(t, link)
					share := 100 * float64(len(content)) / link.rate / all.Seconds()
					t.Logf("%.1f %%, first 64 KiB after %s; %d requests on %d connections", share, first, link.requests, link.opened)
					if share < test.least[i] {
						t.Errorf("%.1f %% of the link, want %.0f", share, test.least[i])
					}
					if first > test.first {
						t.Errorf("the first 64 KiB took %s, want at most %s", first, test.first)
					}
				})
			})
		}
	}
}

// readModel reads the blob of a link and returns when its first 64 KiB and when all of it were there.
func readModel(t *testing.T, link *linkModel) (first, all time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer synctest.Wait()
	defer cancel()
	go link.run(ctx)
	client, err := registry.NewClient(registry.Config{Transport: link, PlainHTTP: func(string) bool { return true }})
	if err != nil {
		t.Fatal(err)
	}
	repo, err := name.NewRepository("registry.test/app", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	body, err := client.OpenRanges(ctx, repo, block.Sum(link.content), int64(len(link.content)), registry.RangesConfig{})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(link.content))
	if _, err := io.ReadFull(body, got[:64<<10]); err != nil {
		t.Fatal(err)
	}
	first = time.Since(begun)
	if _, err := io.ReadFull(body, got[64<<10:]); err != nil || !bytes.Equal(got, link.content) {
		t.Errorf("wrong bytes, or error: %v", err)
	}
	all = time.Since(begun)
	if err := body.Close(); err != nil {
		t.Error(err)
	}
	return first, all
}
