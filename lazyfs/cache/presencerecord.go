package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"

	"github.com/brisk-project/brisk/internal/block"
)

// A presence record says which blocks of a layer stream the data file beside it
// holds. Integers are little-endian:
//
//	offset size
//	     0    8 "BRISKPRS"
//	     8    4 version, 1
//	    12   32 stream ID
//	    44    8 length of the layer stream in bytes
//	    52   8n present: bit i%64 of word i/64 is block i; n = ceil(blocks/64)
//	 52+8n   8n trusted: blocks that need no verification after a clean stop
//	52+16n    4 CRC-32C of everything before
//
// The checksum is against torn writes, not against malice: whoever can write the
// record can write the data as well.
type record struct {
	layer   block.Digest
	size    int64
	present bitset
	trusted bitset
}

const (
	recordMagic   = "BRISKPRS"
	recordVersion = 1
	recordHeader  = 52
	// recordMax bounds the memory that a record may take: 16 MiB are 16 TiB of layer
	// stream.
	recordMax = 16 << 20
)

func castagnoli(data []byte) uint32 {
	return crc32.Checksum(data, crc32.MakeTable(crc32.Castagnoli))
}

// encode returns the record as it is on disk.
func (r *record) encode() []byte {
	out := make([]byte, 0, recordHeader+16*len(r.present)+4)
	out = append(out, recordMagic...)
	out = binary.LittleEndian.AppendUint32(out, recordVersion)
	out = append(out, r.layer[:]...)
	out = binary.LittleEndian.AppendUint64(out, uint64(r.size))
	for _, set := range []bitset{r.present, r.trusted} {
		for _, w := range set {
			out = binary.LittleEndian.AppendUint64(out, w)
		}
	}
	return binary.LittleEndian.AppendUint32(out, castagnoli(out))
}

// decodeRecord parses a record of the given layer.
func decodeRecord(data []byte, layer block.Digest) (*record, error) {
	switch {
	case len(data) < recordHeader+4:
		return nil, fmt.Errorf("presence record has %d bytes, fewer than any", len(data))
	case string(data[:8]) != recordMagic:
		return nil, fmt.Errorf("presence record starts with %q, not %q", data[:8], recordMagic)
	case binary.LittleEndian.Uint32(data[8:]) != recordVersion:
		return nil, fmt.Errorf("presence record has version %d, not %d", binary.LittleEndian.Uint32(data[8:]), recordVersion)
	case !bytes.Equal(data[12:44], layer[:]):
		return nil, errors.New("presence record is of another layer")
	}
	body, sum := data[:len(data)-4], binary.LittleEndian.Uint32(data[len(data)-4:])
	if castagnoli(body) != sum {
		return nil, errors.New("presence record has a wrong checksum")
	}
	size := int64(binary.LittleEndian.Uint64(data[44:]))
	if size < 0 || size > recordMax*8*block.Size {
		return nil, fmt.Errorf("presence record is of a layer stream of %d bytes", size)
	}
	if want := recordHeader + 16*((int64(block.Count(size))+63)/64); int64(len(body)) != want {
		return nil, fmt.Errorf("presence record has %d bytes before the checksum, not %d", len(body), want)
	}
	r := &record{layer: layer, size: size, present: newBitset(block.Count(size)), trusted: newBitset(block.Count(size))}
	for i := range r.present {
		r.present[i] = binary.LittleEndian.Uint64(body[recordHeader+8*i:])
		r.trusted[i] = binary.LittleEndian.Uint64(body[recordHeader+8*(i+len(r.present)):])
	}
	if n := block.Count(size) % 64; n > 0 && (r.present[len(r.present)-1]|r.trusted[len(r.present)-1])>>n != 0 {
		return nil, errors.New("presence record has blocks past the end")
	}
	r.trusted = r.trusted.and(r.present)
	return r, nil
}

// readRecord reads the record of a layer from the file at path.
func readRecord(path string, layer block.Digest) (*record, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(f, recordMax+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("reading presence record %s: %w", path, err)
	}
	if len(data) > recordMax {
		return nil, fmt.Errorf("presence record %s is longer than %d bytes", path, recordMax)
	}
	return decodeRecord(data, layer)
}
