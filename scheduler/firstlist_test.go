package scheduler_test

import (
	"context"
	"errors"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	dynamicfake "k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/brisk-project/brisk/api/v1alpha1"
	"github.com/brisk-project/brisk/scheduler"
)

// TestFirstList checks when a scheduler that starts waits for what nodes report: until it is there,
// and for a time if that could still come.
func TestFirstList(t *testing.T) {
	t.Parallel()
	resource := v1alpha1.GroupVersion.WithResource("nodeblocks")
	const short, long = 200 * time.Millisecond, time.Minute
	for _, test := range []struct {
		name    string
		err     error
		takes   time.Duration
		longest time.Duration
		nodes   int
	}{
		{"there", nil, short, long, 1},
		{"not defined", apierrors.NewNotFound(resource.GroupResource(), ""), 0, long, 0},
		{"forbidden", apierrors.NewForbidden(resource.GroupResource(), "", errors.New("no")), 0, long, 0},
		{"API server down", errors.New("connection refused"), 0, short, 0},
		{"API server slow", nil, long, short, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			client := dynamicfake.NewSimpleDynamicClientWithCustomListKinds(runtime.NewScheme(),
				map[schema.GroupVersionResource]string{resource: "NodeBlocksList"})
			client.PrependReactor("list", "nodeblocks", func(clienttesting.Action) (bool, runtime.Object, error) {
				select {
				case <-time.After(test.takes):
				case <-ctx.Done():
				}
				if test.err != nil {
					return true, nil, test.err
				}
				return true, &unstructured.UnstructuredList{Items: []unstructured.Unstructured{*object(t, plainReport)}}, nil
			})
			began := time.Now()
			x := scheduler.Follow(ctx, client, test.longest)
			if took := time.Since(began); (test.longest == short && took < short) || took > long/2 {
				t.Errorf("it waited for %s", took)
			}
			if got := len(x.Names()); got != test.nodes {
				t.Errorf("%d nodes are known, not %d", got, test.nodes)
			}
		})
	}
}
