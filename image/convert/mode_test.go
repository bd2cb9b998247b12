package convert_test

import (
	"strings"
	"testing"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/test/registrytest"
)

// Auto makes an image in full mode only where much of it could not be read in parts.
func TestAuto(t *testing.T) {
	large := registrytest.Tar(t, registrytest.Files(1, 3, 4<<20)...)
	gzip := registrytest.Layer{Tar: large, Level: 1}
	frames := registrytest.Layer{Tar: large, Compression: registrytest.Zstd, Level: 1, FrameSize: 1 << 20}
	one := registrytest.Layer{Tar: large, Compression: registrytest.Zstd, Level: 1}
	short := registrytest.Layer{Tar: tarOf(t, 2), Compression: registrytest.Zstd}
	var many []registrytest.Layer
	for i := range 12 {
		tar := registrytest.Tar(t, registrytest.Files(uint64(10+i), 3, 4<<20)...)
		many = append(many, registrytest.Layer{Tar: tar, Compression: registrytest.None})
	}
	r := registrytest.New(t, registrytest.Config{})
	for name, tt := range map[string]struct {
		layers []registrytest.Layer
		mode   convert.Mode
	}{
		"gzip":       {[]registrytest.Layer{gzip}, convert.ModeIndex},
		"frames":     {[]registrytest.Layer{frames}, convert.ModeIndex},
		"short":      {[]registrytest.Layer{short}, convert.ModeIndex},
		"one":        {[]registrytest.Layer{one}, convert.ModeFull},
		"half":       {[]registrytest.Layer{gzip, one}, convert.ModeFull},
		"one-twelft": {append(many, one), convert.ModeIndex},
	} {
		r.Push(t, name+":v1", registrytest.Image{Layers: tt.layers})
		result := mustConvert(t, newClient(t), r.Ref(t, name+":v1"), convert.Config{Mode: convert.ModeAuto})
		if result.Mode != tt.mode || result.Reason == "" {
			t.Errorf("%s: mode %s because %s, want %s", name, result.Mode, result.Reason, tt.mode)
		}
		if full := !result.Platforms[0].FullManifest.IsZero(); full != (tt.mode == convert.ModeFull) {
			t.Errorf("%s: platforms %+v", name, result.Platforms)
		}
	}
	if _, err := convert.Convert(t.Context(), newClient(t), r.Ref(t, "one:v1"), convert.Config{Mode: "half"}); err == nil ||
		!strings.Contains(err.Error(), "unknown mode") {
		t.Errorf("unknown mode: %v", err)
	}
}
