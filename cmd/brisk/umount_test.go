package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/lazyfs"
	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/test/mountns"
	"github.com/brisk-project/brisk/test/registrytest"
)

// forEachMount runs a test with every backend, read-only and writable.
func forEachMount(t *testing.T, test func(t *testing.T, s site, args ...string)) {
	t.Helper()
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	run(t, "convert", image)
	for _, backend := range lazyfs.Backends() {
		for _, overlay := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s,overlay=%t", backend, overlay), func(t *testing.T) {
				test(t, newSite(t), "--backend", string(backend), fmt.Sprintf("--overlay=%t", overlay), image)
			})
		}
	}
}

func TestUmountFindsTheNode(t *testing.T) {
	forEachMount(t, func(t *testing.T, s site, args ...string) {
		t.Helper()
		other := newSite(t)
		first, second := s.target(t, "first one"), s.target(t, "second,with:more")
		link := filepath.Join(s.dir, "link")
		if err := os.Symlink(second, link); err != nil {
			t.Fatal(err)
		}
		elsewhere := other.target(t, "root")
		own, others := append([]string{"--dir", s.node}, args...), append([]string{"--dir", other.node}, args...)
		serving := foreground(t, append(own, first)...)
		run(t, append(append([]string{"mount"}, own...), link)...)
		servingOther := foreground(t, append(others, elsewhere)...)

		run(t, "umount", link)
		requireImage(t, first)
		requireImage(t, elsewhere)
		run(t, "umount", first)
		if err := serving.Wait(); err != nil {
			t.Error(err)
		}
		mountns.RequireUnused(t, s.dir)
		requireImage(t, elsewhere)
		run(t, "umount", elsewhere)
		if err := servingOther.Wait(); err != nil {
			t.Error(err)
		}
	})
}

// What a killed process has left is unmounted, and nothing of another mount of it.
func TestUmountAfterTheNodeWasKilled(t *testing.T) {
	forEachMount(t, func(t *testing.T, s site, args ...string) {
		t.Helper()
		first, second := s.target(t, "first"), s.target(t, "second")
		args = append([]string{"--dir", s.node}, args...)
		cmd := foreground(t, append(args, first)...)
		run(t, append(append([]string{"mount"}, args...), second)...)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Error("the killed process ended well")
		}
		wrong := finish(t, program(t, "umount", "--dir", filepath.Join(s.dir, "other"), first))
		if wrong.code == 0 {
			t.Error("unmounting with the directory of no node succeeded")
		}
		requireOutput(t, wrong.stderr, "no brisk process serves "+filepath.Join(s.dir, "other")+`; pass the --dir that "brisk mount" used`)

		for _, target := range []string{first, second} {
			done := finish(t, program(t, "umount", target))
			if done.code != 0 {
				t.Fatalf("exit code %d: %s", done.code, done.stderr)
			}
			requireOutput(t, done.stderr, "no brisk process serves "+s.node+" any more", target)
			if left, err := os.ReadDir(target); err != nil || len(left) != 0 {
				t.Errorf("%s holds %v, %v", target, left, err)
			}
			if target == first {
				if dir, err := node.FindDir(second); err != nil || dir != s.node {
					t.Errorf("the other mount is of %q, %v", dir, err)
				}
			}
		}
		mountns.RequireUnused(t, s.dir)
		if left, err := filepath.Glob(filepath.Join(s.node, "mounts", "mnt", "*")); err != nil || len(left) != 0 {
			t.Errorf("mount points left: %v, %v", left, err)
		}
		// The next process starts as if nothing had been.
		again := foreground(t, append(args, first)...)
		requireImage(t, first)
		run(t, "umount", first)
		if err := again.Wait(); err != nil {
			t.Error(err)
		}
	})
}

func TestUmountOfSomethingElse(t *testing.T) {
	s := newSite(t)
	plain, foreign := s.target(t, "plain"), s.target(t, "foreign")
	if err := unix.Mount("tmpfs", foreign, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{
		plain:                           plain + " is not a Brisk mount: nothing is mounted there",
		foreign:                         foreign + " is not a Brisk mount: tmpfs of tmpfs is mounted there",
		filepath.Join(s.dir, "missing"): "no such file or directory",
	} {
		got := finish(t, program(t, "umount", target))
		if got.code == 0 {
			t.Errorf("unmounting %s succeeded", target)
		}
		requireOutput(t, got.stderr, want)
	}
	if err := unix.Unmount(foreign, 0); err != nil {
		t.Errorf("the foreign mount: %v", err)
	}
}
