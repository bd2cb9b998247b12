package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/brisk-project/brisk/test/docs"
	"github.com/brisk-project/brisk/test/registrytest"
	"github.com/brisk-project/brisk/test/require"
)

// wait is a function of shell that waits until a registry of the demo says that it serves.
const wait = "for i in $(seq 600); do if grep -q ^serving \"$SERVED\"; then break; fi; sleep 0.1; done\n"

// TestReadmeCommands runs the commands of the README that need only a registry, as they are printed.
// The image of "brisk demo --serve" is a small one, from another registry.
func TestReadmeCommands(t *testing.T) {
	require.FUSE(t)
	serve, commands := readmeCommands(t)
	work := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	small := pushRunnable(t)
	bin := filepath.Join(work, "bin")
	script := fmt.Sprintf("#!/bin/sh\nexport %s=1\ncase $1 in demo) exec %s \"$@\" --image %s;; esac\nexec %s \"$@\"\n", envProgram, self, small, self)
	for _, dir := range []string{"bin", "lib", "mnt", "tmp"} {
		if err := os.Mkdir(filepath.Join(work, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(bin, "brisk"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	// The commands use directories of the machine, in whose place they get others.
	for dir, place := range map[string]string{"lib": "/var/lib", "mnt": "/mnt"} {
		if err := syscall.Mount(filepath.Join(work, dir), place, "", syscall.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := syscall.Unmount(place, 0); err != nil {
				t.Errorf("%s is still in use: %v", place, err)
			}
		})
	}
	address := freeAddress(t)
	text := "set -eu -o pipefail\n(" + strings.TrimSpace(serve) + ") >\"$SERVED\" &\n" + wait + commands + "kill $!\nwait $!\n"
	cmd := exec.CommandContext(t.Context(), "bash", "-c", strings.ReplaceAll(text, "127.0.0.1:5000", address))
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "SERVED="+filepath.Join(work, "served"), "DOCKER_CONFIG="+work, "TMPDIR="+filepath.Join(work, "tmp"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	requireOutput(t, string(out), "accelerated image index", address+"/demo/image:latest", " on /mnt/app", "\nbin\n", "recorded", "pushed sha256:", " bin/busybox\n")
	if left, err := os.ReadDir(filepath.Join(work, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("%v is left: %v", left, err)
	}
}

// pushRunnable pushes an image whose program prints a word.
func pushRunnable(t *testing.T) string {
	t.Helper()
	busybox, err := os.ReadFile(require.Tool(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	reg := registrytest.New(t, registrytest.Config{})
	reg.Push(t, "small:v1", registrytest.Image{
		Config: func(c *v1.Config) { c.Entrypoint = []string{"busybox", "echo", "started"} },
		Layers: []registrytest.Layer{{Level: 1, Tar: registrytest.Tar(t,
			registrytest.File{Name: "bin/"}, registrytest.File{Name: "bin/busybox", Data: busybox, Mode: 0o755},
			registrytest.File{Name: "etc/"}, registrytest.File{Name: "etc/passwd", Data: []byte("root:x:0:0::/:\n"), Mode: 0o644})}},
	})
	return reg.Ref(t, "small:v1").String()
}

// freeAddress returns a loopback address with a port that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	return listener.Addr().String()
}

// readmeCommands returns the command that serves an image, and those that use it.
func readmeCommands(t *testing.T) (serve, commands string) {
	t.Helper()
	root, err := docs.Root()
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## Convert and mount an image\n")
	if !ok {
		t.Fatal("README.md has no such section")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	samples := docs.Samples(section)
	if len(samples) < 2 || !strings.HasPrefix(samples[0], "brisk demo --serve 127.0.0.1:5000") {
		t.Fatalf("the samples of README.md are %q", samples)
	}
	return samples[0], strings.Join(samples[1:], "")
}
