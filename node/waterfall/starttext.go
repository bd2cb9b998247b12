package waterfall

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/brisk-project/brisk/internal/units"
)

const (
	barWidth = 40
	// Numbers of rows without --all.
	longestWaits, longestRequests = 30, 15
)

// row is a line of the text.
type row struct {
	at, took time.Duration
	what     string
}

// WriteText writes the start as text: its phases, and the longest or all requests and reads.
func (s *Start) WriteText(w io.Writer, all bool) error {
	var text strings.Builder
	sum := s.Summarize()
	fmt.Fprintf(&text, "image:     %s\nmanifest:  %s\nbegan:     %s\n", s.Image, s.Manifest, s.Began.Format(time.RFC3339))
	if s.Trace != "" {
		fmt.Fprintf(&text, "trace:     %s, %s prefetched\n", s.Trace, units.Size(s.TraceBytes))
	}
	fmt.Fprintf(&text, "reads:     %d, %d of them waited; for %s at least one was waiting\n", sum.Reads, sum.WaitedReads, seconds(sum.WaitTime))
	var from []string
	for _, source := range []Source{Registry, Peers, Bundle, Disk, Memory} {
		if n := sum.Bytes[source]; n > 0 {
			from = append(from, units.Size(n)+" "+string(source))
		}
	}
	fmt.Fprintf(&text, "read from: %s; %s had been fetched before it was read\n", cmp.Or(strings.Join(from, ", "), "nothing"), units.Size(sum.PrefetchedBytes))
	fmt.Fprintf(&text, "registry:  %d requests, %s in %s%s; the first byte came after %s at most\n",
		sum.Requests, units.Size(sum.RequestBytes), seconds(sum.TransferTime), rate(sum), seconds(sum.MaxTimeToFirstByte))
	if s.Dropped > 0 {
		fmt.Fprintf(&text, "not kept:  %d more events\n", s.Dropped)
	}
	rows, left := s.rows(all)
	fmt.Fprintf(&text, "\n%9s %9s  |%-*s| \n", "at s", "took ms", barWidth, "0 s"+strings.Repeat(" ", barWidth-len("0 s")-len(seconds(sum.End)))+seconds(sum.End))
	for _, r := range rows {
		fmt.Fprintf(&text, "%9.3f %9.1f  |%s| %s\n", r.at.Seconds(), float64(r.took)/float64(time.Millisecond), bar(int64(r.at), int64(r.took), int64(sum.End)), r.what)
	}
	if left > 0 {
		fmt.Fprintf(&text, "\n%d requests and reads took less time; --all prints them\n", left)
	}
	_, err := io.WriteString(w, text.String())
	return err
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func rate(sum Summary) string {
	if sum.TransferTime <= 0 {
		return ""
	}
	return fmt.Sprintf(", %s a second", units.Size(int64(float64(sum.RequestBytes)/sum.TransferTime.Seconds())))
}

// rows returns the lines in order of time, and the number of omitted ones.
func (s *Start) rows(all bool) (rows []row, left int) {
	var reads, requests []row
	for i := range s.Reads {
		if r := &s.Reads[i]; r.Waited || all {
			reads = append(reads, row{r.At, r.Duration, r.describe()})
		}
	}
	for i := range s.Requests {
		r := &s.Requests[i]
		requests = append(requests, row{r.At, r.Duration, r.describe()})
	}
	if !all {
		reads, left = longest(reads, longestWaits, left)
		requests, left = longest(requests, longestRequests, left)
	}
	for _, p := range s.Phases {
		rows = append(rows, row{p.At, p.Duration, p.Name})
	}
	rows = slices.Concat(rows, requests, reads)
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(a.at, b.at) })
	return rows, left
}

// longest returns the n rows with the longest durations, and adds the number of the others to
// left.
func longest(rows []row, n, left int) (kept []row, others int) {
	slices.SortStableFunc(rows, func(a, b row) int { return cmp.Compare(b.took, a.took) })
	if len(rows) <= n {
		return rows, left
	}
	return rows[:n], left + len(rows) - n
}

// bar draws an interval on an axis from 0 to end.
func bar(at, length, end int64) string {
	column := func(n int64) int { return int(min(barWidth, max(0, float64(n)*barWidth/float64(max(end, 1))))) }
	from := min(column(at), barWidth-1)
	to := min(max(column(at+length), from+1), barWidth)
	return strings.Repeat(" ", from) + strings.Repeat("#", to-from) + strings.Repeat(" ", barWidth-to)
}

// describe describes the read.
func (r *Read) describe() string {
	verb := "read"
	switch {
	case r.Failed:
		verb = "read failed"
	case r.Waited:
		verb = "read waited"
	}
	from := string(r.From)
	if r.Prefetched {
		from += ", fetched before"
	}
	what := fmt.Sprintf("layer %d at %d", r.Layer, r.Offset)
	if r.File != "" {
		what = fmt.Sprintf("/%s at %d", r.File, r.FileOffset)
	}
	return fmt.Sprintf("%s: %s (%s, %s)", verb, printable(what), units.Size(r.Length), from)
}

// describe describes the request.
func (r *Request) describe() string {
	text := fmt.Sprintf("request: %s from %s", r.object(), r.Host)
	if r.Range != "" {
		text += " " + r.Range
	}
	return printable(fmt.Sprintf("%s (%s, first byte after %.0f ms, status %d)", text, units.Size(r.Bytes), float64(r.FirstByte)/float64(time.Millisecond), r.Status))
}

// printable replaces control characters, because the author of an image chooses its file names.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 || c == '\u2028' || c == '\u2029' || c >= '\u202a' && c <= '\u202e' || c >= '\u2066' && c <= '\u2069' {
			return '?'
		}
		return c
	}, s)
}
