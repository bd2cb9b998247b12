package pages

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

// rejectedSuffix ends the names of files that say that a set is not to be used.
const rejectedSuffix = ".rejected"

// ErrRejected says that a set has had other bytes than the layers of its image.
var ErrRejected = errors.New("its pages are not those of the image")

// Differing returns the sets whose pages are not those of a block that was verified.
func (s *Store) Differing(k block.Key, data []byte) (ids []block.Digest) {
	for _, set := range s.opened() {
		if set.differs(k, data) {
			ids = append(ids, set.id)
		}
	}
	return ids
}

// opened returns the sets that are open.
func (s *Store) opened() []*Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	var sets []*Set
	for _, e := range s.entries {
		if e.set != nil {
			sets = append(sets, e.set)
		}
	}
	return sets
}

func (s *Set) differs(k block.Key, data []byte) bool {
	if len(s.table.runs[k.Layer]) == 0 {
		return false
	}
	for off, end := k.Offset(), k.Offset()+int64(len(data)); off < end; {
		n, state := s.Locate(k.Layer, off, end-off)
		if state == stream.PagesPresent {
			got := make([]byte, n)
			if err := s.read(k.Layer, got, off); err == nil && !bytes.Equal(got, data[off-k.Offset():off-k.Offset()+n]) {
				return true
			}
		}
		off += n
	}
	return false
}

// Covers reports whether the set has pages of a block, and all that it is to have of it are there.
// It reads nothing: those of a process before this one count as there.
func (s *Set) Covers(k block.Key) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.file == nil {
		return false
	}
	some := false
	for off, end := k.Offset(), k.Offset()+block.Size; off < end; {
		position, n := s.table.find(k.Layer, off, end-off)
		if position >= 0 {
			i := position / s.layout.FrameSize
			if s.state[i] == absent {
				return false
			}
			some, n = true, min(n, (i+1)*s.layout.FrameSize-position)
		}
		off += n
	}
	return some
}

// Overlaps reports whether the set is made to hold any of n bytes of a layer from off on.
func (s *Set) Overlaps(layer block.Digest, off, n int64) bool {
	position, length := s.table.find(layer, off, n)
	return position >= 0 || length < n
}

// Layers returns the layer streams of which the set is made to hold a part.
func (s *Set) Layers() []block.Digest {
	layers := make([]block.Digest, 0, len(s.table.runs))
	for layer := range s.table.runs {
		layers = append(layers, layer)
	}
	return layers
}

// Held returns how many bytes of the content are there. Those of a process before this one count.
func (s *Set) Held() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.file == nil {
		return 0
	}
	held := int64(0)
	for i, state := range s.state {
		if state != absent {
			held += s.frameLength(i)
		}
	}
	return held
}

func (s *Set) frameLength(i int) int64 {
	return min(s.layout.FrameSize, s.table.bytes-int64(i)*s.layout.FrameSize)
}

// Reject removes a set and does not open it again, also in later processes, until it is not
// retained. It returns the set, whose file is closed; nil if there is none or it was rejected before.
func (s *Store) Reject(id block.Digest) (*Set, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[id]
	if e == nil || s.rejected[id] {
		return nil, nil
	}
	s.rejected[id] = true
	err := os.WriteFile(s.path(id)+rejectedSuffix, nil, 0o600)
	if err != nil {
		err = fmt.Errorf("rejecting pages %s: %w", id.Short(), err)
	}
	return e.set, errors.Join(err, s.removeLocked(id))
}

// Rejected reports whether a set was rejected.
func (s *Store) Rejected(id block.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rejected[id]
}

// addRejected notes what a process before this one has rejected, if that is what a file says.
func (s *Store) addRejected(name string) bool {
	hex, ok := strings.CutSuffix(name, rejectedSuffix)
	if !ok {
		return false
	}
	id, err := block.ParseDigest("sha256:" + hex)
	if err == nil {
		s.rejected[id] = true
	}
	return err == nil
}

// forgetRejectedLocked forgets the rejected sets that keep does not want.
func (s *Store) forgetRejectedLocked(keep func(id block.Digest) bool) error {
	var errs []error
	for id := range s.rejected {
		if keep(id) {
			continue
		}
		delete(s.rejected, id)
		if err := os.Remove(s.path(id) + rejectedSuffix); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, fmt.Errorf("forgetting rejected pages %s: %w", id.Short(), err))
		}
	}
	return errors.Join(errs...)
}
