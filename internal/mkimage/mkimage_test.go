package mkimage

import (
	"errors"
	"io"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/brisk-project/brisk/test/require"
)

func streamSize(layer v1.Layer) (int64, error) {
	stream, err := layer.Uncompressed()
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, stream)
	return n, errors.Join(err, stream.Close())
}

func TestGoToolchain(t *testing.T) {
	require.Tool(t, "go")
	goroot, err := GoRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	image, err := GoToolchain(t.Context(), goroot, t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	if len(layers) < 4 {
		t.Errorf("the demo image has %d layers, want several", len(layers))
	}
	var total int64
	for i, layer := range layers {
		if err := validate.Layer(layer); err != nil {
			t.Errorf("layer %d: %v", i, err)
		}
		size, err := streamSize(layer)
		if err != nil {
			t.Fatal(err)
		}
		total += size
	}
	if total < 200<<20 {
		t.Errorf("the demo image is %d bytes uncompressed, want at least 200 MiB", total)
	}
}
