package waterfall

import (
	"slices"
	"strings"
	"time"

	"github.com/brisk-project/brisk/image/startup/files"
	"github.com/brisk-project/brisk/internal/block"
)

// Start is the record of the start of an image. Durations are in nanoseconds; At is the time
// since its beginning.
type Start struct {
	Image    string         `json:"image"`
	Manifest block.Digest   `json:"manifest"`
	Began    time.Time      `json:"began"`
	Layers   []block.Digest `json:"layers"` // the layer streams, the bottom one first
	// Trace is the source of the trace that was prefetched, such as "list+learnt", and TraceBytes its
	// length in bytes. Trace is empty if the start has not come that far.
	Trace      string    `json:"trace,omitempty"`
	TraceBytes int64     `json:"traceBytes,omitempty"`
	Phases     []Phase   `json:"phases"`
	Requests   []Request `json:"requests"`
	Reads      []Read    `json:"reads"`
	// Dropped is the number of events beyond [MaxEvents].
	Dropped int `json:"dropped,omitempty"`
}

// Phase is a part of a pull or mount.
type Phase struct {
	Name     string        `json:"name"`
	At       time.Duration `json:"at"`
	Duration time.Duration `json:"took"`
}

// Request is a request to a registry.
type Request struct {
	Began     time.Time     `json:"began"`
	At        time.Duration `json:"at"`
	FirstByte time.Duration `json:"firstByte"` // until the head of the answer, from Began on
	Duration  time.Duration `json:"took"`
	Host      string        `json:"host"`
	Path      string        `json:"path"`
	Range     string        `json:"range,omitempty"`
	Status    int           `json:"status,omitempty"` // 0 without an answer
	Bytes     int64         `json:"bytes"`            // of the body that were read
}

// Read is a read of the kernel.
type Read struct {
	Layer    int           `json:"layer"` // in Layers
	Offset   int64         `json:"offset"`
	Length   int64         `json:"length"`
	At       time.Duration `json:"at"`
	Duration time.Duration `json:"took"`
	// Waited means that the disk cache did not have all bytes, Failed that the read ended with
	// an error.
	Waited bool `json:"waited,omitempty"`
	Failed bool `json:"failed,omitempty"`
	// From is the source of the bytes. Prefetched means that they had been fetched from there
	// during this start before the read.
	From       Source `json:"from"`
	Prefetched bool   `json:"ahead,omitempty"`
	// File is the file that was read, FileOffset the position there; empty if unknown.
	File       string `json:"file,omitempty"`
	FileOffset int64  `json:"position,omitempty"`
}

// ResolveFiles sets the files of all reads. indexOf returns the files of a layer stream; it is
// called once for each layer that was read.
func (s *Start) ResolveFiles(indexOf func(layer block.Digest) *files.Index) {
	known := make(map[int]*files.Index)
	for i := range s.Reads {
		r := &s.Reads[i]
		if r.Layer < 0 || r.Layer >= len(s.Layers) {
			continue
		}
		if _, ok := known[r.Layer]; !ok {
			known[r.Layer] = indexOf(s.Layers[r.Layer])
		}
		r.File, r.FileOffset = known[r.Layer].Locate(r.Offset, r.Length)
	}
}

// Summary has totals of a start.
type Summary struct {
	End                time.Duration // when the last phase, request or read ended
	Reads, WaitedReads int
	WaitTime           time.Duration // with at least one read waiting
	Requests           int
	RequestBytes       int64
	TransferTime       time.Duration // with at least one request under way
	MaxTimeToFirstByte time.Duration
	Bytes              map[Source]int64
	PrefetchedBytes    int64
}

// Summarize returns the totals.
func (s *Start) Summarize() Summary {
	sum := Summary{Reads: len(s.Reads), Requests: len(s.Requests), Bytes: make(map[Source]int64)}
	var waits, transfers []interval
	for _, p := range s.Phases {
		sum.End = max(sum.End, p.At+p.Duration)
	}
	for _, r := range s.Reads {
		sum.End = max(sum.End, r.At+r.Duration)
		sum.Bytes[r.From] += r.Length
		if r.Prefetched {
			sum.PrefetchedBytes += r.Length
		}
		if r.Waited {
			sum.WaitedReads++
			waits = append(waits, interval{r.At, r.At + r.Duration})
		}
	}
	for _, r := range s.Requests {
		sum.RequestBytes += r.Bytes
		sum.MaxTimeToFirstByte = max(sum.MaxTimeToFirstByte, r.FirstByte)
		transfers = append(transfers, interval{r.At, r.At + r.Duration})
	}
	sum.WaitTime, sum.TransferTime = covered(waits), covered(transfers)
	return sum
}

type interval struct{ from, to time.Duration }

// covered returns the length of the union of intervals.
func covered(all []interval) (total time.Duration) {
	slices.SortFunc(all, func(a, b interval) int { return int(min(1, max(-1, a.from-b.from))) })
	end := time.Duration(-1 << 62)
	for _, i := range all {
		if i.to > end {
			total += i.to - max(i.from, end)
			end = i.to
		}
	}
	return total
}

// object returns the kind and the digest of the object in the path of a request.
func (r *Request) object() string {
	for _, kind := range []string{"manifests", "referrers", "blobs", "tags"} {
		if _, name, found := strings.Cut(r.Path, "/"+kind+"/"); found {
			name = strings.TrimPrefix(name, "sha256:")
			return strings.TrimSuffix(kind, "s") + " " + name[:min(12, len(name))]
		}
	}
	return r.Path[:min(40, len(r.Path))]
}
