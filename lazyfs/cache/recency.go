package cache

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/brisk-project/brisk/internal/block"
	"github.com/brisk-project/brisk/internal/statefile"
)

// The file "recency" says what was used when, so that a restart does not make the cache
// evict what is needed. It is a hint: without it, or when it is damaged, everything
// counts as used at the same time. Integers are little-endian:
//
//	offset size
//	     0    8 "BRISKREC"
//	     8    4 version, 1
//	    12    4 number of layers
//	    16      for each layer: 32 stream ID, 4 number of extents, 8 tick of the last
//	            use of each extent
//	   end    4 CRC-32C of everything before
type recency map[block.Digest][]uint64

const (
	recencyMagic   = "BRISKREC"
	recencyVersion = 1
	recencyHeader  = 16
	// recencyMax bounds the file and the memory to read it: 64 MiB are 32 TiB of layers.
	recencyMax = 64 << 20
	// maxTick leaves room to count on for ever.
	maxTick = 1 << 62
)

var errRecency = errors.New("record of last use is damaged")

func (r recency) encode() []byte {
	out := append(make([]byte, 0, recencyHeader), recencyMagic...)
	out = binary.LittleEndian.AppendUint32(out, recencyVersion)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(r)))
	for id, ticks := range r {
		out = append(out, id[:]...)
		out = binary.LittleEndian.AppendUint32(out, uint32(len(ticks)))
		for _, tick := range ticks {
			out = binary.LittleEndian.AppendUint64(out, tick)
		}
	}
	return binary.LittleEndian.AppendUint32(out, castagnoli(out))
}

func decodeRecency(data []byte) (recency, error) {
	if len(data) < recencyHeader+4 || string(data[:8]) != recencyMagic || binary.LittleEndian.Uint32(data[8:]) != recencyVersion {
		return nil, fmt.Errorf("%w: it does not begin as one of version %d", errRecency, recencyVersion)
	}
	body, sum := data[:len(data)-4], binary.LittleEndian.Uint32(data[len(data)-4:])
	if castagnoli(body) != sum {
		return nil, fmt.Errorf("%w: wrong checksum", errRecency)
	}
	layers, body := binary.LittleEndian.Uint32(body[12:]), body[recencyHeader:]
	r := make(recency)
	for range layers {
		if len(body) < 36 {
			return nil, fmt.Errorf("%w: it ends within a layer", errRecency)
		}
		id, count := block.Digest(body[:32]), binary.LittleEndian.Uint32(body[32:])
		body = body[36:]
		if _, twice := r[id]; twice {
			return nil, fmt.Errorf("%w: layer %s is in it twice", errRecency, id.Short())
		}
		if uint64(len(body)) < 8*uint64(count) {
			return nil, fmt.Errorf("%w: it ends within layer %s", errRecency, id.Short())
		}
		ticks := make([]uint64, count)
		for i := range ticks {
			ticks[i] = binary.LittleEndian.Uint64(body[8*i:])
		}
		r[id], body = ticks, body[8*count:]
	}
	if len(body) > 0 {
		return nil, fmt.Errorf("%w: %d bytes follow the last layer", errRecency, len(body))
	}
	return r, nil
}

func (d *Disk) recencyPath() string { return filepath.Join(d.cfg.Dir, "recency") }

// saveRecency keeps what was used when for the next process.
func (d *Disk) saveRecency() {
	all := make(recency)
	for _, l := range d.all() {
		ticks := make([]uint64, len(l.used))
		for i := range l.used {
			ticks[i] = l.used[i].Load()
		}
		all[l.id] = ticks
	}
	if err := statefile.WriteDurable(d.recencyPath(), all.encode()); err != nil {
		d.cfg.Logger.Warn("the times of last use are not saved", "error", err)
	}
}

// loadRecency reads what a process before this one has kept.
func (d *Disk) loadRecency() {
	f, err := os.Open(d.recencyPath())
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	var data []byte
	if err == nil {
		data, err = io.ReadAll(io.LimitReader(f, recencyMax))
		err = errors.Join(err, f.Close())
	}
	if err == nil {
		d.kept, err = decodeRecency(data)
	}
	if err != nil {
		d.cfg.Logger.Warn("the stored times of last use are lost", "error", err)
	}
}

// recall gives a layer the ticks that were kept of it.
func (d *Disk) recall(l *layer) {
	ticks := d.kept[l.id]
	if len(ticks) == 0 || len(ticks) != len(l.used) || slices.Max(ticks) > maxTick {
		return
	}
	for i, tick := range ticks {
		l.used[i].Store(tick)
		d.tick.Store(max(d.tick.Load(), tick))
	}
}
