package main

import (
	"net/http"
	"strings"
	"testing"

	"github.com/brisk-project/brisk/test/registrytest"
)

// An image from behind a proxy that does not serve ranges is pulled plainly, with the reason, and
// runs.
func TestNoRanges(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	data, path, sum := files(t, 1, 5<<20)
	layers := []registrytest.Layer{shell(t), data}
	ref := s.push("app:v1", true, layers...)
	for name, fault := range map[string]registrytest.Fault{
		"ignored": registrytest.OnRanges(registrytest.IgnoreRange()), "compressed": registrytest.Recompress("gzip", true),
		"refused": registrytest.OnRanges(registrytest.Status(http.StatusRequestedRangeNotSatisfiable)),
	} {
		p := registrytest.NewProxy(t, s.reg, fault)
		through := strings.Replace(ref, s.reg.Addr(), p.Addr(), 1)
		image := s.Pull(through)
		if n := s.downloaded(layers...); n != 2 {
			t.Errorf("%s: %d layers were downloaded", name, n)
		}
		if reason, lazy := s.reasonOf(through); lazy || reason != "no-ranges" {
			t.Errorf("%s: lazy: %t, reason %q", name, lazy, reason)
		}
		s.requireSum(name, image, path, sum)
		s.RemoveImage(through)
	}
	if n := len(s.logs.lines("downloaded in full", "reason=no-ranges")); n != 3 {
		t.Errorf("the log tells of %d plain pulls", n)
	}
	// The registry itself serves ranges.
	image := s.Pull(ref)
	if n := s.downloaded(layers...); n != 0 {
		t.Errorf("%d layers were downloaded", n)
	}
	s.requireSum("lazy", image, path, sum)
	s.RemoveImage(ref)
}

// Ranges are withdrawn while a container runs: it reads on, every byte right. The next pull is
// plain.
func TestRangesWithdrawn(t *testing.T) {
	t.Parallel()
	s := newSite(t, "--mode", "lazy")
	data, path, sum := files(t, 1, 9<<20)
	other, otherPath, otherSum := files(t, 2, 5<<20)
	p := registrytest.NewProxy(t, s.reg, nil)
	through := func(ref string) string { return strings.Replace(ref, s.reg.Addr(), p.Addr(), 1) }
	first, second := through(s.push("app:v1", true, shell(t), data)), through(s.push("app:v2", true, shell(t), other))

	c := s.Create("running", s.Pull(first), nil, "/bin/sleep", "1000")
	c.Start()
	if _, lazy := s.reasonOf(first); !lazy {
		t.Error("the first pull was not lazy")
	}
	p.Set(registrytest.OnRanges(registrytest.IgnoreRange()))
	if code, out := c.Exec("sum", "/bin/sha256sum", path); code != 0 || out != sum {
		t.Errorf("code %d, %q instead of %q", code, out, sum)
	}
	image := s.Pull(second)
	if reason, lazy := s.reasonOf(second); lazy || reason != "no-ranges" {
		t.Errorf("the second pull is lazy: %t, reason %q", lazy, reason)
	}
	s.requireSum("plain", image, otherPath, otherSum)
	c.Remove()
	s.RemoveImage(first)
	s.RemoveImage(second)
}

// A registry that never answers when it is asked for referrers does not make a pull plain while
// the accelerated tag is there.
func TestReferrersNeverAnswer(t *testing.T) {
	s := newSite(t, "--lookup-timeout", "1s", "--mode", "lazy")
	data, path, sum := files(t, 1, 1<<20)
	ref := s.push("app:v1", true, shell(t), data)
	s.reg.Inject(registrytest.Rule{
		Match: func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/sha256-") },
		Fault: registrytest.Hang(-1),
	})
	image := s.Pull(ref)
	if reason, lazy := s.reasonOf(ref); !lazy {
		t.Errorf("the pull is plain, reason %q", reason)
	}
	s.requireSum("one", image, path, sum)
}
