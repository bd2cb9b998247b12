// Package snapshotter keeps the filesystems of containers for containerd.
//
// A [Snapshotter] implements containerd's snapshots.Snapshotter. Snapshots of most
// kinds are directories that overlayfs puts together, as those of containerd's own
// overlay snapshotter are. Images that have an index are different: their layers are
// not downloaded.
//
// # Lazy snapshots
//
// Before containerd downloads a layer it prepares a snapshot to unpack it in, and says
// in labels which layer of which image that will be. If the image has an index, the
// snapshotter commits an empty snapshot in place of the layer at once and answers that
// it exists already, so containerd goes on to the next layer. Such a snapshot is lazy:
// it stands for the first n layers of an image, n being in its labels.
//
// The files of a lazy snapshot appear when somebody needs them: the first container,
// view or further layer on top of it has one read-only mount of the merged layers made,
// which all others share and which goes away with the last of them. It takes the place
// of all lower directories from there down, whatever the parents of the lazy snapshot
// are, so images of both kinds can share layers in any order.
//
// # Adopted snapshots
//
// Images that another snapshotter of containerd has unpacked need not be unpacked again: a
// snapshot can stand for a directory of it ([LabelAdopt]). Its own directory is a link, so
// it takes no space and its removal leaves the files alone. Whoever adopts a directory sees
// to it that it stays as long as the snapshot, with a label for containerd's garbage collector.
//
// # Pulls that are not lazy
//
// There is one look-up for all layers of an image, also when several pulls of it run
// at the same time, and it may take [Config].LookupTimeout; after that containerd
// downloads the image as any other. What the look-up found holds for all layers that
// follow. Each image that is not lazy has a [Reason], which is logged, counted, and
// told by [Snapshotter.Pulls].
//
// # Files
//
// The root directory belongs to one process at a time:
//
//	metadata.db            names, parents, labels (bbolt, the format of containerd)
//	pulls.json             what became of the images pulled last, for status only
//	snapshots/ID/fs        what a snapshot adds to its parent; of a lazy snapshot
//	                       the place where its image is mounted; of an adopted one
//	                       a link to the directory
//	snapshots/ID/work      scratch space of overlayfs
//	snapshots/ID/bound     an adopted directory, mounted for containers in user namespaces
//
// What is lazy, and of which image, is in the labels in metadata.db, so after a restart
// nothing has to be asked of anybody: mounts are made again when they are needed.
package snapshotter
