package cluster

import (
	"bytes"
	"context"
	"errors"
	"io"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"
)

// applyPatience is how long a kind may take to be served after its definition.
const applyPatience = 20 * time.Second

// Apply applies the objects of YAML documents, in their order.
func (c *Cluster) Apply(documents []byte) {
	c.tb.Helper()
	client, err := dynamic.NewForConfig(c.REST)
	if err != nil {
		c.tb.Fatal(err)
	}
	kinds := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.Client.Discovery()))
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(documents), 4096)
	for {
		var object unstructured.Unstructured
		err := decoder.Decode(&object)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			c.tb.Fatalf("decoding YAML: %v", err)
		}
		if len(object.Object) == 0 {
			continue
		}
		c.Await(object.GetKind()+" "+object.GetName()+" to be taken", applyPatience, func(ctx context.Context) (bool, error) {
			kind := object.GroupVersionKind()
			mapping, err := kinds.RESTMapping(kind.GroupKind(), kind.Version)
			if meta.IsNoMatchError(err) {
				kinds.Reset()
				return false, nil
			}
			if err != nil {
				return false, err
			}
			resource := dynamic.ResourceInterface(client.Resource(mapping.Resource))
			if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
				resource = client.Resource(mapping.Resource).Namespace(object.GetNamespace())
			}
			_, err = resource.Apply(ctx, object.GetName(), &object, metav1.ApplyOptions{FieldManager: "test", Force: true})
			return err == nil, err
		})
	}
}
