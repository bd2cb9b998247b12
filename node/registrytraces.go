package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/artifact"
	"github.com/brisk-project/brisk/internal/block"
)

const (
	// traceGrace is how much longer than the indexes of an image its traces are waited for.
	traceGrace = 100 * time.Millisecond
	// maxParsedTraces bounds the traces kept in memory.
	maxParsedTraces = 16
)

// TraceSource is the source of the trace of an image.
type TraceSource string

// The sources of traces, that of the best one first: what a node has learnt itself fits what
// it runs; a trace in the registry was put there for all who run the image; a prediction knows
// nothing of the program.
const (
	TraceRecorded  TraceSource = "learnt"
	TraceRegistry  TraceSource = "registry"
	TracePeers     TraceSource = "peers"
	TracePredicted TraceSource = "predicted"
	// TraceList is a prefetch list, which a user has written, without another trace after it: see
	// [TraceSource.withList].
	TraceList TraceSource = "list"
	TraceNone TraceSource = "none"
)

// withList returns the source of a trace that begins with a prefetch list, such as "list+learnt".
func (s TraceSource) withList() TraceSource {
	if s == TraceNone {
		return TraceList
	}
	return TraceList + "+" + s
}

// isGuess reports whether no start was recorded: a start reads more than such a trace has.
func (s TraceSource) isGuess() bool {
	return s == TracePredicted || s == TraceList || s == TracePredicted.withList()
}

// ImageTrace is a trace that was found in the registry with the index of an image.
type ImageTrace struct {
	Digest    block.Digest `json:"digest"`
	Size      int64        `json:"size"` // in bytes
	Predicted bool         `json:"predicted,omitempty"`
	List      bool         `json:"list,omitempty"` // it reads the files of a prefetch list
}

// foundTraces has the traces of images that were found in registries. They are kept among
// the objects.
type foundTraces struct {
	parsed *lru.Cache[string, foundTrace] // by the digests of the traces
	used   *prometheus.CounterVec         // nil without metrics
}

func (n *Node) openFoundTraces() (err error) {
	if n.foundTraces.parsed, err = lru.New[string, foundTrace](maxParsedTraces); err != nil {
		return fmt.Errorf("keeping traces: %w", err)
	}
	if n.cfg.Metrics == nil {
		return nil
	}
	n.foundTraces.used = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "brisk_start_traces_total", Help: "Mounts of images by the source of the trace that is prefetched for the start.",
	}, []string{"source"})
	if err := n.cfg.Metrics.Register(n.foundTraces.used); err != nil {
		return fmt.Errorf("registering the metrics of traces: %w", err)
	}
	return nil
}

// imageTraces returns the traces that count of those found for an image.
func imageTraces(found *registry.Artifact) []ImageTrace {
	var traces []ImageTrace
	for _, t := range artifact.SelectTraces(found) {
		traces = append(traces, ImageTrace{Digest: t.Digest, Size: t.Size, Predicted: t.Predicted, List: t.List})
	}
	return traces
}

// traceFetch is the fetching of the traces of an image, which goes on beside a pull.
type traceFetch struct {
	cancel context.CancelFunc
	done   chan struct{}
}

// fetchTraces begins to make the traces of an image local. Whoever begins it waits for it.
func (n *Node) fetchTraces(ctx context.Context, repo name.Repository, image *Image) traceFetch {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		var group errgroup.Group
		group.SetLimit(indexFetches)
		for _, t := range image.Traces {
			group.Go(func() error {
				if err := n.fetchTrace(ctx, repo, t); err != nil {
					n.log.InfoContext(ctx, "a trace of an image cannot be had", "image", image.Name, "trace", t.Digest, "error", err)
				}
				return nil
			})
		}
		_ = group.Wait() //nolint:errcheck // it is always nil
	}()
	return traceFetch{cancel, done}
}

// wait waits for the traces, if they were begun, but not long: then it ends the fetching.
func (f traceFetch) wait() {
	if f.done == nil {
		return
	}
	grace := time.AfterFunc(traceGrace, f.cancel)
	<-f.done
	grace.Stop()
	f.cancel()
}

func (n *Node) fetchTrace(ctx context.Context, repo name.Repository, t ImageTrace) error {
	_, err := n.objects.Get(t.Digest, registry.MaxTraceBlob)
	if !errors.Is(err, block.ErrNotFound) {
		return err
	}
	content, err := n.cfg.Registry.ReadBlob(ctx, repo, t.Digest, t.Size, registry.MaxTraceBlob)
	if err != nil {
		return err
	}
	// What cannot be read is not kept.
	if _, err := startup.ParseFile(content); err != nil {
		return err
	}
	return n.objects.Put(t.Digest, content)
}

// foundTrace is what was found in the registry of what a start of an image reads.
type foundTrace struct {
	list      startup.Trace // the files of the prefetch list
	read      startup.Trace // what was recorded or predicted
	predicted bool
}

// clip leaves out what is not in layer streams of the given lengths.
func (f foundTrace) clip(sizes map[block.Digest]int64) foundTrace {
	f.list, f.read = f.list.Clip(sizes), f.read.Clip(sizes)
	return f
}

// foundTrace returns the traces of an image that were found in the registry, as far as they are local.
func (n *Node) foundTrace(image *Image) (found foundTrace) {
	if len(image.Traces) == 0 {
		return found
	}
	digests := make([]string, len(image.Traces))
	for i, t := range image.Traces {
		digests[i] = t.Digest.Hex()
	}
	key := strings.Join(digests, " ")
	if known, ok := n.foundTraces.parsed.Get(key); ok {
		return known
	}
	var lists, reads []startup.File
	for _, t := range image.Traces {
		content, err := n.objects.Get(t.Digest, registry.MaxTraceBlob)
		if err != nil {
			continue
		}
		parsed, err := startup.ParseFile(content)
		switch {
		case err != nil:
		case t.List:
			lists = append(lists, parsed)
		default:
			reads = append(reads, parsed)
		}
	}
	joined := startup.Join(reads)
	found = foundTrace{list: startup.Join(lists).Trace, read: joined.Trace, predicted: joined.Predicted}
	if len(lists)+len(reads) == len(image.Traces) {
		n.foundTraces.parsed.Add(key, found)
	}
	return found
}

// startTrace returns what a start of an image is expected to read, and where that is known
// from: the files of the prefetch list; then the trace that this node has recorded, or else the one in the
// registry, the one that peers have recorded, or a prediction. id is that of the mount, and sizes are the
// lengths of its layer streams in bytes.
func (n *Node) startTrace(id block.Digest, image *Image, sizes map[block.Digest]int64) (startup.Trace, TraceSource) {
	found := n.foundTrace(image).clip(sizes)
	n.startupTraces.setList(id, found.list.Blocks())
	read, source := n.readTrace(id, image, sizes, found)
	if len(found.list) == 0 {
		return read, source
	}
	return startup.Listed(found.list, read), source.withList()
}

// readTrace is startTrace without the prefetch list.
func (n *Node) readTrace(id block.Digest, image *Image, sizes map[block.Digest]int64, found foundTrace) (startup.Trace, TraceSource) {
	if recorded := n.startupTraces.of(id, image.Digest).Clip(sizes); len(recorded) > 0 {
		return recorded, TraceRecorded
	}
	if len(found.read) > 0 && !found.predicted {
		n.startupTraces.expect(id, found.read.Blocks())
		return found.read, TraceRegistry
	}
	if peers := n.peerTraces.of(image.Digest).Clip(sizes); len(peers) > 0 {
		return peers, TracePeers
	}
	if len(found.read) > 0 {
		return found.read, TracePredicted
	}
	return nil, TraceNone
}

// expectTrace pins the files of the prefetch list, and what the trace in the registry says a start of an
// image will read, unless it is known already what starts read.
func (n *Node) expectTrace(image *Image) {
	if len(image.Traces) == 0 {
		return
	}
	id, found := image.id(image.Indexed()), n.foundTrace(image).clip(image.streamSizes())
	n.startupTraces.setList(id, found.list.Blocks())
	if len(found.read) > 0 && !found.predicted {
		n.startupTraces.expect(id, found.read.Blocks())
	}
}

// noteTrace counts the start of an image by the source of its trace.
func (f *foundTraces) noteTrace(source TraceSource) {
	if f.used != nil {
		f.used.WithLabelValues(string(source)).Inc()
	}
}

// startStatus tells of the start-up set of an image, nil if it is not known. It does not wait.
func (n *Node) startStatus(image *Image) *StartStatus {
	sizes, id := image.streamSizes(), image.id(image.Indexed())
	found := n.foundTrace(image).clip(sizes)
	set, source := n.startupTraces.recorded(id), TraceRecorded
	if len(set) == 0 {
		read := found.read
		source = TraceNone
		switch peers := n.peerTraces.known(image.Digest).Clip(sizes); {
		case len(peers) > 0 && (found.predicted || len(read) == 0):
			read, source = peers, TracePeers
		case len(read) > 0 && found.predicted:
			source = TracePredicted
		case len(read) > 0:
			source = TraceRegistry
		}
		set = read.Blocks()
	}
	if list := found.list.Blocks(); len(list) > 0 {
		set, source = unionRanges(list, set), source.withList()
	}
	if len(set) == 0 {
		return nil
	}
	status := &StartStatus{Source: source, Pinned: n.startupTraces.pins(id)}
	status.count(set, sizes, n.startBlocks(image))
	return status
}
