package cache_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/cache"
)

// TestPinOutlivesItsFile holds that a layer stays whole as long as anything has its file
// open, whoever has forgotten about the pin.
func TestPinOutlivesItsFile(t *testing.T) {
	fx := long(2)
	l := fx.Largest()
	dir := t.TempDir()
	mark := filepath.Join(dir, "layers", l.ID.Hex(), "pinned")
	pinned := func() bool {
		_, err := os.Stat(mark)
		return err == nil
	}
	d, err := cache.OpenDisk(cache.DiskConfig{Dir: dir, Layout: fx})
	if err != nil {
		t.Fatal(err)
	}
	fill(t, d, fx)
	path, release, err := d.Pin(l.ID)
	if err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(path) // as a mount does
	if err != nil {
		t.Fatal(err)
	}
	release()
	d.DropStalePins()
	if !pinned() {
		t.Error("the pin is gone while the file is open")
	}
	if err := d.Remove(l.ID); err == nil {
		t.Error("the layer is removed while its file is open")
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	// The next process, once without taking the pin back and once with it.
	d = openDisk(t, cache.DiskConfig{Dir: dir, Layout: fx})
	d.DropStalePins()
	if !pinned() {
		t.Error("the pin is gone after a restart while the file is open")
	}
	release, err = d.Repin(l.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	d.DropStalePins()
	if !pinned() {
		t.Error("the pin that was taken back is gone")
	}
	release()
	release()
	if pinned() {
		t.Error("the pin stays although nobody has it")
	}
	if err := d.Remove(l.ID); err != nil {
		t.Error(err)
	}
	if _, err := d.Repin(l.ID); !errors.Is(err, block.ErrNotFound) {
		t.Errorf("pinning a layer that is not there: %v", err)
	}
}
