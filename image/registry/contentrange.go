package registry

import (
	"fmt"
	"strconv"
	"strings"
)

// contentRange is the content of a Content-Range header: the bytes [first, last]
// of total, which is -1 when the server does not say.
type contentRange struct {
	first, last, total int64
}

// parseContentRange reads the header of a 206 answer.
func parseContentRange(header string) (contentRange, error) {
	bad := fmt.Errorf("%w: Content-Range %.100q", ErrInvalid, header)
	unit, spec, ok := strings.Cut(header, " ")
	if !ok || !strings.EqualFold(unit, "bytes") { // RFC 9110, 14.1: units have no case
		return contentRange{}, bad
	}
	span, total, ok := strings.Cut(spec, "/")
	if !ok {
		return contentRange{}, bad
	}
	first, last, ok := strings.Cut(span, "-")
	if !ok {
		return contentRange{}, bad
	}
	r := contentRange{total: -1}
	var okFirst, okLast bool
	okTotal := true
	r.first, okFirst = parseOffset(first)
	r.last, okLast = parseOffset(last)
	if total != "*" {
		r.total, okTotal = parseOffset(total)
	}
	if !okFirst || !okLast || !okTotal || r.last < r.first || (r.total >= 0 && r.last >= r.total) {
		return contentRange{}, bad
	}
	return r, nil
}

// parseOffset accepts digits only: ParseInt would take signs as well.
func parseOffset(s string) (int64, bool) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}
