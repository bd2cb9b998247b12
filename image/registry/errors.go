package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/brisk-project/brisk/internal/block"
)

// The errors that callers decide on besides those of package block, tested with
// [errors.Is].
var (
	// ErrDenied says that the registry refuses the credentials, or wants some.
	ErrDenied = errors.New("access denied by the registry")
	// ErrNoArtifact says that an image has no index artifact.
	ErrNoArtifact = errors.New("image has no index artifact")
	// ErrNoRanges says that a registry does not serve byte ranges of a blob.
	ErrNoRanges = errors.New("registry does not serve byte ranges of blobs, so layers can only be read whole from it")
	// ErrInvalid says that what a registry sent is not what it should be: not
	// parsable, beyond a limit, or not of the digest that names it.
	ErrInvalid = errors.New("invalid content from the registry")
	// ErrPlainHTTP says that a registry wants to be spoken to without TLS and
	// that nobody allowed it.
	ErrPlainHTTP = errors.New("plain HTTP is not allowed for this registry")
)

// maxRetryAfter bounds what a registry may ask for; more is a mistake or an
// attack.
const maxRetryAfter = time.Hour

// StatusError is an answer of a registry with a status that was not hoped for. It
// wraps [block.ErrNotFound], [block.ErrUnavailable] or [ErrDenied] as the status
// says.
type StatusError struct {
	Code  int           // the HTTP status
	Err   error         // what the registry says about it
	after time.Duration // of the Retry-After header
}

// Error implements error.
func (e *StatusError) Error() string { return e.Err.Error() }

// Unwrap returns the sentinel that the status stands for, if any.
func (e *StatusError) Unwrap() error {
	switch {
	case e.Code == http.StatusNotFound || e.Code == http.StatusGone:
		return block.ErrNotFound
	case e.Code == http.StatusUnauthorized || e.Code == http.StatusForbidden:
		return ErrDenied
	case e.Code == http.StatusRequestedRangeNotSatisfiable:
		return ErrNoRanges
	case e.Code == http.StatusTooManyRequests || e.Code == http.StatusRequestTimeout || e.Code >= 500:
		return block.ErrUnavailable
	default:
		return nil
	}
}

// RetryAfter returns how long the registry asks to wait before the next request,
// 0 when it does not say.
func (e *StatusError) RetryAfter() time.Duration { return e.after }

// checkStatus returns nil when the status of resp is one of those wanted, and a
// StatusError otherwise. It reads a bounded part of the body then, and leaves it
// to the caller to close.
func checkStatus(resp *http.Response, wanted ...int) error {
	err := transport.CheckError(resp, wanted...)
	if err == nil {
		return nil
	}
	return &StatusError{Code: resp.StatusCode, Err: err, after: parseRetryAfter(resp.Header.Get("Retry-After"), time.Now())}
}

// parseRetryAfter reads seconds or an HTTP date. What cannot be read is 0.
func parseRetryAfter(value string, now time.Time) time.Duration {
	if value == "" {
		return 0
	}
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return min(time.Duration(seconds)*time.Second, maxRetryAfter)
	}
	date, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(0, date.Sub(now)), maxRetryAfter)
}

// networkError says what a failed round trip or read means: the end of ctx is
// reported as its cause, everything else as [block.ErrUnavailable] unless it
// already means something.
func networkError(ctx context.Context, doing string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		if errors.Is(cause, errStalled) {
			return fmt.Errorf("%s: %w: %w", doing, block.ErrUnavailable, cause)
		}
		return fmt.Errorf("%s: %w", doing, cause)
	}
	if known(err) {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return fmt.Errorf("%s: %w: %w", doing, block.ErrUnavailable, err)
}

// registryError is networkError for errors of go-containerregistry, which have a
// type of their own for statuses.
func registryError(ctx context.Context, doing string, err error) error {
	if status, ok := errors.AsType[*transport.Error](err); ok {
		return fmt.Errorf("%s: %w", doing, &StatusError{Code: status.StatusCode, Err: status})
	}
	return networkError(ctx, doing, err)
}

func known(err error) bool {
	for _, sentinel := range []error{
		block.ErrNotFound, block.ErrCorrupt, block.ErrUnavailable,
		ErrDenied, ErrInvalid, ErrNoRanges, ErrPlainHTTP,
	} {
		if errors.Is(err, sentinel) {
			return true
		}
	}
	return false
}
