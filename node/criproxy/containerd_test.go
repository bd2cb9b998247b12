package criproxy

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/brisk-project/brisk/image/registry"
	"github.com/brisk-project/brisk/image/registry/credential"
	"github.com/brisk-project/brisk/test/containerdtest"
	"github.com/brisk-project/brisk/test/programs"
	"github.com/brisk-project/brisk/test/registrytest"
)

// containerd is a real one with nothing but what pulls images.
type containerd struct {
	t      *testing.T
	path   string
	dir    string
	socket string
	cmd    *exec.Cmd
	wait   func() error // for its end
}

func newContainerd(t *testing.T) *containerd {
	t.Helper()
	path := filepath.Join(containerdtest.Programs(t), "containerd")
	dir := t.TempDir()
	c := &containerd{t: t, path: path, dir: dir, socket: filepath.Join(dir, "c.sock")}
	config := fmt.Sprintf(`version = 3
root = %q
state = %q
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = %q
[ttrpc]
address = %q
[plugins."io.containerd.nri.v1.nri"]
disable = true
[plugins."io.containerd.cri.v1.images"]
snapshotter = "native"
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
platform = "linux"
snapshotter = "native"
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), c.socket, c.socket+".ttrpc")
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	c.start()
	t.Cleanup(func() { c.kill() })
	return c
}

func (c *containerd) start() {
	c.t.Helper()
	log, err := os.OpenFile(filepath.Join(c.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer func() {
		if err := log.Close(); err != nil {
			c.t.Error(err)
		}
	}()
	c.cmd = exec.CommandContext(context.WithoutCancel(c.t.Context()), c.path, "--config", filepath.Join(c.dir, "config.toml"))
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if c.wait, err = programs.Start(c.cmd); err != nil {
		c.t.Fatal(err)
	}
}

func (c *containerd) kill() {
	c.t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		c.t.Error(err)
	}
	if err := c.wait(); err == nil {
		c.t.Error("containerd ended by itself")
	}
}

func (c *containerd) log() string {
	c.t.Helper()
	data, err := os.ReadFile(filepath.Join(c.dir, "log"))
	if err != nil {
		c.t.Fatal(err)
	}
	return string(data)
}

// A real containerd pulls a private image through the proxy, and what was captured
// reads the image afterwards, also when the process has been restarted since. It is
// killed in between, and found again.
func TestContainerd(t *testing.T) {
	r := registrytest.New(t, registrytest.Config{Auth: registrytest.AuthToken})
	layer := registrytest.Layer{Tar: registrytest.Tar(t, registrytest.Files(1, 3, 10_000)...)}
	r.Push(t, "team/app:v1", registrytest.Image{Layers: []registrytest.Layer{layer}})
	c := newContainerd(t)
	store, err := credential.Open(credential.Config{Path: filepath.Join(c.dir, "credentials")})
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Socket: filepath.Join(c.dir, "p.sock"), Runtime: c.socket, Capture: store.Capture}
	end := start(t, cfg)
	conn := dial(t, cfg.Socket)
	runtimes, images := runtimeapi.NewRuntimeServiceClient(conn), runtimeapi.NewImageServiceClient(conn)
	awake := func() {
		t.Helper()
		started := time.Now()
		for {
			v, err := runtimes.Version(t.Context(), &runtimeapi.VersionRequest{})
			if err == nil && v.GetRuntimeName() == "containerd" {
				return
			}
			if time.Since(started) > time.Minute {
				t.Fatalf("%v, %v\n%s", v, err, c.log())
			}
			<-time.After(50 * time.Millisecond)
		}
	}
	awake()
	ref := r.Ref(t, "team/app:v1")
	pull := func(password string) error {
		req := &runtimeapi.PullImageRequest{
			Image: &runtimeapi.ImageSpec{Image: ref.String()},
			Auth:  &runtimeapi.AuthConfig{Username: registrytest.User, Password: password},
		}
		_, err := images.PullImage(t.Context(), req)
		return err
	}
	if err := pull("wrong"); err == nil || !strings.Contains(err.Error(), "authoriz") {
		t.Errorf("wrong password: %v", err)
	}
	if err := pull(registrytest.Password); err != nil {
		t.Fatalf("%v\n%s", err, c.log())
	}
	if err := store.Save(); err != nil {
		t.Fatal(err)
	}
	c.kill()
	c.start()
	awake()
	got, err := images.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref.String()}})
	if err != nil || got.GetImage().GetId() == "" {
		t.Errorf("image after a restart of containerd: %v, %v", got, err)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	again, err := credential.Open(credential.Config{Path: filepath.Join(c.dir, "credentials")})
	if err != nil {
		t.Fatal(err)
	}
	client, err := registry.NewClient(registry.Config{Credentials: again, Keychain: authn.DefaultKeychain})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Resolve(t.Context(), ref, v1.Platform{OS: "linux", Architecture: "amd64"}); err != nil {
		t.Errorf("reading with what was captured: %v", err)
	}
}
