package main

import (
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/rootfs"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
)

func TestLazyContainer(t *testing.T) {
	t.Parallel()
	s := newSite(t, "--mode", "lazy")
	middle, middlePath, middleSum := files(t, 1, 3<<20)
	top, topPath, topSum := files(t, 2, 1<<20)
	ref := s.push("app:v1", true, shell(t), middle, top)

	image := s.Pull(ref)
	if n := s.downloaded(shell(t), middle, top); n != 0 {
		t.Errorf("%d layers were downloaded", n)
	}
	c := s.Create("one", image, nil, "/bin/sleep", "1000")
	c.Start()
	for path, want := range map[string]string{middlePath: middleSum, topPath: topSum} {
		if code, out := c.Exec("sum-"+path[1:], "/bin/sha256sum", path); code != 0 || out != want {
			t.Errorf("code %d, %q instead of %q", code, out, want)
		}
	}
	if code, out := c.Exec("write", "/bin/sh", "-c", "echo new > /new && rm "+topPath+" && cat /new"); code != 0 || out != "new\n" {
		t.Errorf("code %d, %q", code, out)
	}
	if got := s.mounts(); len(got) != 2 { // the flat files and the root
		t.Errorf("mounts %q", got)
	}
	c.Remove()
	s.RemoveImage(ref)
	s.requireEmpty()
	if len(s.logs.lines("loaded when they are read", "app:v1")) != 1 {
		t.Error("the log does not say that the image is lazy")
	}
	if got := s.logs.lines("reason="); len(got) != 0 {
		t.Errorf("%s", strings.Join(got, ""))
	}
}

// requireSum checks files, given with spaces between them, in a container of its own.
func (s *site) requireSum(id string, image containerd.Image, path, want string) {
	s.t.Helper()
	c := s.Create(id, image, nil, append([]string{"/bin/sha256sum"}, strings.Fields(path)...)...)
	c.Start()
	if code, out := c.Wait(); code != 0 || out != want {
		s.t.Errorf("%s in %s: code %d, %q instead of %q", path, id, code, out, want)
	}
	c.Remove()
}

// downloaded returns how many of the layers containerd has downloaded.
func (s *site) downloaded(layers ...registrytest.Layer) int {
	s.t.Helper()
	n := 0
	for _, l := range layers {
		_, err := s.Client.ContentStore().Info(s.Context(), digestOf(s.t, l))
		if err == nil {
			n++
		} else if !errdefs.IsNotFound(err) {
			s.t.Fatal(err)
		}
	}
	return n
}

func TestCommit(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	data, path, sum := files(t, 1, 1<<20)
	ref := s.push("app:v1", true, shell(t), data)
	image := s.Pull(ref)
	c := s.Create("one", image, nil, "/bin/sh", "-c", "echo new > /new && rm /bin/ls")
	c.Start()
	if code, out := c.Wait(); code != 0 {
		t.Fatalf("code %d, %q", code, out)
	}
	// As a new layer: what is compared are a view of the image and the container.
	snapshots := s.Client.SnapshotService(containerdtest.Snapshotter)
	layer, err := rootfs.CreateDiff(s.Context(), "one", snapshots, s.Client.DiffService())
	if err != nil || layer.Size == 0 || layer.Size > 4096 {
		t.Errorf("a layer of %d bytes, %v", layer.Size, err)
	}
	// As a snapshot.
	if _, err := c.Task.Delete(s.Context(), containerd.WithProcessKill); err != nil {
		t.Fatal(err)
	}
	if err := snapshots.Commit(s.Context(), "committed", "one", containerdtest.KeepSnapshot()); err != nil {
		t.Fatal(err)
	}
	usage, err := snapshots.Usage(s.Context(), "committed")
	if err != nil || usage.Inodes < 3 {
		t.Errorf("usage of what was committed: %+v, %v", usage, err)
	}
	if err := c.Delete(s.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := s.CreateOn("two", containerdtest.Base{Image: image, Snapshot: "committed"}, nil, "/bin/sh", "-c", "cat /new && sha256sum "+path)
	if err != nil {
		t.Fatal(err)
	}
	again.Start()
	if code, out := again.Wait(); code != 0 || out != "new\n"+sum {
		t.Errorf("code %d, %q", code, out)
	}
	again.Remove()
	if err := snapshots.Remove(s.Context(), "committed"); err != nil {
		t.Fatal(err)
	}
	s.RemoveImage(ref)
	s.requireEmpty()
}

func TestManyContainers(t *testing.T) {
	t.Parallel()
	s := newSite(t, "--mode", "lazy")
	data, path, sum := files(t, 1, 2<<20)
	ref := s.push("app:v1", true, shell(t), data)
	image := s.Pull(ref)
	const containers = 20
	made := make([]*containerdtest.Container, containers)
	var group errgroup.Group
	group.SetLimit(5)
	for i := range made {
		group.Go(func() (err error) {
			made[i], err = s.TryCreate(fmt.Sprintf("c%d", i), image, "/bin/sh", "-c", "sha256sum "+path+" && sleep 1000")
			if err != nil {
				return err
			}
			return made[i].Task.Start(s.Context())
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, c := range made {
		containerdtest.Await(t, "the output of "+c.ID(), 30*time.Second, func() bool { return c.Output() != "" })
		if got := c.Output(); got != sum {
			t.Errorf("%s wrote %q", c.ID(), got)
		}
	}
	if got := s.mounts(); len(got) != 2 {
		t.Errorf("%d containers have %q mounted for them", containers, got)
	}
	for i, c := range made {
		c.Remove()
		if i == containers/2 && len(s.mounts()) != 2 {
			t.Error("the image is not mounted any more")
		}
	}
	s.RemoveImage(ref)
	s.requireEmpty()
}

func TestSharedBase(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	base, path, sum := files(t, 1, 2<<20)
	const images = 10
	var refs []string
	for i := range images {
		own, _, _ := files(t, uint64(10+i), 256<<10)
		refs = append(refs, s.push(fmt.Sprintf("app%d:v1", i), true, shell(t), base, own))
	}
	for i, ref := range refs {
		image := s.Pull(ref)
		_, ownPath, ownSum := files(t, uint64(10+i), 256<<10)
		s.requireSum(fmt.Sprintf("app%d", i), image, path+" "+ownPath, sum+ownSum)
	}
	if s.downloaded(base) != 0 {
		t.Error("the base was downloaded")
	}
	// The image that the snapshots of the base came with goes first.
	for i, ref := range refs[:images-1] {
		s.RemoveImage(ref)
		if i == 0 {
			last, err := s.Client.GetImage(s.Context(), refs[images-1])
			if err != nil {
				t.Fatal(err)
			}
			s.requireSum("after", last, path, sum)
		}
	}
	s.RemoveImage(refs[images-1])
	s.requireEmpty()
}

func TestSharedLayers(t *testing.T) {
	t.Parallel()
	base, basePath, baseSum := files(t, 1, 2<<20)
	own, ownPath, ownSum := files(t, 2, 1<<20)
	other, otherPath, otherSum := files(t, 3, 1<<20)
	for _, plainFirst := range []bool{false, true} {
		t.Run(fmt.Sprintf("plainFirst=%v", plainFirst), func(t *testing.T) {
			s := newSite(t)
			plain := s.push("plain:v1", false, shell(t), base, other)
			indexed := s.push("indexed:v1", true, shell(t), base, own)
			order := []string{indexed, plain}
			if plainFirst {
				order = []string{plain, indexed}
			}
			for _, ref := range order {
				s.Pull(ref)
			}
			if got := s.downloaded(base) == 1; got != plainFirst {
				t.Errorf("the shared layer was downloaded: %v", got)
			}
			if s.downloaded(own) != 0 || s.downloaded(other) != 1 {
				t.Error("the layer of the indexed image was downloaded, or the other one not")
			}
			for i, ref := range order {
				image, err := s.Client.GetImage(s.Context(), ref)
				if err != nil {
					t.Fatal(err)
				}
				s.requireSum(fmt.Sprintf("shared%d", i), image, basePath, baseSum)
				if ref == plain {
					s.requireSum("plain", image, otherPath, otherSum)
				} else {
					s.requireSum("indexed", image, ownPath, ownSum)
				}
			}
			if len(s.logs.lines("downloaded in full", "plain:v1", "reason=no-index")) != 1 {
				t.Error("the log does not say why the image is not lazy")
			}
			for _, ref := range order {
				s.RemoveImage(ref)
			}
			s.requireEmpty()
		})
	}
}

func TestManyLayers(t *testing.T) {
	const few, many = 4, 32
	s := newSite(t)
	refs := make(map[int]string)
	for _, n := range []int{few, many} {
		layers := []registrytest.Layer{shell(t)}
		for i := 1; i < n; i++ {
			l, _, _ := files(t, uint64(100*n+i), 256<<10)
			layers = append(layers, l)
		}
		refs[n] = s.push(fmt.Sprintf("layers%d:v1", n), true, layers...)
	}
	// So far away that one question more for each layer would take 2.8 s.
	s.reg.Inject(registrytest.Rule{
		Match: func(*http.Request) bool { return true },
		Fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			select {
			case <-time.After(100 * time.Millisecond):
			case <-r.Context().Done():
			}
			next.ServeHTTP(w, r)
		},
	})
	took := make(map[int]time.Duration)
	for _, n := range []int{few, many} {
		start := time.Now()
		image := s.Pull(refs[n])
		took[n] = time.Since(start)
		_, path, sum := files(t, uint64(100*n+n-1), 256<<10)
		s.requireSum(fmt.Sprintf("of%d", n), image, path, sum)
	}
	t.Logf("%d layers took %s, %d layers %s", few, took[few], many, took[many])
	if took[many] > took[few]+2*time.Second {
		t.Errorf("%d layers took %s, %d layers %s", few, took[few], many, took[many])
	}
}

func TestSlowRegistry(t *testing.T) {
	s := newSite(t, "--lookup-timeout", "1s")
	data, path, sum := files(t, 1, 1<<20)
	quick := s.push("quick:v1", false, shell(t), data)
	more, _, _ := files(t, 2, 1<<20)
	slow := s.push("slow:v1", true, shell(t), more, data)
	start := time.Now()
	s.Pull(quick)
	usual := time.Since(start)
	s.reg.Inject(registrytest.Rule{
		Match: func(r *http.Request) bool {
			return strings.Contains(r.URL.Path, "/manifests/sha256-") || strings.Contains(r.URL.Path, "_accelerated")
		},
		Fault: registrytest.Hang(-1),
	})
	start = time.Now()
	image := s.Pull(slow)
	took := time.Since(start)
	t.Logf("a pull took %s, with a registry that hangs %s", usual, took)
	if took < time.Second || took > usual+3*time.Second {
		t.Errorf("the pull took %s, one of an image without index %s", took, usual)
	}
	if len(s.logs.lines("downloaded in full", "slow:v1", "reason=slow")) != 1 {
		t.Error("the log does not say why the image is not lazy")
	}
	s.requireSum("one", image, path, sum)
	s.reg.ClearFaults()
}

func TestRestart(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	data, path, sum := files(t, 1, 2<<20)
	ref := s.push("app:v1", true, shell(t), data)
	image := s.Pull(ref)
	s.requireSum("before", image, path, sum)
	containerdtest.Await(t, "the image being complete", 20*time.Second, func() bool {
		return len(s.logs.lines("image is complete")) > 0
	})
	s.stop()
	if got := s.mounts(); len(got) != 0 {
		t.Errorf("mounts %q", got)
	}
	// From here on without the network.
	s.reg.Inject(registrytest.Rule{Match: func(*http.Request) bool { return true }, Fault: registrytest.Cut(-1)})
	s.stop = s.run()
	s.awaitConnected()
	s.requireSum("after", image, path, sum)
	s.RemoveImage(ref)
	s.requireEmpty()
	s.reg.ClearFaults()
}

func TestKill(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	data, path, sum := files(t, 1, 2<<20)
	ref := s.push("app:v1", true, shell(t), data)
	image := s.Pull(ref)
	old := s.Create("old", image, nil, "/bin/sleep", "1000")
	old.Start()
	s.kill()
	if _, err := s.TryCreate("meanwhile", image, "/bin/sleep", "1"); err == nil {
		t.Error("a container could be created without brisk-node")
	}
	s.stop = s.run()
	s.awaitConnected()
	s.requireSum("new", image, path, sum)
	old.Remove()
	s.requireSum("newer", image, path, sum)
	s.RemoveImage(ref)
	s.requireEmpty()
}

// TestKeeper kills the program under a container: with a keeper the container reads on
// when the program is back, and everything is in order after it has gone.
func TestKeeper(t *testing.T) {
	t.Parallel()
	socket := runKeeper(t)
	s := newSite(t, "--keeper", socket)
	data, path, sum := files(t, 1, 8<<20)
	ref := s.push("app:v1", true, shell(t), data)
	image := s.Pull(ref)
	kept := s.Create("kept", image, nil, "/bin/sleep", "1000")
	kept.Start()
	for round := range 3 {
		if round == 2 {
			s.stop()
		} else {
			s.kill()
		}
		read := make(chan string, 1)
		go func() {
			_, out := kept.Exec(fmt.Sprintf("read%d", round), "/bin/sha256sum", path)
			read <- out
		}()
		s.stop = s.run("--keeper", socket)
		s.awaitConnected()
		if out := <-read; !strings.HasPrefix(out, sum) {
			t.Errorf("round %d: the container read %q, want %s", round, out, sum)
		}
		s.requireSum(fmt.Sprintf("afresh%d", round), image, path, sum)
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
			t.Error(err)
		}
	}
	kept.Remove()
	s.RemoveImage(ref)
	s.requireEmpty()
}
