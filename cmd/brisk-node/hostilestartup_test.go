package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"github.com/brisk-project/brisk/image/index"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/bundle"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// maxHostilePull is how long a pull may take whatever is wrong with a trace or bundle.
const maxHostilePull = 15 * time.Second

// hostile is an image for which start-up artifacts are made that are wrong.
type hostile struct {
	t      *testing.T
	client *registry.Client
	image  *registry.Image
	layer  *index.Layer // the one that is read
	tar    []byte
}

// ReadStream implements bundle.Reader.
func (h *hostile) ReadStream(_ context.Context, _ block.Digest, p []byte, off int64) error {
	copy(p, h.tar[off:])
	return nil
}

// whole is the trace of reading all of a layer stream.
func whole(layer block.Digest) startup.Trace {
	return startup.Trace{{Layer: layer, Offset: 0, Length: 1 << 20}}
}

// pushBlob pushes a blob and returns its digest.
func (h *hostile) pushBlob(content []byte, kind types.MediaType) block.Digest {
	h.t.Helper()
	if err := h.client.PushBlob(h.t.Context(), h.image.Name.Context(), content, kind); err != nil {
		h.t.Fatal(err)
	}
	return block.Sum(content)
}

func (h *hostile) trace(content []byte) registry.Startup {
	h.t.Helper()
	return registry.Startup{Traces: []registry.TraceBlob{{Digest: h.pushBlob(content, registry.TraceMediaType), Size: int64(len(content))}}}
}

// encoded returns the trace of reading all of a layer stream as it is stored.
func (h *hostile) encoded(layer block.Digest) []byte {
	h.t.Helper()
	encoded, err := whole(layer).Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	return encoded
}

// built returns a bundle of a layer stream with the content of that which is read, and its blob as
// edit has changed it.
func (h *hostile) built(layer block.Digest, edit func(b *bundle.Bundle)) registry.Startup {
	h.t.Helper()
	b, err := bundle.Build(h.t.Context(), whole(layer), bundle.BuildConfig{
		FrameSize: bundle.MinFrameSize, Layers: []bundle.Layer{{ID: layer, Size: int64(len(h.tar))}}, Stream: h,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	annotations := b.Annotations()
	edit(b)
	s := h.trace(h.encoded(layer))
	s.Bundle = &registry.BundleBlob{Digest: h.pushBlob(b.Blob, registry.BundleMediaType), Size: int64(len(b.Blob)), Annotations: annotations}
	return s
}

// ofTable returns a bundle with a table that no program of ours has made.
func (h *hostile) ofTable(body []byte) registry.Startup {
	h.t.Helper()
	table := binary.LittleEndian.AppendUint32(nil, 0x184D2A5B)
	table = append(binary.LittleEndian.AppendUint32(table, uint32(len(body))), body...)
	s := h.trace(h.encoded(h.layer.StreamID()))
	s.Bundle = &registry.BundleBlob{Digest: h.pushBlob(table, registry.BundleMediaType), Size: int64(len(table)), Annotations: map[string]string{
		bundle.AnnotationTable: block.Sum(table).String(), bundle.AnnotationTableSize: strconv.Itoa(len(table)),
	}}
	return s
}

// packed returns content as one zstd frame.
func packed(t *testing.T, content []byte) []byte {
	t.Helper()
	enc, err := zstd.NewWriter(nil, zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	return enc.EncodeAll(content, nil)
}

// manySpans is the encoding of a number of spans, which is written before them: every second page of
// layer 0.
func manySpans(claimed, there int) []byte {
	return append(binary.AppendUvarint(nil, uint64(claimed)), bytes.Repeat([]byte{0, 2, 1}, there)...)
}

// header is the beginning of a trace or table: the format, numbers and one layer.
func (h *hostile) header(magic string, numbers ...byte) []byte {
	id := h.layer.StreamID()
	return slices.Concat([]byte(magic), numbers, []byte{1}, id[:])
}

const tenMillion = 10_000_000

// startups are start-up artifacts that are wrong, by what is wrong with them.
func (h *hostile) startups() map[string]registry.Startup {
	own, other := h.layer.StreamID(), block.Sum([]byte("another image"))
	damaged := h.encoded(own)
	damaged[len(damaged)/2] ^= 0x55
	small := h.trace(h.encoded(own))
	small.Traces[0].Size = registry.MaxTraceBlob
	huge := h.built(own, func(*bundle.Bundle) {})
	huge.Bundle.Size = registry.MaxBundleBlob
	noTable := h.built(own, func(*bundle.Bundle) {})
	noTable.Bundle.Annotations = map[string]string{bundle.AnnotationTable: block.Sum(nil).String(), bundle.AnnotationTableSize: strconv.Itoa(bundle.MaxTable)}
	frames := binary.AppendUvarint(nil, bundle.MinFrameSize)
	size := binary.AppendUvarint(nil, uint64(len(h.tar)))
	return map[string]registry.Startup{
		"trace-of-another-image":  h.trace(h.encoded(other)),
		"trace-damaged":           h.trace(damaged),
		"trace-size":              small,
		"trace-endless":           h.trace(h.encoded(own)),
		"trace-10-million":        h.trace(packed(h.t, append(h.header("brisk trace 1\n", 0, 0), manySpans(tenMillion, tenMillion)...))),
		"trace-bomb":              h.trace(packed(h.t, append(h.header("brisk trace 1\n", 0, 0), make([]byte, 256<<20)...))),
		"bundle-of-another-image": h.built(other, func(*bundle.Bundle) {}),
		"bundle-damaged":          h.built(own, func(b *bundle.Bundle) { b.Blob[b.TableSize+1000] ^= 0x55 }),
		"bundle-short":            h.built(own, func(b *bundle.Bundle) { b.Blob = b.Blob[:len(b.Blob)/2] }),
		"bundle-size":             huge,
		"bundle-table":            noTable,
		"bundle-endless":          h.built(own, func(*bundle.Bundle) {}),
		"bundle-10-million":       h.ofTable(slices.Concat(h.header("brisk bundle 1\n", frames...), size, manySpans(tenMillion, 2_500_000))),
		"bundle-bomb": h.built(own, func(b *bundle.Bundle) {
			bomb := packed(h.t, make([]byte, 64<<20))
			copy(b.Blob[b.TableSize:], bomb)
		}),
	}
}

// endless answers with a body that does not end, in the range that was asked for if one was.
func endless(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	status := http.StatusOK
	var from, to int64
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err == nil {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, to+1))
		status = http.StatusPartialContent
	}
	w.WriteHeader(status)
	for r.Context().Err() == nil {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			return
		}
	}
}

// TestHostileStartups pulls and starts an image with start-up artifacts each of which is wrong. That
// costs time at most: the pull is lazy, and the container reads the right bytes.
func TestHostileStartups(t *testing.T) {
	t.Parallel()
	s := newSite(t, "--mode", "lazy")
	data, file, sum := files(t, 1, 4<<20)
	ref := s.push("app:v1", true, shell(t), data)
	h := &hostile{t: t, tar: data.Tar}
	h.client, h.image = resolveToPush(t, ref)
	found, err := h.client.FindArtifact(t.Context(), h.image)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := h.client.LayerIndexes(t.Context(), h.image, found)
	if err != nil {
		t.Fatal(err)
	}
	h.layer = layers[1]
	now, refused := time.Now(), make(map[string]int)
	for name, wrong := range h.startups() {
		now = now.Add(time.Minute)
		if _, err := h.client.PushStartup(t.Context(), h.image, wrong, nil, now); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		switch name {
		case "trace-endless":
			s.reg.Inject(registrytest.Rule{Fault: endless, Match: isBlob(wrong.Traces[0].Digest)})
		case "bundle-endless":
			s.reg.Inject(registrytest.Rule{Fault: endless, Match: isBlob(wrong.Bundle.Digest)})
		}
		began := time.Now()
		image := s.Pull(ref)
		if took := time.Since(began); took > maxHostilePull {
			t.Errorf("%s: the pull took %s", name, took)
		}
		if reason, lazy := s.reasonOf(ref); !lazy || reason != "" {
			t.Errorf("%s: lazy %v, reason %q", name, lazy, reason)
		}
		s.requireSum(name, image, file, sum)
		// What is of another image is right in itself.
		if !strings.HasSuffix(name, "-of-another-image") {
			kind, _, _ := strings.Cut(name, "-")
			containerdtest.Await(t, "the refusal of "+name, containerdtest.Timeout, func() bool {
				return len(s.logs.lines(kind+" of an image cannot be had")) > refused[kind]
			})
			refused[kind] = len(s.logs.lines(kind + " of an image cannot be had"))
		}
		// A node that still has the blocks has no need of a bundle.
		const removal = "blocks of an unused layer removed"
		removed := len(s.logs.lines(removal))
		s.RemoveImage(ref)
		containerdtest.Await(t, "the removal of the blocks after "+name, containerdtest.Timeout, func() bool {
			return len(s.logs.lines(removal)) >= removed+2
		})
		s.reg.ClearFaults()
	}
	// The same image with what is right, so that the others were looked at.
	good := h.built(h.layer.StreamID(), func(*bundle.Bundle) {})
	if _, err := h.client.PushStartup(t.Context(), h.image, good, nil, now.Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	image := s.Pull(ref)
	containerdtest.Await(t, "the bundle", containerdtest.Timeout, func() bool {
		for _, i := range s.status().Images {
			if i.ImageStatus != nil && i.Bundle != nil {
				return i.Bundle.HeldBytes == 1<<20 && i.Start != nil && i.Start.MissingBytes == 0
			}
		}
		return false
	})
	s.requireSum("good", image, file, sum)
	s.RemoveImage(ref)
}

func isBlob(digest block.Digest) func(*http.Request) bool {
	return func(r *http.Request) bool {
		return r.Method == http.MethodGet && path.Base(r.URL.Path) == digest.String()
	}
}
