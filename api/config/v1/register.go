package v1

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	schedulerv1 "k8s.io/kube-scheduler/config/v1"

	"github.com/brisk-project/brisk/api/config"
)

// SchemeGroupVersion is the group and version of the arguments.
var SchemeGroupVersion = schema.GroupVersion{Group: config.SchemeGroupVersion.Group, Version: "v1"}

// AddToScheme makes the arguments known to a scheme, with their defaults and conversions.
var AddToScheme = schedulerv1.SchemeBuilder.AddToScheme

func init() { schedulerv1.SchemeBuilder.Register(addKnownTypes, addDefaults, addConversions) }

func addKnownTypes(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(SchemeGroupVersion, &BlockLocalityArgs{})
	return nil
}

func addDefaults(scheme *runtime.Scheme) error {
	scheme.AddTypeDefaultingFunc(&BlockLocalityArgs{}, func(object any) {
		if args, ok := object.(*BlockLocalityArgs); ok {
			args.setDefaults()
		}
	})
	return nil
}

func (a *BlockLocalityArgs) setDefaults() {
	if a.TimeConstant == nil {
		a.TimeConstant = &metav1.Duration{Duration: DefaultTimeConstant}
	}
	if a.PeerBandwidth == nil {
		a.PeerBandwidth = resource.NewQuantity(DefaultPeerBandwidth, resource.DecimalSI)
	}
	if a.RegistryBandwidth == nil {
		a.RegistryBandwidth = resource.NewQuantity(DefaultRegistryBandwidth, resource.DecimalSI)
	}
	if a.FreshFor == nil {
		a.FreshFor = &metav1.Duration{Duration: DefaultFreshFor}
	}
	if a.GoneAfter == nil {
		a.GoneAfter = &metav1.Duration{Duration: 2 * a.FreshFor.Duration}
	}
	if a.ShortlistSize == nil {
		a.ShortlistSize = new(int32(DefaultShortlistSize))
	}
}

func addConversions(scheme *runtime.Scheme) error {
	if err := scheme.AddConversionFunc((*BlockLocalityArgs)(nil), (*config.BlockLocalityArgs)(nil), toInternal); err != nil {
		return err
	}
	return scheme.AddConversionFunc((*config.BlockLocalityArgs)(nil), (*BlockLocalityArgs)(nil), fromInternal)
}

// toInternal converts arguments in which the defaults are filled in.
func toInternal(from, to any, _ conversion.Scope) error {
	in, ok := from.(*BlockLocalityArgs)
	out, okOut := to.(*config.BlockLocalityArgs)
	if !ok || !okOut {
		return fmt.Errorf("cannot convert %T to %T", from, to)
	}
	filled := in.DeepCopy()
	filled.setDefaults()
	*out = config.BlockLocalityArgs{
		TimeConstant:  *filled.TimeConstant,
		PeerBandwidth: filled.PeerBandwidth.Value(), RegistryBandwidth: filled.RegistryBandwidth.Value(),
		FreshFor: *filled.FreshFor, GoneAfter: *filled.GoneAfter, ShortlistSize: *filled.ShortlistSize,
	}
	return nil
}

func fromInternal(from, to any, _ conversion.Scope) error {
	in, ok := from.(*config.BlockLocalityArgs)
	out, okOut := to.(*BlockLocalityArgs)
	if !ok || !okOut {
		return fmt.Errorf("cannot convert %T to %T", from, to)
	}
	*out = BlockLocalityArgs{
		TimeConstant:      new(in.TimeConstant),
		PeerBandwidth:     resource.NewQuantity(in.PeerBandwidth, resource.DecimalSI),
		RegistryBandwidth: resource.NewQuantity(in.RegistryBandwidth, resource.DecimalSI),
		FreshFor:          new(in.FreshFor), GoneAfter: new(in.GoneAfter), ShortlistSize: new(in.ShortlistSize),
	}
	return nil
}
