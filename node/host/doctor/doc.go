// Package doctor finds out what keeps a node from starting containers before their image
// has arrived, and says what to do about it.
//
// What can be tried is tried: images are really mounted, containerd is really asked.
package doctor
