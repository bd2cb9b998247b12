package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/image/startup"
	"github.com/brisk-project/brisk/image/startup/artifact"
	"github.com/brisk-project/brisk/image/startup/prefetch"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// TestTraceOfAnotherMachine starts an image on one machine and pushes what it has learnt. Another
// machine, which knows nothing of the image and of the first one, has what the start reads soon
// after its first pull: it starts without the registry.
func TestTraceOfAnotherMachine(t *testing.T) {
	t.Parallel()
	for _, referrers := range []bool{false, true} {
		reg := registrytest.New(t, registrytest.Config{Referrers: referrers})
		first := newSiteAt(t, reg, containerdtest.Config{}, "--mode", "lazy")
		data, path, sum := files(t, 1, 1<<20)
		unread, _, _ := files(t, 2, 8<<20)
		ref := first.push("app:v1", true, shell(t), data, unread)
		first.requireSum("first", first.Pull(ref), path, sum)
		first.RemoveImage(ref)
		pushLearnt(t, first, ref)
		first.stop()

		second := newSiteAt(t, reg, containerdtest.Config{}, "--mode", "lazy")
		second.layers.Store(digestOf(t, shell(t)).String(), nil)
		second.layers.Store(digestOf(t, data).String(), nil)
		image := second.Pull(ref)
		containerdtest.Await(t, "the start-up set", containerdtest.Timeout, func() bool {
			for _, i := range second.status().Images {
				if i.ImageStatus != nil && i.Start != nil {
					return i.Start.Source == node.TraceRegistry && i.Start.MissingBytes == 0 && i.CachedBytes < 8<<20
				}
			}
			return false
		})
		table, err := command(t, "status", "--dir", second.dir)
		if err != nil {
			t.Fatal(err)
		}
		if lines := strings.Split(table, "\n"); !slices.ContainsFunc(lines, func(l string) bool { return slices.Contains(strings.Fields(l), "registry") }) {
			t.Errorf("the source of the trace is missing in:\n%s", table)
		}
		release := second.holdBlocks()
		second.requireSum("second", image, path, sum)
		release()
		second.RemoveImage(ref)
	}
}

// pushLearnt pushes the trace that a node has learnt of an image.
func pushLearnt(t *testing.T, s *site, ref string) {
	t.Helper()
	platform := v1.Platform{OS: "linux", Architecture: "amd64"}
	var learnt node.TraceResponse
	containerdtest.Await(t, "the trace", containerdtest.Timeout, func() bool {
		var err error
		learnt, err = node.Client{Dir: s.dir}.Trace(t.Context(), node.TraceRequest{Image: ref, Platform: platform})
		return err == nil && learnt.Source == node.TraceRecorded
	})
	file, err := startup.ParseFile(learnt.File)
	if err != nil {
		t.Fatal(err)
	}
	client, image := resolveToPush(t, ref)
	if _, err := artifact.Push(t.Context(), client, image, nil, artifact.Config{Files: []startup.File{file}, Now: time.Now()}); err != nil {
		t.Fatal(err)
	}
}

// TestListedFilesAreLocal pulls an image with a prefetch list on a machine that knows nothing of it. The
// listed file is local soon, without having been read, and the rest is not: a container reads it without
// the registry.
func TestListedFilesAreLocal(t *testing.T) {
	t.Parallel()
	reg := registrytest.New(t, registrytest.Config{Referrers: true})
	first := newSiteAt(t, reg, containerdtest.Config{}, "--mode", "lazy")
	data, path, sum := files(t, 1, 1<<20)
	unread, _, _ := files(t, 2, 8<<20)
	ref := first.push("app:v1", true, shell(t), data, unread)
	first.stop()
	setList(t, ref, path+"\n/none\n")

	second := newSiteAt(t, reg, containerdtest.Config{}, "--mode", "lazy")
	second.layers.Store(digestOf(t, shell(t)).String(), nil)
	second.layers.Store(digestOf(t, data).String(), nil)
	image := second.Pull(ref)
	containerdtest.Await(t, "the files of the list", containerdtest.Timeout, func() bool {
		for _, i := range second.status().Images {
			if i.ImageStatus != nil && i.Start != nil {
				return strings.HasPrefix(string(i.Start.Source), "list") && i.Start.Pinned && i.Start.Bytes >= 1<<20 && i.Start.MissingBytes == 0 && i.CachedBytes < 8<<20
			}
		}
		return false
	})
	c := second.Create("second", image, nil, "/bin/sleep", "1000")
	c.Start()
	c.Exec("warm", "/bin/sha256sum", "/bin/sleep") // what the shell needs is not in the list
	release := second.holdBlocks()
	if code, out := c.Exec("sum", "/bin/sha256sum", path); code != 0 || out != sum {
		t.Errorf("code %d, %q instead of %q", code, out, sum)
	}
	release()
	why, err := command(t, "why", ref, "--dir", second.dir)
	if err != nil || !strings.Contains(why, "trace:     list") {
		t.Errorf("%v, no list in\n%s", err, why)
	}
	c.Remove()
	second.RemoveImage(ref)
}

// setList sets the prefetch list of an image.
func setList(t *testing.T, ref, content string) {
	t.Helper()
	list, err := prefetch.Parse([]byte(content))
	if err != nil {
		t.Fatal(err)
	}
	client, image := resolveToPush(t, ref)
	set, err := artifact.Update(t.Context(), client, image, artifact.UpdateConfig{List: list, Now: time.Now()})
	if err != nil || set.Prefetch.Files != 1 || len(set.Prefetch.Unmatched) != 1 {
		t.Fatalf("%+v, %v", set, err)
	}
}
