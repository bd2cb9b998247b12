package install_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/brisk-project/brisk/lazyfs/kernel"
	"github.com/brisk-project/brisk/node/host/install"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// manyLayers is how many layers the largest image of the tests has.
const manyLayers = 20

// liveSite is a node that has run containers before the agent is installed.
type liveSite struct {
	*site
	reg     *registrytest.Registry
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
	refs    map[string]string // by what the image is
	layers  map[string]int    // how many each of the images has that are run
	pods    int
}

// liveConfig says what the node is like before.
type liveConfig struct {
	program     string // containerd, the default one if empty
	snapshotter string
	discard     bool
	// disk gives the agent another filesystem than containerd has.
	disk bool
}

func newLiveSite(t *testing.T, cfg liveConfig) *liveSite {
	t.Helper()
	if cfg.program == "" {
		cfg.program = containerdtest.Program(t, "containerd")
	}
	s := &liveSite{reg: registrytest.New(t, registrytest.Config{}), refs: make(map[string]string)}
	pause := s.reg.Ref(t, "pause:v1").String()
	dir := t.TempDir()
	if cfg.disk {
		mountDisk(t, dir)
	}
	s.site = newSiteIn(t, dir, containerdtest.Config{Plain: true, Program: cfg.program, Edit: func(path string) {
		file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		_, err = fmt.Fprintf(file, `[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = %q
disable_apparmor = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = %q
discard_unpacked_layers = %t
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux/%s"
snapshotter = %[2]q
`, pause, cfg.snapshotter, cfg.discard, runtime.GOARCH)
		if err != nil || file.Close() != nil {
			t.Fatal(err)
		}
	}})
	s.connect()
	return s
}

// mountDisk mounts an empty filesystem on a directory.
func mountDisk(t *testing.T, dir string) {
	t.Helper()
	require.Root(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1g"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := kernel.Unmount(context.WithoutCancel(t.Context()), dir, true); err != nil {
			t.Error(err)
		}
	})
}

func (s *liveSite) connect() {
	conn, ok := s.Client.Conn().(grpc.ClientConnInterface)
	if !ok {
		s.t.Fatal("the client of containerd has another kind of connection")
	}
	s.runtime, s.images = cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
}

// install installs, and waits for containerd as kubelet does.
func (s *liveSite) install() {
	s.t.Helper()
	s.site.install()
	s.awaitCRI()
}

// uninstall uninstalls, and waits for containerd.
func (s *liveSite) uninstall(how install.UninstallOptions) {
	s.t.Helper()
	s.site.uninstall(how)
	s.awaitCRI()
}

func (s *liveSite) awaitCRI() {
	s.t.Helper()
	containerdtest.Await(s.t, "the CRI", containerdtest.Timeout, func() bool {
		_, err := s.runtime.Status(s.Context(), &cri.StatusRequest{})
		return err == nil
	})
}

// push puts an image into the registry that says what it is when it is run.
func (s *liveSite) push(name string, layers int) registrytest.Image {
	s.t.Helper()
	program, err := os.ReadFile(require.Tool(s.t, "busybox"))
	if err != nil {
		s.t.Fatal(err)
	}
	image := registrytest.Image{Config: func(c *v1.Config) { c.Entrypoint = []string{"/bin/busybox", "sleep", "1000"} }}
	for i := range layers {
		files := []registrytest.File{{Name: "layers/"}, {Name: fmt.Sprintf("layers/%d", i), Data: []byte(name)}, {Name: "last", Data: fmt.Append(nil, i)}}
		switch i {
		case 0:
			files = append(files, registrytest.File{Name: "dev/"}, registrytest.File{Name: "proc/"}, registrytest.File{Name: "sys/"},
				registrytest.File{Name: "etc/"}, registrytest.File{Name: "bin/"}, registrytest.File{Name: "bin/busybox", Data: program, Mode: 0o755},
				registrytest.File{Name: "gone", Data: []byte("here")}, registrytest.File{Name: "hidden/"}, registrytest.File{Name: "hidden/file"})
		case 1:
			files = append(files, registrytest.File{Name: ".wh.gone"}, registrytest.File{Name: "hidden/"}, registrytest.File{Name: "hidden/.wh..wh..opq"})
		}
		layer := registrytest.Layer{Tar: registrytest.Tar(s.t, files...), Level: 1}
		layer.Blob = registrytest.Compress(s.t, layer)
		image.Layers = append(image.Layers, layer)
	}
	s.reg.Push(s.t, name+":v1", image)
	s.refs[name] = s.reg.Ref(s.t, name+":v1").String()
	return image
}

func (s *liveSite) pull(name string) {
	s.t.Helper()
	_, err := s.images.PullImage(s.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: s.refs[name]}})
	if err != nil {
		s.t.Fatalf("pulling %s: %v", name, err)
	}
}

// registryDown lets every request fail from here on.
func (s *liveSite) registryDown() {
	s.reg.ResetRequests()
	s.reg.Inject(registrytest.Rule{
		Match: func(*http.Request) bool { return true },
		Fault: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(http.StatusBadGateway) },
	})
}

// podConfig is that of a pod with the network of the machine.
func (s *liveSite) podConfig() *cri.PodSandboxConfig {
	s.pods++
	name := fmt.Sprintf("pod%d", s.pods)
	dir := filepath.Join(s.dir, "logs", name)
	if err := os.MkdirAll(dir, 0o750); err != nil {
		s.t.Fatal(err)
	}
	return &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "default"}, LogDirectory: dir,
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}, Seccomp: &cri.SecurityProfile{ProfileType: cri.SecurityProfile_Unconfined},
		}},
	}
}

// pod is a container in a pod of its own.
type pod struct{ sandbox, container string }

// run starts a container as kubelet does with imagePullPolicy IfNotPresent, when the image
// has to be there.
func (s *liveSite) run(name string) (pod, error) {
	image := &cri.ImageSpec{Image: s.refs[name]}
	status, err := s.images.ImageStatus(s.Context(), &cri.ImageStatusRequest{Image: image})
	if err != nil || status.GetImage() == nil {
		return pod{}, fmt.Errorf("image %s is not present: %w", name, err)
	}
	config := s.podConfig()
	sandbox, err := s.runtime.RunPodSandbox(s.Context(), &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		return pod{}, fmt.Errorf("sandbox: %w", err)
	}
	p := pod{sandbox: sandbox.GetPodSandboxId()}
	made, err := s.runtime.CreateContainer(s.Context(), &cri.CreateContainerRequest{
		PodSandboxId: p.sandbox, SandboxConfig: config,
		Config: &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "one"}, Image: image, LogPath: "log"},
	})
	if err != nil {
		return p, fmt.Errorf("creating the container: %w", err)
	}
	p.container = made.GetContainerId()
	_, err = s.runtime.StartContainer(s.Context(), &cri.StartContainerRequest{ContainerId: p.container})
	return p, err
}

// requireFiles checks what a container of an image sees.
func (s *liveSite) requireFiles(p pod, layers int) {
	s.t.Helper()
	const script = "cat /last; echo; ls /layers | wc -l; ls -A /hidden; ls /gone 2>/dev/null; echo new >/new && cat /new"
	out, err := s.runtime.ExecSync(s.Context(), &cri.ExecSyncRequest{ContainerId: p.container, Cmd: []string{"/bin/busybox", "sh", "-c", script}, Timeout: 20})
	if err != nil {
		s.t.Fatal(err)
	}
	want := fmt.Sprintf("%d\n%d\nnew\n", layers-1, layers)
	if layers == 1 {
		want = "0\n1\nfile\n/gone\nnew\n"
	}
	if got := string(out.GetStdout()); got != want {
		s.t.Errorf("the container sees %q instead of %q (%s)", got, want, out.GetStderr())
	}
}

// remove ends a pod.
func (s *liveSite) remove(p pod) {
	s.t.Helper()
	if _, err := s.runtime.StopPodSandbox(s.Context(), &cri.StopPodSandboxRequest{PodSandboxId: p.sandbox}); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.runtime.RemovePodSandbox(s.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: p.sandbox}); err != nil {
		s.t.Fatal(err)
	}
}

// snapshotterOf returns what the snapshot of a container is kept by.
func (s *liveSite) snapshotterOf(p pod) string {
	s.t.Helper()
	c, err := s.Client.ContainerService().Get(s.Context(), p.container)
	if err != nil {
		s.t.Fatal(err)
	}
	return c.Snapshotter
}

// snapshots returns how many snapshots of a snapshotter containerd knows.
func (s *liveSite) snapshots(snapshotter string) int {
	s.t.Helper()
	count := 0
	err := s.Client.SnapshotService(snapshotter).Walk(s.Context(), func(context.Context, snapshots.Info) error {
		count++
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return count
}

// discarded reports whether containerd has no layers of an image.
func (s *liveSite) discarded(name string) bool {
	s.t.Helper()
	image, err := s.Client.GetImage(s.Context(), s.refs[name])
	if err != nil {
		s.t.Fatal(err)
	}
	manifest, err := images.Manifest(s.Context(), s.Client.ContentStore(), image.Target(), image.Platform())
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = s.Client.ContentStore().Info(s.Context(), manifest.Layers[0].Digest)
	return errdefs.IsNotFound(err)
}

// pushAll pushes and pulls the images that are run.
func (s *liveSite) pushAll() {
	s.t.Helper()
	for name, layers := range s.layers {
		s.push(name, layers)
		s.pull(name)
	}
}

// prepare brings the node to where it is when the agent comes: with a running container,
// a stopped one, and images that were only pulled.
func (s *liveSite) prepare() (running, stopped pod) {
	s.t.Helper()
	s.layers = map[string]int{"pause": 1, "running": 2, "stopped": 3, "pulled": 1, "many": manyLayers}
	s.pushAll()
	for _, each := range []struct {
		name string
		pod  *pod
	}{{"running", &running}, {"stopped", &stopped}} {
		var err error
		if *each.pod, err = s.run(each.name); err != nil {
			s.t.Fatal(err)
		}
	}
	if _, err := s.runtime.StopContainer(s.Context(), &cri.StopContainerRequest{ContainerId: stopped.container}); err != nil {
		s.t.Fatal(err)
	}
	return running, stopped
}

// requireAllRun runs every image once.
func (s *liveSite) requireAllRun(snapshotter string) {
	s.t.Helper()
	for name, layers := range s.layers {
		p, err := s.run(name)
		if err != nil {
			s.t.Errorf("image %s does not run: %v", name, err)
			continue
		}
		if got := s.snapshotterOf(p); got != snapshotter {
			s.t.Errorf("a container of %s is on %s", name, got)
		}
		s.requireFiles(p, layers)
		s.remove(p)
	}
	if requests := s.reg.Requests(); len(requests) > 0 {
		s.t.Errorf("the registry got %d requests, the first one %s %s", len(requests), requests[0].Method, requests[0].Path)
	}
}
