package convert

import (
	"fmt"
	"sync"

	"github.com/brisk-project/brisk/internal/block"
)

// reportStep is how many bytes of a layer are read between two events.
const reportStep = 1 << 20

// Kind is what an event is about.
type Kind uint8

// The kinds of events. Every layer is Planned first, then Reused, or read and
// Indexed.
const (
	Planned Kind = iota
	Reused
	Reading
	Indexed
)

// String names the kind.
func (k Kind) String() string {
	switch k {
	case Planned:
		return "planned"
	case Reused:
		return "reused"
	case Reading:
		return "reading"
	case Indexed:
		return "indexed"
	default:
		return fmt.Sprintf("kind %d", uint8(k))
	}
}

// Event tells how far a conversion has come with one layer.
type Event struct {
	Kind  Kind
	Layer block.Digest // digest of the stored blob
	Read  int64        // bytes of the blob read so far
	Total int64        // bytes of the blob
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
