package adopt

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/opencontainers/go-digest"
)

// errIncomplete says that not all of a layer is here.
var errIncomplete = errors.New("not all of it is here")

// target is the directory of a snapshot that is being made.
type target struct {
	dir     string
	parents []string // the directories below, the uppermost first
	// layered says that it has what one layer changes, as overlayfs has it. Otherwise it
	// has the files of all parents, too.
	layered bool
}

// targetOf returns what is mounted for a snapshot that is prepared.
func targetOf(mounts []mount.Mount, parent string) (target, error) {
	if len(mounts) != 1 {
		return target{}, errNoDirectory
	}
	switch m := mounts[0]; m.Type {
	case "bind":
		return target{dir: m.Source, layered: parent == ""}, nil
	case "overlay":
		found := target{layered: true}
		for _, option := range m.Options {
			if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
				found.dir = upper
			} else if lowers, ok := strings.CutPrefix(option, "lowerdir="); ok {
				found.parents = strings.Split(lowers, ":")
			}
		}
		if found.dir != "" {
			return found, nil
		}
	}
	return target{}, errNoDirectory
}

// unpack unpacks the layer that the names of a snapshot and its parent call for. The file
// may hold anything: what is unpacked is that layer, or there is an error.
func (t target) unpack(ctx context.Context, path string, size int64, name, parent string) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("%w: %w", errIncomplete, err)
	}
	defer file.Close() //nolint:errcheck // read only
	if info, err := file.Stat(); err != nil || info.Size() != size {
		return fmt.Errorf("%w: its stream should have %d bytes: %w", errIncomplete, size, err)
	}
	var opts []archive.ApplyOpt
	if t.layered && parent != "" {
		opts = append(opts, archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(t.parents))
	}
	hash := digest.SHA256.Digester()
	stream := io.TeeReader(file, hash.Hash())
	_, err = archive.Apply(ctx, t.dir, stream, opts...)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		err = fmt.Errorf("unpacking it: %w", err)
	}
	// What is missing reads as zeros, which are no tar: that is what the error is about then.
	if _, readErr := io.Copy(io.Discard, stream); readErr != nil {
		return fmt.Errorf("reading its stream: %w", readErr)
	}
	chain := hash.Digest()
	if parent != "" {
		chain = digest.FromString(parent + " " + chain.String())
	}
	if chain.String() != name {
		return errIncomplete
	}
	return err
}
