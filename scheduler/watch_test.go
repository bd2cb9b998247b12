package scheduler_test

import (
	"encoding/json"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/brisk-project/brisk/scheduler"
)

const plainReport = `{"metadata":{"name":"n"},"status":{"observedAt":"2026-01-02T03:04:05Z","healthy":true}}`

func object(tb testing.TB, content string) *unstructured.Unstructured {
	tb.Helper()
	var fields map[string]any
	if err := json.Unmarshal([]byte(content), &fields); err != nil {
		tb.Fatal(err)
	}
	return &unstructured.Unstructured{Object: fields}
}

// TestStore checks that a report that cannot be read is forgotten, and no other one.
func TestStore(t *testing.T) {
	store, x := scheduler.NewStore()
	other := object(t, `{"metadata":{"name":"other"},"status":{"observedAt":"2026-01-02T03:04:05Z"}}`)
	known := func(want int) {
		t.Helper()
		if got := len(x.Names()); got != want {
			t.Errorf("%d nodes are known, not %d", got, want)
		}
	}
	for _, step := range []struct {
		name string
		do   func() error
		want int
	}{
		{"list", func() error { return store.Replace([]any{object(t, plainReport), other}, "1") }, 2},
		{"malformed", func() error { return store.Update(object(t, `{"metadata":{"name":"n"},"status":{"healthy":"yes"}}`)) }, 1},
		{"mended", func() error { return store.Update(object(t, plainReport)) }, 2},
		{"no list of images", func() error {
			return store.Add(object(t, `{"metadata":{"name":"n"},"status":{"images":"bm90IGEgbGlzdA=="}}`))
		}, 1},
		{"something else", func() error { return store.Add("text") }, 1},
		{"deleted", func() error { return store.Delete(other) }, 0},
		{"list again", func() error { return store.Replace([]any{other}, "2") }, 1},
		{"nothing", func() error { return store.Replace(nil, "3") }, 0},
	} {
		if err := step.do(); err != nil {
			t.Errorf("%s: %v", step.name, err)
		}
		known(step.want)
	}
}

func FuzzReport(f *testing.F) {
	f.Add(plainReport)
	f.Add(`{"metadata":{"name":"n"},"status":{"images":"AQ==","imageCount":-1,"cache":{"freeBytes":-5},"zone":7,"starts":[{}]}}`)
	f.Add(`{"metadata":[],"status":"no"}`)
	f.Fuzz(func(t *testing.T, content string) {
		var fields map[string]any
		if json.Unmarshal([]byte(content), &fields) != nil || fields == nil {
			return
		}
		store, x := scheduler.NewStore()
		if err := store.Add(&unstructured.Unstructured{Object: fields}); err != nil {
			t.Error(err)
		}
		for _, name := range x.Names() {
			x.Health(name)
		}
	})
}
