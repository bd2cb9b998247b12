package node

import "github.com/brisk-project/brisk/lazyfs/scrub"

// Status is the status of a node.
type Status struct {
	Backend string        `json:"backend"`
	PeerID  string        `json:"peerID,omitempty"`
	Bytes   SourceBytes   `json:"bytes"`
	Mounts  []MountStatus `json:"mounts"`
	Scrub   scrub.Status  `json:"scrub"`
}

// SourceBytes counts the bytes that came from each source since the node started.
type SourceBytes struct {
	// Registry counts what the registry sent of layers, compressed.
	Registry int64 `json:"registry"`
	// Bundles counts what registries sent of bundles, compressed.
	Bundles int64 `json:"bundles"`
	// Peers counts the blocks and objects that other nodes sent.
	Peers int64 `json:"peers"`
}

// MountStatus is the status of one mounted image.
type MountStatus struct {
	Image  string `json:"image"`
	Digest string `json:"digest"`
	Target string `json:"target"`
	// CachedBytes of the StreamBytes bytes of all layers are in the disk cache.
	CachedBytes int64 `json:"cachedBytes"`
	StreamBytes int64 `json:"streamBytes"`
	// Direct says that the mount reads plain files of the cache and needs no process.
	Direct bool `json:"direct"`
	// FalseIndex says what the index of the image claims that is not true, empty if nothing
	// is known of that.
	FalseIndex string `json:"falseIndex,omitempty"`
}

// ImageStatus is the status of a lazy image on this machine.
type ImageStatus struct {
	// Layers is how many layers the image has, LazyLayers how many of them, from the
	// bottom one on, are loaded lazily.
	Layers     int `json:"layers"`
	LazyLayers int `json:"lazyLayers"`
	// CachedBytes of the StreamBytes bytes of the lazy layers are in the disk cache.
	CachedBytes int64 `json:"cachedBytes"`
	StreamBytes int64 `json:"streamBytes"`
	// Mounts is how many mounts of it there are, and Direct whether none of them needs
	// a process.
	Mounts  int         `json:"mounts"`
	Direct  bool        `json:"direct"`
	Traffic SourceStats `json:"traffic"`
	// ProvenLayers of the lazy layers have been read to their end, and their indexes are
	// true.
	ProvenLayers int `json:"provenLayers"`
	// Bundle is nil if the image has none.
	Bundle *BundleStatus `json:"bundle,omitempty"`
	// Start tells of the blocks that its start reads, nil as long as they are not known.
	Start *StartStatus `json:"start,omitempty"`
}

// StartMissing returns how many bytes of what a start of the image reads are neither in the
// disk cache nor in its bundle, and whether it is known what that is.
func (s ImageStatus) StartMissing() (bytes int64, known bool) {
	if s.Start == nil {
		return 0, false
	}
	return s.Start.MissingBytes, true
}

// ImageStatus returns the status of an image on this machine. Layers that images share count
// for each of them.
func (n *Node) ImageStatus(image *Image) ImageStatus {
	lazy := image.Indexed()
	status := ImageStatus{Layers: len(image.Layers), LazyLayers: lazy}
	for _, layer := range image.Layers[:lazy] {
		status.StreamBytes += layer.StreamSize
		if usage, ok := n.disk.LayerUsage(layer.Stream); ok {
			status.CachedBytes += usage.Bytes
		}
		status.Traffic.add(n.trafficCounters.of(layer.Stream))
		if n.proofs.proven(layer) {
			status.ProvenLayers++
		}
	}
	status.Start, status.Bundle = n.startStatus(image), n.bundleStatus(image)
	status.Direct = true
	for _, m := range n.mounted() {
		if m.image.Digest == image.Digest {
			status.Mounts++
			status.Direct = status.Direct && m.mount.Stats().Direct
		}
	}
	status.Direct = status.Direct && status.Mounts > 0
	return status
}
