package cache

import "github.com/brisk-project/brisk/internal/block"

// SetHook makes the cache call hook at the points where a crash is most
// interesting. It is to be called before the cache is used.
func (d *Disk) SetHook(hook func(point string)) { d.hook = hook }

// Abandon closes the files of the cache without a word, as a killed process does.
func (d *Disk) Abandon() error { return d.release() }

// EncodeRecord encodes a presence record.
func EncodeRecord(layer block.Digest, size int64, present, trusted []uint64) []byte {
	return (&record{layer: layer, size: size, present: present, trusted: trusted}).encode()
}

// DecodeRecord decodes a presence record and encodes it again.
func DecodeRecord(data []byte, layer block.Digest) ([]byte, error) {
	r, err := decodeRecord(data, layer)
	if err != nil {
		return nil, err
	}
	return r.encode(), nil
}

// EntryOverhead is what a block in memory is counted for besides its data.
const EntryOverhead = entryOverhead

// DecodeRecency decodes a record of what was used when and encodes it again.
func DecodeRecency(data []byte) ([]byte, error) {
	r, err := decodeRecency(data)
	if err != nil {
		return nil, err
	}
	return r.encode(), nil
}

// SaveRecency keeps what was used when, as Run does now and then.
func (d *Disk) SaveRecency() { d.saveRecency() }

// EvictAhead evicts as Run does.
func (d *Disk) EvictAhead() { d.evictAhead() }
