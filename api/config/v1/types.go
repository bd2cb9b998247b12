package v1

import (
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// What holds where nothing is written.
const (
	DefaultTimeConstant      = 5 * time.Second
	DefaultPeerBandwidth     = 125_000_000
	DefaultRegistryBandwidth = 62_500_000
	DefaultFreshFor          = 11 * time.Minute
	DefaultShortlistSize     = 32
)

// BlockLocalityArgs are the arguments of the plugin BlockLocality.
//
// +kubebuilder:object:root=true
type BlockLocalityArgs struct {
	metav1.TypeMeta `json:",inline"`

	// TimeConstant is the time to ready that is worth half of the highest score. 5s unless
	// set. With a shorter one, seconds that are saved weigh more beside what else is scored.
	TimeConstant *metav1.Duration `json:"timeConstant,omitempty"`
	// PeerBandwidth is what comes from nodes of the zone in a second, for nodes that have not
	// measured it. 125M unless set: a gigabit per second.
	PeerBandwidth *resource.Quantity `json:"peerBandwidth,omitempty"`
	// RegistryBandwidth is what comes from the registry in a second, likewise. 62500k unless
	// set.
	RegistryBandwidth *resource.Quantity `json:"registryBandwidth,omitempty"`
	// FreshFor is the age up to which a report of a node is believed in full. 11m unless set;
	// nodes report every 10 minutes when nothing changes.
	FreshFor *metav1.Duration `json:"freshFor,omitempty"`
	// GoneAfter is the age from which a report is not believed at all. Twice freshFor unless
	// set.
	GoneAfter *metav1.Duration `json:"goneAfter,omitempty"`
	// ShortlistSize is how many warm nodes are added to a scheduling cycle that would
	// look at a part of a large cluster only, 0 to 66. 32 unless set; 0 turns it off.
	ShortlistSize *int32 `json:"shortlistSize,omitempty"`
}
