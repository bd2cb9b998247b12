package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/brisk-project/brisk/api/compat"
	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/scheduler/clusterview"
)

// patience is how long a line that is to come may take on a busy machine.
const patience = time.Minute

// watched is a command that watches.
type watched struct {
	t     *testing.T
	lines chan string
	stop  func()
}

// watch runs a command until the test or stop ends it. It must end without an error.
func (s *site) watch(args ...string) *watched {
	ctx, cancel := context.WithCancel(s.t.Context())
	out, in := io.Pipe()
	root := newRootCommand()
	root.SetOut(in)
	root.SetArgs(append(args, "--watch", "--kubeconfig", s.kubeconfig))
	ended := make(chan error, 1)
	go func() {
		err := root.ExecuteContext(ctx)
		ended <- errors.Join(err, in.Close())
	}()
	w := &watched{t: s.t, lines: make(chan string, 100)}
	go func() {
		defer close(w.lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			w.lines <- scanner.Text()
		}
	}()
	w.stop = func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				s.t.Errorf("%q: %v", args, err)
			}
		case <-time.After(patience):
			s.t.Errorf("%q does not end", args)
		}
	}
	return w
}

// line waits for the next line.
func (w *watched) line() string {
	w.t.Helper()
	select {
	case line := <-w.lines:
		return line
	case <-time.After(patience):
		w.t.Fatal("no more lines")
		return ""
	}
}

// requireLine fails unless the next line has these fields first.
func (w *watched) requireLine(fields ...string) {
	w.t.Helper()
	line := w.line()
	if got := strings.Join(strings.Fields(line), " "); !strings.HasPrefix(got+" ", strings.Join(fields, " ")+" ") {
		w.t.Fatalf("the next line is %q, not %q", line, fields)
	}
}

// document waits for the next document of -o json.
func (w *watched) document(value any) {
	w.t.Helper()
	var text strings.Builder
	for text.Len() == 0 || !json.Valid([]byte(text.String())) {
		text.WriteString(w.line() + "\n")
	}
	if err := json.Unmarshal([]byte(text.String()), value); err != nil {
		w.t.Fatal(err)
	}
}

func TestWatchPrintsWhatChanges(t *testing.T) {
	s := newSite(t)
	accelerated := map[string]string{compat.Accelerated: "true"}
	app := v1alpha1.ImageBlocks{Key: key(t, "app"), StartupMissing: mib}
	s.node("warm", accelerated, &v1alpha1.NodeBlocksStatus{Healthy: true}, app)
	s.node("still", accelerated, &v1alpha1.NodeBlocksStatus{Healthy: true})
	nodes, places, documents := s.watch("nodes"), s.watch("images", "app"), s.watch("images", "-o", "json")
	nodes.requireLine("NODE", "STATE")
	nodes.requireLine("still", "accelerated")
	nodes.requireLine("warm", "accelerated")
	places.requireLine("IMAGE", "NODE")
	places.requireLine("example.com/app:v1", "warm", "1.0", "MiB")
	var image clusterview.ImageSummary
	documents.document(&image)
	if image.Kind != clusterview.ImageKind || image.APIVersion != clusterview.APIVersion || image.Image != "example.com/app:v1" || len(image.Warm) != 0 {
		t.Fatalf("%+v", image)
	}

	// A report with nothing new but its time shows nowhere: the next line is of another node.
	report := func(name string, change func(*v1alpha1.NodeBlocksStatus)) {
		object, err := s.ours.NodeBlocks().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		change(&object.Status)
		object.Status.ObservedAt = metav1.Now()
		if _, err := s.ours.NodeBlocks().Update(t.Context(), object, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	report("still", func(*v1alpha1.NodeBlocksStatus) {})
	app.StartupMissing, app.Cached = 0, mib
	images, err := v1alpha1.EncodeImages([]v1alpha1.ImageBlocks{app})
	if err != nil {
		t.Fatal(err)
	}
	report("warm", func(status *v1alpha1.NodeBlocksStatus) {
		status.Healthy, status.Message, status.Images = false, "the disk is full", images
	})
	nodes.requireLine("warm", "not healthy: the disk is full")
	places.requireLine("example.com/app:v1", "warm", "0", "B", "1.0", "MiB", "known")
	documents.document(&image)
	if len(image.Warm) != 1 || image.Nodes[0].Cached != mib {
		t.Fatalf("%+v", image)
	}

	if err := s.core.CoreV1().Nodes().Delete(t.Context(), "warm", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	nodes.requireLine("warm", "deleted")
	places.requireLine("example.com/app:v1", "warm", "0", "B", "0", "B", "removed")
	documents.document(&image)
	if len(image.Warm)+len(image.Nodes) != 0 {
		t.Fatalf("%+v", image)
	}
	s.node("new", nil, nil)
	nodes.requireLine("new", "no", "agent")
	for _, w := range []*watched{nodes, places, documents} {
		w.stop()
	}
}
