package v1alpha1

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodeBlocks says what the node agent of one node has cached and how fast it gets
// what it lacks. Its name is the node's. Only that node's agent writes it.
//
// Its metadata has, for those who need no more, the zone as the label [LabelZone], and
// where the agent is reached as the annotation [AnnotationPeer].
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=nodeblocks,singular=nodeblocks,shortName=nb,categories=brisk
// +kubebuilder:printcolumn:name="Healthy",type=boolean,JSONPath=`.status.healthy`
// +kubebuilder:printcolumn:name="Images",type=integer,JSONPath=`.status.imageCount`
// +kubebuilder:printcolumn:name="Cached",type=string,JSONPath=`.status.cache.summary`
// +kubebuilder:printcolumn:name="Backend",type=string,JSONPath=`.status.backend`
// +kubebuilder:printcolumn:name="Zone",type=string,JSONPath=`.status.zone`
// +kubebuilder:printcolumn:name="Reported",type=date,JSONPath=`.status.observedAt`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`,priority=1
type NodeBlocks struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Status is what the agent reports.
	//
	// +optional
	Status NodeBlocksStatus `json:"status,omitempty"`
}

// NodeBlocksStatus is one report of a node agent. No rule in CEL may look at all of it:
// the API server reads Images in another form of base64 then, and fails.
type NodeBlocksStatus struct {
	// ObservedAt is when the agent took the report.
	ObservedAt metav1.Time `json:"observedAt"`
	// Healthy says that the agent mounts images lazily.
	Healthy bool `json:"healthy"`
	// Message says why the agent is not healthy.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Message string `json:"message,omitempty"`
	// Zone is the topology zone in which the node shares blocks.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Zone string `json:"zone,omitempty"`
	// Backend is how images are mounted: erofs, loop or tree.
	//
	// +optional
	// +kubebuilder:validation:Enum=erofs;loop;tree
	Backend string `json:"backend,omitempty"`
	// Version is the agent's.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Version string `json:"version,omitempty"`
	// Cache is the size of the block cache.
	Cache CacheStatus `json:"cache"`
	// Bandwidth is what the agent measured.
	Bandwidth BandwidthStatus `json:"bandwidth"`
	// Peer says where other nodes reach the agent for blocks.
	//
	// +optional
	Peer *PeerStatus `json:"peer,omitempty"`
	// ImageCount is the number of images in Images.
	//
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	ImageCount int32 `json:"imageCount"`
	// Images is the packed list of images: see EncodeImages.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=12288
	Images []byte `json:"images,omitempty"`
	// Starts are the newest start-ups that the agent saw the end of and has not reported
	// before, the newest last. The scheduler compares them with what it expected.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=4
	Starts []StartStatus `json:"starts,omitempty"`
}

// MaxStarts is the maximum number of start-ups in a report.
const MaxStarts = 4

// StartStatus is how long a start-up waited for its image.
type StartStatus struct {
	// Image is the digest that the image was pulled under, such as sha256:e3b0c4....
	//
	// +kubebuilder:validation:MaxLength=71
	Image string `json:"image"`
	// FinishedAt is the end of the time in which the agent counted what was waited for.
	FinishedAt metav1.MicroTime `json:"finishedAt"`
	// Milliseconds is how long the pod waited for the image: from the first question for it
	// until it was mounted, and then for as long as reads waited for blocks.
	//
	// +kubebuilder:validation:Minimum=0
	Milliseconds int64 `json:"milliseconds"`
}

// CacheStatus is the size of a node's block cache, in bytes.
//
// +kubebuilder:validation:XValidation:rule="self.freeBytes <= self.capacityBytes",message="freeBytes must be at most capacityBytes"
type CacheStatus struct {
	// CapacityBytes is the bound of the cache.
	//
	// +kubebuilder:validation:Minimum=0
	CapacityBytes int64 `json:"capacityBytes"`
	// FreeBytes is what can still be cached without evicting a pinned block.
	//
	// +kubebuilder:validation:Minimum=0
	FreeBytes int64 `json:"freeBytes"`
	// Summary says how much of the capacity is taken, for people: see Summarize.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=32
	Summary string `json:"summary,omitempty"`
}

// Summarize sets Summary, to text such as "11.2 of 20.0 GiB", given how many bytes are
// cached, pinned or not.
func (c *CacheStatus) Summarize(cached int64) {
	const base = 1024
	units := []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	divisor, unit := 1.0, 0
	for float64(c.CapacityBytes) >= base*divisor && unit < len(units)-1 {
		divisor, unit = divisor*base, unit+1
	}
	c.Summary = fmt.Sprintf("%.1f of %.1f %s", float64(cached)/divisor, float64(c.CapacityBytes)/divisor, units[unit])
}

// BandwidthStatus holds measured rates in bytes per second; 0 is not known.
type BandwidthStatus struct {
	// Peers is the rate at which blocks come from nodes of the zone.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Peers int64 `json:"peers,omitempty"`
	// Registry is the rate at which blocks come from the registry.
	//
	// +optional
	// +kubebuilder:validation:Minimum=0
	Registry int64 `json:"registry,omitempty"`
}

// What the metadata of a NodeBlocks object says too.
const (
	// LabelZone is the label that holds the zone of the node; it is there without one.
	LabelZone = GroupName + "/zone"
	// AnnotationPeer is the annotation that holds Status.Peer: the ID, an @, and the
	// addresses with commas between them.
	AnnotationPeer = GroupName + "/peer"
)

// PeerStatus is how other agents reach an agent.
type PeerStatus struct {
	// ID is the libp2p peer ID.
	//
	// +kubebuilder:validation:Pattern=`^[1-9A-HJ-NP-Za-km-z]{16,128}$`
	ID string `json:"id"`
	// Addresses are libp2p multiaddresses without the peer ID.
	//
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:items:Pattern=`^/`
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
