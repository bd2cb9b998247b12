package waterfall

import (
	"cmp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// MaxStarts is the maximum number of recorded images; the oldest start is dropped first.
	MaxStarts = 32
	// MaxEvents is the maximum number of recorded reads of a start, and of requests. Further
	// events are only counted.
	MaxEvents = 4096
	// maxBlocks is the maximum number of blocks with a recorded source: 16 GiB.
	maxBlocks = 1 << 16
	// maxPhases is more than a start has.
	maxPhases = 64
	// recentRequests is the number of recorded requests that belong to no start yet.
	recentRequests = 64
	// readsFor is the time from the first read to the end of a start. beginsWithin is the
	// maximum time until the first read.
	readsFor     = 30 * time.Second
	beginsWithin = 5 * time.Minute
)

// Source is the origin of content.
type Source string

// The sources. A read that found everything in the cache has [Disk], unless
// what it read had been fetched before it during the same start.
const (
	Memory   Source = "memory"
	Disk     Source = "disk"
	Bundle   Source = "bundle"
	Peers    Source = "peers"
	Registry Source = "registry"
)

// ID identifies an image.
type ID struct {
	Name     string       // its reference
	Manifest block.Digest // of the platform
}

// Recorder records starts. It is safe for concurrent use. The nil Recorder records
// nothing.
type Recorder struct {
	now  func() time.Time
	open atomic.Int32 // number of running starts, so that reads cost nothing without one

	mu     sync.Mutex // guards what follows
	starts map[ID]*start
	byID   map[block.Digest][]*start // open ones, by layer stream
	recent []Request                 // a ring
	next   int                       // in recent
}

// start is a running or finished start.
type start struct {
	id         ID
	repository string
	layers     []block.Digest // the layer streams, known from the mount on
	began      time.Time
	ends       time.Time
	reading    bool // a read has come
	closed     bool
	phases     []Phase
	reads      []read
	requests   []Request
	blocks     map[block.Key]Source
	dropped    int
	trace      string
	traceBytes int64
	previous   *start // reported until this one has mounted the image
}

// read is the compact form of a [Read].
type read struct {
	layer          uint16
	length         int32
	offset         int64
	at, took       time.Duration
	waited, failed bool
	pages          bool
}

// New returns a recorder. The clock may be nil.
func New(now func() time.Time) *Recorder {
	if now == nil {
		now = time.Now
	}
	return &Recorder{now: now, starts: make(map[ID]*start), byID: make(map[block.Digest][]*start)}
}

// BeginStart starts a record, at a time that may have passed. The previous record of the image
// is dropped once it is mounted. repository is the path of its requests.
func (r *Recorder) BeginStart(id ID, repository string, began time.Time) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closeLocked(r.now())
	old := r.starts[id]
	if old != nil {
		r.endLocked(old)
		if old.layers == nil {
			old = old.previous
		} else {
			old.previous = nil
		}
	}
	for len(r.starts) >= MaxStarts {
		oldest := slices.MinFunc(r.listLocked(), func(a, b *start) int { return a.began.Compare(b.began) })
		r.endLocked(oldest)
		delete(r.starts, oldest.id)
	}
	s := &start{id: id, repository: repository, began: began, ends: began.Add(beginsWithin), blocks: make(map[block.Key]Source), previous: old}
	r.starts[id] = s
	r.open.Add(1)
	for _, request := range slices.Concat(r.recent[r.next:], r.recent[:r.next]) {
		if !request.Began.Before(began) && s.sent(request) {
			s.requests = append(s.requests, request)
		}
	}
}

func (r *Recorder) listLocked() []*start {
	all := make([]*start, 0, len(r.starts))
	for _, s := range r.starts {
		all = append(all, s)
	}
	return all
}

// RecordMount records the layer streams of the image. A start without a pull, or of an image
// that was mounted before, begins with its mount.
func (r *Recorder) RecordMount(id ID, repository string, began time.Time, layers []block.Digest) {
	if r == nil {
		return
	}
	r.mu.Lock()
	s := r.starts[id]
	again := s == nil || s.closed || s.layers != nil
	r.mu.Unlock()
	if again {
		r.BeginStart(id, repository, began)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s = r.starts[id]; s == nil || s.closed {
		return
	}
	s.layers, s.previous = layers, nil
	for _, layer := range layers {
		if !slices.Contains(r.byID[layer], s) { // two layers may be the same
			r.byID[layer] = append(r.byID[layer], s)
		}
	}
}

// RecordPreparation is RecordMount for an image whose blocks are fetched before its mount.
func (r *Recorder) RecordPreparation(id ID, layers []block.Digest) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.starts[id]; s != nil && !s.closed {
		for _, layer := range layers {
			if !slices.Contains(r.byID[layer], s) {
				r.byID[layer] = append(r.byID[layer], s)
			}
		}
	}
}

// RecordTrace records the source and the bytes of the trace that is prefetched for a start.
func (r *Recorder) RecordTrace(id ID, source string, bytes int64) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.starts[id]; s != nil && !s.closed {
		s.trace, s.traceBytes = source, bytes
	}
}

// RecordPhase records a finished phase of a start. An ID without manifest means all images of
// that name.
func (r *Recorder) RecordPhase(id ID, name string, began, ended time.Time) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.starts {
		if s.id.Name != id.Name || s.id.Manifest != id.Manifest && !id.Manifest.IsZero() {
			continue
		}
		if !s.closed && len(s.phases) < maxPhases {
			s.phases = append(s.phases, Phase{Name: name, At: began.Sub(s.began), Duration: ended.Sub(began)})
		}
	}
}

// FinishedRead is a completed read of a layer stream.
type FinishedRead struct {
	Layer          block.Digest
	Offset, Length int64
	Duration       time.Duration
	// Waited means that the disk cache did not have all bytes, Failed that the read ended with
	// an error.
	Waited, Failed bool
	// Pages means that bytes that were not in the disk cache may come from a bundle.
	Pages bool
}

// RecordRead records a read that ends now.
func (r *Recorder) RecordRead(done FinishedRead) {
	if r == nil || r.open.Load() == 0 {
		return
	}
	now := r.now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.byID[done.Layer] {
		if s.closed || now.After(s.ends) || s.layers == nil {
			continue
		}
		if !s.reading {
			s.reading, s.ends = true, now.Add(readsFor)
		}
		if len(s.reads) == MaxEvents {
			s.dropped++
			continue
		}
		s.reads = append(s.reads, read{
			layer: uint16(slices.Index(s.layers, done.Layer)), offset: done.Offset, length: int32(done.Length), // some hundred layers, 1 MiB
			at: now.Sub(s.began) - done.Duration, took: done.Duration, waited: done.Waited, failed: done.Failed, pages: done.Pages,
		})
	}
}

// RecordBlockSource records the source of a block.
func (r *Recorder) RecordBlockSource(key block.Key, from Source) {
	if r == nil || r.open.Load() == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.byID[key.Layer] {
		if len(s.blocks) < maxBlocks {
			if _, known := s.blocks[key]; !known {
				s.blocks[key] = from
			}
		}
	}
}

// RecordRequest records a completed request.
func (r *Recorder) RecordRequest(request Request) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.recent) < recentRequests {
		r.recent = append(r.recent, request)
	} else {
		r.recent[r.next] = request
		r.next = (r.next + 1) % recentRequests
	}
	if r.open.Load() == 0 {
		return
	}
	r.closeLocked(r.now())
	for _, s := range r.starts {
		if s.closed || request.Began.Before(s.began) || !s.sent(request) {
			continue
		}
		if len(s.requests) == MaxEvents {
			s.dropped++
			continue
		}
		s.requests = append(s.requests, request)
	}
}

// sent reports whether a request may belong to the start. Redirected requests do not contain
// the repository.
func (s *start) sent(request Request) bool {
	_, path, found := strings.Cut(request.Path, "/v2/")
	return !found || strings.Contains(path, s.repository+"/")
}

// closeLocked ends the starts that are over.
func (r *Recorder) closeLocked(now time.Time) {
	for _, s := range r.starts {
		if now.After(s.ends) {
			r.endLocked(s)
		}
	}
}

func (r *Recorder) endLocked(s *start) {
	if s.closed {
		return
	}
	s.closed = true
	r.open.Add(-1)
	for layer, list := range r.byID {
		if list = slices.DeleteFunc(list, func(other *start) bool { return other == s }); len(list) == 0 {
			delete(r.byID, layer)
		} else {
			r.byID[layer] = list
		}
	}
}

// Starts returns the recorded starts, the newest first, without the files of reads; see
// [Start.ResolveFiles].
func (r *Recorder) Starts() []Start {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []Start
	for _, s := range r.starts {
		if s.layers == nil && s.previous != nil {
			s = s.previous
		}
		all = append(all, s.export())
	}
	slices.SortFunc(all, func(a, b Start) int { return cmp.Or(b.Began.Compare(a.Began), strings.Compare(a.Image, b.Image)) })
	return all
}

func (s *start) export() Start {
	exported := Start{
		Image: s.id.Name, Manifest: s.id.Manifest, Began: s.began, Layers: slices.Clone(s.layers), Phases: slices.Clone(s.phases),
		Requests: slices.Clone(s.requests), Reads: make([]Read, len(s.reads)), Dropped: s.dropped,
		Trace: s.trace, TraceBytes: s.traceBytes,
	}
	for i := range exported.Requests {
		exported.Requests[i].At = exported.Requests[i].Began.Sub(s.began)
	}
	for i, r := range s.reads {
		layer := s.layers[r.layer]
		from, ahead := Disk, false
		blocks := block.Covering(layer, r.offset, int64(r.length))
		for b := range blocks.Count {
			if source, known := s.blocks[blocks.Key(b)]; known && (from == Disk || source == Registry) {
				from = source
			}
		}
		if r.pages && from == Disk {
			from = Bundle
		}
		if !r.waited {
			ahead = from == Registry || from == Peers
		}
		exported.Reads[i] = Read{Layer: int(r.layer), Offset: r.offset, Length: int64(r.length), At: r.at, Duration: r.took, Waited: r.waited, Failed: r.failed, From: from, Prefetched: ahead}
	}
	return exported
}
