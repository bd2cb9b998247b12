package registry_test

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

// accelerated is an image with an index artifact and an accelerated tag.
type accelerated struct {
	registry *registrytest.Registry
	client   *registry.Client
	image    *registry.Image
}

// accelerate pushes a small image, with its artifact as referrer and under the accelerated tag.
func accelerate(t *testing.T, r *registrytest.Registry) accelerated {
	t.Helper()
	c := newClient(t, registry.Config{})
	r.Push(t, "app:v1", registrytest.Image{Layers: []registrytest.Layer{smallLayer(t, 1)}})
	image, err := c.Resolve(t.Context(), r.Ref(t, "app:v1"), linux())
	if err != nil {
		t.Fatal(err)
	}
	artifact, err := registry.EncodeArtifact(image.Descriptor, nil)
	if err != nil {
		t.Fatal(err)
	}
	repo := image.Name.Context()
	if err := c.PushArtifact(t.Context(), repo, artifact); err != nil {
		t.Fatal(err)
	}
	manifest, err := registry.EncodeAccelerated(listing(image), []registry.Descriptor{
		{Digest: block.Sum(artifact), Size: int64(len(artifact)), Subject: image.Digest},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.PushAccelerated(t.Context(), repo.Tag("v1_accelerated"), manifest); err != nil {
		t.Fatal(err)
	}
	return accelerated{r, c, image}
}

// push pushes a start-up artifact with a trace for a command.
func (a accelerated) push(t *testing.T, command string, previous *registry.Startup, now time.Time) registry.Descriptor {
	t.Helper()
	content := []byte("trace of " + command)
	if err := a.client.PushBlob(t.Context(), a.image.Name.Context(), content, registry.TraceMediaType); err != nil {
		t.Fatal(err)
	}
	pushed, err := a.client.PushStartup(t.Context(), a.image, registry.Startup{
		Traces: []registry.TraceBlob{{Digest: block.Sum(content), Size: int64(len(content)), Command: command}},
	}, previous, now)
	if err != nil {
		t.Fatal(err)
	}
	return pushed
}

// find finds the artifact of the image that a reference names.
func (a accelerated) find(t *testing.T, ref name.Reference) *registry.Artifact {
	t.Helper()
	image, err := a.client.Resolve(t.Context(), ref, linux())
	if err != nil {
		t.Fatal(err)
	}
	found, err := a.client.FindArtifact(t.Context(), image)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// commands returns what the artifact of an image has traces for.
func commands(a *registry.Artifact) string {
	if a.Startup == nil {
		return ""
	}
	var all []string
	for _, t := range a.Startup.Traces {
		all = append(all, t.Command)
	}
	return strings.Join(all, ",")
}

// entries counts the artifacts of each type under a tag.
func (a accelerated) entries(t *testing.T, tag name.Tag) map[string]int {
	t.Helper()
	index, err := remote.Index(tag)
	if err != nil {
		t.Fatal(err)
	}
	listed, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	counts := make(map[string]int)
	for _, d := range listed.Manifests {
		counts[d.ArtifactType]++
	}
	return counts
}

// TestStartupIsFoundWithTheIndex pushes traces, the later of which counts although it says to be
// older, and finds them with the index: as referrers, and under a tag that was copied.
func TestStartupIsFoundWithTheIndex(t *testing.T) {
	for _, referrers := range []bool{false, true} {
		t.Run(fmt.Sprintf("referrers=%t", referrers), func(t *testing.T) {
			a := accelerate(t, registrytest.New(t, registrytest.Config{Referrers: referrers}))
			repo := a.image.Name.Context()
			before := a.find(t, a.image.Name)
			if before.Startup != nil {
				t.Errorf("before there is one: %+v", before.Startup)
			}
			now := time.Now()
			a.push(t, "first", nil, now)
			first := a.find(t, a.image.Name)
			a.push(t, "second", first.Startup, now.Add(-time.Hour))
			second := a.find(t, a.image.Name)
			if commands(first) != "first" || commands(second) != "second" || !second.Startup.Created.After(first.Startup.Created) {
				t.Errorf("found %q, then %q", commands(first), commands(second))
			}
			if first.Digest != before.Digest || second.Digest != before.Digest {
				t.Error("a trace has changed the index")
			}
			want := map[string]int{"": 1, registry.ArtifactType: 1, registry.StartupType: 1}
			if got := a.entries(t, repo.Tag("v1_accelerated")); fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("the accelerated tag lists %v, want %v", got, want)
			}
			copied := a.registry.Repository(t, "elsewhere").Tag("v1_accelerated")
			index, err := remote.Index(repo.Tag("v1_accelerated"))
			if err != nil {
				t.Fatal(err)
			}
			if err := remote.WriteIndex(copied, index); err != nil {
				t.Fatal(err)
			}
			if got := a.find(t, copied); got.Digest != before.Digest || commands(got) != "second" {
				t.Errorf("under the copied tag: %q", commands(got))
			}
			if !referrers {
				want = map[string]int{registry.ArtifactType: 1, registry.StartupType: 1}
				if got := a.entries(t, repo.Tag("sha256-"+a.image.Digest.Hex())); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("the fallback tag lists %v, want %v", got, want)
				}
			}
		})
	}
}

// TestStartupCostsNoRoundTrip holds that the manifests of index and traces are fetched side by
// side, of all traces only that of the newest, and that the index is waited for but not the traces.
func TestStartupCostsNoRoundTrip(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{})
	a := accelerate(t, r)
	old := a.push(t, "old", nil, time.Now())
	latest := a.push(t, "new", nil, time.Now().Add(time.Minute))
	index := a.find(t, a.image.Name).Digest
	listed := a.relist(t, old, latest)

	var asked atomic.Int32
	both := make(chan struct{})
	meet := func(w http.ResponseWriter, req *http.Request, next http.Handler) {
		if asked.Add(1) == 2 {
			close(both)
		}
		select {
		case <-both:
		case <-time.After(5 * time.Second):
		}
		next.ServeHTTP(w, req)
	}
	manifest := func(digest block.Digest) func(*http.Request) bool {
		return func(req *http.Request) bool { return strings.HasSuffix(req.URL.Path, "/manifests/"+digest.String()) }
	}
	r.Inject(registrytest.Rule{Match: manifest(index), Fault: meet})
	r.Inject(registrytest.Rule{Match: manifest(latest.Digest), Fault: meet})
	r.Inject(registrytest.Rule{Match: manifest(old.Digest), Fault: func(http.ResponseWriter, *http.Request, http.Handler) {
		t.Error("the older artifact was fetched")
	}})
	began := time.Now()
	if got := a.find(t, listed); commands(got) != "new" || time.Since(began) > 4*time.Second {
		t.Errorf("found %q after %s", commands(got), time.Since(began))
	}

	r.ClearFaults()
	r.Inject(registrytest.Rule{Match: manifest(latest.Digest), Fault: func(_ http.ResponseWriter, req *http.Request, _ http.Handler) {
		<-req.Context().Done()
	}})
	began = time.Now()
	if got := a.find(t, listed); got.Startup != nil || time.Since(began) > 2*time.Second {
		t.Errorf("found %q after %s although it never answers", commands(got), time.Since(began))
	}
	r.ClearFaults()
	r.Inject(registrytest.Rule{Match: manifest(latest.Digest), Fault: registrytest.Status(http.StatusInternalServerError)})
	if got := a.find(t, listed); got.Digest != index || got.Startup != nil {
		t.Errorf("found %q although it fails", commands(got))
	}
}

// relist lists artifacts under a tag of their own, as copies of several tags may end up in one.
func (a accelerated) relist(t *testing.T, startups ...registry.Descriptor) name.Tag {
	t.Helper()
	repo := a.image.Name.Context()
	found := a.find(t, a.image.Name)
	got, err := remote.Get(repo.Digest(found.Digest.String()))
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := registry.EncodeAccelerated(listing(a.image),
		append(startups, registry.Descriptor{Digest: found.Digest, Size: got.Size, Subject: a.image.Digest}))
	if err != nil {
		t.Fatal(err)
	}
	tag := repo.Tag("all_accelerated")
	if _, err := a.client.PushAccelerated(t.Context(), tag, manifest); err != nil {
		t.Fatal(err)
	}
	return tag
}

// TestBrokenStartupHidesNothing puts before the right artifact one of another image, an index
// and an image.
func TestBrokenStartupHidesNothing(t *testing.T) {
	a := accelerate(t, registrytest.New(t, registrytest.Config{}))
	good := a.push(t, "good", nil, time.Now())
	other := a.image.Descriptor
	other.Digest = v1.Hash{Algorithm: "sha256", Hex: block.Sum([]byte("other image")).Hex()}
	foreign, err := registry.EncodeStartup(other, &registry.Startup{Created: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.client.PushArtifact(t.Context(), a.image.Name.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	listed := []registry.Descriptor{good}
	for _, digest := range []block.Digest{block.Sum(foreign), a.find(t, a.image.Name).Digest, a.image.Digest} {
		listed = append(listed, registry.Descriptor{
			Digest: digest, Size: 1, Subject: a.image.Digest, Startup: true, Created: time.Now().Add(time.Hour),
		})
	}
	if got := a.find(t, a.relist(t, listed...)); commands(got) != "good" {
		t.Errorf("found %q", commands(got))
	}
}
