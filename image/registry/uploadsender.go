package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/brisk-project/brisk/internal/block"
)

// maxSends is how often a chunk is sent at most.
const maxSends = 4

// errChunks says that a registry does not take a blob in parts.
var errChunks = errors.New("the registry does not take blobs in chunks")

// sender sends the chunks of an upload.
type sender struct {
	session *session
	timeout time.Duration
	scratch string
	delay   time.Duration // before a chunk is sent again; it doubles

	location *url.URL // of the next request, nil before the first
	sent     int64    // bytes that the registry has
	file     *os.File // where the blob is kept instead, nil if the registry takes chunks
	kept     int64    // bytes in file
}

// run sends chunks until there are no more.
func (s *sender) run(ctx context.Context, chunks <-chan []byte, free chan<- []byte) error {
	for chunk := range chunks {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		if err := s.chunk(ctx, chunk); err != nil {
			return err
		}
		free <- chunk
	}
	return context.Cause(ctx)
}

// chunk sends one chunk, or keeps it if the registry takes none.
func (s *sender) chunk(ctx context.Context, chunk []byte) error {
	if s.file != nil {
		return s.keep(chunk)
	}
	if s.location == nil {
		if err := s.begin(ctx); err != nil && !errors.Is(err, errChunks) {
			return err
		} else if err != nil {
			return s.spool(ctx, chunk, err)
		}
	}
	err := s.send(ctx, chunk)
	if s.sent == 0 && errors.Is(err, errChunks) {
		return s.spool(ctx, chunk, err)
	}
	return err
}

// begin asks for a place to send a blob to.
func (s *sender) begin(ctx context.Context) error {
	repo := s.session.repo
	u := &url.URL{Scheme: "https", Host: repo.RegistryStr(), Path: fmt.Sprintf("/v2/%s/blobs/uploads/", repo.RepositoryStr())}
	return s.again(ctx, func() error {
		resp, err := s.ask(ctx, http.MethodPost, u, nil, nil)
		if err != nil {
			return err
		}
		least := resp.Header.Get("OCI-Chunk-Min-Length")
		if err := s.follow(resp, http.StatusAccepted); err != nil {
			return err
		}
		s.sent = 0
		if n, err := strconv.ParseInt(least, 10, 64); err == nil && n > uploadChunk {
			return fmt.Errorf("%w of %d bytes, but of %d", errChunks, uploadChunk, n)
		}
		return nil
	})
}

// again tries something a few times while the registry cannot be reached or is busy.
func (s *sender) again(ctx context.Context, try func() error) error {
	delay := s.delay
	for attempt := 1; ; attempt++ {
		err := try()
		if err == nil || attempt == maxSends || !errors.Is(err, block.ErrUnavailable) {
			return err
		}
		wait := delay
		if status, ok := errors.AsType[*StatusError](err); ok {
			wait = max(wait, min(status.RetryAfter(), time.Minute))
		}
		delay *= 2
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// send sends a chunk, and goes on from what has arrived when the connection breaks.
func (s *sender) send(ctx context.Context, chunk []byte) error {
	from, end := s.sent, s.sent+int64(len(chunk))
	failed := false
	return s.again(ctx, func() error {
		if failed {
			if err := s.inquire(ctx); err != nil {
				return err
			}
			if s.sent < from || s.sent > end {
				return fmt.Errorf("%w: the registry has %d bytes of the upload, %d to %d were sent", ErrInvalid, s.sent, from, end)
			}
		}
		if s.sent == end {
			return nil
		}
		failed = true
		header := http.Header{"Content-Range": {fmt.Sprintf("%d-%d", s.sent, end-1)}}
		resp, err := s.ask(ctx, http.MethodPatch, s.location, bytesOf(chunk[s.sent-from:]), header)
		if err != nil {
			return err
		}
		if refusesChunks(resp.StatusCode) {
			status := resp.StatusCode
			return errors.Join(fmt.Errorf("%w: it answers a chunk with status %d", errChunks, status), resp.Body.Close())
		}
		if err := s.follow(resp, http.StatusAccepted, http.StatusNoContent, http.StatusCreated); err != nil {
			return err
		}
		s.sent = end
		return nil
	})
}

// refusesChunks reports whether a status means that the request is not known.
func refusesChunks(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusLengthRequired,
		http.StatusUnsupportedMediaType, http.StatusRequestEntityTooLarge, http.StatusNotImplemented:
		return true
	default:
		return false
	}
}

// inquire asks how much of the upload has arrived.
func (s *sender) inquire(ctx context.Context) error {
	resp, err := s.ask(ctx, http.MethodGet, s.location, nil, nil)
	if err != nil {
		return err
	}
	got := resp.Header.Get("Range")
	if err := s.follow(resp, http.StatusNoContent, http.StatusOK, http.StatusAccepted); err != nil {
		return err
	}
	_, last, ok := strings.Cut(got, "-")
	n, err := strconv.ParseInt(last, 10, 64)
	if !ok || err != nil || n < 0 {
		return fmt.Errorf("%w: the registry says that it has the bytes %.40q of the upload", ErrInvalid, got)
	}
	// "0-0" is said of nothing and of one byte. Chunks have more.
	if s.sent = n + 1; n == 0 {
		s.sent = 0
	}
	return nil
}

// follow checks an answer, and takes the place of the next request from it. It closes the body.
func (s *sender) follow(resp *http.Response, wanted ...int) error {
	err := checkStatus(resp, wanted...)
	if err != nil {
		return errors.Join(err, resp.Body.Close())
	}
	location, err := resp.Location()
	if err != nil && (s.location == nil || !errors.Is(err, http.ErrNoLocation)) {
		return errors.Join(fmt.Errorf("%w: where an upload goes on: %w", ErrInvalid, err), resp.Body.Close())
	}
	if err == nil {
		if err := s.allowed(location); err != nil {
			return errors.Join(err, resp.Body.Close())
		}
		s.location = location
	}
	return discard(resp.Body)
}

// ask sends a request with the credentials of the repository.
func (s *sender) ask(ctx context.Context, method string, u *url.URL, content *content, header http.Header) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	maps.Copy(req.Header, header)
	if content != nil && content.size > 0 {
		sending := &revocable{}
		defer sending.revoke()
		req.ContentLength = content.size
		req.GetBody = func() (io.ReadCloser, error) { return sending.body(content.open()), nil }
		req.Body = sending.body(content.open())
		req.Header.Set("Content-Type", "application/octet-stream")
	}
	resp, err := (&stalling{next: s.session, timeout: s.timeout}).RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.Request == nil || resp.Request.URL.Host != u.Host {
		resp.Request = req
	}
	return resp, nil
}

// allowed refuses to send a blob to an address of an inner network that is not the registry's:
// what a registry answers must not turn a conversion into a client of other services.
func (s *sender) allowed(location *url.URL) error {
	registry := (&url.URL{Host: s.session.repo.RegistryStr()}).Hostname()
	ip := net.ParseIP(location.Hostname())
	if ip == nil || location.Hostname() == registry {
		return nil
	}
	if ip.IsLoopback() || ip.IsPrivate() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() {
		return fmt.Errorf("%w: the registry wants the blob to be sent to %s", ErrInvalid, location.Host)
	}
	return nil
}

// content is the body of a request, which may have to be sent more than once.
type content struct {
	size int64
	open func() io.Reader
}

func bytesOf(p []byte) *content {
	return &content{size: int64(len(p)), open: func() io.Reader { return bytes.NewReader(p) }}
}

// cancel ends an upload without a blob.
func (s *sender) cancel(ctx context.Context, location *url.URL) error {
	resp, err := s.ask(ctx, http.MethodDelete, location, nil, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// commit sends what is left and ends the upload.
func (s *sender) commit(ctx context.Context, rest []byte, digest block.Digest) error {
	if s.file != nil {
		if err := s.keep(rest); err != nil {
			return err
		}
		return s.whole(ctx, digest, &content{size: s.kept, open: func() io.Reader { return io.NewSectionReader(s.file, 0, s.kept) }})
	}
	if s.sent == 0 {
		return s.whole(ctx, digest, bytesOf(rest))
	}
	if len(rest) > 0 {
		if err := s.send(ctx, rest); err != nil {
			return err
		}
	}
	tried := false
	return s.again(ctx, func() error {
		if tried {
			if stored, err := s.stored(ctx, digest); stored || err != nil {
				return err
			}
		}
		tried = true
		return s.put(ctx, digest, nil)
	})
}

// whole sends a blob in one request.
func (s *sender) whole(ctx context.Context, digest block.Digest, blob *content) error {
	tried := false
	return s.again(ctx, func() error {
		if tried {
			if stored, err := s.stored(ctx, digest); stored || err != nil {
				return err
			}
		}
		if tried || s.location == nil {
			if err := s.begin(ctx); err != nil && !errors.Is(err, errChunks) {
				return err
			}
		}
		tried = true
		return s.put(ctx, digest, blob)
	})
}

// put ends the upload.
func (s *sender) put(ctx context.Context, digest block.Digest, rest *content) error {
	u := *s.location
	query := u.Query()
	query.Set("digest", digest.String())
	u.RawQuery = query.Encode()
	resp, err := s.ask(ctx, http.MethodPut, &u, rest, nil)
	if err != nil {
		return err
	}
	if err := checkStatus(resp, http.StatusCreated, http.StatusNoContent); err != nil {
		return errors.Join(fmt.Errorf("storing blob %s: %w", digest.Short(), err), resp.Body.Close())
	}
	s.location = nil
	return discard(resp.Body)
}

// stored reports whether the repository has a blob: also one whose upload has ended although the
// answer was lost.
func (s *sender) stored(ctx context.Context, digest block.Digest) (bool, error) {
	repo := s.session.repo
	u := &url.URL{Scheme: "https", Host: repo.RegistryStr(), Path: fmt.Sprintf("/v2/%s/blobs/%s", repo.RepositoryStr(), digest)}
	resp, err := s.ask(ctx, http.MethodHead, u, nil, nil)
	if err != nil {
		return false, err
	}
	switch {
	case resp.StatusCode < http.StatusBadRequest: // redirects lead to blobs that are there
		s.location = nil
		return true, discard(resp.Body)
	case resp.StatusCode == http.StatusNotFound:
		return false, discard(resp.Body)
	default:
		return false, errors.Join(checkStatus(resp), resp.Body.Close())
	}
}
