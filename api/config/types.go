package config

import (
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	schedulerconfig "k8s.io/kubernetes/pkg/scheduler/apis/config"
)

// MaxShortlist is the largest ShortlistSize. The scheduler looks at all nodes of a
// list of up to 99, and a third of them are to be any nodes.
const MaxShortlist = 66

// BlockLocalityArgs are the arguments of the plugin BlockLocality.
//
// +kubebuilder:object:root=true
type BlockLocalityArgs struct {
	metav1.TypeMeta

	// TimeConstant is the time to ready that is worth half of the highest score.
	TimeConstant metav1.Duration
	// PeerBandwidth and RegistryBandwidth are in bytes per second, for nodes that have not
	// measured theirs.
	PeerBandwidth     int64
	RegistryBandwidth int64
	// FreshFor is the age up to which a report of a node is believed in full, GoneAfter the
	// age from which it is not believed at all.
	FreshFor  metav1.Duration
	GoneAfter metav1.Duration
	// ShortlistSize is how many warm nodes are added to a scheduling cycle that would
	// look at a part of a large cluster only. 0 turns it off.
	ShortlistSize int32
}

// Validate returns what is wrong with the arguments, or nil.
func (a *BlockLocalityArgs) Validate(path *field.Path) error {
	var wrong field.ErrorList
	positive := func(name string, value int64) {
		if value <= 0 {
			wrong = append(wrong, field.Invalid(path.Child(name), value, "must be more than 0"))
		}
	}
	positive("timeConstant", int64(a.TimeConstant.Duration))
	positive("peerBandwidth", a.PeerBandwidth)
	positive("registryBandwidth", a.RegistryBandwidth)
	positive("freshFor", int64(a.FreshFor.Duration))
	if a.GoneAfter.Duration < a.FreshFor.Duration {
		wrong = append(wrong, field.Invalid(path.Child("goneAfter"), a.GoneAfter.Duration.String(), "must be at least freshFor"))
	}
	if a.TimeConstant.Duration > time.Hour {
		wrong = append(wrong, field.Invalid(path.Child("timeConstant"), a.TimeConstant.Duration.String(), "must be at most 1h"))
	}
	if a.ShortlistSize < 0 || a.ShortlistSize > MaxShortlist {
		wrong = append(wrong, field.Invalid(path.Child("shortlistSize"), a.ShortlistSize, fmt.Sprintf("must be between 0 and %d", MaxShortlist)))
	}
	return wrong.ToAggregate()
}

// SchemeGroupVersion is the group and version of the arguments.
var SchemeGroupVersion = schema.GroupVersion{Group: schedulerconfig.GroupName, Version: runtime.APIVersionInternal}

// AddToScheme makes the arguments known to a scheme.
var AddToScheme = schedulerconfig.SchemeBuilder.AddToScheme

func init() { schedulerconfig.SchemeBuilder.Register(addKnownTypes) }

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(SchemeGroupVersion, &BlockLocalityArgs{})
	return nil
}
