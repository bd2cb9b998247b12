package p2p

import (
	"sync"

	"github.com/brisk-project/brisk/p2p/wire"
)

// buffer holds a payload, which is never longer than a block.
type buffer [wire.MaxPayload]byte

// bufferPool recycles payload buffers of the asking side.
type bufferPool struct{ pool sync.Pool }

func (p *bufferPool) get() *buffer {
	if b, ok := p.pool.Get().(*buffer); ok {
		return b
	}
	return new(buffer)
}

func (p *bufferPool) put(b *buffer) {
	if b != nil {
		p.pool.Put(b)
	}
}
