package pages

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs/stream"
)

// errRemoved is the error of a set whose file has been removed.
var errRemoved = fmt.Errorf("the pages were removed: %w", block.ErrNotFound)

type frameState uint8

const (
	absent     frameState = iota
	unverified            // it may be in the file, from a process before this one
	present
)

// Set holds the pages of one image. It implements [stream.Pages].
type Set struct {
	id     block.Digest
	layout Layout
	table  *table
	used   atomic.Int64 // Unix time in ns of the last read
	kept   atomic.Bool  // the page cache may have some of the file
	// started says that it was read, or is of a process before this one: its start may be over.
	started atomic.Bool

	mu      sync.RWMutex // guards what follows
	file    *os.File     // nil once it has been removed
	state   []frameState
	arrival arrival
	changed chan struct{} // closed when a frame arrives or the load ends, and replaced
}

func newSet(id block.Digest, l Layout) (*Set, error) {
	t, err := newTable(l)
	if err != nil {
		return nil, err
	}
	s := &Set{id: id, layout: l, table: t, state: make([]frameState, len(l.Frames)), changed: make(chan struct{})}
	s.used.Store(time.Now().UnixNano())
	return s, nil
}

// ID names the set.
func (s *Set) ID() block.Digest { return s.id }

// Bytes returns the length of the content.
func (s *Set) Bytes() int64 { return s.table.bytes }

// Missing returns the frames that are not there, in order. It verifies those of a process
// before this one.
func (s *Set) Missing() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	var missing []int
	for i := range s.state {
		if s.verifyLocked(i); s.state[i] == absent {
			missing = append(missing, i)
		}
	}
	return missing
}

// Complete reports whether every frame is there, or may be.
func (s *Set) Complete() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.file != nil && !slices.Contains(s.state, absent)
}

// Put stores the content of a frame, which the caller has verified.
func (s *Set) Put(i int, content []byte) error {
	s.mu.RLock()
	// Readers do not wait for a write: nobody reads a frame that is absent.
	err := errRemoved
	if s.file != nil {
		_, err = s.file.WriteAt(content, int64(i)*s.layout.FrameSize)
	}
	s.mu.RUnlock()
	if err != nil {
		return fmt.Errorf("keeping frame %d of pages %s: %w", i, s.id.Short(), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state[i] != present {
		s.state[i] = present
		s.arrival.add(s.layout.Frames[i].Stored, time.Now())
	}
	s.wakeLocked()
	return nil
}

// wakeLocked lets those look who wait for a frame.
func (s *Set) wakeLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Locate implements [stream.Pages].
func (s *Set) Locate(layer block.Digest, off, n int64) (int64, stream.PageState) {
	position, length := s.table.find(layer, off, n)
	if position < 0 {
		return length, stream.PagesAbsent
	}
	i := int(position / s.layout.FrameSize)
	length = min(length, int64(i+1)*s.layout.FrameSize-position)
	return length, s.stateOf(i)
}

func (s *Set) stateOf(i int) stream.PageState {
	s.mu.RLock()
	state, coming, removed := s.state[i], s.arrival.running(), s.file == nil
	s.mu.RUnlock()
	if state == unverified {
		s.mu.Lock()
		s.verifyLocked(i)
		state = s.state[i]
		s.mu.Unlock()
	}
	switch {
	case removed:
		return stream.PagesAbsent
	case state == present:
		return stream.PagesPresent
	case coming:
		return stream.PagesDownloading
	default:
		return stream.PagesAbsent
	}
}

// verifyLocked finds out whether a frame of a process before this one is there.
func (s *Set) verifyLocked(i int) {
	if s.state[i] != unverified || s.file == nil {
		return
	}
	content := make([]byte, s.frameLength(i))
	_, err := s.file.ReadAt(content, int64(i)*s.layout.FrameSize)
	if s.state[i] = absent; err == nil && block.Sum(content) == s.layout.Frames[i].Digest {
		s.state[i] = present
	}
}

// ReadAt implements [stream.Pages].
func (s *Set) ReadAt(layer block.Digest, p []byte, off int64) error {
	s.used.Store(time.Now().UnixNano())
	s.started.Store(true)
	return s.read(layer, p, off)
}

func (s *Set) read(layer block.Digest, p []byte, off int64) error {
	position, length := s.table.find(layer, off, int64(len(p)))
	if position < 0 || length < int64(len(p)) {
		return fmt.Errorf("reading %d bytes at %d of pages %s: %w", len(p), off, s.id.Short(), block.ErrNotFound)
	}
	s.kept.Store(true)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.file == nil {
		return errRemoved
	}
	if n, err := s.file.ReadAt(p, position); err != nil && (!errors.Is(err, io.EOF) || n < len(p)) {
		return fmt.Errorf("reading pages %s: %w", s.id.Short(), err)
	}
	return nil
}

// releasePages gives back the page cache of the file: the kernel keeps what it was given for
// the mount, and need not keep it twice.
func (s *Set) releasePages() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.file == nil {
		return nil
	}
	conn, err := s.file.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	err = conn.Control(func(fd uintptr) { inner = unix.Fadvise(int(fd), 0, 0, unix.FADV_DONTNEED) })
	return errors.Join(err, inner)
}

// close ends the use of the file. Whoever waits for a frame stops.
func (s *Set) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	s.file = nil
	s.arrival.end()
	s.wakeLocked()
	return err
}
