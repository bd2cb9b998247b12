package registry

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
)

const (
	// maxEncodings is how often an answer may have been compressed on its way.
	maxEncodings = 3
	// maxEncodingWindow bounds the memory that decoding zstd takes, in bytes: what
	// RFC 9659 allows for content encodings.
	maxEncodingWindow = 8 << 20
)

// encodings returns what was done to an answer on its way, in that order. We ask for bytes as
// they are stored, but some proxies compress all the same, and container runtimes decode
// what they send.
func encodings(resp *http.Response) []string {
	var names []string
	for name := range strings.SplitSeq(strings.Join(resp.Header.Values("Content-Encoding"), ","), ",") {
		if name = strings.ToLower(strings.TrimSpace(name)); name != "" && name != "identity" {
			names = append(names, name)
		}
	}
	return names
}

// decodeContent returns a reader of what a body had been before the encodings. Closing it closes
// body.
func decodeContent(body io.ReadCloser, names []string) (io.ReadCloser, error) {
	if len(names) > maxEncodings {
		return nil, fmt.Errorf("%w: %d content encodings, the limit is %d", ErrInvalid, len(names), maxEncodings)
	}
	for _, name := range slices.Backward(names) {
		decoded, err := decodeOne(body, name)
		if err != nil {
			return nil, fmt.Errorf("content encoding %.20q: %w", name, err)
		}
		body = &decodedBody{ReadCloser: decoded, inner: body}
	}
	return body, nil
}

func decodeOne(body io.Reader, name string) (io.ReadCloser, error) {
	switch name {
	case "gzip", "x-gzip":
		return gzip.NewReader(body)
	case "zstd":
		d, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxEncodingWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case "deflate":
		// The name means zlib, yet some send what is inside of it only.
		buffered := bufio.NewReader(body)
		head, err := buffered.Peek(2)
		if err != nil {
			return nil, err
		}
		if head[0]&0xf == 8 && (int(head[0])<<8|int(head[1]))%31 == 0 {
			return zlib.NewReader(buffered)
		}
		return flate.NewReader(buffered), nil
	default:
		return nil, fmt.Errorf("%w: not one that is known", ErrInvalid)
	}
}

// decodedBody is a decoded body that closes the one beneath.
type decodedBody struct {
	io.ReadCloser
	inner io.Closer
}

// Close implements io.Closer.
func (b *decodedBody) Close() error { return errors.Join(b.ReadCloser.Close(), b.inner.Close()) }
