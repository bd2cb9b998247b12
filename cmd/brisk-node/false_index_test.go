package main

import (
	"fmt"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	labels "github.com/containerd/containerd/v2/pkg/snapshotters"

	"github.com/brisk-project/brisk/image/index/indextest"
	"github.com/brisk-project/brisk/node/agent"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
)

// pushWithSetuid pushes an image with an index that claims that the shell of its lowest
// layer runs as its owner, root.
func (s *site) pushWithSetuid(ref string, base, top registrytest.Layer) string {
	s.t.Helper()
	image := s.push(ref, false, base, top)
	client := pushClient(s.t)
	lie := indextest.Build(s.t, shellWithMode(s.t, 0o4755).Tar)
	forged := indextest.WithEntries(s.t, indextest.Build(s.t, registrytest.Compress(s.t, base)).Encoded, lie.Encoded)
	indextest.Push(s.t, client, s.reg.Ref(s.t, ref), forged, indextest.Build(s.t, registrytest.Compress(s.t, top)).Encoded)
	return image
}

// reasonOf returns why the agent says that an image is not as it should be.
func (s *site) reasonOf(image string) (reason string, lazy bool) {
	s.t.Helper()
	status, err := agent.FetchStatus(s.t.Context(), s.dir)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, i := range status.Images {
		if i.Image == image {
			return i.Reason, i.Lazy
		}
	}
	return "", false
}

// requireQuarantined checks that an error says what to do.
func requireQuarantined(t *testing.T, what string, err error, image string) {
	t.Helper()
	if err == nil {
		t.Fatalf("%s is not refused", what)
	}
	for _, part := range []string{"layers are quarantined", `entry "bin/busybox" has another mode`, image, "then pull again"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%s: the error does not say %q: %v", what, part, err)
		}
	}
}

// An image whose index adds a set-user-ID bit starts, for nobody can know yet. Once its
// layers have arrived containerd can make no container of it, nor of a plain image on the
// same base. Removed and pulled again both work, without the bit.
func TestFalseIndex(t *testing.T) {
	s := newSite(t)
	base := shell(t)
	top, file, sum := files(t, 1, 700<<10)
	other, otherFile, otherSum := files(t, 2, 700<<10)
	lie := s.pushWithSetuid("false:v1", base, top)
	plain := s.push("plain:v1", false, base, other)
	third, thirdFile, thirdSum := files(t, 3, 700<<10)
	honest := s.push("honest:v1", true, base, third)

	image := s.Pull(lie)
	running := s.Create("running", image, nil, "/bin/sh", "-c", "stat -c %a /bin/busybox; sleep 1000")
	running.Start()
	containerdtest.Await(t, "the container to run", containerdtest.Timeout, func() bool { return running.Output() == "4755\n" })
	containerdtest.Await(t, "the index to be found false", containerdtest.Timeout, func() bool {
		reason, lazy := s.reasonOf(lie)
		return lazy && reason == "false-index"
	})
	if code, out := running.Exec("exec", "/bin/sha256sum", file); code != 0 || out != sum {
		t.Errorf("the running container: code %d, %q", code, out)
	}
	refused := func() {
		t.Helper()
		_, err := s.TryCreate("new", image, "/bin/sh")
		requireQuarantined(t, "a new container", err, lie)
		_, err = s.Client.Pull(s.Context(), plain, containerd.WithPullUnpack, containerd.WithPullSnapshotter(s.Snapshotter),
			containerd.WithImageHandlerWrapper(labels.AppendInfoHandlerWrapper(plain)))
		requireQuarantined(t, "a plain image on the same base", err, lie)
	}
	refused()
	s.requireRuns("honest", s.Pull(honest), thirdFile, thirdSum)

	s.stop()
	s.stop = s.run()
	s.awaitConnected()
	refused()
	if code, out := running.Exec("again", "/bin/sha256sum", file); code != 0 || out != sum {
		t.Errorf("the running container after a restart: code %d, %q", code, out)
	}

	running.Remove()
	s.RemoveImage(honest)
	s.RemoveImage(lie)
	s.requireRuns("again", s.Pull(lie), file, sum)
	if reason, lazy := s.reasonOf(lie); lazy || reason != "false-index" {
		t.Errorf("the second pull is lazy: %t, reason %q", lazy, reason)
	}
	s.requireRuns("plain", s.Pull(plain), otherFile, otherSum)
}

// An image that kubelet has had pulled, in either way that containerd has for it, is found out
// like any other: containerd makes no container of it, and kubelet's pull of a plain image on
// the same base says what to do.
func TestFalseIndexThroughCRI(t *testing.T) {
	t.Parallel()
	for _, transfer := range []bool{false, true} {
		t.Run(fmt.Sprintf("transfer=%v", transfer), func(t *testing.T) {
			t.Parallel()
			s := newSiteWith(t, containerdtest.Config{Transfer: transfer})
			base := shell(t)
			top, file, sum := files(t, 1, 700<<10)
			other, _, _ := files(t, 2, 700<<10)
			lie := s.pushWithSetuid("false:v1", base, top)
			plain := s.push("plain:v1", false, base, other)

			pull := s.criPull
			if _, err := pull(lie); err != nil {
				t.Fatal(err)
			}
			image, err := s.Client.GetImage(s.Context(), lie)
			if err != nil {
				t.Fatal(err)
			}
			s.requireSum("first", image, file, sum)
			containerdtest.Await(t, "the index to be found false", containerdtest.Timeout, func() bool {
				reason, lazy := s.reasonOf(lie)
				return lazy && reason == "false-index"
			})
			_, err = s.TryCreate("new", image, "/bin/sh")
			requireQuarantined(t, "a new container", err, lie)
			_, err = pull(plain)
			requireQuarantined(t, "a plain image on the same base", err, lie)

			s.RemoveImage(lie)
			if _, err := pull(lie); err != nil {
				t.Fatal(err)
			}
			if image, err = s.Client.GetImage(s.Context(), lie); err != nil {
				t.Fatal(err)
			}
			s.requireRuns("again", image, file, sum)
		})
	}
}

// requireRuns runs a container of an image whose shell has no set-user-ID bit, and reads a
// file in it.
func (s *site) requireRuns(id string, image containerd.Image, file, sum string) {
	s.t.Helper()
	c := s.Create(id, image, nil, "/bin/sh", "-c", "stat -c %a /bin/busybox; sha256sum "+file)
	c.Start()
	if code, out := c.Wait(); code != 0 || out != "755\n"+sum {
		s.t.Errorf("container %s: code %d, %q", id, code, out)
	}
	c.Remove()
}
