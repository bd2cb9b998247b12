package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// NodeBlocks says what the node agent of one node has cached and how fast it gets
// what it lacks. Its name is the node's. Only that node's agent writes it.
//
// +kubebuilder:object:root=true
type NodeBlocks struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Status is what the agent reports.
	Status NodeBlocksStatus `json:"status,omitempty"`
}

// NodeBlocksStatus is one report of a node agent.
type NodeBlocksStatus struct {
	// ObservedAt is when the agent took the report.
	ObservedAt metav1.Time `json:"observedAt"`
	// Healthy says that the agent mounts images lazily.
	Healthy bool `json:"healthy"`
	// Message says why the agent is not healthy.
	Message string `json:"message,omitempty"`
	// Zone is the topology zone in which the node shares blocks.
	Zone string `json:"zone,omitempty"`
	// Backend is how images are mounted: erofs, loop or tree.
	Backend string `json:"backend,omitempty"`
	// Version is the agent's.
	Version string `json:"version,omitempty"`
	// Cache is the size of the block cache.
	Cache CacheStatus `json:"cache"`
	// Bandwidth is what the agent measured.
	Bandwidth BandwidthStatus `json:"bandwidth"`
	// Peer says where other nodes reach the agent for blocks.
	Peer *PeerStatus `json:"peer,omitempty"`
	// ImageCount is the number of images in Images.
	ImageCount int32 `json:"imageCount"`
	// Images is the packed list of images: see EncodeImages.
	Images []byte `json:"images,omitempty"`
}

// CacheStatus is the size of a node's block cache, in bytes.
type CacheStatus struct {
	// CapacityBytes is the bound of the cache.
	CapacityBytes int64 `json:"capacityBytes"`
	// FreeBytes is what can still be cached without evicting a pinned block.
	FreeBytes int64 `json:"freeBytes"`
}

// BandwidthStatus holds measured rates in bytes per second; 0 is not known.
type BandwidthStatus struct {
	// Peers is the rate at which blocks come from nodes of the zone.
	Peers int64 `json:"peers,omitempty"`
	// Registry is the rate at which blocks come from the registry.
	Registry int64 `json:"registry,omitempty"`
}

// PeerStatus is how other agents reach an agent.
type PeerStatus struct {
	// ID is the libp2p peer ID.
	ID string `json:"id"`
	// Addresses are libp2p multiaddresses without the peer ID.
	Addresses []string `json:"addresses"`
}

// NodeBlocksList is a list of NodeBlocks.
//
// +kubebuilder:object:root=true
type NodeBlocksList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []NodeBlocks `json:"items"`
}
