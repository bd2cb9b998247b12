// Package alerts tests the objects of the chart for Prometheus with Prometheus itself: its
// operator's types, its parser and its rules. It is a module of its own because these need
// other versions of Kubernetes than Brisk has.
package alerts
