// Package demo shows the main job of Brisk on one machine and measures it: an
// image is pulled, unpacked and run the plain way, then started lazily on three
// nodes that share blocks, all over one link of limited rate.
package demo
