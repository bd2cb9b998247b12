package registry_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// untyped makes a registry list referrers without their types, as older ones do: start-up
// artifacts in the order in which they were pushed, index artifacts last. dates are those of the start-up
// artifacts, if the registry lists the annotations of manifests.
func untyped(r *registrytest.Registry, pushed []block.Digest, dates []time.Time) {
	place := func(d v1.Descriptor) int {
		i := slices.IndexFunc(pushed, func(p block.Digest) bool { return p.Hex() == d.Digest.Hex })
		return cmp.Or(i+1, len(pushed)+1) - 1
	}
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
			slices.SortFunc(listed.Manifests, func(a, b v1.Descriptor) int { return cmp.Compare(place(a), place(b)) })
			for i := range listed.Manifests {
				d := &listed.Manifests[i]
				d.ArtifactType, d.Annotations = "", nil
				if at := place(*d); at < len(dates) {
					d.Annotations = map[string]string{registry.AnnotationCreated: dates[at].UTC().Format(time.RFC3339)}
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
			var (
				pushed []block.Digest
				dates  []time.Time
				latest string
			)
			for i := range 40 {
				latest = fmt.Sprint("start ", i)
				date := time.Now().Add(time.Duration(i) * time.Minute)
				pushed = append(pushed, a.push(t, latest, nil, date).Digest)
				if annotated {
					dates = append(dates, date)
				}
			}
			untyped(a.registry, pushed, dates)
			// By digest: there is no tag that lists the index.
			got := a.find(t, a.image.Name.Context().Digest(a.image.Digest.String()))
			if got.Digest != index || commands(got) != latest {
				t.Errorf("found %s with the trace of %q, want %s with that of %q", got.Digest.Short(), commands(got), index.Short(), latest)
			}
		})
	}
}
