package scrub

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/statefile"
)

const (
	stateVersion = 1
	// stateMax bounds the file: it has room for 200,000 layers.
	stateMax = 32 << 20
)

// state is what is kept from one process to the next.
type state struct {
	Version int  `json:"version"`
	Paused  bool `json:"paused,omitempty"`
	// PassStarted is when the pass began that is going on, or the last one, and LastPass
	// when the last one ended.
	PassStarted time.Time `json:"passStarted,omitzero"`
	LastPass    time.Time `json:"lastPass,omitzero"`
	// Done are the layers that the pass has been through, nil when none is going on. It is
	// at block Next of Current and has read CheckedBytes.
	Done         map[block.Digest]struct{} `json:"done"`
	Current      block.Digest              `json:"current,omitzero"`
	Next         uint32                    `json:"next,omitempty"`
	CheckedBytes int64                     `json:"checkedBytes"`
	// Bad are the wrong blocks of the last month, the oldest first. Found and Mended count
	// those of all times.
	Bad     []badBlock `json:"bad,omitempty"`
	Found   int64      `json:"found"`
	Mended  int64      `json:"mended"`
	Suspect string     `json:"suspect,omitempty"`
	Pending []pending  `json:"pending,omitempty"`
	// Stale blocks are mended, but programs may still see the wrong bytes.
	Stale []pending `json:"stale,omitempty"`
}

// badBlock is a block that was found wrong.
type badBlock struct {
	Layer  block.Digest `json:"layer"`
	Block  uint32       `json:"block"`
	Times  int          `json:"times"`
	Last   time.Time    `json:"last"`
	Mended bool         `json:"mended"`
	Images []string     `json:"images,omitempty"`
}

// pending is a block that is to be mended.
type pending struct {
	Layer  block.Digest `json:"layer"`
	Block  uint32       `json:"block"`
	Mapped bool         `json:"mapped,omitempty"`
}

func (s *state) inPass() bool { return s.Done != nil }

func (s *state) beginPass(now time.Time) {
	s.PassStarted, s.Done, s.Current, s.Next, s.CheckedBytes = now, make(map[block.Digest]struct{}), block.Digest{}, 0, 0
}

func (s *state) endPass(now time.Time) {
	s.LastPass, s.Done, s.Current, s.Next = now, nil, block.Digest{}, 0
}

// noteBad notes a wrong block. If that makes the disk suspect it returns why.
func (s *state) noteBad(k block.Key, now time.Time) (suspect string) {
	s.Found++
	s.Bad = slices.DeleteFunc(s.Bad, func(b badBlock) bool { return now.Sub(b.Last) > memoryOfBad })
	entry := badBlock{Layer: k.Layer, Block: k.Index}
	if i := s.findBad(k); i >= 0 {
		entry = s.Bad[i]
		s.Bad = slices.Delete(s.Bad, i, i+1)
	}
	entry.Times, entry.Last, entry.Mended = entry.Times+1, now, false
	s.Bad = append(s.Bad, entry)
	s.Bad = s.Bad[max(0, len(s.Bad)-maxBad):]
	switch {
	case s.Suspect != "":
		return ""
	case entry.Times > 1:
		s.Suspect = fmt.Sprintf("block %s was found corrupt %d times within 30 days", k, entry.Times)
	case len(s.Bad) >= badLimit:
		s.Suspect = fmt.Sprintf("%d blocks were found corrupt within 30 days", len(s.Bad))
	}
	return s.Suspect
}

func (s *state) noteMended(k block.Key) {
	s.Mended++
	if i := s.findBad(k); i >= 0 {
		s.Bad[i].Mended = true
	}
}

func (s *state) noteImages(k block.Key, images []string) {
	if i := s.findBad(k); i >= 0 {
		s.Bad[i].Images = images[:min(len(images), maxImages)]
	}
}

func (s *state) findBad(k block.Key) int {
	return slices.IndexFunc(s.Bad, func(b badBlock) bool { return b.Layer == k.Layer && b.Block == k.Index })
}

// SavedState is what the file of a scrubber says of a disk.
type SavedState struct {
	// Suspect says why the disk is not to be relied on, empty if nothing speaks against it.
	Suspect string
	// Corrupt blocks were found in the last month, of which Pending are not mended yet.
	Corrupt, Pending int
}

// ReadSavedState reads the file of a scrubber, which may be running. A file that is not there says
// nothing against the disk.
func ReadSavedState(path string) (SavedState, error) {
	kept, err := readState(path)
	if err != nil {
		return SavedState{}, err
	}
	recorded := SavedState{Suspect: kept.Suspect, Pending: len(kept.Pending)}
	for _, bad := range kept.Bad {
		if time.Since(bad.Last) <= memoryOfBad {
			recorded.Corrupt++
		}
	}
	return recorded, nil
}

func readState(path string) (state, error) {
	fresh := state{Version: stateVersion}
	content, err := statefile.Read(path, stateMax)
	if err != nil {
		return fresh, fmt.Errorf("reading the state of the scrubber: %w", err)
	}
	if content == nil {
		return fresh, nil
	}
	var kept state
	if err := json.Unmarshal(content, &kept); err != nil {
		return fresh, fmt.Errorf("decoding the state of the scrubber in %s: %w", path, err)
	}
	if kept.Version != stateVersion {
		return fresh, fmt.Errorf("state of the scrubber in %s has version %d, not %d", path, kept.Version, stateVersion)
	}
	return kept, nil
}

// save writes the state.
func (s *Scrubber) save() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Pending, s.state.Stale = nil, nil
	for k := range s.stale {
		s.state.Stale = append(s.state.Stale, pending{Layer: k.Layer, Block: k.Index})
	}
	for k, r := range s.repairs {
		s.state.Pending = append(s.state.Pending, pending{Layer: k.Layer, Block: k.Index, Mapped: r.mapped})
	}
	content, err := json.Marshal(s.state)
	if err != nil {
		return fmt.Errorf("encoding the state of the scrubber: %w", err)
	}
	if err := statefile.Write(s.cfg.Path, content); err != nil {
		return fmt.Errorf("saving the state of the scrubber: %w", err)
	}
	s.dirty, s.saved = false, time.Now()
	return nil
}

// saveSometimes saves what has changed, if it was not saved just before.
func (s *Scrubber) saveSometimes(ctx context.Context) {
	s.mu.Lock()
	due := s.dirty && time.Since(s.saved) >= saveInterval
	s.mu.Unlock()
	if !due {
		return
	}
	if err := s.save(); err != nil {
		s.cfg.Logger.WarnContext(ctx, "the state of the scrubber is not saved", "error", err)
	}
}
