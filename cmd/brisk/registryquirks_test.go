package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/brisk-project/brisk/test/registrytest"
)

// A registry that never answers when it is asked for referrers costs no command its result, nor
// seconds, while the accelerated tag is there.
func TestReferrersNeverAnswer(t *testing.T) {
	for name, cfg := range map[string]struct {
		registry registrytest.Config
		path     string
	}{
		"the API":          {registrytest.Config{Referrers: true}, "/referrers/"},
		"the fallback tag": {registrytest.Config{}, "/manifests/sha256-"},
	} {
		t.Run(name, func(t *testing.T) {
			reg := registrytest.New(t, cfg.registry)
			image := pushImage(t, reg, "app:v1")
			run(t, "convert", image)
			reg.Inject(registrytest.Rule{Fault: registrytest.Hang(-1), Match: func(r *http.Request) bool {
				return strings.Contains(r.URL.Path, cfg.path)
			}})
			s := newSite(t)
			target := s.target(t, "root")
			for _, args := range [][]string{
				{"inspect", image}, {"convert", image}, {"verify", image}, {"mount", "--detach", "--dir", s.node, image, target},
			} {
				begin := time.Now()
				run(t, args...)
				if took := time.Since(begin); took > 8*time.Second {
					t.Errorf("brisk %s took %s", args[0], took)
				}
			}
			requireImage(t, target)
			run(t, "umount", "--dir", s.node, target)
			s.awaitNoNode(t)
		})
	}
}

// Every command works on images behind a proxy that does not serve ranges.
func TestWithoutRanges(t *testing.T) {
	reg := registrytest.New(t, registrytest.Config{})
	image := pushImage(t, reg, "app:v1")
	for name, fault := range map[string]registrytest.Fault{
		"ignored": registrytest.OnRanges(registrytest.IgnoreRange()), "compressed": registrytest.Recompress("gzip", true),
	} {
		t.Run(name, func(t *testing.T) {
			p := registrytest.NewProxy(t, reg, fault)
			through := strings.Replace(image, reg.Addr(), p.Addr(), 1)
			run(t, "convert", through)
			run(t, "inspect", through)
			requireOutput(t, run(t, "verify", through), "every digest is right")
			s := newSite(t)
			target := s.target(t, "root")
			run(t, "mount", "--detach", "--dir", s.node, through, target)
			requireImage(t, target)
			run(t, "umount", "--dir", s.node, target)
			s.awaitNoNode(t)
		})
	}
}
