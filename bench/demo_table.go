package bench

import (
	"errors"
	"fmt"
	"io"
	"text/tabwriter"
	"time"
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
	table := tabwriter.NewWriter(w, 0, 0, 3, ' ', tabwriter.AlignRight)
	_, err := fmt.Fprintf(w, "\nimage   %d layers, %s stored, %s uncompressed\nindex   %s, %.2f %% of the stored image, made in %.1f s\nlink    %s at the registry\n\n",
		r.Layers, megabytes(r.StoredBytes), megabytes(r.UncompressedBytes),
		megabytes(r.IndexBytes), 100*float64(r.IndexBytes)/float64(max(1, r.StoredBytes)), r.ConvertTime.Seconds(),
		rateText(r.BitsPerSecond))
	rows := []string{"\tfirst output\tdone\tfrom registry\tfrom peers\t"}
	for _, run := range r.Runs {
		rows = append(rows, fmt.Sprintf("%s\t%.2f s\t%.2f s\t%s\t%s\t", run.Name, run.FirstOutput.Seconds(), run.Done.Seconds(),
			megabytes(run.RegistryBytes), megabytes(run.PeerBytes)))
	}
	for _, row := range rows {
		_, rowErr := fmt.Fprintln(table, row)
		err = errors.Join(err, rowErr)
	}
	if err = errors.Join(err, table.Flush()); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	return nil
}

func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

func rateText(bitsPerSecond int64) string {
	if bitsPerSecond == 0 {
		return "unlimited"
	}
	return fmt.Sprintf("%g Mbit/s", float64(bitsPerSecond)/1e6)
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
