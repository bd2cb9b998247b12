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
	TraceNone      TraceSource = "none"
)

// ImageTrace is a trace that was found in the registry with the index of an image.
type ImageTrace struct {
	Digest    block.Digest `json:"digest"`
	Size      int64        `json:"size"` // in bytes
	Predicted bool         `json:"predicted,omitempty"`
}

// foundTraces has the traces of images that were found in registries. They are kept among
// the objects.
type foundTraces struct {
	parsed *lru.Cache[string, startup.File] // by the digests of the traces
	used   *prometheus.CounterVec           // nil without metrics
}

func (n *Node) openFoundTraces() (err error) {
	if n.foundTraces.parsed, err = lru.New[string, startup.File](maxParsedTraces); err != nil {
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
	for _, t := range artifact.Choose(found) {
		traces = append(traces, ImageTrace{Digest: t.Digest, Size: t.Size, Predicted: t.Predicted})
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

// foundTrace returns the trace of an image that was found in the registry, and whether it was
// only predicted; nil if there is none, or it is not local.
func (n *Node) foundTrace(image *Image) (t startup.Trace, predicted bool) {
	if len(image.Traces) == 0 {
		return nil, false
	}
	digests := make([]string, len(image.Traces))
	for i, t := range image.Traces {
		digests[i] = t.Digest.Hex()
	}
	key := strings.Join(digests, " ")
	if known, ok := n.foundTraces.parsed.Get(key); ok {
		return known.Trace, known.Predicted
	}
	var files []startup.File
	for _, t := range image.Traces {
		content, err := n.objects.Get(t.Digest, registry.MaxTraceBlob)
		if err != nil {
			continue
		}
		if parsed, err := startup.ParseFile(content); err == nil {
			files = append(files, parsed)
		}
	}
	joined := startup.Join(files)
	if len(files) == len(image.Traces) {
		n.foundTraces.parsed.Add(key, joined)
	}
	return joined.Trace, joined.Predicted
}

// startTrace returns what a start of an image is expected to read, and where that is known
// from: the trace that this node has learnt, or else the one in the registry, the one that peers
// have learnt, or a prediction. id is that of the mount, and sizes are the lengths of its layer
// streams in bytes.
func (n *Node) startTrace(id block.Digest, image *Image, sizes map[block.Digest]int64) (startup.Trace, TraceSource) {
	if learnt := n.startupTraces.of(id, image.Digest).Clip(sizes); len(learnt) > 0 {
		return learnt, TraceRecorded
	}
	found, predicted := n.foundTrace(image)
	found = found.Clip(sizes)
	if len(found) > 0 && !predicted {
		n.startupTraces.expect(id, found.Blocks())
		return found, TraceRegistry
	}
	if peers := n.peerTraces.of(image.Digest).Clip(sizes); len(peers) > 0 {
		return peers, TracePeers
	}
	if len(found) > 0 {
		return found, TracePredicted
	}
	return nil, TraceNone
}

// expectTrace pins what the trace in the registry says a start of an image will read, unless it is
// known already what starts read.
func (n *Node) expectTrace(image *Image) {
	id := image.id(image.Indexed())
	if len(image.Traces) == 0 || n.startupTraces.knows(id) {
		return
	}
	if found, predicted := n.foundTrace(image); !predicted {
		if found = found.Clip(image.streamSizes()); len(found) > 0 {
			n.startupTraces.expect(id, found.Blocks())
		}
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
	sizes, held := image.streamSizes(), n.startBlocks(image)
	if status := n.startupTraces.status(image.id(image.Indexed()), sizes, held); status != nil {
		return status
	}
	found, predicted := n.foundTrace(image)
	source := TraceRegistry
	if peers := n.peerTraces.known(image.Digest); len(peers) > 0 && (predicted || len(found) == 0) {
		found, source = peers, TracePeers
	} else if predicted {
		source = TracePredicted
	}
	if found = found.Clip(sizes); len(found) == 0 {
		return nil
	}
	status := &StartStatus{Source: source, Pinned: n.startupTraces.pins(image.id(image.Indexed()))}
	status.count(found.Blocks(), sizes, held)
	return status
}
