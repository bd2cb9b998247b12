// Package adopt lets images that one snapshotter of containerd has unpacked be run with
// another one, without unpacking or fetching anything.
//
// [Find] learns from containerd which images are unpacked where: unpacking labels the
// config of an image for the garbage collector, with the snapshotter and the uppermost
// snapshot. [Plan.Adopt] makes a snapshot of ours for each of those below and including that
// one, which stands for the directory that the other snapshotter keeps. Two labels keep
// everything as long as it is needed, and no longer: the config of an image refers to our
// snapshots, and each of these to the one it was adopted from. So containerd removes all
// of them when the image has gone and no container needs them.
//
// Nothing is changed in what was there before: containers that run go on, and without us
// the other snapshotter has all it had.
package adopt
