package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/lazyfs"
)

// note is what is recorded with a mount: all that a process after this one needs to go on
// with it, without asking anybody. Credentials are found by the name of the image
// when a block is missing.
type note struct {
	Image   *Image       `json:"image"`
	Layers  int          `json:"layers"` // how many of the image are mounted
	Request MountRequest `json:"request"`
}

// note returns the note of a mount whose layers are open.
func (m *Mount) note() (json.RawMessage, error) {
	encoded, err := json.Marshal(note{Image: m.image, Layers: len(m.layers), Request: m.req})
	if err != nil {
		return nil, fmt.Errorf("noting down a mount: %w", err)
	}
	return encoded, nil
}

// parseNote decodes a note. Unknown fields are an error: they might matter.
func parseNote(content []byte) (note, error) {
	var n note
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&n); err != nil {
		return n, fmt.Errorf("reading the note of a mount: %w", err)
	}
	if n.Image == nil || n.Layers < 0 || n.Layers > len(n.Image.Layers) {
		return n, fmt.Errorf("reading the note of a mount: it has %d layers of no such image", n.Layers)
	}
	return n, nil
}

// reopen tells all parts of the layers of a mount that a process before this one has
// made. Everything comes from the object store; nothing is asked of anybody.
func (n *Node) reopen(_ context.Context, mount *lazyfs.Mount) (_ []*index.Layer, err error) {
	noted, err := parseNote(mount.CallerData())
	if err != nil {
		return nil, err
	}
	ref, err := n.cfg.Registry.ParseReference(noted.Image.Name)
	if err != nil {
		return nil, err
	}
	m := &Mount{node: n, image: noted.Image, repo: ref.Context(), req: noted.Request, mount: mount}
	// A mount that needs no process goes on without its layers, but must be known.
	defer func() {
		if err != nil {
			err = errors.Join(err, m.releaseLayers())
		}
		n.mu.Lock()
		n.reopened = append(n.reopened, m)
		n.mu.Unlock()
	}()
	var layers []*index.Layer
	for _, l := range noted.Image.Layers[:noted.Layers] {
		used, err := n.reopenLayer(l)
		if err != nil {
			return nil, fmt.Errorf("opening index of layer %s of %s again: %w", l.Digest.Short(), noted.Image.Name, err)
		}
		n.registry.Add(m.repo, used.Layer)
		m.layers = append(m.layers, used)
		layers = append(layers, used.Layer)
	}
	return layers, nil
}

func (n *Node) reopenLayer(layer ImageLayer) (*openLayer, error) {
	file, err := n.storedIndex(layer)
	if err != nil {
		return nil, err
	}
	return n.shareIndex(layer, file)
}

// takeOver makes the mounts of a process before this one that have been gone on with
// known, and lets go of the layers of the others. It is called once mounts can be made.
func (n *Node) takeOver() {
	there := n.fs.Mounts()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, m := range n.reopened {
		known := false
		for other := range n.mounts {
			known = known || other.mount == m.mount
		}
		if !known && slices.Contains(there, m.mount) {
			n.mounts[m] = struct{}{}
			n.proveComplete(m.streams())
			continue
		}
		n.letGo(m)
	}
	n.reopened = nil
}

// letGo releases the layers of a mount that is not this node's.
func (n *Node) letGo(m *Mount) {
	if err := m.releaseLayers(); err != nil {
		n.log.Warn("releasing the layers of a mount", "image", m.req.Image, "error", err)
	}
}

// Restored waits until Run has taken over the mounts of a process before this one, and
// returns those that go on. It is for a caller that has not mounted anything yet.
func (n *Node) Restored(ctx context.Context) ([]*Mount, error) {
	select {
	case <-n.settled:
		return n.mounted(), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for mounts to be taken over: %w", context.Cause(ctx))
	}
}

// replaceLocked lets go of what was noted of a mount by a process before this one, once
// somebody in this one has asked for the same mount. It reports whether it is such a mount.
func (n *Node) replaceLocked(m *Mount) (taken bool) {
	taken = slices.ContainsFunc(n.reopened, func(other *Mount) bool { return other.mount == m.mount })
	for other := range n.mounts {
		if other == m || other.mount != m.mount {
			continue
		}
		delete(n.mounts, other)
		n.letGo(other)
		taken = true
	}
	return taken
}

// leave ends all mounts that do not outlive this process, and lets go of the others.
func (n *Node) leave(ctx context.Context) error {
	n.takeOver()
	stay := n.fs.Mounts()
	var errs []error
	for _, m := range n.mounted() {
		n.traceRecorders.end(m, true)
		if slices.Contains(stay, m.mount) {
			errs = append(errs, m.releaseLayers())
		} else {
			errs = append(errs, m.Unmount(ctx))
		}
	}
	return errors.Join(errs...)
}
