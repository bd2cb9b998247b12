package cache_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/block/blocktest"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

func TestDiskOpen(t *testing.T) {
	fx := blocktest.Standard()
	l := fx.Largest()
	// written makes a cache that was cleanly left.
	written := func(t *testing.T) (cache.DiskConfig, *bytes.Buffer) {
		t.Helper()
		var log bytes.Buffer
		cfg := cache.DiskConfig{Dir: t.TempDir(), Layout: fx, Logger: slog.New(slog.NewTextHandler(&log, nil))}
		d, err := cache.OpenDisk(cfg)
		if err != nil {
			t.Fatal(err)
		}
		fill(t, d, fx)
		if err := errors.Join(d.Close(), d.Close()); err != nil {
			t.Fatal(err)
		}
		return cfg, &log
	}
	record := func(cfg cache.DiskConfig) string { return filepath.Join(cfg.Dir, "layers", l.ID.Hex(), "presence") }
	data := func(cfg cache.DiskConfig) string { return filepath.Join(cfg.Dir, "layers", l.ID.Hex(), "data") }

	t.Run("locked", func(t *testing.T) {
		cfg, _ := written(t)
		openDisk(t, cfg)
		if _, err := cache.OpenDisk(cfg); err == nil || !strings.Contains(err.Error(), "another process is using") {
			t.Errorf("second open: %v", err)
		}
	})
	t.Run("other version", func(t *testing.T) {
		cfg, _ := written(t)
		if err := os.WriteFile(filepath.Join(cfg.Dir, "version"), []byte("brisk cache 99\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := cache.OpenDisk(cfg); err == nil || !strings.Contains(err.Error(), "brisk cache 99") {
			t.Errorf("open: %v", err)
		}
	})
	t.Run("clean", func(t *testing.T) {
		cfg, log := written(t)
		d := openDisk(t, cfg)
		for _, l := range fx.Layers() {
			if !d.Complete(l.ID) {
				t.Errorf("layer %q is not complete after a clean stop", l.Name)
			}
		}
		if log.Len() > 0 {
			t.Errorf("log says: %s", log)
		}
	})
	t.Run("not clean", func(t *testing.T) {
		cfg, _ := written(t)
		d, err := cache.OpenDisk(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Abandon(); err != nil {
			t.Fatal(err)
		}
		d = openDisk(t, cfg)
		if d.Complete(l.ID) {
			t.Error("layer counts as complete before it is verified")
		}
		if err := d.Verify(l.ID); err != nil || !d.Complete(l.ID) {
			t.Errorf("verified: %v", err)
		}
	})
	for name, damage := range map[string]func(cfg cache.DiskConfig) error{
		"record torn":  func(cfg cache.DiskConfig) error { return os.Truncate(record(cfg), 60) },
		"record empty": func(cfg cache.DiskConfig) error { return os.Truncate(record(cfg), 0) },
		"record of another": func(cfg cache.DiskConfig) error {
			return os.WriteFile(record(cfg), cache.EncodeRecord(block.Digest{}, 0, nil, nil), 0o600)
		},
		"data gone":            func(cfg cache.DiskConfig) error { return os.Remove(data(cfg)) },
		"data of wrong length": func(cfg cache.DiskConfig) error { return os.Truncate(data(cfg), 1000) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg, log := written(t)
			if err := damage(cfg); err != nil {
				t.Fatal(err)
			}
			d := openDisk(t, cfg)
			if _, err := blocktest.Fetch(t.Context(), t, fx, d, l.Range()); !errors.Is(err, block.ErrNotFound) {
				t.Errorf("fetch of the damaged layer: %v", err)
			}
			if !strings.Contains(log.String(), l.ID.String()) {
				t.Errorf("log does not name the layer: %q", log)
			}
			fill(t, d, fx)
			if _, err := blocktest.Fetch(t.Context(), t, fx, d, l.Range()); err != nil {
				t.Errorf("filled again: %v", err)
			}
		})
	}
	t.Run("holes behind our back", func(t *testing.T) {
		cfg, _ := written(t)
		if err := errors.Join(os.Truncate(data(cfg), 0), os.Truncate(data(cfg), int64(len(l.Data)))); err != nil {
			t.Fatal(err)
		}
		d := openDisk(t, cfg)
		if got, err := blocktest.Fetch(t.Context(), t, fx, d, l.Range()); !errors.Is(err, block.ErrNotFound) || len(got) > 0 {
			t.Errorf("%d blocks, error %v", len(got), err)
		}
	})
}
