package gzran

// recorder takes the checkpoints of a stream as it is decoded.
type recorder struct {
	spacing int64
	points  []Checkpoint
	last    int64 // where in the output the last checkpoint is
	pending Checkpoint
	tracker tracker
	window  [windowSize]byte
	packer  packer
}

// due reports whether a checkpoint may be taken at an offset of the output.
func (r *recorder) due(out int64) bool {
	return r != nil && (len(r.points) == 0 || out-r.last >= r.spacing)
}

// atMember is called at the first byte of every member.
func (r *recorder) atMember(in, out int64) {
	if !r.due(out) {
		return
	}
	r.last = out
	r.points = append(r.points, Checkpoint{In: in, Out: out, Kind: KindMember})
}

// atBlock is called before every deflate block. What of the window has to be kept
// is known only once the output after it is decoded: settle completes the checkpoint.
func (r *recorder) atBlock(f *inflater, out int64) {
	if !r.due(out) {
		return
	}
	r.last = out
	bit := f.bitPos()
	r.pending = Checkpoint{In: bit / 8, Out: out, Kind: KindBlock, Bit: uint8(bit % 8)}
	copy(r.window[:], f.out[f.op-windowSize:f.op])
	r.tracker.start = f.op
	clear(r.tracker.used[:])
	f.track = &r.tracker
}

// settle is called when no output to come can refer to the window any more.
func (r *recorder) settle(f *inflater) error {
	if r == nil || f.track == nil {
		return nil
	}
	f.track = nil
	var err error
	r.pending.Window, err = r.packer.pack(&r.window, &r.tracker.used)
	if err != nil {
		return err
	}
	r.points = append(r.points, r.pending)
	return nil
}
