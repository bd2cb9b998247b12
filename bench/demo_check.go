package bench

import "fmt"

// maxPeerShare is the most that all nodes after the first may together take from
// the registry, as a share of what the first one took.
const maxPeerShare = 0.05

// Check returns an error if starting lazily was not faster than the plain pull, or
// if nodes went to the registry for what a peer had.
func (r *DemoReport) Check() error {
	plain, first := r.Runs[0], r.Runs[1]
	if first.Done >= plain.Done {
		return fmt.Errorf("a cold lazy start took %s, the plain pull %s", first.Done, plain.Done)
	}
	var later int64
	for _, run := range r.Runs[2:] {
		later += run.RegistryBytes
	}
	if share := float64(later) / float64(max(1, first.RegistryBytes)); share > maxPeerShare {
		return fmt.Errorf("nodes with peers took %.1f %% of the first node's registry bytes, more than %.0f %%", 100*share, 100*maxPeerShare)
	}
	return nil
}
