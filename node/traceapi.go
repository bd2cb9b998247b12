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

// TraceRequest requests the trace of an image from a node, or adds one.
type TraceRequest struct {
	Image    string      `json:"image"` // its reference
	Platform v1.Platform `json:"platform"`
	// File is an encoded [startup.File] to add.
	File []byte `json:"file,omitempty"`
}

// TraceResponse has the trace that a node uses for the next start of an image.
type TraceResponse struct {
	Digest block.Digest `json:"digest"` // of the platform manifest
	Source TraceSource  `json:"source"`
	// File is an encoded [startup.File], empty if the source is [TraceNone].
	File []byte `json:"file,omitempty"`
}

// Trace requests the trace that the node uses for the next start of an image.
func (c Client) Trace(ctx context.Context, req TraceRequest) (TraceResponse, error) {
	query := url.Values{"image": {req.Image}, "platform": {registry.FormatPlatform(req.Platform)}}
	var answer TraceResponse
	return answer, c.ask(ctx, http.MethodGet, "/traces?"+query.Encode(), nil, &answer)
}

// AddTrace adds a trace of an image to the node, as if the node had recorded it.
func (c Client) AddTrace(ctx context.Context, req TraceRequest) (TraceResponse, error) {
	var answer TraceResponse
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
		answer, err := n.traceResponse(r.Context(), req)
		n.answer(w, answer, err)
	})
	mux.HandleFunc("POST /traces", func(w http.ResponseWriter, r *http.Request) {
		var req TraceRequest
		if decode(w, r, &req) {
			answer, err := n.addTrace(r.Context(), req)
			n.answer(w, answer, err)
		}
	})
}

// traceResponse returns the trace of an image.
func (n *Node) traceResponse(ctx context.Context, req TraceRequest) (TraceResponse, error) {
	image, sizes, err := n.fetchIndexes(ctx, req)
	if err != nil {
		return TraceResponse{}, err
	}
	trace, source := n.startTrace(image.id(len(image.Layers)), image, sizes)
	answer := TraceResponse{Digest: image.Digest, Source: source}
	if source == TraceNone {
		return answer, nil
	}
	answer.File, err = startup.File{Trace: trace, Predicted: source == TracePredicted || source == TracePredicted.withList(), List: source == TraceList}.Encode()
	return answer, err
}

// addTrace adds a trace of an image to the recorded ones.
func (n *Node) addTrace(ctx context.Context, req TraceRequest) (TraceResponse, error) {
	file, err := startup.ParseFile(req.File)
	if err != nil {
		return TraceResponse{}, err
	}
	image, sizes, err := n.fetchIndexes(ctx, req)
	if err != nil {
		return TraceResponse{}, err
	}
	file.Trace = file.Trace.Clip(sizes)
	if len(file.Trace) == 0 {
		return TraceResponse{}, fmt.Errorf("learning a trace of %s: %w", req.Image, errors.New("it reads nothing that the image has"))
	}
	n.startupTraces.addTrace(recordedStart{
		id: image.id(len(image.Layers)), manifest: image.Digest, Sample: startup.Sample{Trace: file.Trace},
	})
	return n.traceResponse(ctx, req)
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
