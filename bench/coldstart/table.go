package coldstart

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"
)

const megabyte = 1e6

// keys returns the cells that have runs: by image, link and arm, as they are listed.
func (r *Results) keys() []Key {
	keys := make([]Key, 0, len(r.Runs))
	for key := range r.Runs {
		keys = append(keys, key)
	}
	links := Links()
	link := func(name string) int { return slices.IndexFunc(links, func(l Link) bool { return l.Name == name }) }
	slices.SortFunc(keys, func(a, b Key) int {
		return cmp.Or(cmp.Compare(a.Workload, b.Workload), cmp.Compare(link(a.Link), link(b.Link)),
			cmp.Compare(slices.Index(Arms(), a.Arm), slices.Index(Arms(), b.Arm)))
	})
	return keys
}

// Limit returns the limit of a cell, 0 if it is not known.
func (r *Results) Limit(key Key) time.Duration {
	for _, link := range Links() {
		if link.Name == key.Link {
			return r.Limits[key.Workload].Duration(link)
		}
	}
	return 0
}

// Write writes the table: medians, with the smallest and the largest of the totals, and
// how they compare with the limit L and with containerd's EROFS in the same rounds.
func (r *Results) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "image\tlink\tarm\truns\tpull s\tcreate s\tready s\ttotal s\tmin-max\tL s\t/L\t/erofs\tbar\tMB pull\tMB ready\trequests\tCPU s\tRSS MB\t") //nolint:errcheck // Flush says
	for _, key := range r.keys() {
		runs := r.Runs[key]
		totals := make([]time.Duration, len(runs))
		for i := range runs {
			totals[i] = runs[i].Total()
		}
		total, limit := median(runs, (*Run).Total), r.Limit(key)
		rival, _ := r.Total(Key{key.Workload, key.Link, EROFS})
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f-%.2f\t%.2f\t%s\t%s\t%s\t%.1f\t%.1f\t%d\t%s\t%s\t\n", //nolint:errcheck // Flush says
			key.Workload, key.Link, key.Arm, len(runs),
			seconds(runs, func(r *Run) time.Duration { return r.Pull }), seconds(runs, func(r *Run) time.Duration { return r.Create }),
			seconds(runs, func(r *Run) time.Duration { return r.Ready }), total.Seconds(), slices.Min(totals).Seconds(), slices.Max(totals).Seconds(),
			limit.Seconds(), ratio(total, limit), ratio(total, rival), r.bar(key, total),
			float64(median(runs, func(r *Run) int64 { return r.PullBytes }))/megabyte, float64(median(runs, func(r *Run) int64 { return r.Bytes }))/megabyte,
			median(runs, func(r *Run) int64 { return r.Requests }),
			ofBrisk(key, "%.2f", seconds(runs, func(r *Run) time.Duration { return r.CPU })),
			ofBrisk(key, "%.0f", float64(median(runs, func(r *Run) int64 { return r.MemoryBytes }))/megabyte))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("writing the table: %w", err)
	}
	for _, workload := range []string{NodeRED, Redis, PyTorch} {
		limit, ok := r.Limits[workload]
		if !ok {
			continue
		}
		if _, err := fmt.Fprintf(w, "%s: a start opens %d files of %.1f MB, %.1f MB as eStargz compresses them; warm under overlayfs it takes %.2f s\n", workload,
			limit.Opened.Files, float64(limit.Opened.Bytes)/megabyte, float64(limit.Opened.CompressedBytes)/megabyte, limit.Warm.Seconds()); err != nil {
			return fmt.Errorf("writing the table: %w", err)
		}
	}
	return nil
}

func seconds(runs []Run, of func(*Run) time.Duration) float64 { return median(runs, of).Seconds() }

func ratio(a, b time.Duration) string {
	if b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", a.Seconds()/b.Seconds())
}

func ofBrisk(key Key, format string, value float64) string {
	if key.Arm == Overlayfs || key.Arm == EROFS {
		return "-"
	}
	return fmt.Sprintf(format, value)
}
