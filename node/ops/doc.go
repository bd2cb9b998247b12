// Package ops serves what those who operate a node look at: metrics, health, readiness,
// and profiles where they are wanted.
package ops
