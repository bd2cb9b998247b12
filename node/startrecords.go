package node

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup/files"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/lazyfs/stream"
	"github.com/brisk-project/brisk/node/waterfall"
)

// startsPath is where recorded starts are found on the socket of the node.
const startsPath = "/starts"

func startOf(image *Image) waterfall.ID {
	return waterfall.ID{Name: image.Name, Manifest: image.Digest}
}

// noteFound begins the record of a start when its image and the index have been found. Its name
// was resolved from began to resolved.
func (n *Node) noteFound(image *Image, repo name.Repository, began, resolved time.Time) {
	n.cfg.StartRecorder.BeginStart(startOf(image), repo.RepositoryStr(), began)
	n.cfg.StartRecorder.RecordPhase(startOf(image), "resolve the image", began, resolved)
	n.cfg.StartRecorder.RecordPhase(startOf(image), "find its index", resolved, time.Now())
}

// noteMounting tells the record of the layers of an image that is about to be mounted.
func (n *Node) noteMounting(image *Image, m *Mount, began time.Time) {
	n.cfg.StartRecorder.RecordMount(startOf(image), m.repo.RepositoryStr(), began, m.streams())
	n.cfg.StartRecorder.RecordPhase(startOf(image), "open layer indexes", began, time.Now())
}

func (n *Node) noteMetadata(image lazyfs.Image, began time.Time) {
	n.cfg.StartRecorder.RecordPhase(waterfall.ID{Name: image.Name}, "build rootfs metadata", began, time.Now())
}

func (n *Node) noteReadDone(r stream.ReadResult) {
	n.cfg.StartRecorder.RecordRead(waterfall.FinishedRead{Layer: r.Layer, Offset: r.Offset, Length: r.Length, Duration: r.Duration, Waited: r.Waited, Failed: r.Failed, Pages: r.Pages})
}

// RecordExchange returns a callback for a registry client that records its requests.
func RecordExchange(starts *waterfall.Recorder) func(registry.Exchange) {
	return func(e registry.Exchange) {
		starts.RecordRequest(waterfall.Request{
			Began: e.Began, FirstByte: e.FirstByte, Duration: e.Took, Host: e.Host, Path: e.Path, Range: e.Range, Status: e.Status, Bytes: e.Bytes,
		})
	}
}

// recorded is a source of which the record knows what it has delivered.
type recorded struct {
	block.Source
	starts *waterfall.Recorder
	from   waterfall.Source
}

func (n *Node) recorded(src block.Source, from waterfall.Source) block.Source {
	if n.cfg.StartRecorder == nil {
		return src
	}
	return recorded{src, n.cfg.StartRecorder, from}
}

// Fetch implements [block.Source].
func (r recorded) Fetch(ctx context.Context, req block.Request, sink block.Sink) error {
	return r.Source.Fetch(ctx, req, func(k block.Key, data []byte) error {
		r.starts.RecordBlockSource(k, r.from)
		return sink(k, data)
	})
}

// StartRecord returns the last start of an image, named by its reference or the digest of its manifest,
// with the files that were read. The error wraps [block.ErrNotFound] if there is none.
func (n *Node) StartRecord(ctx context.Context, image string) (waterfall.Start, error) {
	for _, start := range n.cfg.StartRecorder.Starts() {
		if start.Image == image || start.Manifest.String() == image {
			start.ResolveFiles(func(layer block.Digest) *files.Index { return n.filesOf(ctx, layer) })
			return start, nil
		}
	}
	return waterfall.Start{}, fmt.Errorf("no start of %.300q is recorded: %w", image, block.ErrNotFound)
}

// filesOf returns the files of a layer stream whose index this node has, nil for none.
func (n *Node) filesOf(ctx context.Context, id block.Digest) *files.Index {
	opened, err := n.openStream(ctx, id)
	if err != nil {
		n.log.DebugContext(ctx, "files of a layer are not known", "stream", id.Short(), "error", err)
		return nil
	}
	defer opened.Release()
	found, err := files.IndexOf(n.layerIndexes.layer(id))
	if err != nil {
		n.log.WarnContext(ctx, "reading which files a layer has", "stream", id.Short(), "error", err)
	}
	return found
}

func (n *Node) serveStarts(mux *http.ServeMux) {
	mux.HandleFunc("GET "+startsPath, func(w http.ResponseWriter, r *http.Request) {
		image := r.URL.Query().Get("image")
		if image == "" {
			n.answer(w, n.startList(), nil)
			return
		}
		start, err := n.StartRecord(r.Context(), image)
		n.answer(w, start, err)
	})
}

// StartSummary names a recorded start.
type StartSummary struct {
	Image    string       `json:"image"`
	Manifest block.Digest `json:"manifest"`
	Began    time.Time    `json:"began"`
	Reads    int          `json:"reads"`
	// Waited is how long at least one read was waiting.
	Waited time.Duration `json:"waitedNanoseconds"`
}

func (n *Node) startList() []StartSummary {
	list := []StartSummary{}
	for _, start := range n.cfg.StartRecorder.Starts() {
		sum := start.Summarize()
		list = append(list, StartSummary{Image: start.Image, Manifest: start.Manifest, Began: start.Began, Reads: sum.Reads, Waited: sum.WaitTime})
	}
	return list
}

// ListStarts requests the list of recorded starts from the node, the newest first.
func (c Client) ListStarts(ctx context.Context) (list []StartSummary, err error) {
	return list, c.Get(ctx, startsPath, &list)
}

// StartRecord requests the last start of an image from the node.
func (c Client) StartRecord(ctx context.Context, image string) (start waterfall.Start, err error) {
	return start, c.Get(ctx, startsPath+"?image="+url.QueryEscape(image), &start)
}
