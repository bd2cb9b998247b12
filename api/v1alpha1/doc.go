// Package v1alpha1 holds the objects of the group brisk.dev: what node agents report
// and what the scheduler and people read.
//
// +kubebuilder:object:generate=true
// +groupName=brisk.dev
package v1alpha1
