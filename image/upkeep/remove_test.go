package upkeep_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/upkeep"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

func isNotFound(err error) bool { return errors.Is(err, block.ErrNotFound) }

func refs(t *testing.T, s site, texts ...string) []name.Reference {
	t.Helper()
	var list []name.Reference
	for _, text := range texts {
		list = append(list, s.Ref(t, text))
	}
	return list
}

func mustRemove(t *testing.T, s site, cfg upkeep.RemoveConfig, texts ...string) *upkeep.Removal {
	t.Helper()
	removal, err := upkeep.Remove(t.Context(), s.client, refs(t, s, texts...), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return removal
}

// All that conversions have made is removed, whichever way the image is named: nothing is left but the image
// as it was, with what others have attached to it.
func TestRemove(t *testing.T) {
	for kind, cfg := range kinds() {
		for _, mode := range []convert.Mode{convert.ModeIndex, convert.ModeFull} {
			t.Run(kind+" "+string(mode), func(t *testing.T) {
				s := newSite(t, cfg)
				digest := s.push(t, "app:v1", 1)
				other := s.push(t, "app:other", 2)
				s.sign(t, "app", digest, 90)
				base := s.resolve(t, "app:v1").Digest
				attached := digestOf(t, s.sign(t, "app", base, 91))
				before := s.tags(t, "app")
				first := s.convert(t, "app:v1", convert.ModeIndex)
				s.trace(t, "app:v1", "first", time.Now())
				result := s.convert(t, "app:v1", mode)
				signature := digestOf(t, s.sign(t, "app", result.Platforms[0].Artifact, 92))
				s.convert(t, "app:other", convert.ModeIndex)

				s.ResetRequests()
				plan := mustRemove(t, s, upkeep.RemoveConfig{DryRun: true}, "app:v1")
				s.requireUntouched(t)
				removal := mustRemove(t, s, upkeep.RemoveConfig{}, "app:v1")
				if !slices.Equal(plan.Removed, removal.Removed) || !plan.DryRun || removal.Freed != plan.Freed || removal.Freed == 0 {
					t.Errorf("planned %+v, removed %+v", plan, removal)
				}
				for _, gone := range []block.Digest{
					first.Platforms[0].Artifact, result.Platforms[1].Artifact, result.Platforms[0].FullManifest, result.TagDigest, signature,
				} {
					if !gone.IsZero() && s.has(t, "app", gone) {
						t.Errorf("%s is left", gone)
					}
				}
				mustRemove(t, s, upkeep.RemoveConfig{}, "app:other_accelerated")
				if after := s.tags(t, "app"); !slices.Equal(before, after) {
					t.Errorf("tags %v, before the conversion %v", after, before)
				}
				if !s.has(t, "app", digest) || !s.has(t, "app", other) || s.resolve(t, "app:v1").Digest != base || !s.has(t, "app", attached) {
					t.Error("the image, or its signature, has changed")
				}
				listed, err := s.client.Referrers(t.Context(), s.Repository(t, "app"), base)
				if err != nil || len(listed) != 1 || listed[0].Digest.String() != attached.String() {
					t.Errorf("referrers of the image: %v, %v", listed, err)
				}
				for _, ref := range []string{"app:v1", "app:other"} {
					s.requireConverted(t, ref, false)
				}
				if again := mustRemove(t, s, upkeep.RemoveConfig{}, "app:v1"); len(again.Removed) != 0 {
					t.Errorf("removed again: %+v", again)
				}
				s.convert(t, "app:v1", mode)
				s.requireConverted(t, "app:v1_accelerated", true)
			})
		}
	}
}

// What other tags list is not removed: it is an error that names them, or kept. Tags that lose their index are named.
func TestRemoveShared(t *testing.T) {
	for kind, cfg := range kinds() {
		for _, mode := range []convert.Mode{convert.ModeIndex, convert.ModeFull} {
			t.Run(kind+" "+string(mode), func(t *testing.T) {
				s := newSite(t, cfg)
				s.push(t, "app:v1", 1)
				for _, tag := range []string{"app:latest", "app:stable"} {
					s.PutManifest(t, tag, types.OCIImageIndex, s.Manifest(t, "app:v1"))
				}
				s.convert(t, "app:v1", mode)
				s.convert(t, "app:latest", mode)
				s.ResetRequests()
				_, err := upkeep.Remove(t.Context(), s.client, refs(t, s, "app:v1"), upkeep.RemoveConfig{})
				needed, ok := errors.AsType[*upkeep.NeededError](err)
				if !ok || len(needed.Needs) < 2 || !strings.Contains(err.Error(), "app:latest_accelerated") {
					t.Fatalf("error %v", err)
				}
				s.requireUntouched(t)
				kept := mustRemove(t, s, upkeep.RemoveConfig{KeepShared: true}, "app:v1")
				if len(kept.Removed) != 1 || len(kept.Kept) < 2 || len(kept.Affected) != 0 {
					t.Errorf("removed %+v", kept)
				}
				s.requireConverted(t, "app:latest_accelerated", true)
				if left := withSuffix(s.tags(t, "app"), "_accelerated"); len(left) != 1 {
					t.Errorf("tags %v", left)
				}
				s.convert(t, "app:v1", mode)
				both := mustRemove(t, s, upkeep.RemoveConfig{}, "app:v1", "app:latest")
				if len(both.Affected) != 1 || !strings.HasSuffix(both.Affected[0], "app:stable") {
					t.Errorf("affected %v", both.Affected)
				}
				if left := withSuffix(s.tags(t, "app"), "_accelerated"); len(left) != 0 {
					t.Errorf("tags %v", left)
				}
				for _, ref := range []string{"app:v1", "app:latest", "app:stable"} {
					s.requireConverted(t, ref, false)
				}
			})
		}
	}
}

func TestRemoveByDigest(t *testing.T) {
	s := newSite(t, registrytest.Config{})
	digest := s.push(t, "app:v1", 1)
	s.convert(t, "app:v1", convert.ModeIndex)
	image := s.resolve(t, "app:v1").Digest
	for _, named := range []block.Digest{digest, image} {
		_, err := upkeep.Remove(t.Context(), s.client, refs(t, s, "app@"+named.String()), upkeep.RemoveConfig{})
		if _, ok := errors.AsType[*upkeep.NeededError](err); !ok {
			t.Errorf("the tag lists it: %v", err)
		}
	}
	if err := s.client.DeleteManifest(t.Context(), s.Ref(t, "app:v1_accelerated")); err != nil {
		t.Fatal(err)
	}
	mustRemove(t, s, upkeep.RemoveConfig{}, "app@"+digest.String())
	s.requireConverted(t, "app:v1", false)
	for _, ref := range []string{"app:none", "app@sha256:" + strings.Repeat("0", 64)} {
		if _, err := upkeep.Remove(t.Context(), s.client, refs(t, s, ref), upkeep.RemoveConfig{}); !isNotFound(err) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if _, err := upkeep.Remove(t.Context(), s.client, refs(t, s, "app:v1", "other:v1"), upkeep.RemoveConfig{}); err == nil || !strings.Contains(err.Error(), "another repository") {
		t.Errorf("two repositories: %v", err)
	}
}

func deleteOf(part string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == http.MethodDelete && strings.Contains(r.URL.Path, part) }
}

// Registries that refuse to delete, all of it or tags alone.
func TestRemoveIsRefused(t *testing.T) {
	s := newSite(t, registrytest.Config{})
	s.push(t, "app:v1", 1)
	s.convert(t, "app:v1", convert.ModeIndex)
	for status, want := range map[int]error{
		http.StatusMethodNotAllowed: registry.ErrNoDelete, http.StatusForbidden: registry.ErrDenied, http.StatusServiceUnavailable: block.ErrUnavailable,
	} {
		s.Inject(registrytest.Rule{Fault: registrytest.Status(status), Match: deleteOf("/manifests/")})
		if _, err := upkeep.Remove(t.Context(), s.client, refs(t, s, "app:v1"), upkeep.RemoveConfig{}); !errors.Is(err, want) {
			t.Errorf("status %d: %v", status, err)
		}
		s.ClearFaults()
		s.requireConverted(t, "app:v1", true)
		s.requireConverted(t, "app:v1_accelerated", true)
	}
	s.PutManifest(t, "app:latest", types.OCIImageIndex, s.Manifest(t, "app:v1"))
	s.convert(t, "app:latest", convert.ModeIndex)
	s.Inject(registrytest.Rule{
		Fault: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			if _, err := w.Write([]byte(`{"errors":[{"code":"UNSUPPORTED","message":"no tags"}]}`)); err != nil {
				panic(http.ErrAbortHandler)
			}
		},
		Match: func(r *http.Request) bool {
			return deleteOf("/manifests/")(r) && !strings.Contains(r.URL.Path, "sha256:")
		},
	})
	_, err := upkeep.Remove(t.Context(), s.client, refs(t, s, "app:v1"), upkeep.RemoveConfig{KeepShared: true})
	if !errors.Is(err, registry.ErrNoDelete) || !strings.Contains(err.Error(), "app:latest_accelerated") {
		t.Errorf("a tag that shares its digest: %v", err)
	}
	mustRemove(t, s, upkeep.RemoveConfig{}, "app:v1", "app:latest")
	if tags := s.tags(t, "app"); len(tags) != 2 {
		t.Errorf("tags %v", tags)
	}
}

// meanwhile is a client for which something happens in the registry before its second look at the tags.
type meanwhile struct {
	*registry.Client
	happens func()
	looks   int
}

func (m *meanwhile) Tags(ctx context.Context, repo name.Repository) ([]string, error) {
	if m.looks++; m.looks == 2 {
		m.happens()
	}
	return m.Client.Tags(ctx, repo)
}

// A conversion that lists meanwhile what is to be removed is noticed.
func TestRemoveDuringConversion(t *testing.T) {
	s := newSite(t, registrytest.Config{})
	s.push(t, "app:v1", 1)
	s.PutManifest(t, "app:latest", types.OCIImageIndex, s.Manifest(t, "app:v1"))
	s.convert(t, "app:v1", convert.ModeIndex)
	for _, happens := range []func(){
		func() { s.convert(t, "app:latest", convert.ModeIndex) },
		func() { s.convert(t, "app:v1", convert.ModeFull) },
	} {
		store := &meanwhile{Client: s.client, happens: happens}
		if _, err := upkeep.Remove(t.Context(), store, refs(t, s, "app:v1"), upkeep.RemoveConfig{KeepShared: true}); !errors.Is(err, upkeep.ErrChanged) {
			t.Errorf("error %v", err)
		}
		for _, tag := range withSuffix(s.tags(t, "app"), "_accelerated") {
			s.requireConverted(t, "app:"+tag, true)
		}
	}
}
