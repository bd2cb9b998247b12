// Package v1 defines how the arguments of the scheduler plugin BlockLocality are written in a
// configuration file of kube-scheduler, and what holds where nothing is written.
//
// +kubebuilder:object:generate=true
package v1
