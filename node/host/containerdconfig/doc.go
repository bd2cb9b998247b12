// Package containerdconfig configures containerd to use a proxy snapshotter.
//
// containerd 2 gets a file of its own in a directory that the main file imports; the
// main file is only changed if it does not import it. containerd 1.7 lets an imported
// file replace the whole section of the CRI, so there the main file itself is changed,
// value by value. In both cases nothing else in the main file moves, a copy of it is
// kept, and [Absent] puts it back.
package containerdconfig
