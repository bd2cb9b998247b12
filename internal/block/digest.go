package block

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

const digestPrefix = "sha256:"

// Digest is a SHA-256 digest: of a block, of a stored blob, of a whole layer stream
// (its diffID), or of the digests of its blocks (its stream ID). The zero value is no digest of anything known.
type Digest [sha256.Size]byte

// Sum returns the digest of data.
func Sum(data []byte) Digest { return sha256.Sum256(data) }

// StreamID names a layer stream by its content: it is the digest of the length of
// the stream in bytes, as 8 bytes with the greatest first, and of the digests of all
// its blocks one after the other.
//
// Every index of a layer comes to the same stream ID, as long as it is true. One that
// claims the diffID of another layer with blocks of its own comes to another one: so
// whatever is kept or exchanged under a stream ID is right for all who use it. A
// diffID cannot serve for that, for it can be checked only by reading the layer to
// its end.
func StreamID(size int64, digests []byte) Digest {
	var d Digest
	sum := sha256.New()
	sum.Write(binary.BigEndian.AppendUint64(nil, uint64(size)))
	sum.Write(digests)
	sum.Sum(d[:0])
	return d
}

// ParseDigest reads the usual "sha256:<64 hex digits>" form.
func ParseDigest(s string) (Digest, error) {
	var d Digest
	digits, ok := strings.CutPrefix(s, digestPrefix)
	if !ok || len(digits) != hex.EncodedLen(len(d)) || strings.ToLower(digits) != digits {
		return d, fmt.Errorf("digest %.100q is not of the form sha256:<64 lower-case hex digits>", s)
	}
	if _, err := hex.Decode(d[:], []byte(digits)); err != nil {
		return Digest{}, fmt.Errorf("digest %.100q: %w", s, err)
	}
	return d, nil
}

// String formats the digest as "sha256:<64 hex digits>".
func (d Digest) String() string { return digestPrefix + d.Hex() }

// Hex formats the digest as 64 hex digits.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// Short formats the first 12 hex digits, for messages.
func (d Digest) Short() string { return hex.EncodeToString(d[:6]) }

// IsZero reports whether d is the zero value.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText implements [encoding.TextMarshaler].
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (d *Digest) UnmarshalText(text []byte) error {
	parsed, err := ParseDigest(string(text))
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}
