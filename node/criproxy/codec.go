package criproxy

import (
	"fmt"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
)

// frame is one message as it is on the wire.
type frame struct {
	data mem.BufferSlice
}

// raw is a codec that does not look at messages.
type raw struct{}

var _ encoding.CodecV2 = raw{}

// Marshal implements encoding.CodecV2. The buffers belong to the caller from then on.
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	f, ok := v.(*frame)
	if !ok {
		return nil, fmt.Errorf("sending %T, not a message as it is", v)
	}
	return f.data, nil
}

// Unmarshal implements encoding.CodecV2.
func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	f, ok := v.(*frame)
	if !ok {
		return fmt.Errorf("receiving %T, not a message as it is", v)
	}
	data.Ref()
	f.data = data
	return nil
}

// Name implements encoding.CodecV2. It would follow the type of the content, which
// has nothing there as kubelet sends it.
func (raw) Name() string { return "" }
