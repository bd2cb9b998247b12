package source_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
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

func TestFill(t *testing.T) {
	fx := blocktest.Raw()
	r := fx.Largest().Range()

	t.Run("keeps what comes along", func(t *testing.T) {
		disk, up := newStore(), blocktest.NewSource(fx)
		up.Frame(4)
		reg := prometheus.NewRegistry()
		f := source.ReadThrough(disk, up, source.ReadThroughConfig{Name: "disk", Registerer: reg})
		mustFetch(t, fx, f, part(r, 1, 1))
		mustFetch(t, fx, f, part(r, 0, 4))
		if n := len(up.Requests()); n != 1 {
			t.Errorf("upstream was asked %d times, want once: the frame holds all four blocks", n)
		}
		mustFetch(t, fx, f, part(r, 2, 4))
		if diff := cmp.Diff([]block.Range{part(r, 1, 1), part(r, 4, 2)}, ranges(up.Requests())); diff != "" {
			t.Errorf("requests (-want +got):\n%s", diff)
		}
		if n := testutil.CollectAndCount(reg, "brisk_source_store_hits_total", "brisk_source_store_misses_total"); n != 2 {
			t.Errorf("%d metrics, want 2", n)
		}
	})

	t.Run("keeps elsewhere what the store does not take", func(t *testing.T) {
		for _, refuses := range []bool{false, true} {
			disk, memory, up := newStore(), newStore(), blocktest.NewSource(fx)
			if refuses {
				disk.refuse = errors.New("no space left on device")
			}
			f := source.ReadThrough(disk, up, source.ReadThroughConfig{Name: "disk", FallbackStore: memory})
			for i, class := range []block.Class{block.ClassFill, block.ClassTail, block.ClassRead} {
				delivered := 0
				want := part(r, uint32(i), 1)
				err := f.Fetch(t.Context(), block.Request{Range: want, Class: class}, func(block.Key, []byte) error {
					delivered++
					return nil
				})
				if err != nil || delivered == 0 {
					t.Errorf("class %d: %d blocks, %v", class, delivered, err)
				}
				if kept := memory.Has(want.Key(0)); kept != (refuses && class != block.ClassFill) {
					t.Errorf("the disk refuses %v, class %d is kept: %v", refuses, class, kept)
				}
			}
		}
	})

	t.Run("full store", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			disk, up := newStore(), blocktest.NewSource(fx)
			disk.refuse = errors.New("no space left on device")
			var log bytes.Buffer
			reg := prometheus.NewRegistry()
			f := source.ReadThrough(disk, up, source.ReadThroughConfig{
				Name: "disk", Registerer: reg, Logger: slog.New(slog.NewTextHandler(&log, nil)),
			})
			mustFetch(t, fx, f, r)
			if n := strings.Count(log.String(), "\n"); n != 1 || !strings.Contains(log.String(), "no space left") {
				t.Errorf("%d log lines for 16 blocks, want 1:\n%s", n, &log)
			}
			<-time.After(time.Minute)
			mustFetch(t, fx, f, r)
			if n := strings.Count(log.String(), "\n"); n != 2 {
				t.Errorf("%d log lines after a minute, want 2:\n%s", n, &log)
			}
		})
	})

	t.Run("broken store", func(t *testing.T) {
		up := blocktest.NewSource(fx)
		broken := struct {
			block.Source
			*refusing
		}{sourceFunc(func(context.Context, block.Request, block.Sink) error { return errors.New("i/o error") }), nil}
		mustFetch(t, fx, source.ReadThrough(broken, up, source.ReadThroughConfig{}), r)
	})

	t.Run("one part missing upstream", func(t *testing.T) {
		disk, up := newStore(), blocktest.NewSource(fx)
		if err := disk.Put(t.Context(), r.Key(5), fx.Content(r.Key(5))); err != nil {
			t.Fatal(err)
		}
		up.Drop(r.Key(0))
		got, err := blocktest.Fetch(t.Context(), t, fx, source.ReadThrough(disk, up, source.ReadThroughConfig{}), r)
		if !errors.Is(err, block.ErrNotFound) || len(got) != 15 {
			t.Errorf("%d blocks, error %v; want 15 and ErrNotFound", len(got), err)
		}
	})
}

type refusing struct{}

func (*refusing) Put(context.Context, block.Key, []byte) error { return errors.New("i/o error") }
