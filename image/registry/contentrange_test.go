package registry

import (
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"
)

func TestParseContentRange(t *testing.T) {
	for header, want := range map[string]contentRange{
		"bytes 0-0/1":       {0, 0, 1},
		"bytes 10-99/12345": {10, 99, 12345},
		"bytes 10-99/*":     {10, 99, -1},
		"Bytes 0-0/1":       {0, 0, 1},
	} {
		got, err := parseContentRange(header)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", header, got, err, want)
		}
	}
	for _, header := range []string{
		"", "bytes", "bytes ", "bytes */10", "bytes 5-4/10", "bytes 0-10/10", "bytes -1-4/10", "bytes +1-4/10",
		"bytes 1-/10", "bytes 0-1", "octets 0-1/2", "bytes 0-1/2/3", "bytes 0-99999999999999999999/*",
	} {
		if got, err := parseContentRange(header); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: %+v, %v", header, got, err)
		}
	}
}

func FuzzContentRange(f *testing.F) {
	for _, seed := range []string{"bytes 0-0/1", "Bytes 10-99/*", "bytes */7", "bytes 5-4/10", ""} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, header string) {
		r, err := parseContentRange(header)
		if err != nil {
			return
		}
		if r.first < 0 || r.last < r.first || (r.total >= 0 && r.last >= r.total) {
			t.Fatalf("%q gave %+v", header, r)
		}
		total := "*"
		if r.total >= 0 {
			total = strconv.FormatInt(r.total, 10)
		}
		again, err := parseContentRange(fmt.Sprintf("bytes %d-%d/%s", r.first, r.last, total))
		if err != nil || again != r {
			t.Fatalf("%q gave %+v, which gave %+v, %v", header, r, again, err)
		}
	})
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"":                              0,
		"7":                             7 * time.Second,
		"-7":                            0,
		"soon":                          0,
		"99999999":                      maxRetryAfter,
		"Fri, 02 Jan 2026 03:04:35 GMT": 30 * time.Second,
		"Fri, 02 Jan 2026 03:04:00 GMT": 0,
		"Fri, 02 Jan 2099 03:04:00 GMT": maxRetryAfter,
	} {
		if got := parseRetryAfter(value, now); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}
