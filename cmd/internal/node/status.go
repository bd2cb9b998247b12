package node

// Status is what a node tells of itself.
type Status struct {
	Backend string        `json:"backend"`
	PeerID  string        `json:"peerID,omitempty"`
	Bytes   SourceBytes   `json:"bytes"`
	Mounts  []MountStatus `json:"mounts"`
}

// SourceBytes counts the bytes that came from each source since the node started.
type SourceBytes struct {
	// Registry counts what the registry sent of layers, compressed.
	Registry int64 `json:"registry"`
	// Peers counts the blocks and objects that other nodes sent.
	Peers int64 `json:"peers"`
}

// MountStatus tells of one mounted image.
type MountStatus struct {
	Image  string `json:"image"`
	Digest string `json:"digest"`
	Target string `json:"target"`
	// CachedBytes of the StreamBytes bytes of all layers are in the disk cache.
	CachedBytes int64 `json:"cachedBytes"`
	StreamBytes int64 `json:"streamBytes"`
	// Direct says that the mount reads plain files of the cache and needs no process.
	Direct bool `json:"direct"`
}
