package main

import (
	"testing"
	"time"

	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// TestWritesMissingIndex pulls an image that has no index, and once more: then it is lazy.
func TestWritesMissingIndex(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.stop()
	s.stop = s.run("--containerd", s.Address, "--write-indexes")
	data, path, sum := files(t, 1, 3<<20)
	layers := []registrytest.Layer{shell(t), data}
	ref := s.push("app:v1", false, layers...)

	s.requireSum("plain", s.Pull(ref), path, sum)
	if s.downloaded(layers...) != 2 {
		t.Error("the first pull was lazy")
	}
	containerdtest.Await(t, "the index", 30*time.Second, func() bool { return len(s.logs.lines("index written", "app:v1")) == 1 })
	if len(s.logs.lines("no index; writing one", "app:v1")) == 0 {
		t.Error("the log does not say that an index is written")
	}
	s.RemoveImage(ref)

	image := s.Pull(ref)
	if n := s.downloaded(layers...); n != 0 {
		t.Errorf("the second pull downloaded %d layers", n)
	}
	s.requireSum("lazy", image, path, sum)
	s.RemoveImage(ref)

	// The index outlives image and process.
	s.stop()
	s.stop = s.run("--containerd", s.Address, "--write-indexes")
	image = s.Pull(ref)
	if n := s.downloaded(layers...); n != 0 {
		t.Errorf("the pull after a restart downloaded %d layers", n)
	}
	s.requireSum("again", image, path, sum)
	s.RemoveImage(ref)
}
