package node_test

import (
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/brisk-project/brisk/node"
	"github.com/brisk-project/brisk/test/registrytest"
)

// TestStartOfMount checks what is measured of a start: that reads of two layers that wait side
// by side count once, and reads of what is there not at all.
func TestStartOfMount(t *testing.T) {
	t.Parallel()
	const delay = 500 * time.Millisecond
	reg := registrytest.New(t, registrytest.Config{})
	image := push(t, reg, "app:v1", large().layers)
	reg.Inject(registrytest.Rule{Match: large().isLayer, Fault: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		select {
		case <-time.After(delay):
			next.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}})
	n, _ := start(t, node.Config{})
	asked := time.Now()
	m := mount(t, n, image)
	mounted := time.Now()
	var both errgroup.Group
	for _, name := range []string{largeGzip, largePlain} {
		both.Go(func() error {
			_, err := readPart(filepath.Join(m.Target(), name), 0, 4096)
			return err
		})
	}
	if err := both.Wait(); err != nil {
		t.Fatal(err)
	}
	took := time.Since(mounted)
	if over := n.StartDelays(); len(over) != 0 {
		t.Errorf("over at once: %+v", over)
	}
	startupTraces := node.EndStarts(n)
	if len(startupTraces) != 1 {
		t.Fatalf("starts %+v", startupTraces)
	}
	one := startupTraces[0]
	if one.Manifest.String() != m.Status().Digest || one.Image != m.Status().Image || one.Began.Before(asked) || one.Mounting <= 0 || one.Mounting > mounted.Sub(asked) {
		t.Errorf("start %+v", one)
	}
	if one.Waited < delay || one.Waited > took {
		t.Errorf("reads that took %s side by side waited for %s", took, one.Waited)
	}
}
