package v1alpha1

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strings"
)

// ImageKey names an image in a NodeBlocks object: the first 5 bytes, big-endian, of the
// SHA-256 digest that it was pulled under. That is the digest in the status of pods and
// nodes: of the image index for an image of several platforms, else of the manifest. An
// image pulled under both has two keys. Among 10,000 images two have the same key
// with a probability of 1 in 20,000; then one is taken for the other, which makes an
// estimate wrong and nothing else.
type ImageKey uint64

const (
	// MaxImages is how many images a packed list holds at most.
	MaxImages = 1000
	// MaxImageKey is the largest key.
	MaxImageKey ImageKey = 1<<keyBits - 1
	// MaxImageBytes is the largest size that a packed list holds, about 2^63 bytes.
	MaxImageBytes int64 = (2*mantissas - 1) << maxExponent
)

// ImageBlocks is what a node knows of one image. Sizes are in bytes.
//
// +kubebuilder:object:generate=false
type ImageBlocks struct {
	Key ImageKey
	// StartupMissing is what a start of the image still has to load.
	StartupMissing int64
	// Cached is how much of the image is on the node.
	Cached int64
	// Estimated says that no start-up set is known: StartupMissing is a guess.
	Estimated bool
}

// ErrImages is returned for a list of images that is malformed, packed or not.
var ErrImages = errors.New("malformed list of images")

// KeyOf returns the key of the image that is pulled under a digest, given as sha256:... in
// lower-case hexadecimal.
func KeyOf(digest string) (ImageKey, error) {
	encoded, ok := strings.CutPrefix(digest, "sha256:")
	sum, err := hex.DecodeString(encoded)
	if !ok || err != nil || len(sum) != 32 || encoded != strings.ToLower(encoded) {
		return 0, fmt.Errorf("%q is not a SHA-256 digest in the form of sha256:e3b0c442", shorten(digest))
	}
	return ImageKey(binary.BigEndian.Uint64(sum) >> (64 - keyBits)), nil
}

func shorten(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// The packed list, all numbers with their highest bit first:
//
//	version    8 bits, 1
//	count      16 bits, at least 1
//	count keys, ascending: the distance from the key before, less one (of the first
//	           one, the key itself), as a Golomb-Rice code: the distance divided by
//	           2^r in ones with a zero at the end, then the remainder in r bits
//	count of   1 bit that says estimated, start-up bytes missing and bytes cached in
//	           12 bits each
//	zeros up to the next byte
//
// Where r is 40 less the number of bits that count takes. A size is a number below 64, or
// else 6 bits of exponent e and 6 bits of mantissa m, for (64+m) * 2^(e-1) bytes: it is
// rounded by less than 1 in 128, and below 128 not at all. So every list has one form, of
// about 7.4 bytes an image.
const (
	packedVersion = 1
	keyBits       = 40
	countBits     = 16
	sizeBits      = 12
	mantissaBits  = 6
	mantissas     = 1 << mantissaBits
	// maxExponent shifts the largest mantissa to just below the largest int64.
	maxExponent = 56
)

// remainderBits returns how many bits of a distance are stored as they are.
func remainderBits(count int) int { return keyBits - bits.Len(uint(count)) }

// EncodeImages packs a list of at most [MaxImages] images, in any order; no images are
// packed to nothing. Sizes are rounded by less than 1 in 128, zero never is and nothing
// is rounded to it. The error wraps [ErrImages]: for a key that is too large or there
// twice, or a size that is negative.
func EncodeImages(images []ImageBlocks) ([]byte, error) {
	if len(images) == 0 {
		return nil, nil
	}
	if len(images) > MaxImages {
		return nil, fmt.Errorf("%w: %d of them, and at most %d fit", ErrImages, len(images), MaxImages)
	}
	sorted := slices.Clone(images)
	slices.SortFunc(sorted, func(a, b ImageBlocks) int { return cmp.Compare(a.Key, b.Key) })
	var w bitWriter
	w.write(packedVersion, 8)
	w.write(uint64(len(sorted)), countBits)
	r := remainderBits(len(sorted))
	least := ImageKey(0)
	for i, image := range sorted {
		if image.Key > MaxImageKey {
			return nil, fmt.Errorf("%w: key %x has more than %d bits", ErrImages, uint64(image.Key), keyBits)
		}
		if i > 0 && image.Key == sorted[i-1].Key {
			return nil, fmt.Errorf("%w: key %010x is there twice", ErrImages, uint64(image.Key))
		}
		distance := uint64(image.Key - least)
		for range distance >> r {
			w.write(1, 1)
		}
		w.write(0, 1)
		w.write(distance&(1<<r-1), r)
		least = image.Key + 1
	}
	for _, image := range sorted {
		if image.StartupMissing < 0 || image.Cached < 0 {
			return nil, fmt.Errorf("%w: image %010x has a negative size", ErrImages, uint64(image.Key))
		}
		var estimated uint64
		if image.Estimated {
			estimated = 1
		}
		w.write(estimated, 1)
		w.write(packSize(image.StartupMissing), sizeBits)
		w.write(packSize(image.Cached), sizeBits)
	}
	return w.data, nil
}

// DecodeImages unpacks a list, sorted by key. Every list that it accepts is one that
// [EncodeImages] makes; the error for others wraps [ErrImages].
func DecodeImages(packed []byte) ([]ImageBlocks, error) {
	if len(packed) == 0 {
		return nil, nil
	}
	reader := bitReader{data: packed}
	if version := reader.read(8); version != packedVersion {
		return nil, fmt.Errorf("%w: version %d is not %d", ErrImages, version, packedVersion)
	}
	count := int(reader.read(countBits))
	if count == 0 || count > MaxImages {
		return nil, fmt.Errorf("%w: %d of them is not between 1 and %d", ErrImages, count, MaxImages)
	}
	images := make([]ImageBlocks, count)
	if err := readKeys(&reader, images); err != nil {
		return nil, err
	}
	for i := range images {
		image := &images[i]
		image.Estimated = reader.read(1) == 1
		missing, okMissing := unpackSize(reader.read(sizeBits))
		cached, okCached := unpackSize(reader.read(sizeBits))
		if !okMissing || !okCached {
			return nil, fmt.Errorf("%w: image %010x has a size of more than %d bytes", ErrImages, uint64(image.Key), MaxImageBytes)
		}
		image.StartupMissing, image.Cached = missing, cached
	}
	if reader.past() {
		return nil, fmt.Errorf("%w: %d bytes are too few for %d images", ErrImages, len(packed), count)
	}
	if !reader.atEnd() {
		return nil, fmt.Errorf("%w: something follows %d images", ErrImages, count)
	}
	return images, nil
}

func readKeys(reader *bitReader, images []ImageBlocks) error {
	r := remainderBits(len(images))
	least := uint64(0)
	for i := range images {
		var quotient uint64
		for reader.read(1) == 1 {
			if quotient++; quotient > uint64(MaxImageKey)>>r {
				return fmt.Errorf("%w: key %d of %d has more than %d bits", ErrImages, i+1, len(images), keyBits)
			}
		}
		key := least + quotient<<r + reader.read(r)
		if key > uint64(MaxImageKey) {
			return fmt.Errorf("%w: key %d of %d has more than %d bits", ErrImages, i+1, len(images), keyBits)
		}
		images[i].Key = ImageKey(key)
		least = key + 1
	}
	return nil
}

// packSize rounds to the nearest size that can be packed.
func packSize(size int64) uint64 {
	if size < mantissas {
		return uint64(size)
	}
	exponent := bits.Len64(uint64(size)) - mantissaBits - 1
	mantissa := uint64(size) >> exponent
	if exponent > 0 && uint64(size)>>(exponent-1)&1 == 1 {
		mantissa++
	}
	// A mantissa that is rounded up to 128 carries over into the exponent.
	return min(uint64(exponent+1)<<mantissaBits+mantissa-mantissas, (maxExponent+1)<<mantissaBits+mantissas-1)
}

func unpackSize(packed uint64) (int64, bool) {
	if packed < mantissas {
		return int64(packed), true
	}
	exponent := packed>>mantissaBits - 1
	if exponent > maxExponent {
		return math.MaxInt64, false
	}
	return int64(mantissas+packed%mantissas) << exponent, true
}

// bitWriter appends numbers, the highest bit first.
type bitWriter struct {
	data []byte
	used int // bits
}

func (w *bitWriter) write(value uint64, n int) {
	for n > 0 {
		if w.used%8 == 0 {
			w.data = append(w.data, 0)
		}
		free := 8 - w.used%8
		take := min(free, n)
		part := value >> (n - take) & (1<<take - 1)
		w.data[w.used/8] |= byte(part << (free - take))
		w.used += take
		n -= take
	}
}

// bitReader reads what a bitWriter wrote, and zeros after the end.
type bitReader struct {
	data []byte
	used int // bits
}

func (r *bitReader) read(n int) (value uint64) {
	for n > 0 {
		left := 8 - r.used%8
		take := min(left, n)
		var octet byte
		if r.used/8 < len(r.data) {
			octet = r.data[r.used/8]
		}
		value = value<<take | uint64(octet>>(left-take))&(1<<take-1)
		r.used += take
		n -= take
	}
	return value
}

// past says whether more was read than there is.
func (r *bitReader) past() bool { return r.used > 8*len(r.data) }

// atEnd says whether nothing but the zeros up to the next byte is left.
func (r *bitReader) atEnd() bool {
	rest := (8 - r.used%8) % 8
	return r.used+rest == 8*len(r.data) && r.read(rest) == 0
}
