package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/internal/block"
)

// TraceRequest asks a node for the trace of an image, or to learn one.
type TraceRequest struct {
	Image    string      `json:"image"` // its reference
	Platform v1.Platform `json:"platform"`
	// File is an encoded [startup.File] for the node to learn.
	File []byte `json:"file,omitempty"`
}

// TraceAnswer is the trace that a node expects the next start of an image to follow.
type TraceAnswer struct {
	Digest block.Digest `json:"digest"` // of the platform manifest
	Source TraceSource  `json:"source"`
	// File is an encoded [startup.File], empty if the source is [TraceNone].
	File []byte `json:"file,omitempty"`
}

// Trace asks the node what it expects the next start of an image to read.
func (c Client) Trace(ctx context.Context, req TraceRequest) (TraceAnswer, error) {
	query := url.Values{"image": {req.Image}, "platform": {registry.FormatPlatform(req.Platform)}}
	var answer TraceAnswer
	return answer, c.ask(ctx, http.MethodGet, "/traces?"+query.Encode(), nil, &answer)
}

// LearnTrace gives the node a trace of an image as if it had seen such a start.
func (c Client) LearnTrace(ctx context.Context, req TraceRequest) (TraceAnswer, error) {
	var answer TraceAnswer
	return answer, c.ask(ctx, http.MethodPost, "/traces", req, &answer)
}

func (n *Node) serveTraces(mux *http.ServeMux) {
	mux.HandleFunc("GET /traces", func(w http.ResponseWriter, r *http.Request) {
		req := TraceRequest{Image: r.FormValue("image")}
		platform, err := registry.ParsePlatform(r.FormValue("platform"))
		if err != nil {
			http.Error(w, "decoding request: "+err.Error(), http.StatusBadRequest)
			return
		}
		req.Platform = platform
		answer, err := n.answerTrace(r.Context(), req)
		n.answer(w, answer, err)
	})
	mux.HandleFunc("POST /traces", func(w http.ResponseWriter, r *http.Request) {
		var req TraceRequest
		if decode(w, r, &req) {
			answer, err := n.learnTrace(r.Context(), req)
			n.answer(w, answer, err)
		}
	})
}

// answerTrace returns the trace of an image.
func (n *Node) answerTrace(ctx context.Context, req TraceRequest) (TraceAnswer, error) {
	image, sizes, err := n.fetchIndexes(ctx, req)
	if err != nil {
		return TraceAnswer{}, err
	}
	trace, source := n.startTrace(image.id(len(image.Layers)), image, sizes)
	answer := TraceAnswer{Digest: image.Digest, Source: source}
	if source == TraceNone {
		return answer, nil
	}
	answer.File, err = startup.File{Trace: trace, Predicted: source == TracePredicted}.Encode()
	return answer, err
}

// learnTrace adds a trace of an image to what the node has learnt.
func (n *Node) learnTrace(ctx context.Context, req TraceRequest) (TraceAnswer, error) {
	file, err := startup.ParseFile(req.File)
	if err != nil {
		return TraceAnswer{}, err
	}
	image, sizes, err := n.fetchIndexes(ctx, req)
	if err != nil {
		return TraceAnswer{}, err
	}
	file.Trace = file.Trace.Clip(sizes)
	if len(file.Trace) == 0 {
		return TraceAnswer{}, fmt.Errorf("learning a trace of %s: %w", req.Image, errors.New("it reads nothing that the image has"))
	}
	n.startupTraces.addTrace(recordedStart{
		id: image.id(len(image.Layers)), manifest: image.Digest, Sample: startup.Sample{Trace: file.Trace},
	})
	return n.answerTrace(ctx, req)
}

// fetchIndexes returns an image and the lengths of its layer streams in bytes.
func (n *Node) fetchIndexes(ctx context.Context, req TraceRequest) (*Image, map[block.Digest]int64, error) {
	image, err := n.Find(ctx, req.Image, block.Digest{}, req.Platform)
	if err == nil {
		err = n.Fetch(ctx, image, nil)
	}
	if err != nil {
		return nil, nil, err
	}
	if image.Indexed() < len(image.Layers) {
		return nil, nil, fmt.Errorf("the index of %s does not have all of its layers", req.Image)
	}
	return image, image.streamSizes(), nil
}
