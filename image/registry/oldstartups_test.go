package registry_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/test/registrytest"
)

// untyped makes a registry list referrers without their types, as older ones do, index artifacts
// last, and with or without the annotations of their manifests.
func untyped(r *registrytest.Registry, annotated bool) {
	r.Inject(registrytest.Rule{
		Match: func(req *http.Request) bool { return strings.Contains(req.URL.Path, "/referrers/") },
		Fault: func(w http.ResponseWriter, req *http.Request, next http.Handler) {
			plain := httptest.NewRecorder()
			next.ServeHTTP(plain, req)
			var listed v1.IndexManifest
			if err := json.Unmarshal(plain.Body.Bytes(), &listed); err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			slices.SortStableFunc(listed.Manifests, func(a, b v1.Descriptor) int { return -strings.Compare(a.ArtifactType, b.ArtifactType) })
			for i := range listed.Manifests {
				listed.Manifests[i].ArtifactType = ""
				if !annotated {
					listed.Manifests[i].Annotations = nil
				}
			}
			w.Header().Set("Content-Type", string(listed.MediaType))
			if err := json.NewEncoder(w).Encode(listed); err != nil {
				panic(err)
			}
		},
	})
}

// TestOldStartupsDoNotHideTheIndex pushes more traces one after the other than artifacts are looked
// at for an index, to a registry that does not say what is what.
func TestOldStartupsDoNotHideTheIndex(t *testing.T) {
	for _, annotated := range []bool{false, true} {
		t.Run(fmt.Sprintf("annotated=%t", annotated), func(t *testing.T) {
			a := accelerate(t, registrytest.New(t, registrytest.Config{Referrers: true}))
			index := a.find(t, a.image.Name).Digest
			now := time.Now()
			var latest string
			for i := range 40 {
				latest = fmt.Sprint("start ", i)
				a.push(t, latest, nil, now.Add(time.Duration(i)*time.Minute))
			}
			untyped(a.registry, annotated)
			// By digest: there is no tag that lists the index.
			got := a.find(t, a.image.Name.Context().Digest(a.image.Digest.String()))
			if got.Digest != index || commands(got) != latest {
				t.Errorf("found %s with the trace of %q, want %s with that of %q", got.Digest.Short(), commands(got), index.Short(), latest)
			}
		})
	}
}
