package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
)

// poll is the time between two looks at what is waited for.
const poll = 50 * time.Millisecond

// Apply applies the objects in the YAML files of this repository, given as seen from its
// root with the patterns of [filepath.Match], in that order. Custom resources can be made
// when it returns.
func (c *ControlPlane) Apply(tb testing.TB, patterns ...string) {
	tb.Helper()
	for _, pattern := range patterns {
		files, err := filepath.Glob(Repository(tb, pattern))
		if err != nil || len(files) == 0 {
			tb.Fatalf("no file %s: %v", pattern, err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				tb.Fatal(err)
			}
			c.ApplyYAML(tb, content)
		}
	}
}

// ApplyYAML applies the objects in YAML documents.
func (c *ControlPlane) ApplyYAML(tb testing.TB, content []byte) {
	tb.Helper()
	reader := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(content), 4096)
	for {
		var object unstructured.Unstructured
		err := reader.Decode(&object)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			tb.Fatalf("decoding YAML: %v", err)
		}
		if len(object.Object) == 0 {
			continue
		}
		if err := c.apply(tb.Context(), &object); err != nil {
			tb.Fatalf("applying %s %s: %v", object.GetKind(), object.GetName(), err)
		}
	}
}

func (c *ControlPlane) apply(ctx context.Context, object *unstructured.Unstructured) error {
	client, err := c.clientFor(object)
	if err != nil {
		return err
	}
	applied, err := client.Apply(ctx, object.GetName(), object, metav1.ApplyOptions{FieldManager: "test", Force: true})
	if err != nil || object.GetKind() != "CustomResourceDefinition" {
		return err
	}
	return wait.PollUntilContextTimeout(ctx, poll, patience, true, func(ctx context.Context) (bool, error) {
		return c.served(ctx, applied)
	})
}

// clientFor returns the client for the kind of an object, in its namespace.
func (c *ControlPlane) clientFor(object *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	known, err := discovery.NewDiscoveryClientForConfig(c.Admin)
	if err != nil {
		return nil, err
	}
	groups, err := restmapper.GetAPIGroupResources(known)
	if err != nil {
		return nil, err
	}
	kind := object.GroupVersionKind()
	mapping, err := restmapper.NewDiscoveryRESTMapper(groups).RESTMapping(kind.GroupKind(), kind.Version)
	if err != nil {
		return nil, err
	}
	client, err := dynamic.NewForConfig(c.Admin)
	if err != nil {
		return nil, err
	}
	if object.GetNamespace() == "" {
		return client.Resource(mapping.Resource), nil
	}
	return client.Resource(mapping.Resource).Namespace(object.GetNamespace()), nil
}

// served says whether objects of a custom resource can be listed, in all its versions.
func (c *ControlPlane) served(ctx context.Context, definition *unstructured.Unstructured) (bool, error) {
	client, err := dynamic.NewForConfig(c.Admin)
	if err != nil {
		return false, err
	}
	versions, _, err := unstructured.NestedSlice(definition.Object, "spec", "versions")
	if err != nil {
		return false, err
	}
	group, _, err := unstructured.NestedString(definition.Object, "spec", "group")
	if err != nil {
		return false, err
	}
	plural, _, err := unstructured.NestedString(definition.Object, "spec", "names", "plural")
	if err != nil {
		return false, err
	}
	return !slices.ContainsFunc(versions, func(version any) bool {
		fields, ok := version.(map[string]any)
		if !ok || fields["served"] != true {
			return false
		}
		resource := schema.GroupVersionResource{Group: group, Version: fmt.Sprint(fields["name"]), Resource: plural}
		_, err := client.Resource(resource).List(ctx, metav1.ListOptions{Limit: 1})
		return err != nil
	}), nil
}
