package node

// Inventory is the state of the cache, the measured rates and the peer addresses of a node.
type Inventory struct {
	// CapacityBytes is the limit of the disk cache, CachedBytes its current size.
	// PinnedBytes of them are never evicted.
	CapacityBytes int64
	CachedBytes   int64
	PinnedBytes   int64
	// PeerRate and RegistryRate are measured, in uncompressed bytes per second; 0 if not
	// measured yet.
	PeerRate     int64
	RegistryRate int64
	// PeerID is empty if P2P is off. PeerAddrs are the addresses that the node listens on, as
	// peerID@multiaddress, empty while no peer can connect.
	PeerID    string
	PeerAddrs []string
	// Backend is the mount backend, empty until it is chosen.
	Backend string
}

// Inventory returns the current inventory. It does no I/O.
func (n *Node) Inventory() Inventory {
	usage := n.disk.Usage()
	inventory := Inventory{
		CapacityBytes: usage.MaxBytes, CachedBytes: usage.Bytes,
		PeerRate: n.peerRate.perSecond(), RegistryRate: n.registryRate.perSecond(), Backend: string(n.fs.Backend()),
	}
	for _, layer := range n.disk.Layers() {
		if usage, ok := n.disk.LayerUsage(layer); ok && usage.Pinned {
			inventory.PinnedBytes += usage.Bytes
		}
	}
	if n.peers != nil {
		inventory.PeerID, inventory.PeerAddrs = n.peers.ID(), n.peers.Addrs()
	}
	return inventory
}

// startShare is the assumed share of an image that its start reads: the mean of measurements
// of many images. It is used until a start of the image has been recorded.
const startShare = 0.064

// StartEstimate returns how many bytes a start of the image still has to load. They are
// estimated until a start of the image has been recorded.
func (s ImageStatus) StartEstimate() (bytes int64, estimated bool) {
	if missing, known := s.StartMissing(); known {
		return missing, false
	}
	return max(0, int64(startShare*float64(s.StreamBytes))-s.CachedBytes), true
}
