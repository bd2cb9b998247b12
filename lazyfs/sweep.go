package lazyfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/brisk-project/brisk/internal/block"
)

// Sweep removes the metadata of images, by their IDs, that keep does not want. No
// [FS.Mount] of such an image may be running. Mounts that were made of it go on.
func (fs *FS) Sweep(keep func(image block.Digest) bool) error {
	fs.meta.Lock()
	defer fs.meta.Unlock()
	dir := filepath.Join(fs.cfg.StateDir, "rootfs")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking for rootfs metadata: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), metadataSuffix) {
			continue
		}
		// A mount may be of the metadata that an earlier release has built.
		hexID, _, _ := strings.Cut(entry.Name(), ".")
		if id, err := block.ParseDigest("sha256:" + hexID); err == nil && keep(id) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, entry.Name())); err != nil {
			errs = append(errs, fmt.Errorf("removing rootfs metadata: %w", err))
		}
	}
	return errors.Join(errs...)
}
