package bench

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/brisk-project/brisk/internal/cli"
	"github.com/brisk-project/brisk/internal/units"
)

// DemoRun is what one way of starting the image took.
type DemoRun struct {
	Name string
	// FirstOutput and Done are counted from the moment the image was asked for to
	// the first byte the program printed and to its end.
	FirstOutput time.Duration
	Done        time.Duration
	// RegistryBytes is what the registry sent, counted at the registry, headers
	// included; PeerBytes is what other nodes sent.
	RegistryBytes int64
	PeerBytes     int64
}

// DemoReport is the outcome of a demo.
type DemoReport struct {
	Image             string
	Layers            int
	StoredBytes       int64 // compressed layers
	UncompressedBytes int64 // layer streams
	IndexBytes        int64 // layer indexes
	ConvertTime       time.Duration
	BitsPerSecond     int64
	Runs              []DemoRun
}

// write prints the report as a table.
func (r *DemoReport) write(w io.Writer) error {
	_, err := fmt.Fprintf(w, "\nimage   %d layers, %s compressed, %s uncompressed\nindex   %s, %.2f %% of the compressed image, made in %.1f s\nlink    %s at the registry\n\n",
		r.Layers, units.Size(r.StoredBytes), units.Size(r.UncompressedBytes),
		units.Size(r.IndexBytes), 100*float64(r.IndexBytes)/float64(max(1, r.StoredBytes)), r.ConvertTime.Seconds(),
		rateText(r.BitsPerSecond))
	table := cli.NewNumericTable(w)
	table.Row("", "first output", "done", "from registry", "from peers")
	table.Row("", "", "", "(compressed)", "(uncompressed)")
	for _, run := range r.Runs {
		table.Row(run.Name, fmt.Sprintf("%.2f s", run.FirstOutput.Seconds()), fmt.Sprintf("%.2f s", run.Done.Seconds()),
			units.Size(run.RegistryBytes), units.Size(run.PeerBytes))
	}
	return errors.Join(err, table.Flush())
}

func rateText(bitsPerSecond int64) string {
	if bitsPerSecond == 0 {
		return "unlimited"
	}
	return units.Rate(bitsPerSecond)
}

// firstWrite passes writes on and remembers when the first one came.
type firstWrite struct {
	w    io.Writer
	when time.Time
}

func (f *firstWrite) Write(p []byte) (int, error) {
	if f.when.IsZero() && len(p) > 0 {
		f.when = time.Now()
	}
	return f.w.Write(p)
}
