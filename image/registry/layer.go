package registry

import (
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// IsTar reports whether the media type of the layer is that of a tar, plain or compressed in a way
// that container runtimes know. Runtimes refuse all others when they unpack the image, and so does
// a conversion.
func (l Layer) IsTar() bool {
	for _, prefix := range []string{
		"application/vnd.oci.image.layer.v1.tar",
		"application/vnd.oci.image.layer.nondistributable.v1.tar",
		"application/vnd.docker.image.rootfs.diff.tar",
		"application/vnd.docker.image.rootfs.foreign.diff.tar",
	} {
		if form, ok := strings.CutPrefix(string(l.MediaType), prefix); ok {
			return slices.Contains([]string{"", "+gzip", ".gzip", "+zstd", ".zstd"}, form)
		}
	}
	return false
}

// Descriptor describes the blob of the layer.
func (l Layer) Descriptor() v1.Descriptor {
	return v1.Descriptor{MediaType: l.MediaType, Size: l.Size, Digest: hash(l.Digest)}
}
