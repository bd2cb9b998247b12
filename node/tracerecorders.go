package node

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
)

const (
	// startLasts is how long after its first read a start is over. What was measured of
	// starts takes from 2 to 20 seconds, on slow links; what a program reads later it reads
	// for its work. It is not over when nothing new is read for some seconds: a program may
	// wait for a database, or a blocked read for a registry.
	startLasts = 30 * time.Second
	// startsWithin is how soon after the mount the first read has to come. A later one is
	// somebody looking into a container that has all it needs.
	startsWithin = time.Minute
)

// traceRecorders records what starts of images read, from the reads that the kernel asks for. Reads
// of a layer that several images have are taken for those of all that are being started.
type traceRecorders struct {
	addTrace func(start recordedStart)
	lasts    time.Duration
	open     atomic.Int32 // the number of recorders, so that reads cost nothing without one

	ending sync.Mutex // held while one ends; taken before mu

	mu  sync.Mutex // guards what follows
	all map[*Mount]*traceRecorder
}

// recordedStart is what a start of an image has read.
type recordedStart struct {
	startup.Sample

	id       block.Digest // of the mount
	manifest block.Digest // of the image
	// endedEarly says that the mount ended before the start was over.
	endedEarly bool
}

// traceRecorder is a start that is watched.
type traceRecorder struct {
	start  recordedStart // without the trace
	layers map[block.Digest]struct{}
	read   startup.Recorder
	begun  bool
	over   *time.Timer
}

// newTraceRecorders returns recorders of starts that last for lasts after the first read; zero
// means startLasts.
func newTraceRecorders(addTrace func(start recordedStart), lasts time.Duration) *traceRecorders {
	if lasts == 0 {
		lasts = startLasts
	}
	return &traceRecorders{addTrace: addTrace, lasts: lasts, all: make(map[*Mount]*traceRecorder)}
}

// begin begins to watch a mount that has just been made, with these layer streams.
func (l *traceRecorders) begin(m *Mount, start recordedStart, layers []block.Digest) {
	watched := &traceRecorder{start: start, layers: make(map[block.Digest]struct{}, len(layers))}
	for _, layer := range layers {
		watched.layers[layer] = struct{}{}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	watched.over = time.AfterFunc(startsWithin, func() { l.end(m, false) })
	l.all[m] = watched
	l.open.Add(1)
}

// note adds a read of the kernel to the traces of all starts that it may belong to.
func (l *traceRecorders) note(layer block.Digest, offset, length int64) {
	if l.open.Load() == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, watched := range l.all {
		if _, ok := watched.layers[layer]; !ok || watched.read.Full() {
			continue
		}
		if !watched.begun {
			watched.begun = true
			watched.over.Reset(l.lasts)
		}
		if watched.read.Add(startup.Span{Layer: layer, Offset: offset, Length: length}); watched.read.Full() {
			watched.over.Reset(0)
		}
	}
}

// end ends what is watched of a mount, and returns when it is learnt. early says that the start
// was not over.
func (l *traceRecorders) end(m *Mount, early bool) {
	l.ending.Lock()
	defer l.ending.Unlock()
	l.mu.Lock()
	watched := l.all[m]
	if watched != nil {
		watched.over.Stop()
		delete(l.all, m)
		l.open.Add(-1)
	}
	l.mu.Unlock()
	if watched != nil {
		start := watched.start
		start.Trace, start.endedEarly = watched.read.Trace(), early && !watched.read.Full()
		l.addTrace(start)
	}
}

// current returns what a start of an image under way has read so far: of the one that has read
// the most. The image is named as peers do.
func (l *traceRecorders) current(hint block.Digest) startup.Trace {
	l.mu.Lock()
	defer l.mu.Unlock()
	var longest startup.Trace
	for _, watched := range l.all {
		if traceHint(watched.start.manifest) != hint {
			continue
		}
		if read := watched.read.Trace(); read.Bytes() > longest.Bytes() {
			longest = read
		}
	}
	return longest
}

// read returns what has been read of a mount that is watched, and whether it is.
func (l *traceRecorders) read(m *Mount) (startup.Trace, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if watched := l.all[m]; watched != nil {
		return watched.read.Trace(), true
	}
	return nil, false
}
