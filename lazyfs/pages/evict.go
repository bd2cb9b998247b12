package pages

import (
	"cmp"
	"slices"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// Evict removes sets that have not been used for a time, the one used least recently first,
// until n bytes are free or none is left. With a time, [Config.Spared] bytes of sets that were never
// read are kept. It returns how many bytes have become free.
func (s *Store) Evict(n int64, idle time.Duration) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var spared map[block.Digest]bool
	if idle > 0 {
		spared = s.sparedLocked()
	}
	ids := make([]block.Digest, 0, len(s.entries))
	for id, e := range s.entries {
		if !spared[id] && time.Since(e.lastUse()) >= idle {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, func(a, b block.Digest) int {
		return cmp.Compare(s.entries[a].lastUse().UnixNano(), s.entries[b].lastUse().UnixNano())
	})
	freed := int64(0)
	for _, id := range ids {
		if freed >= n {
			break
		}
		freed += s.entries[id].bytes
		if err := s.removeLocked(id); err != nil {
			s.cfg.Logger.Warn("space of pages not freed", "error", err)
		}
	}
	return freed
}

// sparedLocked returns the sets that are about to be needed, those made last first.
func (s *Store) sparedLocked() map[block.Digest]bool {
	var unread []*Set
	for _, e := range s.entries {
		if e.set != nil && !e.set.started.Load() {
			unread = append(unread, e.set)
		}
	}
	slices.SortFunc(unread, func(a, b *Set) int { return cmp.Compare(b.used.Load(), a.used.Load()) })
	spared, bytes := make(map[block.Digest]bool), int64(0)
	for _, set := range unread {
		if bytes += set.Bytes(); bytes > s.cfg.Spared {
			break
		}
		spared[set.id] = true
	}
	return spared
}
