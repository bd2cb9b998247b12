package snapshotter

import (
	"context"
	"errors"
)

// Pull is a layer of an image that containerd is about to download. All digests are
// in the form algorithm:hex.
type Pull struct {
	// Image is the reference that is pulled.
	Image string
	// Manifest is the digest of the platform manifest.
	Manifest string
	// Layer is the digest of the layer as it is stored.
	Layer string
	// ChainID names the layer and all below it by their contents.
	ChainID string
}

// Images knows the images that have an index. It is safe for concurrent use.
//
// Errors of Lookup and of [Image.Fetch] should be [*ReasonError]s. An implementation must
// come back soon after its context has ended.
type Images interface {
	// Lookup finds the index of an image, most likely in a registry. Nothing large is
	// fetched.
	Lookup(ctx context.Context, pull Pull) (Image, error)
	// Mount mounts the first layers of an image read-only on a directory. The image is
	// given by the ID of one that was looked up and fetched, by this process or
	// one before; the network is not used.
	Mount(ctx context.Context, id string, layers int, target string) (Mounted, error)
	// Usage returns the bytes and files that one layer of an image takes on this
	// machine, the bottom one being 0.
	Usage(ctx context.Context, id string, layer int) (Usage, error)
	// Retain tells the IDs of all images that have snapshots. Everything kept for others
	// can be dropped. It is not called while an image is being looked up.
	Retain(ctx context.Context, ids []string) error
}

// Image is an image with an index.
type Image interface {
	// ID names the image and its index for ever, once Fetch has returned. It is at most
	// 1 KiB long and holds no secrets: everybody who may use containerd can read it.
	ID() string
	// ChainIDs are those of the layers that can be mounted, the bottom one first. They
	// may be fewer than the image has.
	ChainIDs() []string
	// Fetch makes Images.Mount work, now and in times to come, without the network. It
	// is called once.
	Fetch(ctx context.Context) error
}

// Mounted is a mounted image.
type Mounted interface {
	// Unmount waits until nobody uses the mount or ctx ends. After an error it may be
	// called again.
	Unmount(ctx context.Context) error
	// CanGraduate reports whether a new mount of the image would read complete files, while
	// this one asks this process for what it reads.
	CanGraduate() bool
	// Graduate replaces the mount, which nobody uses, by a new one on the same directory.
	// It returns what is mounted then: after an error that may be this mount, or nil. What the
	// page cache had of the mount is gone until warm, which may take a while, has read it anew.
	Graduate(ctx context.Context) (mounted Mounted, warm func(context.Context), err error)
}

// Usage is what something takes on disk.
type Usage struct {
	Bytes  int64
	Inodes int64
}

// Reason says in one word why a pull is not lazy.
type Reason string

// The reasons, all there are.
const (
	ReasonNoLabels     Reason = "no-labels"     // containerd does not say what it pulls
	ReasonNoIndex      Reason = "no-index"      // the image has no index
	ReasonMode         Reason = "mode"          // images are not loaded lazily, by configuration
	ReasonPartialIndex Reason = "partial-index" // the index ends below this layer
	ReasonSlow         Reason = "slow"          // the answer did not come in time
	ReasonUnreachable  Reason = "unreachable"   // the registry does not answer, or not sensibly
	ReasonNotFound     Reason = "not-found"     // the registry does not have the image
	ReasonDenied       Reason = "denied"        // the registry refuses this node
	ReasonInvalid      Reason = "invalid"       // image or index are not what they should be
	ReasonMismatch     Reason = "mismatch"      // the layer is not part of the image that was looked up
	ReasonNoRanges     Reason = "no-ranges"     // the registry serves layers only whole
	ReasonFalseIndex   Reason = "false-index"   // the index does not describe the layers
	ReasonUntrusted    Reason = "untrusted"     // the index has no trusted signature
	ReasonInternal     Reason = "internal"      // something on this node failed
)

func (r Reason) known() bool {
	switch r {
	case ReasonNoLabels, ReasonNoIndex, ReasonMode, ReasonPartialIndex, ReasonSlow, ReasonUnreachable, ReasonNotFound,
		ReasonDenied, ReasonInvalid, ReasonMismatch, ReasonNoRanges, ReasonFalseIndex, ReasonUntrusted, ReasonInternal:
		return true
	}
	return false
}

// ReasonError is an error with the reason that it is to a pull.
type ReasonError struct {
	Reason Reason
	Err    error // the details
}

// Error implements error.
func (e *ReasonError) Error() string { return e.Err.Error() }

// Unwrap returns the details.
func (e *ReasonError) Unwrap() error { return e.Err }

// reasonOf returns the reason of any error.
func reasonOf(err error) Reason {
	if e, ok := errors.AsType[*ReasonError](err); ok && e.Reason.known() {
		return e.Reason
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return ReasonSlow
	}
	return ReasonInternal
}
