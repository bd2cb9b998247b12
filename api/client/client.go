// Package client reaches the objects of the group brisk.dev in a cluster. It knows no
// other objects and keeps no copies, so that programs on small nodes can afford it.
package client

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/rest"

	"github.com/brisk-project/brisk/api/v1alpha1"
)

// NodeBlocks reads, writes and watches NodeBlocks objects. It is safe for concurrent
// use, and its errors are those of k8s.io/apimachinery/pkg/api/errors.
type NodeBlocks = gentype.ClientWithList[*v1alpha1.NodeBlocks, *v1alpha1.NodeBlocksList]

// Client reaches the objects of the group. It is safe for concurrent use.
type Client struct{ nodeBlocks *NodeBlocks }

// New returns a client. It does not touch the network.
func New(cfg *rest.Config) (*Client, error) {
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("making a client of %s: %w", v1alpha1.GroupVersion, err)
	}
	cfg = rest.CopyConfig(cfg)
	cfg.APIPath, cfg.GroupVersion = "/apis", &v1alpha1.GroupVersion
	cfg.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeJSON, runtime.ContentTypeJSON
	if cfg.UserAgent == "" {
		cfg.UserAgent = rest.DefaultKubernetesUserAgent()
	}
	connection, err := rest.RESTClientFor(cfg)
	if err != nil {
		return nil, fmt.Errorf("making a client of %s: %w", v1alpha1.GroupVersion, err)
	}
	return &Client{nodeBlocks: gentype.NewClientWithList[*v1alpha1.NodeBlocks, *v1alpha1.NodeBlocksList](
		"nodeblocks", connection, runtime.NewParameterCodec(scheme), "",
		func() *v1alpha1.NodeBlocks { return &v1alpha1.NodeBlocks{} },
		func() *v1alpha1.NodeBlocksList { return &v1alpha1.NodeBlocksList{} },
	)}, nil
}

// NodeBlocks returns what reaches NodeBlocks objects.
func (c *Client) NodeBlocks() *NodeBlocks { return c.nodeBlocks }
