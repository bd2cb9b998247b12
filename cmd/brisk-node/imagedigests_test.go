package main

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/image/convert"
	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/node/agent"
	containerdapi "github.com/brisk-project/brisk/node/containerd"
	"github.com/brisk-project/brisk/test/registrytest"
)

// TestPulled checks when containerd is asked what images are called, and what they are called until it
// has answered.
func TestPulled(t *testing.T) {
	t.Parallel()
	app, plain := block.Digest{1}, block.Digest{2}
	asked := 0
	var (
		answer map[string][]string
		err    error
	)
	p := imageDigests{log: slog.New(slog.DiscardHandler), list: func(ctx context.Context) (map[string][]string, error) {
		if deadline, ok := ctx.Deadline(); !ok || time.Until(deadline) > targetsTimeout {
			t.Error("it may take for ever")
		}
		asked++
		return answer, err
	}}
	at := time.Unix(1000, 0)
	for i, step := range []struct {
		after  time.Duration
		answer map[string][]string
		err    error
		asks   bool
		want   []string
	}{
		{0, nil, nil, true, nil}, // it is being pulled
		{2 * time.Second, nil, errors.New("no answer"), true, nil},
		{2 * time.Second, nil, nil, false, nil}, // not so soon after an error
		{4 * time.Second, map[string][]string{app.String(): {"sha256:index"}}, nil, true, []string{"sha256:index"}},
		{2 * time.Second, nil, nil, false, []string{"sha256:index"}},
		{time.Minute, nil, nil, true, []string{"sha256:index"}}, // removed there, but still here
		{time.Minute, map[string][]string{app.String(): {"sha256:other"}}, nil, true, []string{"sha256:other"}},
	} {
		at, answer, err = at.Add(step.after), step.answer, step.err
		before := asked
		p.update(t.Context(), at, []agent.ImageInventory{{Manifest: app}})
		if asks := asked > before; asks != step.asks {
			t.Errorf("step %d: asked %t", i, asks)
		}
		if got := p.digests(at, app); !slices.Equal(got, step.want) {
			t.Errorf("step %d: %q", i, got)
		}
	}
	// One that containerd does not come to have, and one of a node without containerd.
	p.update(t.Context(), at, []agent.ImageInventory{{Manifest: plain}})
	if got := p.digests(at.Add(pullGrace), plain); !slices.Equal(got, []string{plain.String()}) {
		t.Errorf("after a while: %q", got)
	}
	p = imageDigests{}
	p.update(t.Context(), at, []agent.ImageInventory{{Manifest: plain}})
	if got := p.digests(at, plain); !slices.Equal(got, []string{plain.String()}) {
		t.Errorf("without containerd: %q", got)
	}
}

// TestMultiPlatform checks that an image of several platforms is reported under the digest of its
// index, which is what pods and nodes call it.
func TestMultiPlatform(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	data, _, _ := files(t, 1, 1<<20)
	image := registrytest.Image{Layers: []registrytest.Layer{shell(t), data}, Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	other := registrytest.Image{Layers: []registrytest.Layer{data}, Platform: v1.Platform{OS: "linux", Architecture: "s390x"}}
	index := s.reg.PushIndex(t, "app:v1", image, other)
	client := pushClient(t)
	if _, err := convert.Convert(t.Context(), client, index, convert.Config{}); err != nil {
		t.Fatal(err)
	}
	s.Pull(s.reg.Ref(t, "app:v1").String())
	status, err := agent.FetchStatus(t.Context(), s.dir)
	if err != nil || len(status.Images) != 1 || !status.Images[0].Lazy || status.Images[0].Manifest == index.DigestStr() {
		t.Fatalf("status %+v, %v", status.Images, err)
	}
	manifest, err := block.ParseDigest(status.Images[0].Manifest)
	if err != nil {
		t.Fatal(err)
	}
	state := clusterState{last: agent.Inventory{
		Images: []agent.ImageInventory{{Manifest: manifest, Cached: 7}},
		Starts: []agent.ContainerStart{{Manifest: manifest, Waited: 1500 * time.Millisecond, Finished: time.Unix(1000, 0)}},
	}}
	state.imageDigests = imageDigests{log: slog.New(slog.DiscardHandler), list: containerdapi.NewImages(s.Address, kubeletNamespace).Targets}
	state.imageDigests.update(t.Context(), time.Now(), state.last.Images)
	key, err := v1alpha1.KeyOf(index.DigestStr())
	if err != nil {
		t.Fatal(err)
	}
	report := state.report(time.Now(), nil)
	if len(report.Images) != 1 || report.Images[0].Key != key || report.Images[0].Cached != 7 {
		t.Errorf("images %+v instead of key %x", report.Images, key)
	}
	if starts := report.Status.Starts; len(starts) != 1 || starts[0].Image != index.DigestStr() || starts[0].Milliseconds != 1500 {
		t.Errorf("starts %+v", starts)
	}
}
