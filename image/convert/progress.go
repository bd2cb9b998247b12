package convert

import (
	"fmt"
	"sync"

	"github.com/brisk-project/brisk/internal/block"
)

// reportStep is how many bytes of a layer are read between two events.
const reportStep = 1 << 20

// EventKind is what an event is about.
type EventKind uint8

// The kinds of events. Every layer is LayerPlanned first, then LayerReused, or read and
// LayerIndexed.
const (
	LayerPlanned EventKind = iota
	LayerReused
	LayerReading
	LayerIndexed
)

// String names the kind.
func (k EventKind) String() string {
	switch k {
	case LayerPlanned:
		return "planned"
	case LayerReused:
		return "reused"
	case LayerReading:
		return "reading"
	case LayerIndexed:
		return "indexed"
	default:
		return fmt.Sprintf("kind %d", uint8(k))
	}
}

// Event tells how far a conversion has come with one layer.
type Event struct {
	Kind       EventKind
	Layer      block.Digest // digest of the stored blob
	ReadBytes  int64        // bytes of the blob read so far
	TotalBytes int64        // bytes of the blob
}

// reporter serialises the events.
type reporter struct {
	mu       sync.Mutex
	progress func(Event)
}

func (r *reporter) event(e Event) {
	if r.progress == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.progress(e)
}
