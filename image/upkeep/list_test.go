package upkeep_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/upkeep"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// sizes returns what the blobs of an image take for both platforms, and those of its index.
func (s site) sizes(t *testing.T, ref string) (size, index int64) {
	t.Helper()
	for _, platform := range []v1.Platform{linux(), arm()} {
		found, err := s.client.Resolve(t.Context(), s.Ref(t, ref), platform)
		if err != nil {
			t.Fatal(err)
		}
		size += found.ConfigBlob.Size
		for _, layer := range found.Layers {
			size += layer.Size
		}
		artifact, err := s.client.FindArtifact(t.Context(), found)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range artifact.Indexes {
			index += b.Size
		}
	}
	return size, index + int64(len("{}"))
}

func TestList(t *testing.T) {
	for kind, cfg := range kinds() {
		t.Run(kind, func(t *testing.T) {
			s := newSite(t, cfg)
			digest := s.push(t, "app:v1", 1)
			converted := s.convert(t, "app:v1", convert.ModeIndex)
			s.trace(t, "app:v1", "first", time.Now())
			s.trace(t, "app:v1", "second", time.Now())
			s.sign(t, "app", converted.Platforms[0].Artifact, 90)
			s.sign(t, "app", digest, 91)
			s.push(t, "app:v2", 2)
			s.push(t, "app:v3", 3)
			s.convert(t, "app:v3", convert.ModeFull)
			s.push(t, "app:v4", 4)
			s.convert(t, "app:v4", convert.ModeIndex)
			s.push(t, "app:v4", 5)
			s.PutManifest(t, "app:alone_accelerated", types.OCIImageIndex, s.Manifest(t, "app:v1_accelerated"))
			s.PutManifest(t, "app:v5", types.OCIImageIndex, s.Manifest(t, "app:v3"))

			list, err := upkeep.List(t.Context(), s.client, s.Repository(t, "app"), "")
			if err != nil {
				t.Fatal(err)
			}
			byName := make(map[string]upkeep.Tag)
			var names []string
			for _, tag := range list.Tags {
				byName[tag.Tag] = tag
				names = append(names, tag.Tag)
			}
			if got := strings.Join(names, " "); got != "alone_accelerated v1 v2 v3 v4 v5" || list.Incomplete != "" {
				t.Errorf("tags %q, %+v", got, list)
			}
			size, index := s.sizes(t, "app:v1")
			first := byName["v1"]
			if first.Digest != digest || strings.Join(first.Modes, ",") != "index" || first.Platforms != 2 || first.Indexed != 2 || first.Accelerated != "v1_accelerated" ||
				first.Stale || first.Size != size || first.FullSize != 0 || first.IndexSize != index || first.Traces != 1 || first.IndexSignatures != 2 || first.ImageSignatures != 2 {
				t.Errorf("v1 of %d bytes with an index of %d: %+v", size, index, first)
			}
			if want := 100 * float64(index) / float64(size); first.IndexPercent != want || first.StartupSize == 0 {
				t.Errorf("share %f, want %f; start-up %d", first.IndexPercent, want, first.StartupSize)
			}
			if v2 := byName["v2"]; len(v2.Modes) != 0 || v2.Indexed != 0 || v2.Accelerated != "" || v2.IndexSize != 0 || v2.Size == 0 {
				t.Errorf("v2: %+v", v2)
			}
			full, index := s.sizes(t, "app:v3_accelerated")
			if v3 := byName["v3"]; strings.Join(v3.Modes, ",") != "full" || v3.Indexed != 2 || v3.FullSize != full || v3.IndexSize != index || v3.Stale {
				t.Errorf("v3 of %d bytes in full mode: %+v", full, v3)
			}
			if v4 := byName["v4"]; !v4.Stale || v4.Indexed != 0 {
				t.Errorf("v4: %+v", v4)
			}
			if alone := byName["alone_accelerated"]; alone.Indexed != 2 || alone.Stale || alone.Accelerated != "alone_accelerated" {
				t.Errorf("alone: %+v", alone)
			}
			if v5 := byName["v5"]; v5.Indexed != 0 { // the same image as v3, without its tag in full mode
				t.Errorf("v5: %+v", v5)
			}
		})
	}
}

// A registry that does not answer for referrers does not keep the list from being made of its tags, and
// a manifest that cannot be read is named.
func TestListOfOddRegistries(t *testing.T) {
	s := newSite(t, registrytest.Config{})
	s.push(t, "app:v1", 1)
	s.convert(t, "app:v1", convert.ModeIndex)
	s.push(t, "app:odd", 2)
	s.Inject(registrytest.Rule{
		Fault: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
			if _, err := w.Write([]byte(`{"schemaVersion":2,"layers":7}`)); err != nil {
				panic(http.ErrAbortHandler)
			}
		},
		Match: func(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/manifests/odd") },
	})
	s.Inject(registrytest.Rule{Fault: registrytest.Status(http.StatusForbidden), Match: func(r *http.Request) bool {
		return strings.Contains(r.URL.Path, "/referrers/")
	}})
	list, err := upkeep.List(t.Context(), s.client, s.Repository(t, "app"), "")
	if err != nil {
		t.Fatal(err)
	}
	if len(list.Tags) != 2 || list.Tags[0].Tag != "odd" || list.Tags[0].Unreadable == "" || list.Tags[1].Indexed != 2 || !strings.Contains(list.Incomplete, "403") {
		t.Errorf("list %+v", list)
	}
	if _, err := upkeep.List(t.Context(), s.client, s.Repository(t, "none"), ""); !isNotFound(err) {
		t.Errorf("a repository that is not there: %v", err)
	}
	if _, err := upkeep.Remove(t.Context(), s.client, refs(t, s, "app:v1"), upkeep.RemoveConfig{}); err == nil {
		t.Error("something was removed without knowing the referrers")
	}
}

// An image that was converted in both modes has both.
func TestListBothModes(t *testing.T) {
	s := newSite(t, registrytest.Config{})
	s.push(t, "app:v1", 1)
	s.convert(t, "app:v1", convert.ModeIndex)
	s.convert(t, "app:v1", convert.ModeFull)
	list, err := upkeep.List(t.Context(), s.client, s.Repository(t, "app"), "")
	if err != nil {
		t.Fatal(err)
	}
	if tag := list.Tags[0]; strings.Join(tag.Modes, ",") != "index,full" || tag.Indexed != 2 || tag.FullSize == 0 {
		t.Errorf("%+v", tag)
	}
	full := s.resolve(t, "app:v1_accelerated")
	s.PutManifest(t, "app:plain", types.OCIManifestSchema1, s.Manifest(t, "app@"+full.Digest.String()))
	if list, err = upkeep.List(t.Context(), s.client, s.Repository(t, "app"), ""); err != nil {
		t.Fatal(err)
	}
	if plain := list.Tags[0]; plain.Tag != "plain" || strings.Join(plain.Modes, ",") != "full" || plain.Indexed != 1 || plain.Digest == (block.Digest{}) {
		t.Errorf("a tag of an image in full mode: %+v", plain)
	}
}
