package startup

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/brisk-project/brisk/internal/block"
)

const (
	// MaxHistory is the greatest length in bytes of an encoded history.
	MaxHistory = (MaxSamples+1)*(MaxEncoded+MaxLayers*len(block.Digest{})) + 1024

	historyMagic = "brisk history 1\n"
)

// Encode returns the form of the history that [ParseHistory] reads. It begins with the merged
// trace, so that readers need not merge again.
func (h History) Encode() ([]byte, error) {
	if len(h.Samples) > MaxSamples {
		return nil, fmt.Errorf("encoding a history: it has %d samples, the limit is %d", len(h.Samples), MaxSamples)
	}
	body, err := appendTrace(append([]byte(nil), h.Image[:]...), h.Trace())
	if err != nil {
		return nil, err
	}
	body = binary.AppendUvarint(body, uint64(len(h.Samples)))
	for _, sample := range h.Samples {
		if len(sample.ColdLayers) > MaxLayers {
			return nil, fmt.Errorf("encoding a history: a sample has %d cold layers, the limit is %d", len(sample.ColdLayers), MaxLayers)
		}
		body = binary.AppendUvarint(body, uint64(len(sample.ColdLayers)))
		for _, layer := range sample.ColdLayers {
			body = append(body, layer[:]...)
		}
		if body, err = appendTrace(body, sample.Trace); err != nil {
			return nil, err
		}
	}
	sum := sha256.Sum256(body)
	return slices.Concat([]byte(historyMagic), sum[:], body), nil
}

func appendTrace(body []byte, t Trace) ([]byte, error) {
	encoded, err := t.Encode()
	if err != nil {
		return nil, err
	}
	return append(binary.AppendUvarint(body, uint64(len(encoded))), encoded...), nil
}

// ParseHistory reads an encoded history. One that is damaged, exceeds a limit or has another
// version is an error.
func ParseHistory(encoded []byte) (History, error) {
	h, err := parseHistory(encoded)
	if err != nil {
		return History{}, fmt.Errorf("reading a history: %w", err)
	}
	return h, nil
}

// EncodedMergedTrace returns of an encoded history the digest of the image and the encoded merged trace,
// which [Parse] reads. It does not look at the samples.
func EncodedMergedTrace(history []byte) (image block.Digest, merged []byte, err error) {
	if image, merged, _, err = cutMerged(history); err != nil {
		return image, nil, fmt.Errorf("reading a history: %w", err)
	}
	return image, merged, nil
}

func cutMerged(encoded []byte) (image block.Digest, merged, rest []byte, err error) {
	if len(encoded) > MaxHistory {
		return image, nil, nil, fmt.Errorf("%d bytes, the limit is %d", len(encoded), MaxHistory)
	}
	body, ok := bytes.CutPrefix(encoded, []byte(historyMagic))
	if !ok || len(body) < sha256.Size+len(image) {
		return image, nil, nil, errors.New("it is cut short or of another version")
	}
	sum, body := body[:sha256.Size], body[sha256.Size:]
	if got := sha256.Sum256(body); !bytes.Equal(sum, got[:]) {
		return image, nil, nil, errors.New("it does not have its digest")
	}
	merged, rest, err = cutTrace(body[copy(image[:], body):])
	return image, merged, rest, err
}

func parseHistory(encoded []byte) (h History, err error) {
	image, merged, body, err := cutMerged(encoded)
	if err != nil {
		return h, err
	}
	if _, err := Parse(merged); err != nil {
		return h, err
	}
	h.Image = image
	count, body, err := cutNumber(body, MaxSamples)
	if err != nil {
		return h, err
	}
	for range count {
		var sample Sample
		if sample, body, err = cutSample(body); err != nil {
			return h, err
		}
		h.Samples = append(h.Samples, sample)
	}
	if len(body) > 0 {
		return h, errors.New("bytes after the last sample")
	}
	return h, nil
}

// cutSample reads a sample from the start of a body, and returns the rest.
func cutSample(body []byte) (s Sample, rest []byte, err error) {
	layers, body, err := cutNumber(body, MaxLayers)
	if err != nil {
		return s, nil, err
	}
	for range layers {
		var layer block.Digest
		if len(body) < len(layer) {
			return s, nil, errors.New("a sample is cut short")
		}
		body = body[copy(layer[:], body):]
		s.ColdLayers = append(s.ColdLayers, layer)
	}
	encoded, rest, err := cutTrace(body)
	if err != nil {
		return s, nil, err
	}
	s.Trace, err = Parse(encoded)
	return s, rest, err
}

// cutTrace returns the encoded trace that a body starts with, and the rest.
func cutTrace(body []byte) (encoded, rest []byte, err error) {
	length, body, err := cutNumber(body, MaxEncoded)
	if err != nil {
		return nil, nil, err
	}
	if length > len(body) {
		return nil, nil, errors.New("a trace is cut short")
	}
	return body[:length], body[length:], nil
}

// cutNumber reads a number of at most limit from the start of a body, and returns the rest.
func cutNumber(body []byte, limit int) (n int, rest []byte, err error) {
	read, length := binary.Uvarint(body)
	if length <= 0 || read > uint64(limit) {
		return 0, nil, fmt.Errorf("a number is cut short or greater than %d", limit)
	}
	return int(read), body[length:], nil
}
