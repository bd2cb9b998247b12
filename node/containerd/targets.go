package containerd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	imagesapi "github.com/containerd/containerd/api/services/images/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"google.golang.org/grpc"
)

const (
	// maxList bounds the list of images in bytes, maxIndex one image index. containerd
	// has the same bounds.
	maxList  = 16 << 20
	maxIndex = 8 << 20
)

// Images knows the images of one namespace of a containerd. It is not safe for concurrent
// use.
type Images struct {
	address   string
	namespace string
	// indexes are the manifests in image indexes, by digest. What has a digest stays
	// what it is.
	indexes map[string][]string
}

// NewImages returns the images of a namespace of the containerd on a socket. It is not
// asked yet.
func NewImages(address, namespace string) *Images {
	return &Images{address: address, namespace: namespace}
}

// Targets returns the digests that images were pulled under, by the digests of their
// manifests, in the form sha256:hex and sorted: that of the image index for an image of
// several platforms, that of the manifest itself for another. Images whose index is not
// there or not what it should be are left out. What was read of an index is remembered,
// also after an error.
func (i *Images) Targets(ctx context.Context) (map[string][]string, error) {
	targets := make(map[string][]string)
	err := ask(i.address, func(conn *grpc.ClientConn) error {
		ctx := namespaces.WithNamespace(ctx, i.namespace)
		list, err := imagesapi.NewImagesClient(conn).List(ctx, &imagesapi.ListImagesRequest{}, grpc.MaxCallRecvMsgSize(maxList))
		if err != nil {
			return err
		}
		read := make(map[string][]string, len(i.indexes))
		defer func() { i.indexes = read }()
		content := contentapi.NewContentClient(conn)
		for _, image := range list.GetImages() {
			target := image.GetTarget()
			manifests, err := i.manifests(ctx, content, target.GetDigest(), types.MediaType(target.GetMediaType()), target.GetSize())
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				continue // this image only
			}
			read[target.GetDigest()] = manifests
			for _, manifest := range manifests {
				if !slices.Contains(targets[manifest], target.GetDigest()) {
					targets[manifest] = append(targets[manifest], target.GetDigest())
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("asking containerd on %s for its images: %w", i.address, err)
	}
	for _, digests := range targets {
		slices.Sort(digests)
	}
	return targets, nil
}

// manifests returns the digests of the manifests of an image.
func (i *Images) manifests(ctx context.Context, content contentapi.ContentClient, digest string, kind types.MediaType, size int64) ([]string, error) {
	if !kind.IsIndex() {
		return []string{digest}, nil
	}
	if known := i.indexes[digest]; len(known) > 0 {
		return known, nil
	}
	if size <= 0 || size > maxIndex {
		return nil, fmt.Errorf("index %s has %d bytes, which is not between 1 and %d", digest, size, maxIndex)
	}
	encoded, err := readContent(ctx, content, digest, size)
	if err != nil {
		return nil, fmt.Errorf("reading index %s: %w", digest, err)
	}
	return parseIndex(digest, encoded)
}

// readContent reads all of a blob.
func readContent(ctx context.Context, content contentapi.ContentClient, digest string, size int64) ([]byte, error) {
	// The answer is given up with the context.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := content.Read(ctx, &contentapi.ReadContentRequest{Digest: digest, Size: size})
	if err != nil {
		return nil, err
	}
	encoded := make([]byte, 0, size)
	for {
		part, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return encoded, nil
		}
		if err != nil {
			return nil, err
		}
		if encoded = append(encoded, part.GetData()...); int64(len(encoded)) > size {
			return nil, fmt.Errorf("it has more than %d bytes", size)
		}
	}
}

// parseIndex returns the digests of the manifests in an image index, which has to be what
// its digest says.
func parseIndex(digest string, encoded []byte) ([]string, error) {
	if sum := fmt.Sprintf("sha256:%x", sha256.Sum256(encoded)); sum != digest {
		return nil, fmt.Errorf("reading index %s: its content has the digest %s", digest, sum)
	}
	index, err := v1.ParseIndexManifest(bytes.NewReader(encoded))
	if err != nil {
		return nil, fmt.Errorf("reading index %s: %w", digest, err)
	}
	var manifests []string
	for i := range index.Manifests {
		manifests = append(manifests, index.Manifests[i].Digest.String())
	}
	return manifests, nil
}
