package registry

import (
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"

	"github.com/brisk-project/brisk/internal/block"
)

// maxDiscard is how much of the answer to a range is read and thrown away when it begins
// before the range: one extent, a moment's work.
const maxDiscard = block.ExtentSize

// contentOf checks that an answer brings bytes of a blob from want.off on. It returns a body
// that stands at the first of them, and how many of want.n bytes the answer has. Closing
// the body closes the one of the answer.
//
// An answer that shows that ranges are not served is an error that wraps [ErrNoRanges];
// one that is merely wrong wraps [ErrInvalid].
func contentOf(resp *http.Response, body io.ReadCloser, want span) (io.ReadCloser, int64, error) {
	if want.whole() {
		return wholeContent(resp, body, want)
	}
	host := resp.Request.URL.Host
	if resp.StatusCode != http.StatusPartialContent {
		return nil, 0, fmt.Errorf("%w: %s sent a whole blob of %d bytes for bytes %d-%d",
			ErrNoRanges, host, want.size, want.off, want.off+want.n-1)
	}
	header := resp.Header.Get("Content-Range")
	if kind, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type")); err == nil && strings.HasPrefix(kind, "multipart/") {
		return nil, 0, fmt.Errorf("%w: %s sent %s", ErrNoRanges, host, kind)
	}
	got, err := parseContentRange(header)
	if err != nil {
		return nil, 0, err
	}
	length := got.last - got.first + 1
	// Of objects that are stored with such a header the bytes are those of the blob.
	if encodings(resp) != nil && (got.total != want.size || resp.ContentLength != length) {
		return nil, 0, fmt.Errorf("%w: %s compressed the range (%s)", ErrNoRanges, host, resp.Header.Get("Content-Encoding"))
	}
	if got.first > want.off || got.last < want.off || want.off-got.first > maxDiscard || (got.total >= 0 && got.total != want.size) {
		return nil, 0, fmt.Errorf("%w: asked for bytes %d-%d of %d, got Content-Range %q", ErrInvalid,
			want.off, want.off+want.n-1, want.size, header)
	}
	if resp.ContentLength >= 0 && resp.ContentLength != length {
		return nil, 0, fmt.Errorf("%w: asked for %d bytes, got %d", ErrInvalid, want.n, resp.ContentLength)
	}
	n := min(want.n, got.last-want.off+1)
	if n < want.n && n < minSegment {
		return nil, 0, fmt.Errorf("%w: %s sends no more than %d bytes for a range", ErrNoRanges, host, n)
	}
	_, err = io.CopyN(io.Discard, body, want.off-got.first)
	return body, n, err
}

// wholeContent is contentOf for requests without a range.
func wholeContent(resp *http.Response, body io.ReadCloser, want span) (io.ReadCloser, int64, error) {
	if resp.StatusCode == http.StatusPartialContent {
		got, err := parseContentRange(resp.Header.Get("Content-Range"))
		if err != nil {
			return nil, 0, err
		}
		if got.first != 0 || got.last != want.size-1 {
			return nil, 0, fmt.Errorf("%w: asked for a whole blob of %d bytes, got Content-Range %q", ErrInvalid,
				want.size, resp.Header.Get("Content-Range"))
		}
	}
	names := encodings(resp)
	switch {
	case names != nil && resp.ContentLength != want.size:
		decoded, err := decodeContent(body, names)
		if err != nil {
			return nil, 0, err
		}
		body = decoded
	case resp.ContentLength >= 0 && resp.ContentLength != want.size:
		return nil, 0, fmt.Errorf("%w: blob of %d bytes has %d in the registry", ErrInvalid, want.size, resp.ContentLength)
	}
	_, err := io.CopyN(io.Discard, body, want.off)
	return body, want.n, err
}
