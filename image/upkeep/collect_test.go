package upkeep_test

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/upkeep"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/test/registrytest"
)

func mustCollect(t *testing.T, s site, cfg upkeep.CollectConfig) *upkeep.Collection {
	t.Helper()
	found, err := upkeep.Collect(t.Context(), s.client, s.Repository(t, "app"), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// collect collects garbage twice, the first time without removing it, and returns what was removed.
func collect(t *testing.T, s site, cfg upkeep.CollectConfig) *upkeep.Collection {
	t.Helper()
	s.ResetRequests()
	plan := mustCollect(t, s, cfg)
	s.requireUntouched(t)
	cfg.Remove = true
	found := mustCollect(t, s, cfg)
	if fmt.Sprint(plan.Removed) != fmt.Sprint(found.Removed) || !plan.DryRun || found.DryRun {
		t.Errorf("planned %+v, removed %+v", plan, found)
	}
	if again := mustCollect(t, s, cfg); len(again.Removed) != 0 {
		t.Errorf("something was left: %+v", again.Removed)
	}
	return found
}

// requireRemoved checks which manifests were removed.
func requireRemoved(t *testing.T, s site, found *upkeep.Collection, want ...block.Digest) {
	t.Helper()
	removed := make(map[block.Digest]bool)
	for _, item := range found.Removed {
		if item.Kind != upkeep.KindTag && item.Kind != upkeep.KindEntry {
			removed[item.Digest] = true
			if s.has(t, "app", item.Digest) {
				t.Errorf("%s is left", item.Name)
			}
		}
	}
	for _, digest := range want {
		if !removed[digest] {
			t.Errorf("%s was not removed", digest)
		}
		delete(removed, digest)
	}
	if len(removed) > 0 {
		t.Errorf("also removed: %v of %+v", removed, found.Removed)
	}
}

// Of the traces of an image the newest is kept, and what is younger than the grace period.
func TestCollectOldTraces(t *testing.T) {
	for kind, cfg := range kinds() {
		t.Run(kind, func(t *testing.T) {
			s := newSite(t, cfg)
			s.push(t, "app:v1", 1)
			s.convert(t, "app:v1", convert.ModeIndex)
			now := time.Now()
			var pushed []block.Digest
			for i, age := range []time.Duration{3 * time.Hour, 2 * time.Hour, 50 * time.Minute, 10 * time.Minute} {
				pushed = append(pushed, s.trace(t, "app:v1", strconv.Itoa(i), now.Add(-age)).Digest)
			}
			var signatures []block.Digest
			for i, digest := range pushed[:3] { // without the API, a tag lists the newest only: a signature leads to others
				signatures = append(signatures, digestOf(t, s.sign(t, "app", digest, uint64(90+i))))
			}
			found := collect(t, s, upkeep.CollectConfig{})
			if len(found.Kept) != 1 || found.Kept[0].Digest != pushed[2] || !strings.Contains(found.Kept[0].Reason, "only 50m") {
				t.Errorf("kept %+v", found.Kept)
			}
			requireRemoved(t, s, found, pushed[0], pushed[1], signatures[0], signatures[1])
			later := collect(t, s, upkeep.CollectConfig{Now: func() time.Time { return now.Add(time.Hour) }})
			requireRemoved(t, s, later, pushed[2], signatures[2])
			if signed := withSuffix(s.tags(t, "app"), ".sig"); len(signed) != 0 {
				t.Errorf("tags of signatures %v", signed)
			}
			artifact, err := s.client.FindArtifact(t.Context(), s.resolve(t, "app:v1"))
			if err != nil || artifact.Startup == nil || artifact.Startup.Digest != pushed[3] {
				t.Errorf("the newest: %+v, %v", artifact, err)
			}
		})
	}
}

// A second index of an image is only removed when nobody can be about to list it, and the one that is listed never.
func TestCollectSupersededIndexes(t *testing.T) {
	for kind, cfg := range kinds() {
		t.Run(kind, func(t *testing.T) {
			s := newSite(t, cfg)
			s.push(t, "app:v1", 1)
			result := s.convert(t, "app:v1", convert.ModeIndex)
			image := s.resolve(t, "app:v1")
			worse, err := registry.EncodeArtifact(image.Descriptor, nil)
			if err == nil {
				err = s.client.PushArtifact(t.Context(), image.Name.Context(), worse)
			}
			if err != nil {
				t.Fatal(err)
			}
			found := collect(t, s, upkeep.CollectConfig{})
			requireRemoved(t, s, found)
			if len(found.Kept) != 1 || found.Kept[0].Digest != block.Sum(worse) || !strings.Contains(found.Kept[0].Reason, result.Platforms[0].Artifact.String()) {
				t.Errorf("kept %+v", found.Kept)
			}
			requireRemoved(t, s, collect(t, s, upkeep.CollectConfig{Grace: -1}), block.Sum(worse))
			s.requireConverted(t, "app:v1", true)
			if left := collect(t, s, upkeep.CollectConfig{Grace: -1}); len(left.Kept) != 0 {
				t.Errorf("kept %+v", left.Kept)
			}
		})
	}
}

// Artifacts whose image is gone are removed with the tags that list them.
func TestCollectOfGoneImages(t *testing.T) {
	for kind, cfg := range kinds() {
		t.Run(kind, func(t *testing.T) {
			s := newSite(t, cfg)
			s.push(t, "app:v1", 1)
			s.push(t, "app:v2", 2)
			result := s.convert(t, "app:v1", convert.ModeIndex)
			trace := s.trace(t, "app:v1", "x", time.Now())
			s.convert(t, "app:v2", convert.ModeIndex)
			for _, tag := range []string{"v1", "sha256:" + s.push(t, "app:v1", 1).Hex(), result.Platforms[0].Manifest.String()} {
				ref := s.Repository(t, "app").Digest(tag).String()
				if tag == "v1" {
					ref = s.Repository(t, "app").Tag(tag).String()
				}
				s.remove(t, ref)
			}
			// One platform is there still.
			requireRemoved(t, s, collect(t, s, upkeep.CollectConfig{}))
			s.remove(t, s.Repository(t, "app").Digest(result.Platforms[1].Manifest.String()).String())
			requireRemoved(t, s, collect(t, s, upkeep.CollectConfig{}), result.Platforms[0].Artifact, result.Platforms[1].Artifact, trace.Digest)
			s.requireConverted(t, "app:v2", true)
			for _, tag := range s.tags(t, "app") {
				if strings.HasPrefix(tag, "v1") || strings.Contains(tag, result.Platforms[0].Manifest.Hex()) {
					t.Errorf("tag %s is left", tag)
				}
			}
		})
	}
}

func (s site) remove(t *testing.T, text string) {
	t.Helper()
	ref, err := s.client.ParseReference(text)
	if err == nil {
		err = s.client.DeleteManifest(t.Context(), ref)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Accelerated tags of deleted tags are removed on request, without what other tags of the same image use.
func TestCollectOfDeletedTags(t *testing.T) {
	for kind, cfg := range kinds() {
		for _, mode := range []convert.Mode{convert.ModeIndex, convert.ModeFull} {
			t.Run(kind+" "+string(mode), func(t *testing.T) {
				s := newSite(t, cfg)
				s.push(t, "app:v1", 1)
				s.PutManifest(t, "app:same", types.OCIImageIndex, s.Manifest(t, "app:v1"))
				digest := s.push(t, "app:v2", 2)
				first, second := s.convert(t, "app:v1", mode), s.convert(t, "app:v2", mode)
				base := s.resolve(t, "app:v2").Digest
				s.PutManifest(t, "app:copy", types.OCIImageIndex, s.Manifest(t, "app:v2"))
				for _, tag := range []string{"v1", "v2", "copy"} {
					s.remove(t, s.Ref(t, "app:"+tag).String())
				}
				found := collect(t, s, upkeep.CollectConfig{})
				if len(found.Removed) != 0 || len(found.Kept) != 2 || !strings.Contains(found.Kept[1].Reason, "the tag v2 is gone") {
					t.Errorf("without asking for it: %+v", found)
				}
				want := []block.Digest{second.Platforms[0].Artifact, second.Platforms[1].Artifact}
				if mode == convert.ModeFull {
					want = append(want, second.Platforms[0].FullManifest, second.Platforms[1].FullManifest, first.Platforms[0].FullManifest, first.Platforms[1].FullManifest,
						first.Platforms[0].Artifact, first.Platforms[1].Artifact)
				}
				requireRemoved(t, s, collect(t, s, upkeep.CollectConfig{DeletedTags: true}), want...)
				if left := withSuffix(s.tags(t, "app"), "_accelerated"); len(left) != 0 {
					t.Errorf("tags %v", left)
				}
				s.requireConverted(t, "app:same", mode == convert.ModeIndex)
				if !s.has(t, "app", base) || (kind == "tags" && !s.has(t, "app", digest)) {
					t.Error("an image was removed")
				}
			})
		}
	}
}

// Artifacts that are gone are taken out of the tags that stand in for the referrers API; what others have there stays.
func TestCollectEntries(t *testing.T) {
	s := newSite(t, registrytest.Config{})
	s.push(t, "app:v1", 1)
	result := s.convert(t, "app:v1", convert.ModeIndex)
	image := s.resolve(t, "app:v1").Digest
	attached := digestOf(t, s.sign(t, "app", image, 90))
	for _, ref := range []string{"app:v1_accelerated", "app@" + result.Platforms[0].Artifact.String()} {
		s.remove(t, s.Ref(t, ref).String())
	}
	found := collect(t, s, upkeep.CollectConfig{})
	if len(found.Removed) != 1 || found.Removed[0].Kind != upkeep.KindEntry {
		t.Errorf("removed %+v", found.Removed)
	}
	listed, err := s.client.Referrers(t.Context(), s.Repository(t, "app"), image)
	if err != nil || len(listed) != 1 || listed[0].Digest.String() != attached.String() {
		t.Errorf("referrers %v, %v", listed, err)
	}
}

// An image that comes back, or that a conversion lists meanwhile, is not touched.
func TestCollectDuringCopy(t *testing.T) {
	s := newSite(t, registrytest.Config{Referrers: true})
	pushed := s.Push(t, "app:v1", image(t, 1, linux()))
	s.convert(t, "app:v1", convert.ModeIndex)
	manifest := s.Manifest(t, "app:v1")
	s.remove(t, s.Ref(t, "app:v1").String())
	s.remove(t, pushed.String())
	store := &meanwhile{Client: s.client, happens: func() { s.PutManifest(t, "app@"+pushed.DigestStr(), types.OCIManifestSchema1, manifest) }}
	if _, err := upkeep.Collect(t.Context(), store, s.Repository(t, "app"), upkeep.CollectConfig{Remove: true}); !errors.Is(err, upkeep.ErrChanged) {
		t.Errorf("error %v", err)
	}
	s.requireConverted(t, "app:v1_accelerated", true)
}

// Conversions that run while garbage is collected again and again lose nothing.
func TestCollectWhileConverting(t *testing.T) {
	for kind, cfg := range kinds() {
		t.Run(kind, func(t *testing.T) {
			s := newSite(t, cfg)
			done := make(chan struct{})
			var running sync.WaitGroup
			running.Go(func() {
				defer close(done)
				for i := range 6 {
					ref := fmt.Sprintf("app:v%d", i)
					s.push(t, ref, uint64(i+1))
					s.convert(t, ref, []convert.Mode{convert.ModeIndex, convert.ModeFull}[i%2])
					s.trace(t, ref+"_accelerated", "x", time.Now())
				}
			})
			rounds := 0
			for open := true; open; rounds++ {
				_, err := upkeep.Collect(t.Context(), s.client, s.Repository(t, "app"), upkeep.CollectConfig{Remove: true, DeletedTags: true})
				if err != nil && !errors.Is(err, upkeep.ErrChanged) && !isNotFound(err) {
					t.Error(err)
				}
				select {
				case <-done:
					open = false
				default:
				}
			}
			running.Wait()
			for i := range 6 {
				ref := fmt.Sprintf("app:v%d_accelerated", i)
				s.requireConverted(t, ref, true)
				for _, platform := range []v1.Platform{linux(), arm()} {
					found, err := s.client.Resolve(t.Context(), s.Ref(t, ref), platform)
					if err != nil {
						t.Fatal(err)
					}
					artifact, err := s.client.FindArtifact(t.Context(), found)
					if err != nil || platform.Architecture == "amd64" && artifact.Startup == nil {
						t.Errorf("%s: %+v, %v", ref, artifact, err)
					}
				}
			}
			t.Logf("%d collections", rounds)
		})
	}
}
