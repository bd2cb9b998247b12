package node

// Held says what the node has, how fast more of it comes, and where it is given away.
type Held struct {
	// CachedBytes are in the disk cache, whose bound is CapacityBytes. PinnedBytes of
	// them are not evicted.
	CapacityBytes int64
	CachedBytes   int64
	PinnedBytes   int64
	// PeerRate and RegistryRate are measured, in uncompressed bytes a second; 0 is not
	// known.
	PeerRate     int64
	RegistryRate int64
	// PeerID is empty without peers, and PeerAddrs while none can connect: those the node
	// listens on, as peerID@multiaddress.
	PeerID    string
	PeerAddrs []string
	// Backend is how images are mounted, empty until that is known.
	Backend string
}

// Held tells what the node has. It costs no I/O.
func (n *Node) Held() Held {
	usage := n.disk.Usage()
	held := Held{
		CapacityBytes: usage.MaxBytes, CachedBytes: usage.Bytes,
		PeerRate: n.peerRate.perSecond(), RegistryRate: n.registryRate.perSecond(), Backend: string(n.fs.Backend()),
	}
	for _, layer := range n.disk.Layers() {
		if usage, ok := n.disk.LayerUsage(layer); ok && usage.Pinned {
			held.PinnedBytes += usage.Bytes
		}
	}
	if n.peers != nil {
		held.PeerID, held.PeerAddrs = n.peers.ID(), n.peers.Addrs()
	}
	return held
}

// startShare is the share of an image that its start reads, as far as nothing else is
// known: the mean of what was measured for many images.
const startShare = 0.064

// StartEstimate returns how many bytes a start of the image still has to load, and whether
// that is a guess, as it is while nobody knows what a start reads.
func (s ImageStatus) StartEstimate() (bytes int64, estimated bool) {
	if missing, known := s.StartMissing(); known {
		return missing, false
	}
	return max(0, int64(startShare*float64(s.StreamBytes))-s.CachedBytes), true
}
