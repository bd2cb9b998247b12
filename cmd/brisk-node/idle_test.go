package main

import (
	"os"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/brisk-project/brisk/node/agent"
	"github.com/brisk-project/brisk/test/containerdtest"
)

// mountNumber returns the number that the kernel has for the only mount of an image.
func (s *site) mountNumber() uint64 {
	s.t.Helper()
	roots := s.roots()
	if len(roots) != 1 {
		s.t.Fatalf("mounted are %q", roots)
	}
	var stat unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, roots[0], 0, unix.STATX_MNT_ID, &stat); err != nil {
		s.t.Fatal(err)
	}
	return stat.Mnt_id
}

// TestIdleMountSurvives starts containers one after the other, with the program killed and
// replaced in between: all are on the mount of the first one.
func TestIdleMountSurvives(t *testing.T) {
	t.Parallel()
	for _, mode := range []string{"lazy", "fill"} { // the mount needs the program, or not
		t.Run(mode, func(t *testing.T) {
			flags := []string{"--keeper", runKeeper(t), "--mode", mode}
			s := newSite(t, flags...)
			data, path, sum := files(t, 1, 4<<20)
			more, _, _ := files(t, 2, 1<<20)
			ref := s.push("app:v1", true, shell(t), data, more)
			image := s.Pull(ref)
			if mode == "fill" {
				s.awaitCached(ref)
			}
			s.requireSum("first", image, path, sum)
			mounted := s.mountNumber()
			for i, end := range []func(){func() {}, s.kill, nil} {
				if end == nil {
					end = s.stop
				}
				end()
				if i > 0 {
					s.stop = s.run(flags...)
					s.awaitConnected()
				}
				if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
					t.Error(err)
				}
				s.requireSum("next", image, path, sum)
				if now := s.mountNumber(); now != mounted {
					t.Errorf("round %d: the image was mounted again", i)
				}
			}
			if made := s.logs.lines("msg=mounted"); len(made) != 1 {
				t.Errorf("mounts were made: %q", made)
			}
			began := time.Now()
			s.RemoveImage(ref)
			s.requireEmpty()
			if took := time.Since(began); took > containerdtest.Timeout/2 {
				t.Errorf("it took %s until nothing was left of the image", took)
			}
		})
	}
}

// awaitCached waits until all layers of an image are in the cache.
func (s *site) awaitCached(ref string) {
	s.t.Helper()
	containerdtest.Await(s.t, "the image being cached", containerdtest.Timeout, func() bool {
		status, err := agent.FetchStatus(s.t.Context(), s.dir)
		return err == nil && slices.ContainsFunc(status.Images, func(image agent.ImageStatus) bool {
			return image.Image == ref && image.Local() == 100
		})
	})
}

// TestIdleMountsWithoutKeeper ends the program: mounts that nobody keeps end with it.
func TestIdleMountsWithoutKeeper(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	data, path, sum := files(t, 1, 1<<20)
	ref := s.push("app:v1", true, shell(t), data)
	image := s.Pull(ref)
	s.requireSum("first", image, path, sum)
	s.mountNumber()
	s.stop()
	if left := s.mounts(); len(left) != 0 {
		t.Errorf("mounted are %q", left)
	}
	s.stop = s.run("--idle-mounts", "0")
	s.awaitConnected()
	s.requireSum("second", image, path, sum)
	containerdtest.Await(t, "the image being unmounted", containerdtest.Timeout, func() bool { return len(s.mounts()) == 0 })
	s.RemoveImage(ref)
	s.requireEmpty()
}
