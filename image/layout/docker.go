package layout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	ggcr "github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// unpacked is a store that is removed in the end.
type unpacked struct{ *directory }

func (u unpacked) finish(context.Context) error { return u.discard() }
func (u unpacked) discard() error               { return os.RemoveAll(u.path) }

// openDocker opens what "docker save" has written. Newer versions write an OCI image layout too,
// which has the image with its digest. Of an older one an image is made, in a directory for
// temporary files: its layers are compressed.
func openDocker(path, ref string) (store, string, error) {
	a, err := openArchive(path, false)
	if err == nil {
		_, tag, _ := cutTag(ref)
		return a, tag, nil
	}
	if !errors.Is(err, errNoLayout) {
		return nil, "", err
	}
	image, tag, err := dockerImage(path, ref)
	if err != nil {
		return nil, "", err
	}
	dir, err := os.MkdirTemp("", "brisk-docker-archive-")
	if err != nil {
		return nil, "", fmt.Errorf("making a directory for the layers: %w", err)
	}
	written, err := ggcr.Write(dir, empty.Index)
	if err == nil {
		err = written.AppendImage(image, ggcr.WithAnnotations(map[string]string{refName: tag}))
	}
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("compressing the layers: %w", err), os.RemoveAll(dir))
	}
	return unpacked{&directory{path: dir}}, tag, nil
}

// dockerImage reads the image with a name, or the only one.
func dockerImage(path, ref string) (v1.Image, string, error) {
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(path) })
	if err != nil {
		return nil, "", fmt.Errorf("reading manifest.json: %w", err)
	}
	var names []string
	for _, image := range manifest {
		names = append(names, image.RepoTags...)
	}
	if ref == "" && len(manifest) > 1 {
		return nil, "", fmt.Errorf("it has several images, name one of: %s", strings.Join(names, ", "))
	}
	var wanted *name.Tag
	if ref != "" {
		parsed, err := name.NewTag(ref)
		if err != nil {
			return nil, "", err
		}
		wanted = &parsed
	} else if len(names) > 0 {
		ref = names[0]
	}
	image, err := tarball.ImageFromPath(path, wanted)
	if err != nil {
		return nil, "", fmt.Errorf("reading the image, one of %q: %w", names, err)
	}
	if _, tag, ok := cutTag(ref); ok {
		return image, tag, nil
	}
	return image, latest, nil
}

// cutTag takes a reference apart.
func cutTag(ref string) (before, tag string, found bool) {
	i := strings.LastIndexByte(ref, ':')
	if i < 0 || strings.Contains(ref[i:], "/") {
		return ref, "", false
	}
	return ref[:i], ref[i+1:], true
}
