package gzran

import "fmt"

// Kind is the kind of data at the position of a [Checkpoint].
type Kind uint8

// The kinds of checkpoints. The values are fixed: layer indexes store them.
const (
	// KindMember is the first byte of a member's gzip header.
	KindMember Kind = 0
	// KindBlock is the first bit of a deflate block inside a member.
	KindBlock Kind = 1
)

// maxOffset bounds both offsets of a checkpoint, so that bit arithmetic on them
// cannot overflow: 1 EiB.
const maxOffset = 1 << 60

// Checkpoint is a place in a gzip stream from which inflating can start. It holds
// everything that is needed for it besides the stored bytes from In on.
type Checkpoint struct {
	// In is the offset in bytes in the gzip stream of the byte that holds the
	// first bit to read.
	In int64
	// Out is the offset in bytes in the uncompressed stream.
	Out int64
	// Kind says how the bytes at In are to be read.
	Kind Kind
	// Bit is how many low bits of the byte at In belong to what lies before the
	// checkpoint, 0 to 7. It is 0 when Kind is KindMember.
	Bit uint8
	// Window is the packed form of the up to 32 KiB of output before Out that the
	// stream refers back to. It is empty when the stream refers to none of them.
	Window []byte
}

// InEnd is the offset in bytes in the gzip stream of the end of what a reader
// needs that starts at an earlier checkpoint and stops at this one's Out. The
// byte at In is shared by both sides when Bit is not 0.
func (c Checkpoint) InEnd() int64 {
	if c.Bit > 0 {
		return c.In + 1
	}
	return c.In
}

// validate rejects what no Reader writes. Windows are checked by unpacking them.
func (c Checkpoint) validate() error {
	switch {
	case c.In < 0 || c.In > maxOffset || c.Out < 0 || c.Out > maxOffset:
		return fmt.Errorf("checkpoint at byte %d for output byte %d: offset out of range", c.In, c.Out)
	case c.Kind > KindBlock:
		return fmt.Errorf("checkpoint at byte %d: unknown kind %d", c.In, c.Kind)
	case c.Bit > 7 || c.Kind == KindMember && c.Bit != 0:
		return fmt.Errorf("checkpoint at byte %d: bit %d out of range", c.In, c.Bit)
	case c.Kind == KindMember && len(c.Window) != 0:
		return fmt.Errorf("checkpoint at byte %d: window at the start of a member", c.In)
	}
	return nil
}
