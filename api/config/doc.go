// Package config holds the arguments of the scheduler plugin BlockLocality as the plugin gets them. How they
// are written in a configuration file is in package v1.
//
// Both are registered in the scheme of kube-scheduler when they are imported, as
// arguments of plugins have to be.
//
// +kubebuilder:object:generate=true
package config
